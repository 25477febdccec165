"""Kernels that take the parameters of whatever quantized tensor arrives: for models without a graph."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_map_only

from fxquant.backends.native.kernels.base import Kernel, RequantizingKernel, from_integers, integers_of
from fxquant.backends.native.kernels.elementwise import Clip
from fxquant.backends.native.kernels.lookup import Lookup
from fxquant.backends.native.kernels.norm import BatchNorm
from fxquant.backends.native.kernels.recurrent import RecurrentStatic
from fxquant.errors import FxquantError
from fxquant.numerics.affine import dequantize, quantize


class RequireIntegers:
    """A forward pre-hook that refuses floating tensors.

    Args:
        path: of the module in the user's model, for messages.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Check the first input.

        Raises:
            FxquantError: it is a floating tensor.
        """
        require_integers(inputs[0], type(module).__name__, self.path)


def require_integers(x: Any, op: str, path: str = "") -> None:
    """Raise unless ``x`` is a quantized tensor.

    Raises:
        FxquantError: it is anything else.
    """
    if not isinstance(x, Tensor) or not x.is_quantized:
        raise FxquantError(
            f"a quantized module got a {getattr(x, 'dtype', type(x).__name__)} tensor, and it takes quantized ones",
            op=op,
            module_path=path,
            remedy="call a QuantStub before it in forward, or set its qconfig to None before prepare",
        )


class Dequantize(Kernel):
    """uint8 to float at a border; floats are passed on."""

    def forward(self, x: Tensor) -> Tensor:
        """Dequantize ``x``, of any shape."""
        return x.dequantize()


class ArrivingClip(Kernel):
    """Clip integers to bounds, exactly; floats are clipped as floats.

    Args:
        low, high: bounds, None for none.
    """

    def __init__(self, low: float | None, high: float | None) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.pack()

    def pack(self) -> None:
        """Forget the bounds in integers."""
        self.packed_clips: dict[tuple[float, int], Clip] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Clip ``x``, uint8 or floating, of any shape."""
        if not x.is_quantized:
            return x.clamp(self.low, self.high)
        key = (x.q_scale(), x.q_zero_point())
        if key not in self.packed_clips:
            self.packed_clips[key] = Clip(torch.tensor(key[0]), torch.tensor(key[1]), self.low, self.high)
        clipped: Tensor = self.packed_clips[key](x)
        return clipped

    def extra_repr(self) -> str:
        """The bounds."""
        return f"{self.low}, {self.high}"


class ArrivingPad(Kernel):
    """Pad as convolutions do that do not pad with zeros, exactly.

    Args:
        pads: as ``torch.nn.functional.pad`` takes them.
        mode: ``reflect``, ``replicate`` or ``circular``.
    """

    def __init__(self, pads: list[int], mode: str) -> None:
        super().__init__()
        self.pads, self.mode = pads, mode

    def forward(self, x: Tensor) -> Tensor:
        """Pad ``x``, uint8 [N, C, *spatial]; torch pads floats only, which hold these integers exactly."""
        padded = F.pad(integers_of(x).to(torch.float32), self.pads, self.mode).to(torch.uint8)
        return from_integers(padded, x.q_scale(), x.q_zero_point())


class Step(RequantizingKernel):
    """A module that computes in float between integers.

    Args:
        module: the float module.
        scale, zero_point: of the output.
    """

    def __init__(self, module: nn.Module, scale: Tensor, zero_point: Tensor) -> None:
        super().__init__(scale, zero_point)
        self.module = module
        self.pack()

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``x``, uint8 of any shape that the module takes."""
        result = self.module(x.dequantize())
        return torch.quantize_per_tensor(result, self.packed_scale, self.packed_zero_point, torch.quint8)


def _as_floats(x: Tensor) -> Tensor:
    return x.dequantize() if x.is_quantized else x


class ArrivingRecurrent(RequantizingKernel):
    """A recurrent layer or cell that returns integers where it is given integers; the state of a cell stays float.

    Args:
        layer: float in, float out.
        scale, zero_point: of its outputs, which are its hidden states too.
    """

    def __init__(self, layer: RecurrentStatic, scale: Tensor, zero_point: Tensor) -> None:
        super().__init__(scale, zero_point)
        self.layer = layer
        self.pack()

    def forward(self, input: Any, hx: Any = None) -> Any:
        """As the module it stands for, with states in float or integers.

        Args:
            input: a tensor or a ``PackedSequence``, uint8 or floating.
            hx: the state, None for zeros.
        """
        data = input.data if isinstance(input, PackedSequence) else input
        result = self.layer(*tree_map_only(Tensor, _as_floats, (input, hx)))
        return self._as_integers(result) if data.is_quantized else result

    def _as_integers(self, result: Any) -> Any:
        """Outputs and hidden states of a result."""
        if isinstance(result, Tensor):
            return torch.quantize_per_tensor(result, self.packed_scale, self.packed_zero_point, torch.quint8)
        if isinstance(result, PackedSequence):
            return PackedSequence(self._as_integers(result.data), *result[1:])
        first, second = result
        is_cell = self.layer.recurrence.is_cell
        last = second if is_cell else self._as_state(second)
        return self._as_integers(first), last

    def _as_state(self, state: Any) -> Any:
        return self._as_integers(state) if isinstance(state, Tensor) else (self._as_integers(state[0]), state[1])


class ArrivingLookup(Step):
    """A function of one number, as a table that is computed in float64 for each scale and zero point that arrives."""

    def pack(self) -> None:
        """Forget the tables."""
        super().pack()
        self.packed_tables: dict[tuple[float, int], Lookup] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``x``, uint8 of any shape."""
        key = (x.q_scale(), x.q_zero_point())
        if key not in self.packed_tables:
            self.packed_tables[key] = self._table(*key)
        found: Tensor = self.packed_tables[key](x)
        return found

    def _table(self, scale: float, zero_point: int) -> Lookup:
        integers = torch.arange(256, dtype=torch.uint8)
        with torch.inference_mode(False), torch.no_grad():
            numbers = dequantize(integers, torch.tensor(scale), torch.tensor(zero_point), dtype=torch.float64)
            results = copy.deepcopy(self.module).double()(numbers)
            table = quantize(results, self.scale, self.zero_point, 0, 255, torch.uint8)
            return Lookup(table, self.scale, self.zero_point, type(self.module).__name__)


class BatchNormLayer(BatchNorm):
    """Batch normalisation by running statistics that holds them.

    Args:
        module: the float batch norm.
        scale, zero_point: of the output.
        relu: whether to clip at 0.
    """

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, module: Any, scale: Tensor, zero_point: Tensor, relu: bool) -> None:
        super().__init__(scale, zero_point, relu)
        for name in ("weight", "bias", "running_mean", "running_var"):
            value = getattr(module, name)
            self.register_buffer(name, None if value is None else value.detach().clone())
        self.eps = float(module.eps)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Normalise ``x``, uint8 [N, C, ...]."""
        return super().forward(x, self.weight, self.bias, self.running_mean, self.running_var, self.eps)
