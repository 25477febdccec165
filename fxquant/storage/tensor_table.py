"""Tensors as raw bytes. Those that share memory share it again after loading."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fxquant.errors import FxquantError

_ALIGNMENT = 64
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int16, torch.int32,
        torch.int64, torch.bool, torch.complex64, torch.complex128, torch.uint16, torch.uint32, torch.uint64,
    )
}  # fmt: skip


class TensorWriter:
    """Collects tensors; ``finish`` lays them out."""

    def __init__(self) -> None:
        self._kept: list[Tensor] = []
        self._index: dict[int, int] = {}

    def add(self, tensor: Tensor, where: str) -> int:
        """Return the number of ``tensor``, the same for the same object.

        Args:
            tensor: plain and dense.
            where: it is, for messages.

        Raises:
            FxquantError: it is of a kind that files cannot hold.
        """
        if id(tensor) not in self._index:
            _require_plain(tensor, where)
            self._index[id(tensor)] = len(self._kept)
            self._kept.append(tensor)
        return self._index[id(tensor)]

    def finish(self) -> tuple[list[dict[str, Any]], list[dict[str, int]], bytearray]:
        """The tensors' descriptions, the stretches of memory they are in, and the bytes of those."""
        extents: dict[int, tuple[int, int]] = {}
        for tensor in self._kept:
            first, last = _extent(tensor)
            key = _memory(tensor)
            low, high = extents.get(key, (first, last))
            extents[key] = min(low, first), max(high, last)
        data, places = bytearray(), dict[int, int]()
        regions: list[dict[str, int]] = []
        for tensor in self._kept:
            key = _memory(tensor)
            if key not in places:
                low, high = extents[key]
                data += bytes(-len(data) % _ALIGNMENT)
                places[key] = len(regions)
                regions.append({"start": len(data), "bytes": high - low})
                data += _bytes_of(tensor, low, high)
        return [_describe(item, places[_memory(item)], extents[_memory(item)][0]) for item in self._kept], regions, data


class TensorReader:
    """Makes the tensors again.

    Args:
        descriptions, regions, data: from ``TensorWriter.finish``.
    """

    def __init__(self, descriptions: list[dict[str, Any]], regions: list[dict[str, int]], data: bytes) -> None:
        self._descriptions = descriptions
        self._made: dict[int, Tensor] = {}
        self._regions = [_region(data, **region) for region in regions]

    def get(self, index: int) -> Tensor:
        """The tensor of that number.

        Raises:
            ValueError: the description does not fit the bytes.
        """
        if index not in self._made:
            if index < 0:
                raise ValueError("a negative number of a tensor")
            self._made[index] = self._make(**self._descriptions[index])
        return self._made[index]

    def _make(
        self,
        dtype: str,
        shape: list[int],
        stride: list[int],
        region: int,
        offset: int,
        parameter: bool = False,
        requires_grad: bool = False,
    ) -> Tensor:
        kind, raw = _DTYPES[dtype], self._regions[region]
        sizes = [*shape, *stride, offset]
        if len(shape) != len(stride) or any(type(item) is not int or item < 0 for item in sizes):
            raise ValueError("a shape that is none")
        last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) + 1
        if 0 not in shape and last * kind.itemsize > raw.numel():
            raise ValueError("a tensor larger than its memory")
        whole = raw[: raw.numel() // kind.itemsize * kind.itemsize].view(kind)
        tensor = torch.empty(shape, dtype=kind) if 0 in shape else whole.as_strided(shape, stride, offset)
        if parameter:
            return nn.Parameter(tensor, requires_grad)
        return tensor.requires_grad_(requires_grad)


def _region(data: bytes, start: int, bytes: int) -> Tensor:
    if start < 0 or bytes < 0 or start + bytes > len(data):
        raise ValueError("memory outside the file")
    if not bytes:
        return torch.empty(0, dtype=torch.uint8)
    return torch.frombuffer(bytearray(data[start : start + bytes]), dtype=torch.uint8).clone()


def _require_plain(tensor: Tensor, where: str) -> None:
    name = str(tensor.dtype).removeprefix("torch.")
    is_plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided
    if is_plain and name in _DTYPES and tensor.device.type != "meta" and not (tensor.is_conj() or tensor.is_neg()):
        return
    raise FxquantError(
        f"{where} is a {type(tensor).__name__} of {name} on {tensor.device}, layout {tensor.layout}; files hold plain "
        "dense tensors",
        remedy="replace it by a plain tensor on the CPU before the model is captured",
    )


def _memory(tensor: Tensor) -> int:
    """What two tensors have in common that share memory; empty ones have none."""
    return tensor.untyped_storage().data_ptr() or -id(tensor)


def _extent(tensor: Tensor) -> tuple[int, int]:
    """First and last + 1 byte in its memory, to whole numbers of 16 bytes from the start, which every dtype divides."""
    if not tensor.numel():
        return 0, 0
    last = tensor.storage_offset() + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    first = int(tensor.storage_offset()) * tensor.element_size()
    return first - first % 16, int(last) * tensor.element_size()


def _bytes_of(tensor: Tensor, low: int, high: int) -> bytes:
    if high == low:
        return b""
    raw = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.detach().untyped_storage())
    return raw[low:high].cpu().numpy().tobytes()


def _describe(tensor: Tensor, region: int, low: int) -> dict[str, Any]:
    made: dict[str, Any] = {
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "stride": list(tensor.stride()),
        "region": region,
        "offset": tensor.storage_offset() - low // tensor.element_size() if tensor.numel() else 0,
    }
    if isinstance(tensor, nn.Parameter):
        made["parameter"] = True
    if tensor.requires_grad:
        made["requires_grad"] = True
    return made
