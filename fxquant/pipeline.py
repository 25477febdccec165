"""The whole flow, one function a stage, each a few readable lines over passes.

capture ──▶ plan ──▶ observe ──▶ freeze ──▶ lower
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from torch import Tensor, fx, nn

from fxquant.backends.native.lower import lower_native
from fxquant.backends.native.pack_again import pack_again
from fxquant.backends.reference import build_reference
from fxquant.capture.changed_by_training import changed_by_training
from fxquant.capture.copy_module import copy_module
from fxquant.capture.own_objects import require_no_identity
from fxquant.capture.pause_collector import collector_paused
from fxquant.capture.recurrent_root import with_recurrent_child
from fxquant.capture.trace_model import trace_model
from fxquant.capture.trace_plain import trace_plain
from fxquant.capture.training_mode import (
    compare_modes,
    may_differ,
    require_evaluation,
    require_same_tensors,
    training_copy,
)
from fxquant.errors import CaptureError
from fxquant.fusion.fuse_units import RULES, fuse_units
from fxquant.inspect.find_wrong_kernels import probe_kernels
from fxquant.inspect.verify_conversion import verify_conversion
from fxquant.ir.quant_plan import QuantPlan
from fxquant.ir.stages import (
    CapturedModel,
    FusedModel,
    ObservedModel,
    QuantizedModel,
    ReferenceModel,
    StageState,
    with_state,
)
from fxquant.ir.verify import verify
from fxquant.ir.walk_modules import Inventory, modules_by_path
from fxquant.passes.call_attributes import call_attributes
from fxquant.passes.canonicalize_calls import canonicalize_calls
from fxquant.passes.decompose_operators import decompose_operators
from fxquant.passes.exclude_units import exclude_units
from fxquant.passes.fill_empty import fill_empty
from fxquant.passes.fold_units import fold_units
from fxquant.passes.insert_fake_quantize import insert_fake_quantize
from fxquant.passes.insert_observers import insert_observers
from fxquant.passes.mark_aliases import mark_aliases
from fxquant.passes.mark_borders import mark_borders
from fxquant.passes.measure_attributes import measure_attributes
from fxquant.passes.observe_custom_modules import observe_custom_modules
from fxquant.passes.read_sizes_only import read_sizes_only
from fxquant.passes.remove_dead_nodes import remove_dead_nodes
from fxquant.passes.rename_nodes import rename_nodes
from fxquant.passes.replace_in_place import replace_in_place
from fxquant.passes.require_trainable import require_trainable
from fxquant.passes.store_constants import store_constants
from fxquant.passes.write_through_items import write_through_items
from fxquant.plan.backend_limits import BackendLimits
from fxquant.plan.build_plan import build_plan
from fxquant.plan.demote_unit import Demotion, demote_units
from fxquant.plan.request import PlanRequest
from fxquant.qconfig.mapping import QConfigMapping

_NOTHING: Mapping[Any, Any] = MappingProxyType({})


@collector_paused()
def capture(
    model: nn.Module,
    example_inputs: Any,
    *,
    leaf_names: Collection[str] = (),
    leaf_classes: Collection[type[nn.Module]] = (),
    strict: bool = False,
    trains: bool = False,
    changing: Collection[str] = (),
    preserved: Collection[str] = (),
    path: str = "",
    config_prefix: str = "",
) -> CapturedModel:
    """Trace ``model`` on ``example_inputs`` (symbolically when None) and bring the graph into canonical form.

    What no graph can hold runs as Python, in float; with ``strict`` it is an error. A graph that ``trains`` keeps what
    acts on gradients, whatever mode the model is in; ``changing`` names buffers that training changes.
    ``path`` and ``config_prefix`` are those of a standalone module, see ``StageState``.
    """
    name, model = type(model).__name__, with_recurrent_child(model)
    if example_inputs is None:
        traced = trace_plain(model)
    else:
        traced = trace_model(
            model, example_inputs, leaf_names=leaf_names, leaf_classes=leaf_classes, strict=strict, trains=trains,
            changing=changing,
        )  # fmt: skip
    mark_borders(traced.graph, traced.root)
    rename_nodes(traced.graph)
    fill_empty(traced.graph)
    write_through_items(traced.graph)
    mark_aliases(traced.graph)
    call_attributes(traced.graph)
    read_sizes_only(traced.graph)
    canonicalize_calls(traced.graph, {name: type(module) for name, module in modules_by_path(traced.root)})
    replace_in_place(traced.graph)
    store_constants(traced.graph, traced.root)
    remove_dead_nodes(traced.graph, trains or model.training)
    state = StageState(
        facts=traced.facts,
        capture_notes=traced.notes,
        preserved=(*preserved, *_objects(traced.graph, traced.root)),
        float_dtype=traced.float_dtype,
        module_paths=tuple(name for name, _ in model.named_modules(remove_duplicate=False)),
        constants=tuple(sorted(name for name in traced.root._non_persistent_buffers_set if not hasattr(model, name))),
        path=path,
        config_prefix=config_prefix,
    )
    return verify(CapturedModel(traced.root, traced.graph, name, state=state))


def _objects(graph: fx.Graph, root: nn.Module) -> list[str]:
    """Names of the constants of a graph that are no tensors."""
    names = dict.fromkeys(str(node.target) for node in graph.find_nodes(op="get_attr"))
    return [name for name in names if "." not in name and not isinstance(getattr(root, name), (Tensor, nn.Module))]


def capture_for_training(model: nn.Module, example_inputs: Any, **options: Any) -> CapturedModel:
    """``capture`` of what the model computes in evaluation mode, with what is different in training beside it.

    Args:
        model: in any mode; neither its statistics nor the random state change.
        example_inputs: as for ``capture``.
        options: the other arguments of ``capture``.
    """
    if example_inputs is not None:
        require_no_identity(Inventory(model), example_inputs)
    changed = changed_by_training(model, example_inputs)
    whole = changed.modules
    _require_root_unchanged(model, whole)
    options["leaf_names"] = (*options.get("leaf_names", ()), *whole)
    evaluated = copy_module(model).eval()
    require_evaluation(evaluated)
    captured = capture(evaluated, example_inputs, trains=True, changing=changed.buffers, **options)
    notes = (f"module {path!r} runs as Python, in float: training changes what evaluation reads" for path in whole)
    captured.state = replace(captured.state, capture_notes=(*captured.state.capture_notes, *notes))
    if may_differ(captured, model):
        trained = training_copy(model)
        require_same_tensors(evaluated, trained)
        in_training = capture(trained, example_inputs, trains=True, **options)
        captured.state = replace(captured.state, by_mode=compare_modes(captured, in_training))
    return captured


def _require_root_unchanged(model: nn.Module, whole: Collection[str]) -> None:
    """Raise where the model itself would be kept whole, since training changes what evaluation reads."""
    if "" in whole:
        raise CaptureError(
            f"the forward of {type(model).__name__} changes attributes in training, which evaluation reads: a graph "
            "has them as they are now",
            remedy="keep what changes in a buffer, and write into that, as `self.scale.fill_(...)`; or move it into a "
            "module of its own, which will be kept whole",
        )


def fuse(captured: CapturedModel, limits: BackendLimits | None = None) -> FusedModel:
    """Fold batch norms into weights, in float; where a BackendConfig is given, those that it lists."""
    rules = RULES if limits is None else limits.restrict(RULES)
    drafts, fusions = fuse_units(captured.graph, dict(captured.named_modules(remove_duplicate=False)), rules)
    return verify(fold_units(captured, drafts, fusions))


def observe(
    captured: CapturedModel,
    request: PlanRequest,
    standalone: Mapping[str, ObservedModel] = _NOTHING,
    custom_classes: Mapping[type[nn.Module], type[nn.Module]] = _NOTHING,
    trains: bool = False,
) -> ObservedModel:
    """Plan, and insert the observers the plan asks for.

    Args:
        captured: the captured model.
        request: the configuration, and the backend to plan for.
        standalone: standalone modules by path, observed already.
        custom_classes: class of custom modules to the class that observes them.
        trains: whether to insert fake quantization instead.

    Raises:
        NotYetError: ``trains``, and the model has recurrent layers with a qconfig.
    """
    measure_attributes(captured.graph, captured)
    decomposed = verify(decompose_operators(captured, request.mapping))
    plan, qconfigs = build_plan(decomposed, request)
    if trains:
        require_trainable(plan, decomposed.graph)
    custom = observe_custom_modules(decomposed, plan, qconfigs, custom_classes)
    if trains:
        return verify(insert_fake_quantize(decomposed, plan, qconfigs, {**standalone, **custom}, captured))
    return verify(insert_observers(decomposed, plan, qconfigs, {**standalone, **custom}))


def freeze(
    observed: ObservedModel,
    excluding: QConfigMapping | None = None,
    demotions: list[Demotion] | None = None,
) -> ReferenceModel:
    """Turn ranges into integers: the reference model. Kernels known to be wrong for some shapes are probed.

    Args:
        observed: calibrated; not changed.
        excluding: entries that are None keep their operators float.
        demotions: units to run with another kernel than the planned one; those that a probe finds are added.
    """
    demotions = [] if demotions is None else demotions

    def plan_of(part: ObservedModel) -> QuantPlan:
        plan = part.plan if excluding is None else exclude_units(part, excluding)
        return demote_units(plan, part.state.path, demotions)

    while True:
        reference = build_reference(observed, plan_of)
        found = tuple(probe_kernels(reference))
        if not found:
            return verify(reference)
        demotions += found


def lower(
    reference: ReferenceModel, custom_classes: Mapping[type[nn.Module], type[nn.Module]] = _NOTHING
) -> QuantizedModel:
    """Replace units by kernels.

    Args:
        reference: not changed.
        custom_classes: class of observed custom modules to the class that computes on integers.
    """
    return verify(lower_native(reference, custom_classes))


def convert(
    observed: ObservedModel,
    freeze_again: Callable[[list[Demotion]], ReferenceModel],
    custom_classes: Mapping[type[nn.Module], type[nn.Module]] = _NOTHING,
    verified: bool = False,
) -> tuple[ReferenceModel, QuantizedModel]:
    """Freeze and lower, again without the kernels that are wrong on the example inputs until there are none.

    Args:
        observed: calibrated; not changed.
        freeze_again: makes the reference model with some units demoted.
        custom_classes: as for ``lower``.
        verified: whether to run the example inputs; without it only probes of suspected kernels demote units.

    Raises:
        ConvertError: ``verified``, and the observed model has no example inputs.
    """
    demotions: list[Demotion] = []
    while True:
        reference = freeze_again(demotions)
        quantized = lower(reference, custom_classes)
        if not verified:
            return reference, quantized
        found = verify_conversion(observed, reference, quantized)
        if not found.demotions:
            plan = replace(quantized.plan, notes=(*quantized.plan.notes, found.note))
            quantized.state = with_state(quantized, plan=plan)
            pack_again(quantized)
            return reference, quantized
        demotions += found.demotions


__all__ = ["capture", "capture_for_training", "convert", "freeze", "fuse", "lower", "observe"]
