"""What a model computes differently in training: two captures, one in each mode, compared node by node.

Quantization is planned on what the model computes in evaluation. What differs in training is written down beside it:
arguments with another value (``F.dropout(x, training=self.training)``, ``dropout_p`` of an attention), and operations
that only training has (``if self.training: x = drop_path(x)``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from types import MethodType
from typing import Any

from torch import Tensor, fx, nn

from fxquant.capture.copy_module import copy_module
from fxquant.capture.keep_state import holds
from fxquant.errors import CaptureError
from fxquant.ir import records
from fxquant.ir.edit import adopt, get_tensor
from fxquant.ir.effects import is_random
from fxquant.ir.float_part import FloatPart
from fxquant.ir.meta import info
from fxquant.ir.records import NodeRecord, NodeRef
from fxquant.ir.stages import CapturedModel
from fxquant.ops import catalogue

_PREFIX = "training_"
# Operands that follow the mode of a module, by name.
_FOLLOWS = ("training", "use_input_stats", "dropout_p")


@dataclass(frozen=True)
class ModeArgument:
    """An argument that is another one in training.

    Attributes:
        node: name of the captured node.
        operand: its name in the operator's signature; for operators that the catalogue does not know, its position or
            keyword.
        value: in training, with a ``NodeRef`` for each node.
    """

    node: str
    operand: str | int
    value: Any


@dataclass(frozen=True)
class TrainingOnly:
    """An operation that only training has.

    Attributes:
        record: the node; the names that it and others refer to it by begin with ``training_``.
        before: name of the captured node that it stands in front of.
    """

    record: NodeRecord
    before: str


ByMode = tuple[ModeArgument | TrainingOnly, ...]


def may_differ(captured: CapturedModel, model: nn.Module) -> bool:
    """Whether a capture of ``model`` in training mode could be another one: someone asked for the mode, or may ask."""
    if any(fact.kind == "training" for fact in captured.state.facts):
        return True
    if any(map(_reacts_to_mode, model.modules())):
        return True
    return any(name in _FOLLOWS for node in captured.graph.nodes for name in _bound(node))


def _reacts_to_mode(module: nn.Module) -> bool:
    """Whether a module does something of its own when its mode is set, or has hooks, which may ask for it."""
    kind = type(module)
    own = kind.train is not nn.Module.train or kind.eval is not nn.Module.eval
    return own or bool(module._forward_pre_hooks or module._forward_hooks)


def training_copy(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in training mode. Modules that stay modules in graphs, which follow their mode by themselves,
    compute in it what they do in evaluation: no random numbers, no statistics of one row.

    Raises:
        CaptureError: one of these does not follow ``train()`` of the model.
    """
    made = copy_module(model).train()
    for path, module in made.named_modules():
        if catalogue.by_module(type(module)) is not None:
            if not module.training:
                raise CaptureError(
                    f"train() of the model leaves {path!r} in evaluation mode, and that of a prepared model would not",
                    module_path=path,
                    remedy="leave it to train(), and call prepared.apply(fxquant.freeze_bn_stats), or eval() of the "
                    "module, after it",
                )
            vars(module)["forward"] = MethodType(_in_evaluation, module)
    return made


def require_evaluation(model: nn.Module) -> None:
    """Raise where ``eval()`` of a model left a module in training that has a mode of its own in a graph.

    Raises:
        CaptureError: names it.
    """
    for path, module in model.named_modules():
        if catalogue.by_module(type(module)) is not None and module.training:
            raise CaptureError(
                f"eval() of the model leaves {path!r} in training mode, and that of a prepared model would not",
                module_path=path,
                remedy="leave it to eval(), and call train() of the module after it",
            )


