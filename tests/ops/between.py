"""A catalogue operator between layers that run int8."""

from __future__ import annotations

from typing import Any

import torch
from op_spellings import Spelling, tensors_of
from torch import Tensor, nn

from fxquant.ops.opdef import Example

# nn.ReLU6 calls F.hardtanh(x, 0, 6); x.__rsub__(1) is 1 - x; a norm along one dimension is that of vectors.
WRITTEN_AS = {"relu6": "hardtanh", "rsub": "sub", "linalg_norm": "vector_norm"}
# Decomposed before planning: their sums are taken in another order, by a kernel each.
DECOMPOSED = {"scaled_dot_product_attention": "matmul", "addmm": "matmul", "baddbmm": "matmul", "outer": "mul"}
# Operators that want values within bounds.
_AWAY_FROM_ZERO = dict.fromkeys(
    [
        "div",
        "floor_divide",
        "remainder",
        "fmod",
        "pow",
        "atan2",
        "xlogy",
        "addcdiv",
        "copysign",
        "sqrt",
        "rsqrt",
        "reciprocal",
        "log",
        "log2",
        "log10",
        "log1p",
    ],
    (0.5, 1.5),
)
DOMAINS = {**_AWAY_FROM_ZERO, **dict.fromkeys(("asin", "acos", "atanh", "tan"), (-0.9, 0.9)), "acosh": (1.5, 3.0)}


def _neighbour(shape: tuple[int, ...]) -> nn.Module:
    """An operator with weights that maps a value of ``shape`` to one of the same shape."""
    if len(shape) in (3, 4, 5) and shape[1] > 0:
        kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(shape) - 3]
        return kind(shape[1], shape[1], 1)
    return nn.Linear(shape[-1], shape[-1])


class Between(nn.Module):
    """Convolutions or linears, the operator, and one more behind each of its outputs."""

    def __init__(self, spelling: Spelling, example: Example, domain: tuple[float, float] | None) -> None:
        super().__init__()
        self.domain = domain
        torch.manual_seed(1)
        self.before = nn.ModuleList(_neighbour(shape) for shape in example.shapes)
        self.operator, self.call = spelling.module, spelling.call
        made = items_of(spelling.call(spelling.module, *tensors_of(example)))
        numbers = {index: tuple(item.shape) for index, item in enumerate(made) if item.is_floating_point()}
        self.after = nn.ModuleDict({str(index): _neighbour(shape) for index, shape in numbers.items() if shape})

    def forward(self, *tensors: Tensor) -> Any:
        values = [layer(tensor) for layer, tensor in zip(self.before, tensors, strict=True)]
        if self.domain is not None:
            low, high = self.domain
            values = [torch.clamp(value, -1.0, 1.0) * ((high - low) / 2) + (high + low) / 2 for value in values]
        made = self.call(self.operator, *values)
        if isinstance(made, Tensor):
            return self._next(0, made)
        return tuple(self._next(index, made[index]) for index in range(len(made)))

    def _next(self, index: int, value: Tensor) -> Any:
        """What follows one output; positions, masks and single numbers are returned as they are."""
        return self.after[str(index)](value) if str(index) in self.after else value


def items_of(value: Any) -> list[Tensor]:
    """The tensors of a result: one, or several."""
    return [value] if isinstance(value, Tensor) else list(value)
