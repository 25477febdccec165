"""What the checker concludes: findings, each with its line and what to write instead."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How much a finding matters."""

    ERROR = "error"  # plain tracing would fail, be wrong, or lose state or gradients, also when fxquant handles it
    WARNING = (
        "warning"  # the graph does not generalise: right for inputs like the example, not for all that eager takes
    )
    INFO = "info"  # a fact of the example that the graph relies on, and that held on every probe


class FindingKind(StrEnum):
    """Every way in which a model and its graph can part. The value is the documented name.

    All kinds of ``fxquant.capture.facts.FactKind`` are here under the same names, and what only a checker can conclude.
    """

    # Facts of the example that the graph relies on.
    STATIC = "static"  # rank, dtype, device, layout, contiguity, requires_grad
    LENGTH = "length"  # the number of elements of a tuple, list or dict
    FLAG = "flag"  # an input that is no tensor
    PRESENCE = "presence"  # an optional input that was not given
    TYPE_TEST = "type-test"  # isinstance, torch.is_tensor, hasattr on a tensor
    TRAINING = "training"  # a branch on self.training
    GRAD_ENABLED = "grad-enabled"  # a branch on torch.is_grad_enabled()

    # Sizes that became Python numbers.
    SIZE = "size"
    SIZE_BRANCH = "size-branch"
    SIZE_LOOP = "size-loop"
    SIZE_CONSTANT = "size-constant"
    FORMAT = "format"

    # Tensor values that Python asked for.
    TENSOR_BRANCH = "tensor-branch"
    TENSOR_NUMBER = "tensor-number"
    TENSOR_NUMPY = "tensor-numpy"
    TENSOR_SHAPE = "tensor-shape"

    # Calls that plain tracing cannot record.
    FACTORY = "factory"
    ITEM_ASSIGNMENT = "item-assignment"
    UNPACKING = "unpacking"
    KEYWORDS = "keywords"
    MODULE_IN_FORWARD = "module-in-forward"
    MODULE_IN_CONTAINER = "module-in-container"
    ROOT_LEAF = "root-leaf"
    COMPOSITE = "composite"
    DATA_PARALLEL = "data-parallel"
    COMPILED = "compiled"
    CHECKPOINT = "checkpoint"
    WRAPPED_FUNCTION = "wrapped-function"

    # Things that vanish or change meaning in a graph.
    CUSTOM_FUNCTION = "custom-function"
    GRAD_MODE = "grad-mode"
    AUTOCAST = "autocast"
    PYTHON_RANDOM = "python-random"
    TORCH_RANDOM = "torch-random"
    TIME = "time"
    ALWAYS_DROPOUT = "always-dropout"
    ATTRIBUTE_UPDATE = "attribute-update"
    CONTAINER_UPDATE = "container-update"
    BUFFER_UPDATE = "buffer-update"
    GLOBAL_UPDATE = "global-update"
    INPUT_UPDATE = "input-update"  # an input tensor written in forward: the caller's tensor stays as it was
    ROOT_HOOK = "root-hook"
    MODULE_HOOK = "module-hook"
    WRITE_TO_CONSTANT = "write-to-constant"
    HIDDEN_CASE = "hidden-case"

    # What could not be recorded.
    OPAQUE_CALL = "opaque-call"
    CAUGHT_ERROR = "caught-error"
    RECURRENT = "recurrent"
    SCRIPTED = "scripted"
    ERROR = "error"

    # Conclusions of the checker.
    PLAIN_TRACING = "plain-tracing"  # plain torch.fx stops here, for a reason that no other kind names
    UNREACHED = "unreached"  # source that the example did not reach does one of the things above
    DIVERGENCE = "divergence"  # the graph, or its trace, and eager differ, and no other finding says why


@dataclass(frozen=True)
class Edit:
    """A change of the user's source that a tool can apply: whole lines replaced by others.

    Attributes:
        file: the source file.
        first_line, last_line: the lines replaced, from 1, both included.
        text: what stands there instead, with its indentation, without a final newline.
    """

    file: str
    first_line: int
    last_line: int
    text: str


@dataclass(frozen=True)
class Finding:
    """One way in which the model and a graph of it part.

    Attributes:
        kind: which way.
        severity: how much it matters.
        file, line, code: the user's line: path, number from 1 (0 where there is none), text without indentation.
        module_path: module whose forward was running, "" for the root.
        message: what happened, in plain words.
        fix: what to write instead, or the setting to use.
        handled: how fxquant deals with it, one clause; "" when it does not.
        expression: the part of the line that did it, "" when unknown.
        edit: the fix as a change of the source, None where it takes more than replacing a statement.
    """

    kind: FindingKind
    severity: Severity
    file: str
    line: int
    code: str
    module_path: str
    message: str
    fix: str
    handled: str = ""
    expression: str = ""
    edit: Edit | None = None

    @property
    def source(self) -> str:
        """``file:line``, "" when unknown."""
        return f"{self.file}:{self.line}" if self.file else ""

    @property
    def is_unhandled_error(self) -> bool:
        """Whether the graph would be wrong, or could not be made."""
        return self.severity is Severity.ERROR and not self.handled

    def __str__(self) -> str:
        place = f" ({self.source})" if self.source else ""
        handled = f"\n  handled: {self.handled}" if self.handled else ""
        return f"{self.severity} {self.kind}: {self.message}{place}{handled}\n  fix: {self.fix}"
