"""Recurrent layers and cells."""

from __future__ import annotations

from typing import Any

from fxquant.backends.native.convention import Convention, Made, Packing, UnitView
from fxquant.backends.native.conventions.dynamic import float16_packings
from fxquant.backends.native.conventions.weighted import pair_limit, preferring
from fxquant.backends.native.kernels.recurrent import RecurrentLayers, RecurrentStatic, RecurrentSteps
from fxquant.ir.containers import KERNELS
from fxquant.ir.recurrent import Recurrent, recurrence_of
from fxquant.plan.backend import Call


def _refuse_projection(call: Call) -> str:
    assert call.module is not None
    return "its output is projected" if recurrence_of(call.module).proj_size else ""


def _packings(call: Call, engine: str) -> tuple[Packing, ...]:
    """Steps are single rows: fbgemm's kernels have the smallest cost a call."""
    return tuple(Packing(name, pair_limit(name)) for name in preferring("fbgemm" if engine == "x86" else engine))


def _static_packings(call: Call, engine: str) -> tuple[Packing, ...]:
    """Only onednn returns sums as they are."""
    return (Packing("onednn", pair_limit("onednn")),)


def _made(view: UnitView, kind: type[RecurrentSteps] | type[RecurrentStatic]) -> Made:
    frozen: Any = view.reference.get_submodule(f"{KERNELS}.{view.unit.name}")
    assert isinstance(frozen, Recurrent) and view.unit.kernel is not None
    kernel = kind(frozen.recurrence, dict(frozen.named_buffers()), view.unit.kernel.engine)
    return Made(view.lowered(view.anchor.args), view.lowered(dict(view.anchor.kwargs)), module=kernel)


def _layers(view: UnitView, relu: bool) -> Made:
    return _made(view, RecurrentLayers)


def _steps(view: UnitView, relu: bool) -> Made:
    return _made(view, RecurrentSteps)


def _static(view: UnitView, relu: bool) -> Made:
    return _made(view, RecurrentStatic)


CONVENTIONS = {
    "static_recurrent": Convention(_static, packings=_static_packings),
    "recurrent": Convention(_layers, _refuse_projection, packings=_packings),
    "recurrent_float16": Convention(_layers, _refuse_projection, packings=float16_packings),
    "recurrent_steps": Convention(_steps, packings=_packings),
    "recurrent_steps_float16": Convention(_steps, packings=float16_packings),
}
