"""What all observers have in common."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from fxquant.errors import CalibrationError, ConfigError
from fxquant.numerics import FLOAT32_EPS, choose_float_qparams, choose_qparams
from fxquant.observers.factory import ObserverFactory
from fxquant.observers.quant_range import plain_dtype, quant_range

_Self = TypeVar("_Self", bound="ObserverBase")

SYMMETRIC_SCHEMES = (torch.per_tensor_symmetric, torch.per_channel_symmetric)


class ObserverBase(nn.Module, ABC):
    """Records statistics of the tensors that pass through it, and turns them into quantization parameters.

    Args:
        dtype: dtype to quantize to; a quantized dtype is replaced by the plain one of its integers.
        is_dynamic: whether ranges are taken anew from each input at run time.
    """

    qscheme: torch.qscheme
    ch_axis: int | None = None

    def __init__(self, dtype: torch.dtype, is_dynamic: bool = False) -> None:
        super().__init__()
        self.dtype = plain_dtype(dtype)
        self.is_dynamic = is_dynamic

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Observes ``x``, any shape, and returns it as it is."""

    @abstractmethod
    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """``(scale float32, zero_point int64)``: [1] per tensor, [C] per channel."""

    @classmethod
    def with_args(cls: type[_Self], **keywords: Any) -> ObserverFactory[_Self]:
        """Keeps constructor arguments for later; calling the result builds an observer."""
        return ObserverFactory(cls, keywords)

    @classmethod
    def with_callable_args(cls: type[_Self], **callables: Callable[[], Any]) -> ObserverFactory[_Self]:
        """Keeps callables that compute constructor arguments anew for each observer built."""
        return ObserverFactory(cls, {}, callables)

    def _apply(self: _Self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _Self:
        """Moves buffers between devices. ``half()`` and the like leave them in the dtype they count in."""

        def move(buffer: Tensor) -> Tensor:
            moved = fn(buffer)
            return moved if moved.dtype == buffer.dtype else buffer.to(moved.device)

        super()._apply(move, recurse)  # type: ignore[no-untyped-call]
        return self


class RangeObserver(ObserverBase):
    """Base of the observers that keep a smallest and a largest value.

    Statistics are float32 and are computed outside autograd and inference mode, so calibrating under
    ``no_grad``, ``inference_mode`` or neither gives the same ordinary tensors.

    Args:
        dtype: uint8, int8, or a quantized dtype.
        qscheme: one of the subclass's ``schemes``.
        reduce_range: give up one bit: uint8 0..127, int8 -64..63.
        quant_min: smallest integer; the dtype's when None.
        quant_max: largest integer; the dtype's when None.
        factory_kwargs: ``device`` of the buffers.
        eps: lower bound of the scale.
        is_dynamic: see ``ObserverBase``.

    Raises:
        ConfigError: the scheme, the dtype, or the range do not go with this observer.
    """

    schemes: ClassVar[tuple[torch.qscheme, ...]] = (torch.per_tensor_affine, torch.per_tensor_symmetric)
    unseen_shape: ClassVar[tuple[int, ...]] = ()
    can_be_dynamic: ClassVar[bool] = True

    eps: Tensor
    min_val: Tensor
    max_val: Tensor

    def __init__(
        self,
        dtype: torch.dtype = torch.uint8,
        qscheme: torch.qscheme = torch.per_tensor_affine,
        reduce_range: bool = False,
        quant_min: int | None = None,
        quant_max: int | None = None,
        factory_kwargs: dict[str, Any] | None = None,
        eps: float = FLOAT32_EPS,
        is_dynamic: bool = False,
    ) -> None:
        super().__init__(dtype, is_dynamic)
        if qscheme not in self.schemes:
            known = ", ".join(str(scheme) for scheme in self.schemes)
            raise ConfigError(f"{type(self).__name__} does not do {qscheme}", remedy=f"use one of {known}")
        if is_dynamic and not self.can_be_dynamic:
            raise ConfigError(
                f"{type(self).__name__} keeps statistics, and dynamic quantization has none to keep",
                remedy="use a PlaceholderObserver with is_dynamic=True",
            )
        if reduce_range and qscheme in SYMMETRIC_SCHEMES and self.dtype == torch.uint8:
            raise ConfigError(
                f"{type(self).__name__}: a reduced range of unsigned integers cannot be symmetric",
                remedy="use torch.int8, or an affine scheme",
            )
        self.qscheme = qscheme
        self.reduce_range = reduce_range
        self.quant_min, self.quant_max = quant_range(dtype, quant_min, quant_max, reduce_range)
        device = (factory_kwargs or {}).get("device")
        with torch.inference_mode(False):
            self.register_buffer("eps", torch.tensor([eps], dtype=torch.float32, device=device))
            self.register_buffer("min_val", torch.full(self.unseen_shape, math.inf, device=device))
            self.register_buffer("max_val", torch.full(self.unseen_shape, -math.inf, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """Observes ``x``, any shape and float dtype, and returns it as it is.

        Raises:
            CalibrationError: ``x`` holds NaN or infinity.
        """
        if x.numel() == 0:
            return x
        with torch.inference_mode(False), torch.no_grad():
            self._observe(x.detach().to(torch.float32))
        return x

    @abstractmethod
    def _observe(self, x: Tensor) -> None:
        """Updates the statistics from ``x``, float32 and not empty."""

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """``(scale float32, zero_point int64)``: [1] per tensor, [C] per channel.

        A float zero point goes with ``torch.per_channel_affine_float_qparams``.

        Raises:
            CalibrationError: nothing was observed.
        """
        if not self.has_seen_data:
            raise CalibrationError(
                f"{type(self).__name__} has seen no data",
                remedy="run calibration data through the prepared model before converting it",
            )
        with torch.inference_mode(False), torch.no_grad():
            low, high = self._range()
            if self.qscheme == torch.per_channel_affine_float_qparams:
                return choose_float_qparams(low, high, self.quant_min, self.quant_max, eps=float(self.eps))
            return choose_qparams(
                low.reshape(-1),
                high.reshape(-1),
                self.quant_min,
                self.quant_max,
                symmetric=self.qscheme in SYMMETRIC_SCHEMES,
                eps=float(self.eps),
            )

    def _range(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest value to represent."""
        return self.min_val, self.max_val

    @property
    def has_seen_data(self) -> bool:
        """Whether ``calculate_qparams`` has something to go by."""
        return self.min_val.numel() > 0 and bool(torch.isfinite(self.min_val).all())

    def reset_min_max_vals(self) -> None:
        """Forgets what was observed."""
        with torch.inference_mode(False):
            self.min_val = torch.full(self.unseen_shape, math.inf, device=self.min_val.device)
            self.max_val = torch.full(self.unseen_shape, -math.inf, device=self.max_val.device)

    def extra_repr(self) -> str:
        seen = f"min_val={self.min_val.tolist()}, max_val={self.max_val.tolist()}"
        if self.min_val.numel() > 4:
            seen = f"min_val=[{self.min_val.numel()} values], max_val=[{self.max_val.numel()} values]"
        return f"dtype={self.dtype}, {self.qscheme}, quant={self.quant_min}..{self.quant_max}, {seen}"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Takes on the saved number of channels, and leaves inference mode, before values are copied."""
        with torch.inference_mode(False):
            for name, own in list(self.named_buffers(recurse=False)):
                saved = state_dict.get(prefix + name)
                if name in ("min_val", "max_val") and isinstance(saved, Tensor) and saved.shape != own.shape:
                    setattr(self, name, torch.empty(saved.shape, dtype=own.dtype, device=own.device))
                elif own.is_inference():
                    setattr(self, name, own.clone())
        super()._load_from_state_dict(state_dict, prefix, *args)


def check_finite(low: Tensor, high: Tensor) -> None:
    """Refuses statistics of a tensor that held NaN or infinity.

    Args:
        low: minimum, any shape.
        high: maximum, of the same shape; NaN in the tensor is NaN here.

    Raises:
        CalibrationError: either is not finite.
    """
    if bool(torch.isfinite(low).all()) and bool(torch.isfinite(high).all()):
        return
    found = "NaN" if bool(low.isnan().any()) or bool(high.isnan().any()) else "infinity"
    raise CalibrationError(
        f"a tensor with {found} was observed (as float32)",
        remedy="look for values that are not finite in the calibration data and in the float model's output",
    )
