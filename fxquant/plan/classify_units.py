"""What each unit could be: requantizing, sharing, float or free; with the backend's kernel or its refusal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx, nn

from fxquant.fusion.rule import WEIGHTED, UnitDraft
from fxquant.ir.float_part import FloatPart
from fxquant.ir.meta import ALIASED, OUTSIDE, TensorMeta, info
from fxquant.ir.quant_plan import KernelChoice, TensorSpec
from fxquant.ops import catalogue
from fxquant.ops.opdef import FloatOnly, Identity, Moves, OpDef, Query
from fxquant.ops.recurrent import RECURRENT
from fxquant.plan.assign_domains import Candidate
from fxquant.plan.backend import Backend, Call, Refusal
from fxquant.plan.backend_limits import FREE, BackendLimits
from fxquant.plan.classify_dynamic import ASKED, classify_dynamic
from fxquant.plan.find_positions import is_arithmetic
from fxquant.plan.leaf_modules import LeafModule, classify_leaf
from fxquant.plan.read_qconfig import QConfigReader, mode_of, refuses_weight, reuses_input
from fxquant.plan.readers import takes_element
from fxquant.plan.resolve_qconfig import Resolved

_ELEMENT = KernelChoice("element", "operator.getitem")
_ROLES = {
    "mask": "it is part of an attention mask, which holds values far outside the range of the scores",
    "scores": "it is part of the softmax of an attention",
    OUTSIDE: "it lies outside the model's quantization stubs",
}


@dataclass(frozen=True)
class Context:
    """What classification needs to know of the model.

    Attributes:
        modules: modules by path.
        constants: names of nodes that are constants of the model.
        configs: configuration by node name.
        specs: how activations are stored, by node name, for nodes with a qconfig.
        backend: the backend planned for.
        read: reads QConfigs.
        limits: what a BackendConfig allows, None for everything.
        leaves: standalone and custom modules, by path.
        wide: why 8 bits cannot hold a value, by name, for those they cannot.
        positions: why a value is a position or a rank and no activation, by name.
        changing: names of values that depend on what forward changes, and on no input.
        kept: why a part of the model runs as Python, by path of its module in the graph.
        static_recurrent: as in ``PlanRequest``.
    """

    modules: dict[str, nn.Module]
    constants: frozenset[str]
    configs: dict[str, Resolved]
    specs: dict[str, TensorSpec]
    backend: Backend
    read: QConfigReader
    limits: BackendLimits | None = None
    leaves: Mapping[str, LeafModule] = field(default_factory=dict)
    wide: Mapping[str, str] = field(default_factory=dict)
    positions: Mapping[str, str] = field(default_factory=dict)
    changing: frozenset[str] = frozenset()
    kept: Mapping[Any, str] = field(default_factory=dict)
    static_recurrent: frozenset[type[nn.Module]] = frozenset()


def classify_unit(draft: UnitDraft, context: Context) -> Candidate:
    """Classify one unit. The first of these that holds decides; the order is the order of the lines."""
    anchor = draft.anchor
    op, value = info(anchor).op, info(draft.last).value
    row = catalogue.by_name(op)
    activations = _all_activations(draft, context)

    def floating(reason: str) -> Candidate:
        return Candidate(draft, row, "float", activations, reason=reason)

    if anchor.op == "call_module" and str(anchor.target) in context.leaves:
        return classify_leaf(draft, context.leaves[str(anchor.target)], context.configs[anchor.name])
    if op == ALIASED:
        return floating("its tensor is changed in place through a view")
    if info(anchor).role:
        return floating(_ROLES[info(anchor).role])
    if row is not None and row.name in RECURRENT:
        return _recurrent(draft, row, context, floating)
    if not _is_floating(value) or (row is not None and isinstance(row.output, Query)):
        return Candidate(draft, row, "free", activations)
    if takes_element(anchor):
        qconfig = context.configs[anchor.name].qconfig
        measures = qconfig is not None and not context.read(mode_of, qconfig)
        return Candidate(draft, row, "element", activations, _ELEMENT, measures=measures)
    if isinstance(value, (tuple, list)) and not all(takes_element(user) for user in draft.last.users):
        return floating("its results are read as one tuple")
    if isinstance(value, (tuple, list)) and any(info(user).op == ALIASED for user in draft.last.users):
        return floating("one of its results is changed in place")
    if anchor.op == "call_module" and isinstance(part := context.modules[str(anchor.target)], FloatPart):
        return floating(f"{part.title} runs as Python: {part.why}".removesuffix(": "))
    if row is None:
        return floating(context.kept.get(anchor.target) or _unknown(anchor, context))
    if isinstance(row.output, Identity):
        return _identity(draft, row, activations, context)
    resolved = context.configs[anchor.name]
    if resolved.qconfig is None:
        return replace(floating(f"excluded by qconfig ({resolved.entry})"), excluded=True)
    if any(info(node).op == ALIASED for _, node in activations):
        return floating("it reads a tensor that is changed in place through a view")
    if any(node.name in context.changing for _, node in activations):
        return floating("it reads what forward changes, so that calibration does not show its range")
    if not _is_float32(value):
        return floating(f"computed in {_dtype_of(value)}")
    if any(_is_empty(item) for item in (value, *(info(node).value for _, node in activations))):
        return floating("it is empty on the example inputs, so that no range can be observed")
    wide = [name for name in (draft.last.name, *(node.name for _, node in activations)) if name in context.wide]
    if wide:
        return floating(context.wide[wide[0]])
    own = draft.nodes if "expression" in draft.roles else (anchor,)
    read = (*own, *(node for _, node in activations if is_arithmetic(anchor)))
    positions = [node.name for node in read if node.name in context.positions]
    if positions:
        return floating(context.positions[positions[0]])
    return _with_kernel(draft, row, context, floating)


def _with_kernel(draft: UnitDraft, row: OpDef, context: Context, floating: Callable[[str], Candidate]) -> Candidate:
    qconfig = context.configs[draft.anchor.name].qconfig
    mode = context.read(mode_of, qconfig)
    if mode and f"{context.backend.name}.{mode}" in row.kernels:
        refused = context.limits.refuse_mode(draft, qconfig, mode) if context.limits is not None else ""
        if refused:
            return replace(floating(refused), excluded=True)
        return classify_dynamic(draft, call_of(draft, row, context), mode, context.backend, floating)
    missing = f"its qconfig asks for {ASKED[mode]}, and {row.name} has no such kernel" if mode else ""
    if mode and not row.shares_range:
        return floating(missing)
    if context.backend.name not in row.kernels:
        why = row.output.why if isinstance(row.output, FloatOnly) else "no int8 kernel"
        return floating(f"{why} in {context.backend.name}")
    judged = context.limits.judge(draft, row, qconfig) if context.limits is not None else FREE
    if judged.refusal:
        return replace(floating(judged.refusal), excluded=True)
    refused = "" if mode else context.backend.refuses_spec(context.specs[draft.anchor.name])
    if not refused and row.name in WEIGHTED:
        refused = context.read(refuses_weight, qconfig)
    if refused:
        return floating(refused)
    call = call_of(draft, row, context)
    operands = _operands(call)
    if not operands:
        return floating("none of its inputs is an activation")
    kernels = context.backend.kernels_for(call)
    if isinstance(kernels, Refusal):
        return floating(kernels.reason)
    kernel, *others = kernels
    has_own = not row.shares_range or kernel.own_range
    if judged.range == "own" and not has_own and not context.backend.sets_range(kernel):
        return floating("its kernel keeps its input's range, and the backend_config asks for one of its own")
    role = "requantize"
    if not has_own and judged.range != "own":
        role = "clip" if row.clip is not None else "share"
    if mode and role == "requantize":
        return floating(missing)
    if role == "requantize" and judged.range != "shared" and context.read(reuses_input, qconfig):
        return floating("its qconfig reuses the input's range, and its results have another")
    constants = frozenset(node.name for _, node in operands if call.is_constant(node))
    return Candidate(
        draft,
        row,
        role,
        operands,
        kernel,
        fallbacks=tuple(others),
        constants=constants,
        fills=_writes_number(call),
        shares_range=judged.range == "shared",
        measures=not mode,
    )


def _recurrent(draft: UnitDraft, row: OpDef, context: Context, floating: Callable[[str], Candidate]) -> Candidate:
    resolved, value = context.configs[draft.anchor.name], info(draft.anchor).value
    if resolved.qconfig is None:
        return replace(floating(f"excluded by qconfig ({resolved.entry})"), excluded=True)
    is_named = resolved.named or type(context.modules[str(draft.anchor.target)]) in context.static_recurrent
    mode = context.read(mode_of, resolved.qconfig) or ("static" if is_named else "")
    if f"{context.backend.name}.{mode}" not in row.kernels:
        assert isinstance(row.output, FloatOnly)
        return floating(f"its qconfig asks for {ASKED[mode]}" if mode else row.output.why)
    if not _is_float32(value):
        return floating(f"computed in {_dtype_of(value)}")
    refused = context.backend.refuses_spec(context.specs[draft.anchor.name])
    refused = refused or context.read(refuses_weight, resolved.qconfig)
    if mode == "static" and refused:
        return floating(refused)
    refused = context.limits.refuse_mode(draft, resolved.qconfig, mode) if context.limits and mode != "static" else ""
    if refused:
        return replace(floating(refused), excluded=True)
    return classify_dynamic(draft, call_of(draft, row, context), mode, context.backend, floating)


def _unknown(anchor: fx.Node, context: Context) -> str:
    """Why an operator without a row is float."""
    module = context.modules.get(str(anchor.target)) if anchor.op == "call_module" else None
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return f"{type(module).__name__} has a forward of its own, so it is none of the recurrent layers of torch.nn"
    return f"{info(anchor).origin.spelling} is not in the catalogue"


def call_of(draft: UnitDraft, row: OpDef, context: Context) -> Call:
    """The unit's anchor as a backend sees it; a folded pad's input takes the place of the anchor's."""
    bound = catalogue.arguments(draft.anchor, row)
    pad: tuple[int, ...] = ()
    if "pad" in draft.roles:
        padding = catalogue.arguments(draft.roles["pad"], catalogue.row_of(draft.roles["pad"]))
        bound = {**bound, "input": padding["input"]}
        pad = tuple(padding["pad"])
    if "batch_norm_before" in draft.roles:
        bound = {**bound, "input": draft.roles["batch_norm_before"].args[0]}
    weight = bound.get("weight")
    weight_meta = info(weight).tensor if isinstance(weight, fx.Node) else None
    module = context.modules[str(draft.anchor.target)] if draft.anchor.op == "call_module" else None
    nodes = tuple(draft.nodes) if "expression" in draft.roles else (draft.anchor,)
    return Call(row, bound, info(draft.anchor).tensor, weight_meta, context.constants, module, pad, nodes)


