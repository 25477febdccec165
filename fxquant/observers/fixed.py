"""The observer whose answer is known beforehand."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.errors import ConfigError
from fxquant.observers.base import ObserverBase
from fxquant.observers.quant_range import quant_range


class FixedQParamsObserver(ObserverBase):
    """Observes nothing and always answers the same: for outputs of a known range, such as sigmoid's.

    Args:
        scale: above 0.
        zero_point: within quant_min..quant_max.
        dtype: uint8, int8, or a quantized dtype.
        qscheme: per tensor, affine or symmetric.
        quant_min: smallest integer; the dtype's when None.
        quant_max: largest integer; the dtype's when None.
        is_dynamic: not possible with fixed parameters.

    Raises:
        ConfigError: the arguments contradict each other.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(
        self,
        scale: float,
        zero_point: int,
        dtype: torch.dtype = torch.uint8,
        qscheme: torch.qscheme = torch.per_tensor_affine,
        quant_min: int | None = None,
        quant_max: int | None = None,
        is_dynamic: bool = False,
    ) -> None:
        super().__init__(dtype, is_dynamic)
        if is_dynamic:
            raise ConfigError(
                "FixedQParamsObserver: a dynamic range cannot be fixed", remedy="use a PlaceholderObserver"
            )
        self.qscheme = qscheme
        self.quant_min, self.quant_max = quant_range(dtype, quant_min, quant_max, reduce_range=False)
        if not scale > 0 or not self.quant_min <= zero_point <= self.quant_max:
            raise ConfigError(
                f"scale {scale} and zero point {zero_point} do not go with integers {self.quant_min}..{self.quant_max}",
                remedy="give a scale above 0 and a zero point between quant_min and quant_max",
            )
        with torch.inference_mode(False):
            self.register_buffer("scale", torch.tensor([scale], dtype=torch.float32))
            self.register_buffer("zero_point", torch.tensor([zero_point], dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``x``, any shape, as it is."""
        return x

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """``(scale float32, zero_point int64)``, both [1]."""
        return self.scale, self.zero_point

    def extra_repr(self) -> str:
        return f"scale={float(self.scale)}, zero_point={int(self.zero_point)}, dtype={self.dtype}"
