"""What ``torch.jit.script`` compiles in the place of kernels: the same calls, written as TorchScript understands them.

torch puts them into the model that is scripted, too, so they keep the kernels' buffers, and with them the state_dict.
Annotations are no strings here, because TorchScript reads them.
"""

import copy
import weakref
from typing import Any, Callable, Optional  # noqa: UP035

import torch
from torch import Tensor, nn

from fxquant.backends.native.engine import packing_for
from fxquant.backends.native.kernels.arriving import ArrivingClip, Dequantize, Step
from fxquant.backends.native.kernels.base import Quantize, RequantizingKernel
from fxquant.backends.native.kernels.dynamic import LinearDynamic, LinearFloat16, LinearsDynamic, as_quantized
from fxquant.backends.native.kernels.functional import NumbersOnly, QFunctional
from fxquant.backends.native.kernels.traced import loads_anywhere
from fxquant.backends.native.kernels.weighted import Conv, Linear
from fxquant.errors import FxquantError

_LISTS = ("stride", "padding", "dilation")


class _Scripted(nn.Module):
    """Base: the kernel's buffers, and its output's parameters as numbers."""

    def __init__(self, kernel: nn.Module) -> None:
        super().__init__()
        for name, buffer in kernel.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        given = isinstance(kernel, RequantizingKernel)
        self.to_scale: float = float(kernel.scale) if given else 1.0  # type: ignore[arg-type]
        self.to_zero_point: int = int(kernel.zero_point) if given else 0  # type: ignore[arg-type]


class ScriptedQuantize(_Scripted):
    """float to uint8."""

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, of any shape."""
        return torch.quantize_per_tensor(x, self.to_scale, self.to_zero_point, torch.quint8)


class ScriptedDequantize(_Scripted):
    """uint8 to float."""

    def forward(self, x: Tensor) -> Tensor:
        """Dequantize ``x``, of any shape."""
        return x.dequantize()


class ScriptedConv(_Scripted):
    """1d, 2d and 3d convolution whose weights any engine may be packed for, as it is where the file is loaded."""

    __constants__ = ("is_line", "is_volume", "relu")

    def __init__(self, kernel: Conv) -> None:
        super().__init__(kernel)
        self.params = kernel.packed_params
        self.relu, self.rank = kernel.relu, kernel.rank
        self.is_line, self.is_volume = kernel.rank == 1, kernel.rank == 3

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x``, uint8 [N, C, *spatial] or [C, *spatial]."""
        return self.batched(x.unsqueeze(0)).squeeze(0) if x.dim() == self.rank + 1 else self.batched(x)

    def batched(self, x: Tensor) -> Tensor:
        """Convolve ``x``, uint8 [N, C, *spatial]."""
        to = self.to_scale, self.to_zero_point
        if self.is_line:
            if self.relu:
                return torch.ops.quantized.conv1d_relu(x, self.params, to[0], to[1])  # type: ignore[no-any-return]
            return torch.ops.quantized.conv1d(x, self.params, to[0], to[1])  # type: ignore[no-any-return]
        elif self.is_volume:
            if self.relu:
                return torch.ops.quantized.conv3d_relu(x, self.params, to[0], to[1])  # type: ignore[no-any-return]
            return torch.ops.quantized.conv3d(x, self.params, to[0], to[1])  # type: ignore[no-any-return]
        else:
            if self.relu:
                return torch.ops.quantized.conv2d_relu(x, self.params, to[0], to[1])  # type: ignore[no-any-return]
            return torch.ops.quantized.conv2d(x, self.params, to[0], to[1])  # type: ignore[no-any-return]