def _writes_number(call: Call) -> bool:
    """Whether a number other than zero, which every range contains, is written into the output."""
    number = call.bound.get(call.row.fills)
    return isinstance(number, (int, float)) and number != 0


def _operands(call: Call) -> tuple[tuple[str, fx.Node], ...]:
    if len(call.nodes) > 1:
        sources = [source for node in call.nodes for source in node.all_input_nodes if source not in call.nodes]
        return tuple(dict.fromkeys(("input", source) for source in sources if not call.is_constant(source)))
    found: list[tuple[str, fx.Node]] = []
    for name in call.row.activations:
        given = call.bound[name]
        items = given if isinstance(given, (tuple, list)) else (given,)
        found += [(name, item) for item in items if isinstance(item, fx.Node) and info(item).is_float_tensor]
    activations = tuple((name, item) for name, item in found if not call.is_constant(item))
    return tuple(found) if call.row.joins and activations else activations


def _all_activations(draft: UnitDraft, context: Context) -> tuple[tuple[str, fx.Node], ...]:
    """Every floating input of a unit that is no constant and no mask, whatever its operand is called."""
    sources = dict.fromkeys(source for node in draft.nodes for source in node.all_input_nodes)
    return tuple(
        ("input", source)
        for source in sources
        if source not in draft.nodes
        and source.name not in context.constants
        and _is_floating(info(source).value)
        and info(source).role != "mask"
    )


