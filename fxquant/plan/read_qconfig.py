"""What a QConfig asks for, read off the observers it builds. Those of torch.ao are read by their attributes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import nn

from fxquant.errors import ConfigError
from fxquant.ir.quant_plan import RangeClass, TensorSpec
from fxquant.observers.factory import ObserverFactory

_EIGHT_BITS = {"uint8": torch.uint8, "quint8": torch.uint8, "int8": torch.int8, "qint8": torch.int8}
GLOBAL = ""
"""The key of the global QConfig among those of units."""
_Read = TypeVar("_Read")


class QConfigReader:
    """Reads each QConfig once, however many operators have it: its observers are built for that, which takes long."""

    def __init__(self) -> None:
        self._known: dict[tuple[Callable[[Any], Any], int], tuple[Any, Any]] = {}

    def __call__(self, read: Callable[[Any], _Read], qconfig: Any) -> _Read:
        """``read(qconfig)``."""
        key = read, id(qconfig)
        if key not in self._known:
            self._known[key] = qconfig, read(qconfig)  # the QConfig too: ids of what is gone are used again
        found: _Read = self._known[key][1]
        return found


def activation_spec(qconfig: Any) -> TensorSpec:
    """How a qconfig stores activations; a float dtype means that they stay float, dynamic that nothing is observed.

    The observer's own integer range sets the scale; kernels saturate at the dtype's limits, and so does the spec.

    Raises:
        ConfigError: the observer states no dtype, or one of neither 8 bits nor float.
    """
    observer = qconfig.activation()
    dtype, dynamic = _dtype(observer), bool(getattr(observer, "is_dynamic", False))
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
        return TensorSpec(dtype, 0, 0, dynamic=dynamic)
    if dtype is None or str(dtype).removeprefix("torch.") not in _EIGHT_BITS:
        raise ConfigError(
            f"activations of dtype {dtype} are not implemented yet",
            remedy="use an 8-bit observer for activations, or None to leave operators float",
        )
    plain = _EIGHT_BITS[str(dtype).removeprefix("torch.")]
    return TensorSpec(plain, torch.iinfo(plain).min, torch.iinfo(plain).max, dynamic=dynamic)


def mode_of(qconfig: Any) -> str:
    """The mode (see ``Unit.mode``) that a qconfig asks for, "" for ranges that calibration finds."""
    spec, weight = activation_spec(qconfig), qconfig.weight()
    dtype = _dtype(weight)
    if dtype == torch.float16 and (spec.dynamic or spec.dtype.is_floating_point):
        return "float16"
    if spec.dynamic:
        return "dynamic"
    if not spec.dtype.is_floating_point or "float_qparams" not in str(getattr(weight, "qscheme", "")):
        return ""
    return "weights4" if getattr(weight, "quant_max", None) == 15 else "weights"


def refuses_weight(qconfig: Any) -> str:
    """Why a qconfig's weights go with no int8 kernel, "" when they do."""
    dtype = _dtype(qconfig.weight())
    if str(dtype).removeprefix("torch.") in ("int8", "qint8"):
        return ""
    return f"its qconfig asks for weights of {dtype}, and int8 kernels take int8 weights"


def reuses_input(qconfig: Any) -> bool:
    """Whether a qconfig says that the result has the range of the input."""
    return _builds(qconfig.activation, "ReuseInputObserver")


def choose_observers(
    classes: tuple[RangeClass, ...], qconfigs: dict[str, Any], read: QConfigReader
) -> tuple[RangeClass, ...]:
    """See to it that each observed range has an observer that measures it.

    A qconfig of known parameters (sigmoid's, in torch.ao's default mapping) speaks of its unit's result, and one that
    reuses the input's range (reshape's) of none. Where such a unit brings another value into a class, the qconfig of
    another member decides, or the global one.

    Args:
        classes: from ``assign_ranges``.
        qconfigs: QConfig of each unit by name, and under ``GLOBAL`` the global one.
        read: reads them.

    Raises:
        ConfigError: nothing says how to measure a range.
    """
    return tuple(_with_observer(item, qconfigs, read) if item.is_observed else item for item in classes)


def _with_observer(item: RangeClass, qconfigs: dict[str, Any], read: QConfigReader) -> RangeClass:
    own = qconfigs.get(item.configured_by)
    speaks_of_it = own is not None and item.sources == (item.configured_by,) and not read(reuses_input, own)
    if read(_measures, own) or speaks_of_it:
        return item
    for name in (*item.sources, GLOBAL):
        if read(_measures, qconfigs.get(name)):
            return replace(item, configured_by=name)
    raise ConfigError(
        f"{item.name} is to be stored as integers, and the qconfig of {item.configured_by} measures no range",
        remedy="set_global a qconfig that does, such as get_default_qconfig()",
    )


def _measures(qconfig: Any) -> bool:
    spec = None if qconfig is None else activation_spec(qconfig)
    if spec is None or spec.dynamic or spec.dtype.is_floating_point:
        return False
    fixed = any(_builds(qconfig.activation, name) for name in ("FixedQParamsObserver", "FixedQParamsFakeQuantize"))
    return not fixed and not reuses_input(qconfig)


def _dtype(observer: Any) -> Any:
    return torch.float32 if isinstance(observer, nn.Identity) else getattr(observer, "dtype", None)


def _builds(build: Any, kind: str) -> bool:
    """Whether ``build`` builds observers of a class, or derived from one, of this name, fxquant's or torch.ao's."""
    built = build.target if isinstance(build, ObserverFactory) else build
    if not isinstance(built, type):
        built = type(build())
    return any(base.__name__ == kind for base in built.__mro__)