class ScriptedFloatConv(_Scripted):
    """Another one: the exact sums of integers, as floats."""

    __constants__ = ("is_line", "is_volume")

    def __init__(self, kernel: Conv) -> None:
        super().__init__(kernel)
        along = [-1, *[1] * kernel.rank]
        self.levels = kernel._grown().to(torch.float32)
        self.scales = kernel._scales().reshape(along)
        self.offset = torch.zeros(1) if kernel.bias is None else kernel.bias.reshape(along)
        self.relu = kernel.relu
        self.is_line, self.is_volume = kernel.rank == 1, kernel.rank == 3
        self.stride, self.padding, self.dilation = (list(kernel.geometry[key]) for key in _LISTS)
        self.groups = int(kernel.geometry["groups"])

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x``, uint8 [N, C, *spatial] or [C, *spatial]."""
        y, w = x.int_repr().to(torch.float32) - float(x.q_zero_point()), self.levels
        if self.is_line:
            made = torch.conv1d(y, w, None, self.stride, self.padding, self.dilation, self.groups)
        elif self.is_volume:
            made = torch.conv3d(y, w, None, self.stride, self.padding, self.dilation, self.groups)
        else:
            made = torch.conv2d(y, w, None, self.stride, self.padding, self.dilation, self.groups)
        made = made * (self.scales * x.q_scale()) + self.offset
        made = torch.relu(made) if self.relu else made
        return torch.quantize_per_tensor(made, self.to_scale, self.to_zero_point, torch.quint8)


def _scripted_conv(kernel: Conv) -> _Scripted:
    portable = loads_anywhere(kernel._grown(), int(kernel.geometry["groups"]))
    return ScriptedConv(kernel) if portable else ScriptedFloatConv(kernel)


class ScriptedLinear(_Scripted):
    """Fully connected layer between integers."""

    __constants__ = ("relu",)

    def __init__(self, kernel: Linear) -> None:
        super().__init__(kernel)
        self.params, self.relu = kernel.packed_params, kernel.relu

    def forward(self, x: Tensor) -> Tensor:
        """Multiply ``x``, uint8 [..., in]."""
        rows = x.unsqueeze(0) if x.dim() == 1 else x
        if self.relu:
            made = torch.ops.quantized.linear_relu(rows, self.params, self.to_scale, self.to_zero_point)
        else:
            made = torch.ops.quantized.linear(rows, self.params, self.to_scale, self.to_zero_point)
        return made.squeeze(0) if x.dim() == 1 else made  # type: ignore[no-any-return]


class ScriptedDynamic(_Scripted):
    """Fully connected layer with floats on both sides."""

    __constants__ = ("is_half", "relu")

    def __init__(self, kernel: LinearDynamic) -> None:
        super().__init__(kernel)
        self.is_half, self.relu = isinstance(kernel, LinearFloat16), kernel.relu
        with torch.inference_mode(False), torch.no_grad(), packing_for(kernel.engine):
            if self.is_half:
                self.params = torch.ops.quantized.linear_prepack_fp16(kernel.weight.float(), kernel.bias)
            else:
                weight = as_quantized(kernel.weight, kernel.weight_scale)
                self.params = torch.ops.quantized.linear_prepack(weight, kernel.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply ``x``, float32 [..., in]."""
        rows = x.unsqueeze(0) if x.dim() == 1 else x
        if self.is_half:
            made = torch.ops.quantized.linear_dynamic_fp16(rows, self.params)
        else:
            made = torch.ops.quantized.linear_dynamic(rows, self.params)
        made = torch.relu(made) if self.relu else made
        return made.squeeze(0) if x.dim() == 1 else made


class ScriptedClip(_Scripted):
    """Bounds, on integers or floats."""

    def __init__(self, kernel: ArrivingClip) -> None:
        super().__init__(kernel)
        self.low: Optional[float] = kernel.low  # noqa: UP045
        self.high: Optional[float] = kernel.high  # noqa: UP045

    def forward(self, x: Tensor) -> Tensor:
        """Clip ``x``, of any shape."""
        return torch.clamp(x, self.low, self.high)


