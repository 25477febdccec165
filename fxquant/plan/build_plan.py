"""The plan of a model, from its captured graph, its configuration and a backend."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from fxquant.fusion.fuse_units import RULES, constant_nodes, fuse_units
from fxquant.ir.meta import info
from fxquant.ir.quant_plan import STANDALONE, Edge, KernelChoice, QuantPlan, RangeClass, TensorSpec, Unit
from fxquant.ir.stages import CapturedModel
from fxquant.ir.written import changing_nodes
from fxquant.ops import catalogue
from fxquant.plan.assign_domains import Candidate, assign_domains, see_through_identities
from fxquant.plan.assign_ranges import assign_ranges
from fxquant.plan.borders import Borders, find_borders, require_storable
from fxquant.plan.classify_dynamic import MODES
from fxquant.plan.classify_units import Context, classify_unit, is_move
from fxquant.plan.find_positions import find_positions
from fxquant.plan.find_wide_values import find_wide_values
from fxquant.plan.fuse_sums import fuse_sums
from fxquant.plan.read_qconfig import GLOBAL, QConfigReader, activation_spec, choose_observers
from fxquant.plan.request import PlanRequest
from fxquant.plan.require_finite import require_finite
from fxquant.plan.resolve_qconfig import Resolved, Resolver

_AS_PYTHON = " runs as Python, in float: "  # in the notes of capture
_IDENTITY = KernelChoice("identity", "")
_MAC_OPERANDS = ("weight", "other", "key", "batch2")  # the operand whose shape OpDef.macs gets


def build_plan(captured: CapturedModel, request: PlanRequest) -> tuple[QuantPlan, dict[str, Any]]:
    """Plan the quantization of a captured model.

    Args:
        captured: not changed.
        request: the configuration, and the backend to plan for.

    Returns:
        The plan, and the QConfig of each unit by name, with the global one under ``GLOBAL``.

    Raises:
        ConfigError: a module name or pattern matches nothing; a quantized index means no float tensor.
        CalibrationError: a layer with weights, or an input, is not finite on the example inputs.
    """
    graph, backend = captured.graph, request.backend
    state = captured.state
    resolver = Resolver(request.mapping, state.module_paths, state.config_prefix, request.matched)
    configs = resolver.resolve_graph(graph)
    require_finite(graph, configs)
    read = QConfigReader()
    specs = _activation_specs({name: resolved.qconfig for name, resolved in configs.items()}, read)
    modules = dict(captured.named_modules(remove_duplicate=False))
    rules = RULES if request.limits is None else request.limits.restrict(RULES)
    drafts, fusions = fuse_units(graph, modules, rules, lambda a, b: configs[a.name].qconfig is configs[b.name].qconfig)
    context = _context(captured, request, modules, configs, specs, read)
    candidates = [classify_unit(draft, context) for draft in drafts]
    source_of = see_through_identities(candidates)
    indexes = request.input_indexes, request.output_indexes
    borders = find_borders(graph, *indexes, source_of, request.given_inputs)
    assign_domains(candidates, borders)
    if request.limits is None:  # a BackendConfig lists every group of operators that it allows
        candidates, sums = fuse_sums(candidates, configs, backend, borders)
        fusions += sums
    qconfigs = {c.value: configs[c.draft.anchor.name].qconfig for c in candidates if c.draft.anchor.name in configs}
    qconfigs[GLOBAL] = request.mapping.global_qconfig
    by_value = _activation_specs({name: own for name, own in qconfigs.items() if name != GLOBAL or borders.any}, read)
    classes, class_of = assign_ranges(
        candidates,
        {name: spec for name, spec in by_value.items() if not spec.dtype.is_floating_point and not spec.dynamic},
        borders,
    )
    classes = choose_observers(classes, qconfigs, read)
    require_storable(borders, classes, class_of, backend)
    steps = _steps(candidates, borders)
    units = tuple(_unit(c, class_of, c.value in steps, configs) for c in candidates)
    notes = (*_notes(resolver, classes), *request.notes)
    plan = QuantPlan(
        backend.name,
        backend.engine,
        units,
        classes,
        fusions,
        notes,
        backend_config=None if request.limits is None else request.limits.name,
        quantized_inputs=borders.inputs,
        quantized_outputs=request.output_indexes,
    )
    return plan, qconfigs


def _context(
    captured: CapturedModel,
    request: PlanRequest,
    modules: dict[str, nn.Module],
    configs: dict[str, Resolved],
    specs: dict[str, TensorSpec],
    read: QConfigReader,
) -> Context:
    """What the classification of units goes by."""
    return Context(
        modules,
        constant_nodes(captured.graph),
        configs,
        specs,
        request.backend,
        read,
        request.limits,
        request.leaves,
        wide=find_wide_values(captured.graph),
        positions=find_positions(captured.graph),
        changing=changing_nodes(captured.graph),
        kept=_kept(captured.state.capture_notes, modules),
        static_recurrent=request.static_recurrent,
    )


def _kept(capture_notes: tuple[str, ...], modules: dict[str, nn.Module]) -> dict[str, str]:
    """Why the parts that capture left as Python are so, by path of their module."""
    said = dict(note.split(_AS_PYTHON, 1) for note in capture_notes if _AS_PYTHON in note)
    titles = {path: getattr(module, "title", f"module {path!r}") for path, module in modules.items()}
    return {path: f"runs as Python: {said[title]}" for path, title in titles.items() if title in said}


def _activation_specs(qconfigs: dict[str, Any], read: QConfigReader) -> dict[str, TensorSpec]:
    """How each QConfig's activations are stored; None has no entry."""
    return {name: read(activation_spec, qconfig) for name, qconfig in qconfigs.items() if qconfig is not None}


