"""What a capture met: every place where the model's Python asked for, or did, what a graph does not hold.

Capture records facts and goes on; it does not judge them. One list of them, in the order in which they were met and
without repeats, is ``CapturedModel.state.facts``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

CHECKED = "checked when the graph runs"
"""How an answer that is built in was dealt with."""
RECORDED = "recorded as an operation"
"""How what plain tracing fails at is dealt with, where the graph has it and nothing is built in."""
OF_THE_MODEL = "what is in it are modules of the model"
"""How a container is dealt with that forward makes, such as a part of another one."""
DECIDED_ELSEWHERE = "another part of the condition decides"
"""How a question about a size is dealt with whose answer makes no difference."""
NOT_RAISED = "none on the example"
"""Value of an error that code would catch, and that nothing raises."""


class FactKind(StrEnum):
    """What happened. The value is the documented name."""

    # Answered from the example and built in: true of every input of the same kind.
    STATIC = "static"  # rank, dtype, device, layout, contiguity, requires_grad, torch.finfo
    LENGTH = "length"  # the number of elements of a tuple, list or dict
    FLAG = "flag"  # an input that is no tensor; checked when the graph runs
    PRESENCE = "presence"  # an optional input that was not given, or was None
    TYPE_TEST = "type-test"  # isinstance, torch.is_tensor, hasattr on a traced value: answered as eager does
    TRAINING = "training"  # a branch on self.training
    GRAD_ENABLED = "grad-enabled"  # a branch on torch.is_grad_enabled() or the like

    # Sizes that became Python numbers.
    SIZE = "size"  # int(), float(), range(), index, round of a size
    SIZE_BRANCH = "size-branch"  # a branch on a size
    SIZE_LOOP = "size-loop"  # iteration over a tensor, or over range(size)
    SIZE_CONSTANT = "size-constant"  # a tensor made from sizes outside the graph and kept as a constant
    FORMAT = "format"  # a traced value became text

    # Tensor values that Python asked for.
    TENSOR_BRANCH = "tensor-branch"  # if, while, and, or, not, assert, in, max(), min() on a tensor
    TENSOR_NUMBER = "tensor-number"  # int(), float(), item(), tolist(), an index
    TENSOR_NUMPY = "tensor-numpy"  # numpy() and numpy functions
    TENSOR_SHAPE = "tensor-shape"  # a shape that depends on values: nonzero, boolean masks, unique

    # Calls that plain tracing cannot record, and that capture records.
    FACTORY = "factory"  # torch.zeros(n), torch.arange(n), buffer.expand(n)
    ITEM_ASSIGNMENT = "item-assignment"  # x[i] = y
    UNPACKING = "unpacking"  # a, *b = x; f(*x.shape)
    KEYWORDS = "keywords"  # a forward with **kwargs or behind a decorator
    MODULE_IN_FORWARD = "module-in-forward"  # a module made in forward
    MODULE_IN_CONTAINER = "module-in-container"  # a module kept in a plain list, tuple or dict
    ROOT_LEAF = "root-leaf"  # the model itself is a torch.nn leaf
    COMPOSITE = "composite"  # a torch.nn composite, opened
    DATA_PARALLEL = "data-parallel"  # opened
    COMPILED = "compiled"  # a compiled child or function, opened
    CHECKPOINT = "checkpoint"  # a checkpointed part, opened
    WRAPPED_FUNCTION = "wrapped-function"  # a function marked with torch.fx.wrap

    # Things that vanish or change meaning in a graph.
    CUSTOM_FUNCTION = "custom-function"  # torch.autograd.Function: its backward would be lost
    GRAD_MODE = "grad-mode"  # no_grad, enable_grad, inference_mode, detach-like blocks
    AUTOCAST = "autocast"
    PYTHON_RANDOM = "python-random"  # random, numpy.random
    TORCH_RANDOM = "torch-random"  # torch.rand, Tensor.normal_, ...: recorded, draws anew at every call
    TIME = "time"  # time.time() and the like
    ALWAYS_DROPOUT = "always-dropout"  # dropout that does not depend on the mode of the model
    ATTRIBUTE_UPDATE = "attribute-update"  # self.x = ... in forward
    CONTAINER_UPDATE = "container-update"  # self.cache[k] = ..., self.seen.append(...)
    BUFFER_UPDATE = "buffer-update"  # a buffer or parameter written in forward
    GLOBAL_UPDATE = "global-update"  # a module-level or class-level variable changed in forward
    ROOT_HOOK = "root-hook"  # a hook on the model itself
    MODULE_HOOK = "module-hook"  # a hook on a module that quantization replaces
    WRITE_TO_CONSTANT = "write-to-constant"  # a write into a tensor that is no value of the graph
    HIDDEN_CASE = "hidden-case"  # an example input that hides a case: an all-ones mask

    # What could not be recorded.
    OPAQUE_CALL = "opaque-call"  # a call whose result depends on traced values in a way no tracer sees
    RECURRENT = "recurrent"  # a recurrent layer, kept whole
    SCRIPTED = "scripted"  # a TorchScript child or function
    CAUGHT_ERROR = "caught-error"  # an operation raises, here or for other inputs, and the code goes on from there
    ERROR = "error"  # Python raised in traced code; the message is in ``value``
    DIVERGENCE = "divergence"  # the trace computed something else than eager, and nothing above says why


# Kinds that assume something of the example: another input of the same graph may break the assumption.
GUARDS = frozenset(
    {
        FactKind.STATIC, FactKind.LENGTH, FactKind.FLAG, FactKind.PRESENCE, FactKind.TYPE_TEST, FactKind.TRAINING,
        FactKind.GRAD_ENABLED, FactKind.SIZE, FactKind.SIZE_BRANCH, FactKind.SIZE_LOOP, FactKind.SIZE_CONSTANT,
        FactKind.FORMAT,
    }
)  # fmt: skip


@dataclass(frozen=True)
class Fact:
    """One thing that capture met.

    Attributes:
        kind: what happened.
        file, line, code: the user's line: path, number from 1 (0 when unknown), text without indentation.
        module_path: module whose forward was running, "" for the root.
        expression: the part of the line that did it, as the user wrote it: ``x.sum() > 0``; "" when unknown.
        value: the answer that was given, or what was found, as text.
        handled: how capture dealt with it, one clause: ``float leaf 'encoder.gate'``, ``recorded as an operation``,
            ``built in and checked``; "" when the graph simply holds the example's answer.
    """

    kind: FactKind
    file: str = ""
    line: int = 0
    code: str = ""
    module_path: str = ""
    expression: str = ""
    value: str = ""
    handled: str = ""

    @property
    def source(self) -> str:
        """``file:line``, "" when unknown."""
        return f"{self.file}:{self.line}" if self.file else ""

    @property
    def is_guard(self) -> bool:
        """Whether the graph is only right for inputs of which the same is true."""
        return self.kind in GUARDS and self.handled != RECORDED

    def __str__(self) -> str:
        handled = f", {self.handled}" if self.handled else ""
        return f"{self.kind}: {self.expression or self.code or '?'}  = {self.value}{handled}  ({self.source})"