class ScriptedStep(_Scripted):
    """A module in float between integers; of functions of one number, which are tables otherwise."""

    def __init__(self, kernel: Step) -> None:
        super().__init__(kernel)
        self.module = copy.deepcopy(kernel.module)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``x``, uint8."""
        made = self.module(x.dequantize())
        return torch.quantize_per_tensor(made, self.to_scale, self.to_zero_point, torch.quint8)


class ScriptedFunctional(_Scripted):
    """Arithmetic; each method is compiled where the model calls it."""

    def forward(self, x: Tensor) -> Tensor:
        """It is called by its methods."""
        raise RuntimeError("a QFunctional is called by its methods")

    @torch.jit.export
    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """``x + y``."""
        x, y = (y, x) if y.numel() > x.numel() else (x, y)
        return torch.ops.quantized.add(x, y, self.to_scale, self.to_zero_point)  # type: ignore[no-any-return]

    @torch.jit.export
    def add_relu(self, x: Tensor, y: Tensor) -> Tensor:
        """``relu(x + y)``."""
        x, y = (y, x) if y.numel() > x.numel() else (x, y)
        return torch.ops.quantized.add_relu(x, y, self.to_scale, self.to_zero_point)  # type: ignore[no-any-return]

    @torch.jit.export
    def mul(self, x: Tensor, y: Tensor) -> Tensor:
        """``x * y``."""
        x, y = (y, x) if y.numel() > x.numel() else (x, y)
        return torch.ops.quantized.mul(x, y, self.to_scale, self.to_zero_point)  # type: ignore[no-any-return]

    @torch.jit.export
    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        """``x @ y``."""
        return torch.ops.quantized.matmul(x, y, self.to_scale, self.to_zero_point)  # type: ignore[no-any-return]

    @torch.jit.export
    def cat(self, x: list[Tensor], dim: int = 0) -> Tensor:
        """Join tensors."""
        return torch.ops.quantized.cat(x, dim, self.to_scale, self.to_zero_point)  # type: ignore[no-any-return]

    @torch.jit.export
    def add_scalar(self, x: Tensor, y: float) -> Tensor:
        """``x + y`` with a number."""
        return torch.ops.quantized.add_scalar(x, y)  # type: ignore[no-any-return]

    @torch.jit.export
    def mul_scalar(self, x: Tensor, y: float) -> Tensor:
        """``x * y`` with a number."""
        return torch.ops.quantized.mul_scalar(x, y)  # type: ignore[no-any-return]


class ScriptedNumbers(nn.Module):
    """Arithmetic that calibration never saw: of floats, and of anything with numbers."""

    def forward(self, x: Tensor) -> Tensor:
        """It is called by its methods."""
        raise RuntimeError("a FloatFunctional is called by its methods")

    @torch.jit.export
    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """``x + y``."""
        return torch.add(x, y)

    @torch.jit.export
    def add_relu(self, x: Tensor, y: Tensor) -> Tensor:
        """``relu(x + y)``."""
        return torch.relu(torch.add(x, y))

    @torch.jit.export
    def mul(self, x: Tensor, y: Tensor) -> Tensor:
        """``x * y``."""
        return torch.mul(x, y)

    @torch.jit.export
    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        """``x @ y``."""
        return torch.matmul(x, y)

    @torch.jit.export
    def cat(self, x: list[Tensor], dim: int = 0) -> Tensor:
        """Join tensors."""
        return torch.cat(x, dim)

    @torch.jit.export
    def add_scalar(self, x: Tensor, y: float) -> Tensor:
        """``x + y`` with a number."""
        return torch.ops.quantized.add_scalar(x, y) if x.is_quantized else torch.add(x, y)

    @torch.jit.export
    def mul_scalar(self, x: Tensor, y: float) -> Tensor:
        """``x * y`` with a number."""
        return torch.ops.quantized.mul_scalar(x, y) if x.is_quantized else torch.mul(x, y)


_BY_KERNEL: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    Quantize: ScriptedQuantize,
    Dequantize: ScriptedDequantize,
    Conv: _scripted_conv,
    Linear: ScriptedLinear,
    LinearDynamic: ScriptedDynamic,
    ArrivingClip: ScriptedClip,
    Step: ScriptedStep,
    QFunctional: ScriptedFunctional,
    NumbersOnly: lambda kernel: ScriptedNumbers(),
}


# ``torch.jit.script`` remembers what it has replaced by ``id`` alone: a kernel must be there as long as what took its
# place, or a module that is made after it may get its ``id``, and be taken for it.
_REPLACED: weakref.WeakKeyDictionary[nn.Module, nn.Module] = weakref.WeakKeyDictionary()


def scripted(kernel: nn.Module) -> nn.Module:
    """What takes the kernel's place.

    Raises:
        FxquantError: nothing does.
    """
    make = next((make for kind, make in _BY_KERNEL.items() if isinstance(kernel, kind)), None)
    if make is None or isinstance(kernel, LinearsDynamic):
        raise FxquantError(
            f"torch.jit.script cannot compile {type(kernel).__name__}",
            remedy="use torch.jit.trace(model, example_inputs), which takes every kernel",
        )
    made = make(kernel).train(kernel.training)
    _REPLACED[made] = kernel
    return made
