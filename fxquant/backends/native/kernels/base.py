"""What all kernel modules share: plain buffers, and a packed form that is made anew wherever they arrive."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fxquant.backends.native.engine import silence_creation_warning

# Unpickling a kernel packs it, so the warning must be gone as soon as kernels can exist.
silence_creation_warning()


# Bytes from which sharing memory, 5 microseconds at any size, beats copying it.
_SHARED_FROM = 1 << 18


class Kernel(nn.Module):
    """Base of the kernel modules.

    Subclasses register plain tensors as buffers and derive what calls need in ``pack``. Nothing packed is ever
    pickled or copied: ``pack`` runs again after unpickling, deep copies and ``load_state_dict``.
    """

    def pack(self) -> None:
        """Derive the packed form from the buffers, for this CPU."""

    def __prepare_scriptable__(self) -> nn.Module:
        """What ``torch.jit.script`` compiles instead, which it asks for by this name."""
        from fxquant.backends.native.kernels.scripted import scripted  # it knows all kernels

        return scripted(self)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if not key.startswith("packed_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.pack()

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self.pack()


class RequantizingKernel(Kernel):
    """A kernel whose output has a scale and zero point of its own.

    Args:
        scale: float32 [], zero_point: int64 [] of the uint8 output.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, scale: Tensor, zero_point: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point)

    def pack(self) -> None:
        """Read the output parameters once; kernels take them as numbers."""
        self.packed_scale = float(self.scale)
        self.packed_zero_point = int(self.zero_point)


def direct(operator: Any) -> Any:
    """The function behind a torch operator overload; skips its Python wrapper, a few microseconds a call."""
    return operator._op


def integers_of(x: Tensor) -> Tensor:
    """The integers of a quantized tensor: uint8 of the same shape and strides, read-only.

    It shares the memory of ``x``; ``int_repr`` copies, element by element for channels last.
    """
    if torch._C._is_tracing():
        return x.int_repr()
    return torch.empty(0, dtype=torch.uint8).set_(x.untyped_storage(), x.storage_offset(), x.shape, x.stride())


def from_integers(integers: Tensor, scale: float, zero_point: int) -> Tensor:
    """Wrap uint8 integers as a quantized tensor. Large ones are shared, for small ones a copy is faster."""
    if torch._C._is_tracing() or integers.numel() < _SHARED_FROM:
        return torch._make_per_tensor_quantized_tensor(integers, scale, zero_point)
    empty = torch._empty_affine_quantized((0,), scale=scale, zero_point=zero_point, dtype=torch.quint8)
    return empty.set_(integers.untyped_storage(), integers.storage_offset(), integers.shape, integers.stride())


class Quantize(RequantizingKernel):
    """float to uint8 at a border."""

    def __init__(self, scale: Tensor, zero_point: Tensor) -> None:
        super().__init__(scale, zero_point)
        self.pack()

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape, of any floating dtype: forward may convert what it is given."""
        x = x.to(torch.float32) if x.dtype != torch.float32 and x.is_floating_point() else x
        return torch.quantize_per_tensor(x, self.packed_scale, self.packed_zero_point, torch.quint8)
