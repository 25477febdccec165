"""Arithmetic of a model without a graph: one module whose methods share one output range."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.backends.native.kernels.arriving import require_integers
from fxquant.backends.native.kernels.base import RequantizingKernel
from fxquant.backends.native.kernels.elementwise import Binary, Cat
from fxquant.backends.native.kernels.matrix import Matmul
from fxquant.errors import FxquantError


class QFunctional(RequantizingKernel):
    """What a FloatFunctional becomes. Operands and results are quantized tensors.

    Args:
        scale, zero_point: of the output.
        path: of the module in the user's model, for messages.
    """

    def __init__(self, scale: Tensor, zero_point: Tensor, path: str = "") -> None:
        super().__init__(scale, zero_point)
        self.path = path
        self.pack()

    def pack(self) -> None:
        """Make a kernel for each method; cat's are made when the dimension is known."""
        super().pack()
        given = (self.scale, self.zero_point)
        self.packed_kernels: dict[str, nn.Module] = {
            "add": Binary("add", *given, relu=False),
            "add_relu": Binary("add", *given, relu=True),
            "mul": Binary("mul", *given, relu=False),
            "matmul": Matmul(*given, None, False),
        }

    def forward(self, x: Tensor) -> Tensor:
        """It is called by its methods.

        Raises:
            FxquantError: always.
        """
        raise FxquantError(
            "a QFunctional is no function itself", module_path=self.path, remedy="call its methods: add, mul, cat, ..."
        )

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """``x + y``."""
        return self._run("add", x, y)

    def add_relu(self, x: Tensor, y: Tensor) -> Tensor:
        """``relu(x + y)``."""
        return self._run("add_relu", x, y)

    def mul(self, x: Tensor, y: Tensor) -> Tensor:
        """``x * y``."""
        return self._run("mul", x, y)

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        """``x @ y``."""
        return self._run("matmul", x, y)

    def add_scalar(self, x: Tensor, y: float) -> Tensor:
        """``x + y`` with a number: the integers, or the zero point, move; the range follows the input's."""
        require_integers(x, "add_scalar", self.path)
        return torch.ops.quantized.add_scalar(x, y)  # type: ignore[no-any-return]

    def mul_scalar(self, x: Tensor, y: float) -> Tensor:
        """``x * y`` with a number: the scale changes; the range follows the input's."""
        require_integers(x, "mul_scalar", self.path)
        return torch.ops.quantized.mul_scalar(x, y)  # type: ignore[no-any-return]

    def cat(self, x: Sequence[Tensor], dim: int = 0) -> Tensor:
        """Join tensors."""
        key = f"cat {dim}"
        if key not in self.packed_kernels:
            self.packed_kernels[key] = Cat(self.scale, self.zero_point, dim, stack=False)
        return self._run(key, *x)

    def _run(self, name: str, *operands: Any) -> Tensor:
        for operand in operands:
            require_integers(operand, name, self.path)
        result: Tensor = self.packed_kernels[name](*operands)
        return result

    def extra_repr(self) -> str:
        """Output parameters."""
        return f"scale={self.packed_scale:.6g}, zero_point={self.packed_zero_point}"


class NumbersOnly(nn.Module):
    """A FloatFunctional that calibration never observed: it takes numbers, of integers and floats, and else floats.

    Args:
        path: of the module in the user's model, for messages.
    """

    def __init__(self, path: str = "") -> None:
        super().__init__()
        self.path = path

    def __prepare_scriptable__(self) -> nn.Module:
        """What ``torch.jit.script`` compiles instead."""
        from fxquant.backends.native.kernels.scripted import scripted  # it knows all kernels

        return scripted(self)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """``x + y``."""
        return torch.add(*self._floats("add", x, y))

    def mul(self, x: Tensor, y: Tensor) -> Tensor:
        """``x * y``."""
        return torch.mul(*self._floats("mul", x, y))

    def cat(self, x: Sequence[Tensor], dim: int = 0) -> Tensor:
        """Join tensors."""
        return torch.cat(self._floats("cat", *x), dim)

    def add_relu(self, x: Tensor, y: Tensor) -> Tensor:
        """``relu(x + y)``."""
        return torch.relu(torch.add(*self._floats("add_relu", x, y)))

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        """``x @ y``."""
        return torch.matmul(*self._floats("matmul", x, y))

    def add_scalar(self, x: Tensor, y: float) -> Tensor:
        """``x + y`` with a number."""
        return torch.ops.quantized.add_scalar(x, y) if x.is_quantized else torch.add(x, y)

    def mul_scalar(self, x: Tensor, y: float) -> Tensor:
        """``x * y`` with a number."""
        return torch.ops.quantized.mul_scalar(x, y) if x.is_quantized else torch.mul(x, y)

    def _floats(self, op: str, *operands: Tensor) -> tuple[Tensor, ...]:
        if any(operand.is_quantized for operand in operands):
            raise FxquantError(
                "calibration never called it, so the range of its result is not known",
                op=op,
                module_path=self.path,
                remedy="calibrate with data that takes this way through the model",
            )
        return operands