def _identity(
    draft: UnitDraft, row: OpDef, activations: tuple[tuple[str, fx.Node], ...], context: Context
) -> Candidate:
    anchor = draft.anchor
    if anchor.op == "call_module":
        training = context.modules[str(anchor.target)].training
    else:
        training = bool(catalogue.arguments(anchor, row)["training"])
    if training:
        return Candidate(draft, row, "float", activations, reason="dropout that is always on")
    if not activations:
        return Candidate(draft, row, "float", activations, reason="its input is a constant")
    return Candidate(draft, row, "identity", activations)


def _metas(value: Any) -> list[TensorMeta]:
    items = value if isinstance(value, (tuple, list)) else (value,)
    return [item for item in items if isinstance(item, TensorMeta)]


def _is_floating(value: Any) -> bool:
    return any(meta.is_float for meta in _metas(value))


def _is_empty(value: object) -> bool:
    """Whether a value is a tensor without elements, such as the boxes where nothing was detected."""
    return isinstance(value, TensorMeta) and 0 in value.shape


def _is_float32(value: Any) -> bool:
    return all(meta.dtype == torch.float32 for meta in _metas(value) if meta.is_float)


def _dtype_of(value: Any) -> str:
    return str(next(meta for meta in _metas(value) if meta.is_float).dtype).removeprefix("torch.")


def is_move(row: OpDef | None, role: str) -> bool:
    """Whether the unit only moves numbers."""
    return role == "element" or (row is not None and isinstance(row.output, Moves))