def _in_evaluation(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    mode, vars(module)["training"] = vars(module)["training"], False
    try:
        return type(module).forward(module, *args, **kwargs)
    finally:
        vars(module)["training"] = mode


def require_same_tensors(evaluated: nn.Module, trained: nn.Module) -> None:
    """Raise when setting the mode of a model changed its parameters or buffers: one graph holds one set of them.

    Args:
        evaluated, trained: copies of it in evaluation and in training mode.

    Raises:
        CaptureError: for the first that differs.
    """
    first, second = ({**dict(item.named_parameters()), **dict(item.named_buffers())} for item in (evaluated, trained))
    for name in {**first, **second}:
        one, other = first.get(name), second.get(name)
        if one is None or other is None or not holds(one, other):
            path = name.rpartition(".")[0]
            raise CaptureError(
                f"train() and eval() of the model change {name!r}, so that it does not compute with the same weights "
                "in both modes",
                module_path=path,
                remedy="let forward look at self.training instead, such as adding an unmerged branch in both modes",
            )


def compare_modes(evaluated: CapturedModel, trained: CapturedModel) -> ByMode:
    """What training changes.

    Args:
        evaluated: captured in evaluation mode; constants that only training needs are added to it.
        trained: captured in training mode.
    """
    for module in trained.modules():
        if getattr(vars(module).get("forward"), "__func__", None) is _in_evaluation:
            del vars(module)["forward"]
    ours, theirs = list(evaluated.graph.nodes), list(trained.graph.nodes)
    pairs = _pairs(ours, theirs)
    _require_no_effects([node for node in ours if node not in pairs.values()], trained)
    names = {other: NodeRef(own.name) for other, own in pairs.items()}
    names |= {other: NodeRef(f"{_PREFIX}{other.name}") for other in theirs if other not in pairs}
    known = _tensors_of(evaluated)
    found: list[ModeArgument | TrainingOnly] = []
    waiting: list[NodeRecord] = []
    for node in theirs:
        if node not in pairs:
            waiting.append(_training_record(node, names, evaluated, trained, known))
            continue
        own = pairs[node]
        found += [TrainingOnly(record, own.name) for record in waiting]
        waiting.clear()
        found += _changes(own, node, names)
    return tuple(found)


def _pairs(ours: list[fx.Node], theirs: list[fx.Node]) -> dict[fx.Node, fx.Node]:
    """Nodes of the second graph to those of the first that do the same, in order.

    First those of the same instruction; between these, those of the same line; between these, modules and operators
    with weights, by what these are.
    """
    pairs: dict[fx.Node, fx.Node] = {}
    gaps = [(ours, theirs)]
    for closeness in (2, 1, 0):
        left: list[tuple[list[fx.Node], list[fx.Node]]] = []
        for one, other in gaps:
            first, second = ([_key(node, closeness) for node in nodes] for nodes in (one, other))
            here = there = 0
            for start, begin, size in SequenceMatcher(None, first, second, autojunk=False).get_matching_blocks():
                left.append((one[here:start], other[there:begin]))
                here, there = start + size, begin + size
                pairs |= dict(zip(other[begin:there], one[start:here], strict=True))
        gaps = [(one, other) for one, other in left if one and other]
    return pairs


def _key(node: fx.Node, closeness: int) -> tuple[Any, ...]:
    origin = info(node).origin
    target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", repr(node.target))
    if closeness:
        return node.op, target, origin.module_path, *(origin.line, origin.at)[:closeness]
    weights = tuple(source.target for source in node.all_input_nodes if source.op == "get_attr")
    return node.op, target, weights or (id(node) if node.op not in ("call_module", "get_attr") else ())


def _require_no_effects(only_in_evaluation: list[fx.Node], trained: CapturedModel) -> None:
    """Raise when something that only evaluation does would be felt in training, where the graph computes it too.

    Args:
        only_in_evaluation: nodes that have none to their side in training.
        trained: captured in training mode.

    Raises:
        CaptureError: for the first that draws, changes a buffer, or is a module that follows the mode.
    """
    for node in only_in_evaluation:
        known, row = info(node), catalogue.by_name(info(node).op)
        follows = node.op == "call_module" and row is not None and bool(row.modules)
        part = _part_with(str(node.target), trained) if follows else None
        if part is not None:
            raise CaptureError(
                f"module {node.target!r} is called in the graph in evaluation, and in training by {part.title}, which "
                "runs as Python there: it would not be trained as it is quantized",
                op=known.op,
                module_path=known.origin.module_path,
                source=f"{part.file}:{part.first_line}" if part.file else "",
                remedy="let forward call the same layers in both modes: to leave some out at random, multiply what "
                "they add by 0 or 1",
            )
        if follows or is_random(node) or known.mutates:
            what = f"module {node.target!r}" if follows else known.origin.spelling
            raise CaptureError(
                f"only evaluation calls {what}, which draws numbers or changes state: the model to train would too",
                op=known.op,
                module_path=known.origin.module_path,
                source=known.origin.source,
                remedy="call it in both modes, or outside of the model that is trained",
            )


def _part_with(path: str, trained: CapturedModel) -> FloatPart | None:
    """The part that runs as Python and has a module of the user's model, None where none has."""
    for part in trained.modules():
        held = part.child_paths.values() if isinstance(part, FloatPart) else ()
        if any(not known or path == known or path.startswith(f"{known}.") for known in held):
            return part if isinstance(part, FloatPart) else None
    return None


def _bound(node: fx.Node) -> dict[Any, Any]:
    """Arguments by name, or by position and keyword."""
    row = catalogue.by_name(info(node).op)
    if row is not None and node.op != "call_module":
        return dict(catalogue.arguments(node, row))
    return {**dict(enumerate(node.args)), **node.kwargs}


def _changes(own: fx.Node, other: fx.Node, names: dict[fx.Node, NodeRef]) -> list[ModeArgument]:
    given = {key: _plain(value, lambda node: NodeRef(node.name)) for key, value in _bound(own).items()}
    wanted = {key: _plain(value, names.__getitem__) for key, value in _bound(other).items()}
    changed = [key for key in wanted if key not in given or given[key] != wanted[key]]
    return [ModeArgument(own.name, key, wanted[key]) for key in changed]


def _plain(value: Any, at_node: Callable[[fx.Node], Any]) -> Any:
    """Nested containers as plain ones, nodes replaced."""
    if isinstance(value, fx.Node):
        return at_node(value)
    if isinstance(value, (tuple, list)):
        items = [_plain(item, at_node) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, dict):
        return {key: _plain(item, at_node) for key, item in value.items()}
    if isinstance(value, slice):
        return slice(*(_plain(part, at_node) for part in (value.start, value.stop, value.step)))
    return records.pack_constant(value)


def _training_record(
    node: fx.Node,
    names: dict[fx.Node, NodeRef],
    evaluated: CapturedModel,
    trained: CapturedModel,
    known: dict[str, Any],
) -> NodeRecord:
    args, kwargs = _plain(node.args, names.__getitem__), _plain(dict(node.kwargs), names.__getitem__)
    target = records.pack_target(node.target)
    if node.op == "get_attr" and "." not in str(target) and str(target).startswith("_"):
        target = _kept_constant(str(target), evaluated, trained)
    elif node.op in ("get_attr", "call_module"):
        adopt(evaluated, str(target), trained)
        owner, _, name = str(target).rpartition(".")
        if node.op == "get_attr":
            _share(evaluated.get_submodule(owner), name, known.get(str(target)))
        elif isinstance(part := evaluated.get_submodule(str(target)), FloatPart):
            for path, module, name in _held_by(part):
                _share(module, name, known.get(path))
    return NodeRecord(names[node].name, node.op, target, args, kwargs, info(node))


def _tensors_of(evaluated: CapturedModel) -> dict[str, Any]:
    """The parameters and buffers of a graph, by their names in the user's model, those in its parts included."""
    found: dict[str, Any] = {}
    for part in evaluated.modules():
        if isinstance(part, FloatPart):
            found |= {path: getattr(module, name) for path, module, name in _held_by(part)}
    return {**found, **dict(evaluated.named_parameters()), **dict(evaluated.named_buffers())}


def _held_by(part: FloatPart) -> Iterator[tuple[str, nn.Module, str]]:
    """(name in the user's model, module, name there) of each parameter and buffer that a part reads."""
    for child, path in part.child_paths.items():
        for inner, module in part.get_submodule(child).named_modules():
            for name in (*module._parameters, *module._buffers):
                yield ".".join(filter(None, (path, inner, name))), module, name


def _share(module: nn.Module, name: str, tensor: Any) -> None:
    """Let a module have a tensor of the evaluated graph: what training changes, evaluation reads."""
    held = module._parameters if name in module._parameters else module._buffers
    if tensor is not None and name in held:
        held[name] = tensor


def _kept_constant(name: str, evaluated: CapturedModel, trained: CapturedModel) -> str:
    """A constant that only the capture in training mode has, under a name of its own."""
    kept = f"_{_PREFIX}{name.lstrip('_')}"
    value = get_tensor(trained, name)
    assert isinstance(value, Tensor)
    evaluated.register_buffer(kept, value, persistent=False)
    return kept
