"""What each kind of finding means: its title, what happened in plain words, and how it is judged."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from fxquant.capture.facts import RECORDED
from fxquant.check.finding import FindingKind


class Rule(Enum):
    """How the severity of a kind is found."""

    GUARD = auto()  # info while it holds on every probe; a warning where the graph refuses, an error where it is wrong
    LOST = auto()  # an error: plain tracing fails, is wrong, or loses something; capture has to handle it
    RECORDED = auto()  # an error that capture handles by recording it, as the comparison on the example shows
    NOTE = auto()  # info: worth knowing
    DOUBT = auto()  # a warning: the example does not show it


@dataclass(frozen=True)
class Meaning:
    """One kind.

    Attributes:
        title: heading of its group in reports.
        message: what happened. ``{expression}`` and ``{value}`` are filled in.
        rule: how it is judged.
        recorded: for recorded kinds, how capture deals with it.
    """

    title: str
    message: str
    rule: Rule
    recorded: str = ""


_K = FindingKind

MEANINGS: dict[FindingKind, Meaning] = {
    _K.STATIC: Meaning(
        "Facts of the example's type",
        "`{expression}` is {value} for the example: the graph is for inputs of which the same is true",
        Rule.GUARD,
    ),
    _K.LENGTH: Meaning(
        "Lengths of containers", "`{expression}` has {value} elements in the graph, as in the example", Rule.GUARD
    ),
    _K.FLAG: Meaning(
        "Inputs that are no tensors", "`{value}` is built into the graph, and checked when it runs", Rule.GUARD
    ),
    _K.PRESENCE: Meaning(
        "Optional inputs", "`{expression}` was not given with the example: the graph has no such input", Rule.GUARD
    ),
    _K.TYPE_TEST: Meaning(
        "Tests of types",
        "`{expression}` asks what kind of object it is, and plain tracing answers for a proxy: eager says {value}",
        Rule.RECORDED,
        "answered as eager does",
    ),
    _K.TRAINING: Meaning(
        "Branches on self.training",
        "`{expression}` asks which mode the model is in: a graph goes the way of one of them",
        Rule.GUARD,
    ),
    _K.GRAD_ENABLED: Meaning("Branches on the gradient mode", "`{expression}` is built in: {value}", Rule.GUARD),
    _K.SIZE: Meaning(
        "Sizes as Python numbers",
        "`{expression}` makes a Python number of a size: the graph keeps {value}, the example's",
        Rule.GUARD,
    ),
    _K.SIZE_BRANCH: Meaning(
        "Branches on sizes",
        "`{expression}` is {value} for the example's sizes, and the graph has only that branch",
        Rule.GUARD,
    ),
    _K.SIZE_LOOP: Meaning(
        "Loops over sizes",
        "the loop over `{expression}` is unrolled as often as the example takes: {value}",
        Rule.GUARD,
    ),
    _K.SIZE_CONSTANT: Meaning(
        "Constants made from sizes", "`{expression}` makes a constant of the example's sizes: {value}", Rule.GUARD
    ),
    _K.FORMAT: Meaning(
        "Values as text",
        "`{expression}` makes text of a value: the graph keeps the example's, and prints nothing",
        Rule.GUARD,
    ),
    _K.TENSOR_BRANCH: Meaning(
        "Branches on tensor values",
        "`{expression}` asks Python to decide by the value of a tensor; a graph has no branches",
        Rule.LOST,
    ),
    _K.TENSOR_NUMBER: Meaning(
        "Tensor values as Python numbers",
        "`{expression}` takes the value of a tensor into Python; a graph would keep the example's number",
        Rule.LOST,
    ),
    _K.TENSOR_NUMPY: Meaning(
        "Tensors handed to numpy",
        "`{expression}` computes outside torch; a graph would keep the example's result",
        Rule.LOST,
    ),
    _K.TENSOR_SHAPE: Meaning(
        "Shapes that depend on values", "the shape of `{expression}` depends on the values of a tensor", Rule.NOTE
    ),
    _K.FACTORY: Meaning(
        "Tensors made from sizes",
        "`{expression}` makes a tensor from a size; plain tracing fails, or keeps the example's",
        Rule.RECORDED,
        "recorded as an operation on the size",
    ),
    _K.ITEM_ASSIGNMENT: Meaning(
        "Assignments to items",
        "`{expression}` is assigned to; plain tracing does not support it",
        Rule.RECORDED,
        RECORDED,
    ),
    _K.UNPACKING: Meaning(
        "Unpacking",
        "`{expression}` is unpacked; plain tracing cannot count its elements",
        Rule.RECORDED,
        "counted on the example",
    ),
    _K.KEYWORDS: Meaning(
        "Signatures",
        "forward takes `**kwargs`, or is behind a decorator; plain tracing cannot read its signature",
        Rule.RECORDED,
        "traced with exactly the inputs that were given",
    ),
    _K.MODULE_IN_FORWARD: Meaning(
        "Modules made in forward",
        "`{expression}` makes a module in forward; plain tracing fails, and weights made there are new at every call",
        Rule.RECORDED,
        "the graph has the operations in it",
    ),
    _K.MODULE_IN_CONTAINER: Meaning(
        "Modules in plain containers",
        "{value} is kept in a plain list, dict, object or function, and is no submodule: parameters() and to() miss it",
        Rule.RECORDED,
        "registered under a name of its own",
    ),
    _K.ROOT_LEAF: Meaning(
        "A torch.nn module as the model",
        "the model itself is a torch.nn module, which plain tracing does not open",
        Rule.RECORDED,
        "opened",
    ),
    _K.COMPOSITE: Meaning("Composites of torch.nn", "{value} is a torch.nn composite", Rule.NOTE, "opened"),
    _K.DATA_PARALLEL: Meaning(
        "Data parallel modules",
        "{value} is wrapped in DataParallel, which plain tracing keeps whole",
        Rule.RECORDED,
        "opened",
    ),
    _K.COMPILED: Meaning(
        "Compiled parts",
        "{value} is compiled, which plain tracing cannot enter",
        Rule.RECORDED,
        "opened: its source is traced",
    ),
    _K.CHECKPOINT: Meaning(
        "Checkpointed parts",
        "`{expression}` is checkpointed",
        Rule.NOTE,
        "opened: checkpointing matters to training only",
    ),
    _K.WRAPPED_FUNCTION: Meaning("Wrapped functions", "`{expression}` is marked with torch.fx.wrap", Rule.NOTE),
    _K.CUSTOM_FUNCTION: Meaning(
        "Functions with a backward of their own",
        "`{expression}` is a torch.autograd.Function; traced through, its backward would be lost",
        Rule.LOST,
    ),
    _K.GRAD_MODE: Meaning(
        "Blocks without gradients", "`{expression}` sets the gradient mode, which vanishes from a graph", Rule.LOST
    ),
    _K.AUTOCAST: Meaning(
        "Autocast blocks", "`{expression}` changes the dtype of operations, and vanishes from a graph", Rule.LOST
    ),
    _K.PYTHON_RANDOM: Meaning(
        "Random numbers of Python",
        "`{expression}` draws a number in Python; a graph would keep that one for ever",
        Rule.LOST,
    ),
    _K.TORCH_RANDOM: Meaning(
        "Random tensors",
        "`{expression}` draws random numbers, or sets a seed: two calls differ, and an int8 model is as random",
        Rule.RECORDED,
        "recorded: it draws anew at every call",
    ),
    _K.TIME: Meaning("Clocks", "`{expression}` reads a clock; a graph would keep the time of capture", Rule.LOST),
    _K.ALWAYS_DROPOUT: Meaning(
        "Dropout that is always on",
        "`{expression}` drops values in eval mode too: its `training` is True whatever the mode of the model",
        Rule.RECORDED,
        "recorded as it is: on",
    ),
    _K.ATTRIBUTE_UPDATE: Meaning(
        "Attributes changed in forward",
        "`{expression}` changes {value}; a graph computes results and changes nothing",
        Rule.LOST,
    ),
    _K.CONTAINER_UPDATE: Meaning(
        "Containers changed in forward",
        "`{expression}` changes {value}; a graph computes results and changes nothing",
        Rule.LOST,
    ),
    _K.BUFFER_UPDATE: Meaning(
        "Buffers changed in forward",
        "`{expression}` writes into a buffer or parameter, which a graph would not",
        Rule.LOST,
    ),
    _K.GLOBAL_UPDATE: Meaning(
        "Globals changed in forward", "`{expression}` changes the global {value}, which a graph would not", Rule.LOST
    ),
    _K.INPUT_UPDATE: Meaning(
        "Inputs changed in forward",
        "`{expression}` writes into an input: eager changes the caller's tensor, the graph works on a copy",
        Rule.DOUBT,
    ),
    _K.ROOT_HOOK: Meaning(
        "Hooks on the model",
        "the hook {value} on the model itself is dropped by plain tracing",
        Rule.RECORDED,
        "called during capture: what it computes is in the graph",
    ),
    _K.MODULE_HOOK: Meaning(
        "Hooks on modules",
        "the hook {value} is lost when quantization replaces its module",
        Rule.RECORDED,
        "called during capture: what it computes is in the graph",
    ),
    _K.WRITE_TO_CONSTANT: Meaning(
        "Writes into constants", "`{expression}` writes into a tensor that is no value of the graph", Rule.LOST
    ),
    _K.HIDDEN_CASE: Meaning(
        "Cases that the example hides", "{value} hides a case: the example does not show what it is for", Rule.DOUBT
    ),
    _K.OPAQUE_CALL: Meaning("Calls that cannot be looked into", "`{expression}` cannot be traced: {value}", Rule.LOST),
    _K.CAUGHT_ERROR: Meaning(
        "Errors that are caught",
        "`{expression}` raises {value} for the example, which the code around it catches; a graph has that way only",
        Rule.LOST,
    ),
    _K.RECURRENT: Meaning("Recurrent layers", "{value} is a recurrent layer", Rule.NOTE, "kept whole"),
    _K.SCRIPTED: Meaning("TorchScript parts", "{value} is TorchScript, whose source is gone", Rule.LOST),
    _K.ERROR: Meaning("Errors during capture", "capture stopped: {value}", Rule.LOST),
    _K.UNREACHED: Meaning(
        "Code that the example does not reach", "the example does not reach this line: {value}", Rule.DOUBT
    ),
    _K.PLAIN_TRACING: Meaning(
        "What stops plain tracing", "plain torch.fx stops here: {value}", Rule.RECORDED, "captured with example values"
    ),
    _K.DIVERGENCE: Meaning("Differences from eager", "{value}", Rule.LOST),
}
