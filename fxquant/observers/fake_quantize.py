"""Fake quantization: tensors are rounded to what integers can represent while a model trains.

The arithmetic is the reference's, ``clamp(round_half_even(x * (1/scale)) + zero_point)``. Gradients pass where a value
is inside the range, and stop where it was clipped (straight-through estimator).

Source: Jacob et al. 2018, https://arxiv.org/abs/1712.05877, section 3.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fxquant.errors import ConfigError
from fxquant.numerics import FLOAT32_EPS
from fxquant.numerics.qparams import NO_RANGE
from fxquant.observers.factory import ObserverFactory
from fxquant.observers.fixed import FixedQParamsObserver
from fxquant.observers.follow_range import averages_plainly, follow_numbers, follow_range
from fxquant.observers.moving_average import MovingAverageMinMaxObserver
from fxquant.observers.rounding import fake_quantize_tensor
from fxquant.observers.shared_range import shared_extremes
from fxquant.observers.switches import is_on

_Self = TypeVar("_Self", bound="FakeQuantizeBase")

_PER_CHANNEL = ("per_channel_affine", "per_channel_symmetric", "per_channel_affine_float_qparams")


class FakeQuantizeBase(nn.Module, ABC):
    """Base of the fake-quantize modules: two switches, kept as buffers so that they are saved with a model.

    Attributes:
        fake_quant_enabled, observer_enabled: uint8 [1], 0 or 1.
    """

    fake_quant_enabled: Tensor
    observer_enabled: Tensor

    def __init__(self) -> None:
        super().__init__()
        with torch.inference_mode(False):
            self.register_buffer("fake_quant_enabled", torch.ones(1, dtype=torch.uint8))
            self.register_buffer("observer_enabled", torch.ones(1, dtype=torch.uint8))

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Observes and rounds ``x``, any shape, as the switches say."""

    @abstractmethod
    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """``(scale float32, zero_point)``: [1] per tensor, [C] per channel."""

    def enable_fake_quant(self, enabled: bool = True) -> None:
        """Round from now on, or let values pass as they are."""
        self.fake_quant_enabled.fill_(int(enabled))

    def disable_fake_quant(self) -> None:
        """Let values pass as they are from now on."""
        self.enable_fake_quant(False)

    def enable_observer(self, enabled: bool = True) -> None:
        """Follow the range of what passes from now on, or keep the range there is."""
        self.observer_enabled.fill_(int(enabled))

    def disable_observer(self) -> None:
        """Keep the range there is from now on."""
        self.enable_observer(False)

    @classmethod
    def with_args(cls: type[_Self], **kwargs: Any) -> ObserverFactory[_Self]:
        """Keeps constructor arguments for later; calling the result builds a module."""
        return ObserverFactory(cls, kwargs)


