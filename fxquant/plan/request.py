"""What a plan is asked for, besides the graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from fxquant.plan.backend import Backend
from fxquant.plan.backend_limits import BackendLimits
from fxquant.plan.leaf_modules import LeafModule
from fxquant.qconfig.mapping import QConfigMapping


@dataclass(frozen=True)
class PlanRequest:
    """The configuration of one model, or of one standalone module.

    Attributes:
        mapping: which operators get which QConfig.
        backend: the backend to plan for.
        limits: what a BackendConfig allows, None for everything.
        leaves: standalone and custom modules, by path.
        input_indexes, output_indexes: inputs and outputs that are integers in converted models.
        given_inputs: whether the parameters of those inputs come from outside, instead of being observed.
        matched: entries of ``mapping``, by type or order, that matched something here or in a part of the model; added
            to.
        notes: sentences for the plan.
        static_recurrent: classes of recurrent modules that get ranges known before, whatever entry they have.
    """

    mapping: QConfigMapping
    backend: Backend
    limits: BackendLimits | None = None
    leaves: Mapping[str, LeafModule] = field(default_factory=dict)
    input_indexes: tuple[int, ...] = ()
    output_indexes: tuple[int, ...] = ()
    given_inputs: bool = False
    matched: set[Any] = field(default_factory=set)
    notes: tuple[str, ...] = ()
    static_recurrent: frozenset[type[nn.Module]] = frozenset()
