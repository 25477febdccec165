"""The plan of a model, from its captured graph, its configuration and a backend."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxquant.errors import ConfigError
from fxquant.fusion.fuse_units import constant_nodes, fuse_units
from fxquant.ir.meta import info
from fxquant.ir.quant_plan import Edge, KernelChoice, QuantPlan, RangeClass, TensorSpec, Unit
from fxquant.ir.stages import CapturedModel
from fxquant.ops import catalogue
from fxquant.plan.assign_domains import Candidate, assign_domains, see_through_identities
from fxquant.plan.assign_ranges import assign_ranges
from fxquant.plan.backend import Backend
from fxquant.plan.classify_units import Context, classify_unit, is_move
from fxquant.plan.resolve_qconfig import Resolved, Resolver
from fxquant.qconfig.mapping import QConfigMapping

_IDENTITY = KernelChoice("identity", "")


def build_plan(captured: CapturedModel, mapping: QConfigMapping, backend: Backend) -> tuple[QuantPlan, dict[str, Any]]:
    """Plan the quantization of a captured model.

    Args:
        captured: not changed.
        mapping: the configuration.
        backend: the backend to plan for.

    Returns:
        The plan, and the QConfig of each unit by name.

    Raises:
        ConfigError: a module name or pattern matches nothing.
    """
    graph = captured.graph
    resolver = Resolver(mapping, captured.state.module_paths)
    configs = resolver.resolve_graph(graph)
    specs = _activation_specs(configs)
    modules = dict(captured.named_modules(remove_duplicate=False))
    drafts, fusions = fuse_units(graph, modules)
    context = Context(modules, constant_nodes(graph), configs, specs, backend)
    candidates = [classify_unit(draft, context) for draft in drafts]
    see_through_identities(candidates)
    assign_domains(candidates)
    by_value = {c.value: specs[c.draft.anchor.name] for c in candidates if c.draft.anchor.name in specs}
    classes, class_of = assign_ranges(candidates, by_value)
    steps = _steps(candidates)
    units = tuple(_unit(c, class_of, c.value in steps, configs) for c in candidates)
    plan = QuantPlan(backend.name, backend.engine, units, classes, fusions, _notes(resolver.unmatched_types(), classes))
    qconfigs = {c.value: configs[c.draft.anchor.name].qconfig for c in candidates if c.draft.anchor.name in configs}
    return plan, qconfigs


def _activation_specs(configs: dict[str, Resolved]) -> dict[str, TensorSpec]:
    """How each configured node's activations are stored, read off one observer per distinct qconfig."""
    known: dict[int, TensorSpec] = {}
    specs: dict[str, TensorSpec] = {}
    for name, resolved in configs.items():
        if resolved.qconfig is None:
            continue
        key = id(resolved.qconfig)
        if key not in known:
            known[key] = activation_spec(resolved.qconfig)
        specs[name] = known[key]
    return specs


def activation_spec(qconfig: Any) -> TensorSpec:
    """How a qconfig stores activations. Observers of torch.ao are read by their attributes.

    The observer's own integer range sets the scale; kernels saturate at the dtype's limits, and so does the spec.

    Raises:
        ConfigError: the observer states no 8-bit range.
    """
    observer = qconfig.activation()
    dtype = {"uint8": torch.uint8, "quint8": torch.uint8, "int8": torch.int8, "qint8": torch.int8}.get(
        str(getattr(observer, "dtype", "")).removeprefix("torch.")
    )
    if dtype is None:
        raise ConfigError(
            f"activations of dtype {getattr(observer, 'dtype', None)} are not implemented yet",
            remedy="use an 8-bit observer for activations, or None to leave operators float",
        )
    limits = torch.iinfo(dtype)
    return TensorSpec(dtype, limits.min, limits.max)


def _steps(candidates: list[Candidate]) -> set[str]:
    """Float units all of whose inputs come from, and whose results all go to, integers, through float units at most."""
    by_value = {candidate.value: candidate for candidate in candidates}
    fed: set[str] = set()
    for candidate in candidates:
        sources = [by_value.get(node.name) for _, node in candidate.activations]
        known = bool(sources) and all(s is not None and (s.integer or s.value in fed) for s in sources)
        if known and candidate.row is not None and not candidate.integer and not candidate.excluded:
            fed.add(candidate.value)
    by_node = {node: candidate for candidate in candidates for node in candidate.draft.nodes}
    drained: set[str] = set()
    for candidate in reversed(candidates):
        readers = [by_node.get(user) for user in candidate.draft.last.users]
        if readers and all(r is not None and (r.integer or r.value in drained or r.role == "free") for r in readers):
            drained.add(candidate.value)
    return fed & drained


def _unit(candidate: Candidate, class_of: dict[str, str], step: bool, configs: dict[str, Resolved]) -> Unit:
    draft, row = candidate.draft, candidate.row
    edges = tuple(
        Edge(operand, node.name, class_of[node.name] if candidate.integer else "")
        for operand, node in candidate.activations
    )
    return Unit(
        name=candidate.value,
        op=row.name if row is not None else info(draft.anchor).origin.spelling,
        anchor=draft.anchor.name,
        nodes=tuple(node.name for node in draft.nodes),
        roles=tuple((role, node.name) for role, node in draft.roles.items()),
        outcome=_outcome(candidate, step),
        inputs=edges,
        output=class_of[candidate.value] if candidate.integer else "",
        kernel=_IDENTITY if candidate.role == "identity" else candidate.kernel if candidate.integer else None,
        reason=_reason(candidate, step),
        config=configs[draft.anchor.name].entry,
        macs=_macs(candidate),
    )


def _outcome(candidate: Candidate, step: bool) -> str:
    if candidate.role in ("free", "identity") or is_move(candidate.row, candidate.role):
        return "free"
    if candidate.integer:
        return "int8"
    return "step" if step else "float"


def _reason(candidate: Candidate, step: bool) -> str:
    if candidate.role == "identity":
        return "does nothing in eval mode"
    if candidate.integer or candidate.role == "free":
        return ""
    if step:
        return f"{candidate.reason or 'its neighbours are float'}; computed in float, stored int8"
    return candidate.reason or "its neighbours are float"


def _macs(candidate: Candidate) -> int:
    row, anchor = candidate.row, candidate.draft.anchor
    if row is None or row.macs is None:
        return 0
    bound = catalogue.arguments(anchor, row)
    operand, output = bound.get("weight", bound.get("other")), info(anchor).tensor
    meta = info(operand).tensor if isinstance(operand, fx.Node) else None
    return row.macs(meta.shape, output.shape) if meta is not None and output is not None else 0


def _notes(unmatched: tuple[str, ...], classes: tuple[RangeClass, ...]) -> tuple[str, ...]:
    notes = [f"set_object_type({title}) matched nothing" for title in unmatched]
    return (*notes, *(item.note for item in classes if item.note))
