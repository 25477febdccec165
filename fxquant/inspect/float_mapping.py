"""A configuration that keeps given operators of a planned model in float."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Collection
from typing import Any

from fxquant.ir.meta import Origin
from fxquant.ir.records import NodeRecord
from fxquant.ir.stages import StageModule
from fxquant.ops import catalogue
from fxquant.plan.resolve_qconfig import matches_type
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
    origin, (_, op) = record.info.origin, _whole(record)
    row = catalogue.by_name(op)
    inside = {
        _whole(other) for other in captured if _is_call(other) and other.info.origin.module_path == origin.module_path
    }
    if origin.from_torch_module and origin.module_path and len(inside) == 1:
        mapping.set_module_name(origin.module_path, None)
        return
    key: Any = row.target if row is not None else origin.spelling.removeprefix(".")
    if origin.from_torch_module:
        module, _, name = origin.module_type.rpartition(".")
        key = getattr(importlib.import_module(module), name)
    mapping.set_module_name_object_type_order(_owner(origin), key, _position(record, key, captured), None)


def _position(record: NodeRecord, key: Any, captured: tuple[NodeRecord, ...]) -> int:
    """How many calls that ``key`` means come before, in the same module. Parts of one operation count once."""
    seen: dict[tuple[str, str], None] = {}
    for other in captured:
        whole = _whole(other)
        if whole == _whole(record):
            break
        origin = other.info.origin
        if _is_call(other) and _owner(origin) == _owner(record.info.origin) and matches_type(key, origin, whole[1]):
            seen[whole] = None
    return len(seen)


def _whole(record: NodeRecord) -> tuple[str, str]:
    """Name and catalogue name of the operation that a node is, or is a part of."""
    known = record.info
    return (known.part_of[0], known.part_of[1]) if known.part_of else (record.name, known.op)


def _owner(origin: Origin) -> str:
    """The module that orders count in: the one around a torch module, else the one that calls."""
    return origin.module_path.rpartition(".")[0] if origin.from_torch_module else origin.module_path


def _is_call(record: NodeRecord) -> bool:
    return record.op.startswith("call_")
