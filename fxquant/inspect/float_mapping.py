"""A configuration that keeps given operators of a planned model in float."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Collection
from typing import Any

from fxquant.ir.records import NodeRecord
from fxquant.ir.stages import StageModule
from fxquant.ops import catalogue
from fxquant.plan.match_calls import Call, as_call, count_calls
from fxquant.qconfig.mapping import QConfigMapping


def leave_float(mapping: QConfigMapping, model: StageModule, units: Collection[str]) -> QConfigMapping:
    """A copy of ``mapping`` with entries that leave the units called ``units`` float.

    The only operator of a torch module is named by the module; others by the module that calls them, the function or
    module class, and the position among its calls there.

    Args:
        mapping: not changed.
        model: planned with it.
        units: names of units of its plan.
    """
    made = copy.copy(mapping)
    made.module_name_qconfigs = dict(mapping.module_name_qconfigs)
    made.module_name_object_type_order_qconfigs = dict(mapping.module_name_object_type_order_qconfigs)
    records = {record.name: record for record in model.state.captured}
    for unit in model.plan.units:
        if unit.name in units:
            _add(made, records[unit.anchor], model.state.captured)
    return made


def _add(mapping: QConfigMapping, record: NodeRecord, captured: tuple[NodeRecord, ...]) -> None:
    calls = [call for other in captured if (call := as_call(other)) is not None]
    call = as_call(record)
    assert call is not None
    origin, row = call.origin, catalogue.by_name(call.op)
    inside = {other.name for other in calls if other.origin.module_path == origin.module_path}
    if origin.from_torch_module and origin.module_path and len(inside) == 1:
        mapping.set_module_name(origin.module_path, None)
        return
    known: list[Any] = [key for key in (None if row is None else row.target, _written(call)) if key is not None]
    counted = {key: count_calls(calls, call.owner, key) for key in known}
    key = next(key for key in known if call.name in counted[key])
    mapping.set_module_name_object_type_order(call.owner, key, counted[key][call.name], None)


def _written(call: Call) -> Any:
    """The class of the torch module that an operation belongs to, or the function or method that the user wrote."""
    spelling = call.origin.module_type if call.origin.from_torch_module else call.origin.spelling
    module, _, name = spelling.rpartition(".")
    return getattr(importlib.import_module(module), name, None) if module else name