def _steps(candidates: list[Candidate], borders: Borders) -> set[str]:
    """Float units all of whose inputs come from, and whose results all go to, integers, through float units at most."""
    integers = {candidate.value for candidate in candidates if candidate.integer} | set(borders.inputs)
    fed: set[str] = set()
    for candidate in candidates:
        sources = [node.name for _, node in candidate.activations]
        known = bool(sources) and all(name in integers or name in fed for name in sources)
        computes = candidate.row is not None and not candidate.integer and candidate.role != "dynamic"
        if known and computes and not candidate.excluded:
            fed.add(candidate.value)
    by_node = {node: candidate for candidate in candidates for node in candidate.draft.nodes}
    drained: set[str] = set()
    for candidate in reversed(candidates):
        last = candidate.draft.last
        readers = [by_node.get(user) for user in last.users if user.op != "output"]
        leaves = candidate.value in borders.outputs and candidate.value not in borders.floats
        known = (leaves or bool(readers)) and (leaves or len(readers) == len(last.users))
        if known and all(
            r is not None and (r.reads_integers(last) or r.value in drained or r.role == "free") for r in readers
        ):
            drained.add(candidate.value)
    return fed & drained


def _unit(candidate: Candidate, class_of: dict[str, str], step: bool, configs: dict[str, Resolved]) -> Unit:
    draft, row = candidate.draft, candidate.row
    has_kernel = candidate.integer or candidate.role == STANDALONE
    edges = tuple(
        Edge(operand, node.name, class_of[node.name] if has_kernel else "") for operand, node in candidate.activations
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
        kernel=_IDENTITY
        if candidate.role == "identity"
        else candidate.kernel
        if has_kernel or candidate.mode
        else None,
        fallbacks=candidate.fallbacks if has_kernel or candidate.mode else (),
        reason=_reason(candidate, step),
        config=configs[draft.anchor.name].entry,
        macs=_macs(candidate),
        mode=candidate.mode,
    )


def _outcome(candidate: Candidate, step: bool) -> str:
    if candidate.role in ("free", "identity", STANDALONE) or is_move(candidate.row, candidate.role):
        return "free"
    if candidate.mode:
        return "float" if candidate.mode == "float16" else "int8"
    if candidate.integer:
        return "int8"
    return "step" if step else "float"


def _reason(candidate: Candidate, step: bool) -> str:
    if candidate.role == "identity":
        return "does nothing in eval mode"
    if candidate.role == STANDALONE:
        return "standalone module, quantized on its own"
    if candidate.mode:
        return MODES[candidate.mode]
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
    operand = next((bound[name] for name in _MAC_OPERANDS if name in bound), None)
    counted = info(bound[row.macs_over]).tensor if row.macs_over else info(anchor).tensor
    meta = info(operand).tensor if isinstance(operand, fx.Node) else None
    return row.macs(meta.shape, counted.shape) if meta is not None and counted is not None else 0


def _notes(resolver: Resolver, classes: tuple[RangeClass, ...]) -> tuple[str, ...]:
    unmatched = () if resolver.prefix else resolver.unmatched()  # a part of a model need not hold everything
    notes = [f"{entry} matched nothing" for entry in unmatched]
    return (*notes, *(item.note for item in classes if item.note))
