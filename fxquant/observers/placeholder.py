"""The observer that only says what is wanted."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.errors import CalibrationError
from fxquant.numerics import FLOAT32_EPS
from fxquant.observers.base import ObserverBase


class PlaceholderObserver(ObserverBase):
    """Records nothing: carries a dtype for dynamic quantization, float16, or no quantization at all.

    Args:
        dtype: wanted dtype; float32 for no quantization.
        custom_op_name: kept as ``custom_op``.
        compute_dtype: the older spelling of ``is_dynamic=True``.
        quant_min: smallest integer, or None for the dtype's.
        quant_max: largest integer, or None for the dtype's.
        qscheme: per tensor affine when None.
        eps: lower bound of a scale; float32's machine epsilon when None.
        is_dynamic: whether ranges are taken anew from each input at run time.
    """

    def __init__(
        self,
        dtype: torch.dtype = torch.float32,
        custom_op_name: str = "",
        compute_dtype: torch.dtype | None = None,
        quant_min: int | None = None,
        quant_max: int | None = None,
        qscheme: torch.qscheme | None = None,
        eps: float | None = None,
        is_dynamic: bool = False,
    ) -> None:
        super().__init__(dtype, is_dynamic or compute_dtype is not None)
        self.qscheme = torch.per_tensor_affine if qscheme is None else qscheme
        self.quant_min = quant_min
        self.quant_max = quant_max
        self.eps = FLOAT32_EPS if eps is None else eps
        self.custom_op = custom_op_name

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``x``, any shape, as it is."""
        return x

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """Has nothing to answer.

        Raises:
            CalibrationError: always.
        """
        raise CalibrationError(
            "a PlaceholderObserver records nothing and has no scale",
            remedy="use an observer that records ranges, such as MinMaxObserver, for static quantization",
        )

    def extra_repr(self) -> str:
        return f"dtype={self.dtype}, is_dynamic={self.is_dynamic}"