class FakeQuantize(FakeQuantizeBase):
    """Rounds to the integers of the range that an observer follows.

    The range moves in training mode only; one that has seen nothing yet is taken from the first tensor in any mode.
    A forward that runs again during backward (gradient checkpointing) observes nothing twice. In a
    ``DistributedDataParallel`` model the range is that of all processes' tensors together.

    Args:
        observer: class of the observer, or what its ``with_args`` returns, fxquant's or torch.ao's.
        quant_min: smallest integer; the observer's when None.
        quant_max: largest integer; the observer's when None.
        is_dynamic: whether the range is taken anew from each tensor.
        **observer_kwargs: further arguments of the observer.

    Attributes:
        activation_post_process: the observer.
        scale: float32 [1] or [C]; zero_point: int32 (float32 for float zero points) of the same shape.

    Raises:
        ConfigError: ``quant_min`` is above ``quant_max``, or the observer's refusal.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(
        self,
        observer: Callable[..., Any] = MovingAverageMinMaxObserver,
        quant_min: int | None = None,
        quant_max: int | None = None,
        is_dynamic: bool = False,
        **observer_kwargs: Any,
    ) -> None:
        super().__init__()
        if quant_min is not None and quant_max is not None:
            if quant_min > quant_max:
                raise ConfigError(f"integers {quant_min}..{quant_max} are no range", remedy="swap them")
            observer_kwargs.update(quant_min=quant_min, quant_max=quant_max)
        if is_dynamic:
            observer_kwargs["is_dynamic"] = True
        self._watch(observer(**observer_kwargs))

    @classmethod
    def around(cls, observer: nn.Module) -> FakeQuantize:
        """A module that rounds to the range of an observer that was built already, fxquant's or torch.ao's."""
        made = cls.__new__(cls)
        FakeQuantizeBase.__init__(made)
        made._watch(observer)
        return made

    def _watch(self, observer: Any) -> None:
        self.activation_post_process = observer
        low, high = getattr(observer, "quant_min", None), getattr(observer, "quant_max", None)
        self.quant_min, self.quant_max = (0 if low is None else int(low)), (255 if high is None else int(high))
        self.dtype, self.qscheme = observer.dtype, getattr(observer, "qscheme", torch.per_tensor_affine)
        self.is_dynamic = bool(getattr(observer, "is_dynamic", False))
        axis = getattr(observer, "ch_axis", None)
        self.ch_axis: int = -1 if axis is None else axis
        scheme = str(self.qscheme).removeprefix("torch.")
        self.is_per_channel = scheme in _PER_CHANNEL
        self.eps = float(getattr(observer, "eps", FLOAT32_EPS))
        self._plain, self._averages_one, self._seen = *averages_plainly(observer), False
        floating = torch.float32 if scheme.endswith("float_qparams") else torch.int32
        with torch.inference_mode(False):
            self.register_buffer("scale", torch.ones(1))
            self.register_buffer("zero_point", torch.zeros(1, dtype=floating))

    @property
    def has_seen_data(self) -> bool:
        """Whether there is a range to round to."""
        if not self._seen:
            smallest = getattr(self.activation_post_process, "min_val", None)
            if not isinstance(smallest, Tensor):
                return True
            self._seen = smallest.numel() > 0 and bool(torch.isfinite(smallest).all())
        return self._seen

    @property
    def is_on(self) -> bool:
        """Whether it both observes and rounds."""
        return is_on(self, "observer_enabled") and is_on(self, "fake_quant_enabled")

    @property
    def scales_by_reach(self) -> bool:
        """Whether ``scale_of_reach`` gives what observing a weight does."""
        symmetric = self.qscheme in (torch.per_channel_symmetric, torch.per_tensor_symmetric)
        return symmetric and self.dtype == torch.int8 and self._plain and self.is_memoryless

    def scale_of_reach(self, reach: Tensor) -> Tensor:
        """Scale of a weight from the largest magnitude of each of its channels, or of all of it; any shape."""
        return (reach / ((self.quant_max - self.quant_min) / 2)).clamp_(min=self.eps)

    def take_reach(self, reach: Tensor) -> None:
        """Observes a weight of which only the largest magnitude is known, float32 [C_out], or [1] of all of it."""
        with torch.inference_mode(False), torch.no_grad():
            observer: Any = self.activation_post_process
            known = reach if self.is_per_channel else reach.reshape(())
            observer.min_val, observer.max_val = -known, known.clone()
            self.take(self.scale_of_reach(reach), torch.zeros_like(reach, dtype=torch.int32))
            self._seen = True

    @property
    def follows(self) -> bool:
        """Whether the range follows what is observed, so that several places need several averages."""
        return True

    @property
    def is_memoryless(self) -> bool:
        """Whether the range is that of the last tensor alone, so that observing one again changes nothing."""
        return self.is_dynamic or getattr(self.activation_post_process, "averaging_constant", 0) == 1

    def forward(self, x: Tensor) -> Tensor:
        """Observes and rounds ``x``, any shape and float dtype, as the switches say."""
        if self.observes():
            self.observe(x)
        if not is_on(self, "fake_quant_enabled") or not self.has_seen_data:
            return x
        return self.rounded(x, self.quant_min, self.quant_max)

    def observes(self) -> bool:
        """Whether a tensor that comes now moves the range."""
        if not is_on(self, "observer_enabled") or runs_again():
            return False
        return self.training or not self.has_seen_data or self.is_dynamic

    def weight_qparams(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point of a weight, [1] or [C_out].

        A module without memory takes the range of the weight as it is in every mode, so that evaluation and conversion
        round what the optimizer made last.

        Args:
            rows: float32, one row per output channel.
        """
        if self.observes() or (self.is_memoryless and is_on(self, "observer_enabled")):
            self.observe(rows)
        return self.calculate_qparams()

    def observe(self, x: Tensor) -> None:
        """Moves the range by ``x``, any shape and float dtype, and with it scale and zero point."""
        if x.numel() == 0:
            return
        observer: Any = self.activation_post_process
        if self._averages_one and x.device.type == "cpu":
            self.take(*follow_numbers(observer, shared_extremes(x.detach(), observer), self.has_seen_data, self.eps))
            return
        with torch.inference_mode(False), torch.no_grad():
            shown = shared_extremes(x.detach(), observer)
            if self._plain:
                found = follow_range(observer, shown, self.has_seen_data, self.eps)
            else:
                observer(shown)
                found = observer.calculate_qparams()
            self.take(*found)

    def take(self, scale: Any, zero_point: Any) -> None:
        """Sets scale and zero point, both [] or [1] or [C]."""
        own = self._buffers
        if type(scale) is float and "scale" in own and own["scale"].numel() == 1:  # type: ignore[union-attr]
            own["scale"].fill_(scale)  # type: ignore[union-attr]
            own["zero_point"].fill_(zero_point)  # type: ignore[union-attr]
            return
        with torch.inference_mode(False), torch.no_grad():
            given = torch.as_tensor(scale).reshape(-1), torch.as_tensor(zero_point).reshape(-1)
            for name, value in zip(("scale", "zero_point"), given, strict=True):
                kept = getattr(self, name)
                if kept.shape != value.shape:
                    setattr(self, name, value.to(device=kept.device, dtype=kept.dtype).clone())
                else:
                    kept.copy_(value)

    def scale_empty_range(self) -> None:
        """Gives a range of nothing but zeros a sane scale; see ``NO_RANGE``."""
        if self.scale.device.type != "cpu":
            self.scale.masked_fill_(self.scale <= NO_RANGE, 1.0)
        elif self.scale.item() <= NO_RANGE:
            self.scale.fill_(1.0)

    def start_at(self, scale: Tensor, zero_point: Tensor) -> None:
        """Begins with a range instead of with the first tensor's.

        Args:
            scale: float32 [], zero_point: int64 [], of a calibrated model.
        """
        self.take(scale, zero_point)
        observer: Any = self.activation_post_process
        if isinstance(getattr(observer, "min_val", None), Tensor):
            with torch.inference_mode(False), torch.no_grad():
                low, high = (
                    (self.quant_min - self.zero_point) * self.scale,
                    (self.quant_max - self.zero_point) * self.scale,
                )
                shape = () if not self.is_per_channel else (-1,)
                observer.min_val, observer.max_val = low.reshape(shape), high.reshape(shape)

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """``(scale float32, zero_point)`` that values are rounded with: [1] per tensor, [C] per channel.

        Raises:
            CalibrationError: nothing was observed.
        """
        if not self.has_seen_data:
            observer: Any = self.activation_post_process
            return observer.calculate_qparams()  # type: ignore[no-any-return]
        return self.scale, self.zero_point

    def rounded(self, x: Tensor, quant_min: int, quant_max: int) -> Tensor:
        """``x`` rounded with this module's scale and zero point to integers of a range of the caller's."""
        axis = self.ch_axis if self.is_per_channel else None
        return fake_quantize_tensor(x, self.scale, self.zero_point, quant_min, quant_max, axis)

    def extra_repr(self) -> str:
        return (
            f"fake_quant={bool(self.fake_quant_enabled)}, observer={bool(self.observer_enabled)}, "
            f"quant={self.quant_min}..{self.quant_max}, dtype={self.dtype}"
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Takes on the saved number of channels before values are copied."""
        self._seen = False
        for name in ("scale", "zero_point"):
            saved, own = state_dict.get(prefix + name), getattr(self, name)
            if isinstance(saved, Tensor) and saved.shape != own.shape and not isinstance(own, nn.Parameter):
                setattr(self, name, torch.empty(saved.shape, dtype=own.dtype, device=own.device))
        super()._load_from_state_dict(state_dict, prefix, *args)


class FixedQParamsFakeQuantize(FakeQuantize):
    """Rounds with parameters that are known beforehand, such as those of sigmoid's results.

    Args:
        observer: a FixedQParamsObserver, or what its ``with_args`` returns.

    Raises:
        ConfigError: the observer is of another kind.
    """

    def __init__(self, observer: Callable[..., Any]) -> None:
        super().__init__(observer=observer)
        fixed = self.activation_post_process
        if type(fixed).__name__ != FixedQParamsObserver.__name__:
            raise ConfigError(
                f"FixedQParamsFakeQuantize needs a FixedQParamsObserver, not a {type(fixed).__name__}",
                remedy="pass FixedQParamsObserver.with_args(scale=..., zero_point=...)",
            )
        self.take(fixed.scale, fixed.zero_point)

    def observes(self) -> bool:
        """Never: there is nothing to learn."""
        return False


class FusedMovingAvgObsFakeQuantize(FakeQuantize):
    """``FakeQuantize`` for averaged minima and maxima, the usual choice; torch.ao's name for its fused kernel.

    Args:
        observer: a moving-average observer: its class, or what its ``with_args`` returns.
        quant_min: smallest integer.
        quant_max: largest integer.
        **observer_kwargs: further arguments of the observer.

    Raises:
        ConfigError: the observer averages nothing.
    """

    def __init__(
        self,
        observer: Callable[..., Any] = MovingAverageMinMaxObserver,
        quant_min: int = 0,
        quant_max: int = 255,
        **observer_kwargs: Any,
    ) -> None:
        super().__init__(observer, quant_min, quant_max, **observer_kwargs)
        if not hasattr(self.activation_post_process, "averaging_constant"):
            raise ConfigError(
                f"FusedMovingAvgObsFakeQuantize needs a moving-average observer, "
                f"not a {type(self.activation_post_process).__name__}",
                remedy="use MovingAverageMinMaxObserver, or FakeQuantize",
            )

    @property
    def is_symmetric_quant(self) -> bool:
        """Whether 0.0 sits in the middle of the integers."""
        return self.qscheme in (torch.per_tensor_symmetric, torch.per_channel_symmetric)


def runs_again() -> bool:
    """Whether backward is running: a forward within it computes again what was computed before."""
    return torch._C._current_graph_task_id() != -1


def as_fake_quantize(built: nn.Module) -> FakeQuantize:
    """A fake-quantize module of ours for what a QConfig builds: one of ours, torch.ao's, or an observer."""
    if isinstance(built, FakeQuantize):
        return built
    observer = getattr(built, "activation_post_process", None)
    return FakeQuantize.around(built if observer is None else observer)


def enable_fake_quant(mod: nn.Module) -> None:
    """Round from now on: ``model.apply(fxquant.enable_fake_quant)``."""
    if isinstance(mod, FakeQuantizeBase):
        mod.enable_fake_quant()


def disable_fake_quant(mod: nn.Module) -> None:
    """Compute in float from now on: ``model.apply(fxquant.disable_fake_quant)``."""
    if isinstance(mod, FakeQuantizeBase):
        mod.disable_fake_quant()


def enable_observer(mod: nn.Module) -> None:
    """Let ranges follow the data from now on: ``model.apply(fxquant.enable_observer)``."""
    if isinstance(mod, FakeQuantizeBase):
        mod.enable_observer()


def disable_observer(mod: nn.Module) -> None:
    """Keep ranges as they are from now on: ``model.apply(fxquant.disable_observer)``."""
    if isinstance(mod, FakeQuantizeBase):
        mod.disable_observer()
