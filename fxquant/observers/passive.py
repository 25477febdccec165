"""Observers that measure no range: they keep tensors, do nothing, or say that the input's range is meant."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.errors import CalibrationError
from fxquant.observers.base import ObserverBase


class RecordingObserver(ObserverBase):
    """Keeps a copy of every tensor observed, for looking at values; a model with one cannot be converted.

    Args:
        dtype: dtype that the operator would be quantized to.

    Attributes:
        tensor_val: what was observed, in order, each as it came.
    """

    qscheme = torch.per_tensor_affine

    def __init__(self, dtype: torch.dtype = torch.uint8) -> None:
        super().__init__(dtype)
        self.tensor_val: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """Keeps a copy of ``x``, any shape and dtype, and returns ``x`` as it is."""
        with torch.inference_mode(False), torch.no_grad():
            self.tensor_val.append(x.detach().clone())
        return x

    def get_tensor_value(self) -> list[Tensor]:
        """What was observed, in order."""
        return self.tensor_val

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """Has nothing to answer.

        Raises:
            CalibrationError: always.
        """
        raise CalibrationError(
            "a RecordingObserver keeps tensors and has no scale",
            remedy="read get_tensor_value(); to convert, prepare with an observer that measures ranges",
        )

    def extra_repr(self) -> str:
        return f"dtype={self.dtype}, {len(self.tensor_val)} tensors"


class NoopObserver(ObserverBase):
    """Records nothing and only carries a dtype: for a weight or an activation that is not to be quantized.

    Args:
        dtype: wanted dtype, usually a float one.
        custom_op_name: kept as ``custom_op``.
    """

    qscheme = torch.per_tensor_affine

    def __init__(self, dtype: torch.dtype = torch.float16, custom_op_name: str = "") -> None:
        super().__init__(dtype)
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
            "a NoopObserver records nothing and has no scale",
            remedy="use an observer that measures ranges, such as MinMaxObserver",
        )

    def extra_repr(self) -> str:
        return f"dtype={self.dtype}"


class ReuseInputObserver(ObserverBase):
    """Says that an operator's result has the range of its input, as for ``reshape``; measures nothing itself."""

    qscheme = torch.per_tensor_affine

    def __init__(self) -> None:
        super().__init__(torch.uint8)

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``x``, any shape, as it is."""
        return x

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """Has nothing to answer.

        Raises:
            CalibrationError: always.
        """
        raise CalibrationError(
            "a ReuseInputObserver has no scale; that of the operator's input is meant",
            remedy="give it only to operators that move values, such as reshape",
        )
