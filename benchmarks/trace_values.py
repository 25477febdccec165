"""Comparing what models return, whatever it is made of, and whether a model is as it was."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

_DEPTH = 12


def tensors_in(value: Any, path: str = "output", depth: int = _DEPTH) -> Iterator[tuple[str, Tensor]]:
    """(path, tensor) for each tensor of an output: in tuples, dictionaries and the attributes of objects."""
    if isinstance(value, Tensor):
        yield path, value
    elif not depth or isinstance(value, (type, str, nn.Module)):
        return
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from tensors_in(item, f"{path}[{key!r}]", depth - 1)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from tensors_in(item, f"{path}[{index}]", depth - 1)
    elif hasattr(value, "__dict__"):
        for key, item in vars(value).items():
            yield from tensors_in(item, f"{path}.{key}", depth - 1)


def difference(expected: Any, found: Any) -> str:
    """``exact``; the largest difference over the largest magnitude: ``1.2e-07``; or what does not fit."""
    left, right = dict(tensors_in(expected)), dict(tensors_in(found))
    if left.keys() != right.keys():
        return f"other parts: {sorted(left.keys() ^ right.keys())[0]}"
    worst = 0.0
    for path, tensor in left.items():
        other = right[path]
        if tensor.shape != other.shape or tensor.dtype != other.dtype:
            return f"{path}: {tuple(tensor.shape)} {tensor.dtype}, not {tuple(other.shape)} {other.dtype}"
        worst = max(worst, _relative(tensor, other))
    return "exact" if worst == 0 else f"{worst:.1e}"


def _relative(tensor: Tensor, other: Tensor) -> float:
    if not tensor.numel() or torch.equal(tensor, other):
        return 0.0
    if tensor.is_complex():
        tensor, other = torch.view_as_real(tensor), torch.view_as_real(other)
    left, right = tensor.double(), other.double()
    apart = (left - right).abs()
    apart[(left == right) | (left.isnan() & right.isnan())] = 0
    largest = left.abs().nan_to_num(0, 0, 0).max().item() or 1.0
    worst = apart.max().item() / largest
    return worst if math.isfinite(worst) else math.inf


def is_close(text: str, limit: float = 1e-4) -> bool:
    """Whether ``difference`` found rounding only."""
    try:
        return text == "exact" or float(text) <= limit
    except ValueError:
        return False


def signal_to_noise(expected: Any, found: Any) -> float | None:
    """dB of all floating-point outputs together; None where shapes differ or there are none.

    Each output counts as one part of unit power, so that a large one does not hide a small one.
    """
    left, right = dict(tensors_in(expected)), dict(tensors_in(found))
    ratios = []
    for path, tensor in left.items():
        other = right.get(path)
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        if other is None or other.shape != tensor.shape:
            return None
        finite = tensor.isfinite() & (tensor.abs() < 1e30)  # masked scores are the dtype's minimum
        signal, noise = tensor[finite].double(), (tensor - other)[finite].double()
        power = signal.square().sum().item()
        if power > 0:
            ratios.append(noise.square().sum().item() / power)
    if not ratios:
        return None
    mean = sum(ratios) / len(ratios)
    return 150.0 if mean < 1e-15 else -10 * math.log10(mean)


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything that every module holds, by path: tensors by value, containers by what is in them."""
    return {
        f"{path}.{name}": _frozen(value, 4)
        for path, module in model.named_modules()
        for name, value in vars(module).items()
    }


def _frozen(value: Any, depth: int) -> Any:
    if isinstance(value, Tensor):
        return "tensor", id(value), value.detach().clone()
    if depth and isinstance(value, dict):
        return {key: _frozen(item, depth - 1) for key, item in value.items()}
    if depth and isinstance(value, (list, tuple)):
        return [_frozen(item, depth - 1) for item in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else id(value)


def changes(before: Any, after: Any) -> list[str]:
    """What differs between two snapshots."""
    return sorted(name for name in before.keys() | after.keys() if not _same(before.get(name, ""), after.get(name, "")))


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, tuple) and isinstance(right, tuple):
        return left[1] == right[1] and torch.equal(left[2].nan_to_num(), right[2].nan_to_num())
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return type(left) is type(right) and bool(left == right)
