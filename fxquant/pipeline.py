"""The whole flow, one function a stage, each a few readable lines over passes.

capture ──▶ plan ──▶ observe ──▶ freeze ──▶ lower
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from fxquant.backends.native.backend import NativeBackend
from fxquant.backends.native.lower import lower_native
from fxquant.backends.reference import build_reference
from fxquant.capture.trace_model import trace_model
from fxquant.capture.trace_plain import trace_plain
from fxquant.fusion.fuse_units import fuse_units
from fxquant.ir import records
from fxquant.ir.quant_plan import QuantPlan
from fxquant.ir.stages import (
    CapturedModel,
    FusedModel,
    ObservedModel,
    QuantizedModel,
    ReferenceModel,
    StageState,
)
from fxquant.ir.verify import verify
from fxquant.passes.canonicalize_calls import canonicalize_calls
from fxquant.passes.exclude_units import exclude_units
from fxquant.passes.fold_units import fold_units
from fxquant.passes.insert_observers import insert_observers
from fxquant.passes.mark_aliases import mark_aliases
from fxquant.passes.remove_dead_nodes import remove_dead_nodes
from fxquant.passes.rename_nodes import rename_nodes
from fxquant.passes.replace_in_place import replace_in_place
from fxquant.plan.build_plan import build_plan
from fxquant.qconfig.mapping import QConfigMapping


def capture(
    model: nn.Module,
    example_inputs: Any,
    *,
    leaf_names: Collection[str] = (),
    leaf_classes: Collection[type[nn.Module]] = (),
    preserved: Collection[str] = (),
) -> CapturedModel:
    """Trace ``model`` on ``example_inputs`` (symbolically when None) and bring the graph into canonical form."""
    if example_inputs is None:
        traced = trace_plain(model)
    else:
        traced = trace_model(model, example_inputs, leaf_names=leaf_names, leaf_classes=leaf_classes)
    rename_nodes(traced.graph)
    mark_aliases(traced.graph)
    canonicalize_calls(traced.graph, {name: type(module) for name, module in traced.root.named_modules()})
    replace_in_place(traced.graph)
    remove_dead_nodes(traced.graph)
    state = StageState(
        captured=records.from_graph(traced.graph),
        guards=traced.guards,
        preserved=tuple(preserved),
        float_dtype=traced.float_dtype,
        module_paths=tuple(name for name, _ in model.named_modules(remove_duplicate=False)),
    )
    return verify(CapturedModel(traced.root, traced.graph, type(model).__name__, state=state))


def fuse(captured: CapturedModel) -> FusedModel:
    """Fold batch norms into weights, in float."""
    drafts, fusions = fuse_units(captured.graph, dict(captured.named_modules(remove_duplicate=False)))
    return verify(fold_units(captured, drafts, fusions))


def observe(captured: CapturedModel, mapping: QConfigMapping, backend: NativeBackend) -> ObservedModel:
    """Plan, and insert the observers the plan asks for.

    Args:
        captured: the captured model.
        mapping: the configuration.
        backend: the backend to plan for.
    """
    plan, qconfigs = build_plan(captured, mapping, backend)
    return verify(insert_observers(captured, plan, qconfigs))


def freeze(observed: ObservedModel, excluding: QConfigMapping | None = None) -> ReferenceModel:
    """Turn ranges into integers: the reference model.

    Args:
        observed: calibrated; not changed.
        excluding: entries that are None keep their operators float.
    """
    plan: QuantPlan = observed.plan
    if excluding is not None:
        plan = exclude_units(observed, excluding)
    return verify(build_reference(observed, plan))


def lower(reference: ReferenceModel) -> QuantizedModel:
    """Replace units by kernels."""
    return verify(lower_native(reference))


__all__ = ["capture", "freeze", "fuse", "lower", "observe"]
