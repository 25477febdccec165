"""What each unit could be: requantizing, sharing, float or free; with the backend's kernel or its refusal."""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn

from fxquant.fusion.rule import UnitDraft
from fxquant.ir.meta import ALIASED, TensorMeta, info
from fxquant.ir.quant_plan import KernelChoice, TensorSpec
from fxquant.ops import catalogue
from fxquant.ops.opdef import FloatOnly, Identity, Moves, OpDef, Query
from fxquant.plan.assign_domains import Candidate
from fxquant.plan.backend import Backend, Call, Refusal
from fxquant.plan.resolve_qconfig import Resolved

_ELEMENT = KernelChoice("element", "operator.getitem")


@dataclass(frozen=True)
class Context:
    """What classification needs to know of the model.

    Attributes:
        modules: modules by path.
        constants: names of nodes that are constants of the model.
        configs: configuration by node name.
        specs: how activations are stored, by node name, for nodes with a qconfig.
        backend: the backend planned for.
    """

    modules: dict[str, nn.Module]
    constants: frozenset[str]
    configs: dict[str, Resolved]
    specs: dict[str, TensorSpec]
    backend: Backend


def classify_unit(draft: UnitDraft, context: Context) -> Candidate:
    """Classify one unit. The first of these that holds decides; the order is the order of the lines."""
    anchor = draft.anchor
    op, value = info(anchor).op, info(draft.last).value
    row = catalogue.by_name(op)
    activations = _all_activations(anchor, context)

    def floating(reason: str) -> Candidate:
        return Candidate(draft, row, "float", activations, reason=reason)

    if op == ALIASED:
        return floating("its tensor is changed in place through a view")
    if not _is_floating(value) or (row is not None and isinstance(row.output, Query)):
        return Candidate(draft, row, "free", activations)
    if _takes_element(anchor):
        return Candidate(draft, row, "element", activations, _ELEMENT)
    if row is None:
        return floating(f"{info(anchor).origin.spelling} is not in the catalogue")
    if isinstance(row.output, Identity):
        return _identity(draft, row, activations, context)
    resolved = context.configs[anchor.name]
    if resolved.qconfig is None:
        return replace(floating(f"excluded by qconfig ({resolved.entry})"), excluded=True)
    if any(info(node).op == ALIASED for _, node in activations):
        return floating("it reads a tensor that is changed in place through a view")
    if not _is_float32(value):
        return floating(f"computed in {_dtype_of(value)}")
    return _with_kernel(draft, row, context, floating)


def _with_kernel(draft: UnitDraft, row: OpDef, context: Context, floating: Any) -> Candidate:
    if context.backend.name not in row.kernels:
        why = row.output.why if isinstance(row.output, FloatOnly) else "no int8 kernel"
        return floating(f"{why} in {context.backend.name}")  # type: ignore[no-any-return]
    refused = context.backend.refuses_spec(context.specs[draft.anchor.name])
    if refused:
        return floating(refused)  # type: ignore[no-any-return]
    call = call_of(draft, row, context)
    operands = _operands(call)
    if not operands:
        return floating("none of its inputs is an activation")  # type: ignore[no-any-return]
    kernel = context.backend.kernel_for(call)
    if isinstance(kernel, Refusal):
        return floating(kernel.reason)  # type: ignore[no-any-return]
    role = ("clip" if row.clip is not None else "share") if row.shares_range else "requantize"
    return Candidate(draft, row, role, operands, kernel)


def call_of(draft: UnitDraft, row: OpDef, context: Context) -> Call:
    """The unit's anchor as a backend sees it; a folded pad's input takes the place of the anchor's."""
    bound = catalogue.arguments(draft.anchor, row)
    pad: tuple[int, ...] = ()
    if "pad" in draft.roles:
        padding = catalogue.arguments(draft.roles["pad"], catalogue.row_of(draft.roles["pad"]))
        bound = {**bound, "input": padding["input"]}
        pad = tuple(padding["pad"])
    weight = bound.get("weight")
    weight_meta = info(weight).tensor if isinstance(weight, fx.Node) else None
    return Call(row, bound, info(draft.anchor).tensor, weight_meta, context.constants, pad)


def _operands(call: Call) -> tuple[tuple[str, fx.Node], ...]:
    found: list[tuple[str, fx.Node]] = []
    for name in call.row.activations:
        given = call.bound[name]
        items = given if isinstance(given, (tuple, list)) else (given,)
        found += [(name, item) for item in items if isinstance(item, fx.Node) and not call.is_constant(item)]
    return tuple(found)


def _all_activations(node: fx.Node, context: Context) -> tuple[tuple[str, fx.Node], ...]:
    """Every floating input of a node that is no constant, whatever its operand is called."""
    return tuple(
        ("input", source)
        for source in node.all_input_nodes
        if source.name not in context.constants and _is_floating(info(source).value)
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
    return Candidate(draft, row, "identity", activations)


def _takes_element(node: fx.Node) -> bool:
    """Whether the node reads one tensor out of a tuple that an operator made."""
    source = node.args[0] if node.args else None
    return (
        node.op == "call_function"
        and node.target is operator.getitem
        and isinstance(source, fx.Node)
        and isinstance(info(source).value, (tuple, list))
    )


def _metas(value: Any) -> list[TensorMeta]:
    items = value if isinstance(value, (tuple, list)) else (value,)
    return [item for item in items if isinstance(item, TensorMeta)]


def _is_floating(value: Any) -> bool:
    return any(meta.is_float for meta in _metas(value))


def _is_float32(value: Any) -> bool:
    return all(meta.dtype == torch.float32 for meta in _metas(value))


def _dtype_of(value: Any) -> str:
    return str(next(iter(_metas(value))).dtype).removeprefix("torch.")


def is_move(row: OpDef | None, role: str) -> bool:
    """Whether the unit only moves numbers."""
    return role == "element" or (row is not None and isinstance(row.output, Moves))
