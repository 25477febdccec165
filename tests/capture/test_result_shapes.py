"""Sizes of results that are worked out without torch's meta kernels are those that torch's kernels give."""

from __future__ import annotations

import operator
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.fx.node import map_aggregate

from fxquant.capture.result_shapes import result_of

META = torch.device("meta")


def image(*sizes: int) -> Tensor:
    return torch.rand(sizes or (2, 4, 6, 5))


def meta(args: Any) -> Any:
    return map_aggregate(args, lambda leaf: leaf.to(META) if isinstance(leaf, Tensor) else leaf)


def run(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return getattr(args[0], target)(*args[1:], **kwargs) if isinstance(target, str) else target(*args, **kwargs)


def told(value: Tensor) -> tuple[Any, ...]:
    return value.shape, value.dtype, value.stride()


KNOWN: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
    (torch.relu, (image(),), {}),
    ("relu", (image(),), {}),
    (F.relu, (image(),), {"inplace": True}),
    (F.gelu, (image(),), {"approximate": "tanh"}),
    (F.leaky_relu, (image(), 0.1, False), {}),
    (torch.exp, (image().double(),), {}),
    (F.softmax, (image(), -1), {}),
    ("softmax", (image(),), {"dim": 1}),
    (F.layer_norm, (image(), (5,), image(5), image(5), 1e-5), {}),
    (F.layer_norm, (image(), [6, 5]), {}),
    (F.batch_norm, (image(), image(4), image(4), image(4), image(4), False), {}),
    (operator.add, (image(), 2), {}),
    (operator.add, (image(), image(5)), {}),
    (torch.mul, (image(2, 1, 6, 1), image(3, 1, 5)), {}),
    (torch.add, (image().long(), 0.5), {}),
    (torch.add, (image().half(), image(1)), {}),
    (operator.truediv, (image(), 8**0.5), {}),
    (torch.maximum, (image(), image(1, 4, 1, 5)), {}),
    (operator.lt, (image(), 0.5), {}),
    (torch.eq, (image(), image(6, 5)), {}),
    (F.linear, (image(), image(7, 5), image(7)), {}),
    (F.linear, (image(5), image(7, 5)), {}),
    (torch.matmul, (image(), image(2, 4, 5, 3)), {}),
    (operator.matmul, (image(3, 4), image(4, 2)), {}),
    (torch.conv2d, (image(), image(8, 4, 3, 3), image(8), (2, 2), (1, 1), (1, 1), 1), {}),
    (F.conv2d, (image(), image(8, 1, 3, 2), None, 1, (0, 1), (1, 2), 4), {}),
    (torch.conv1d, (image(2, 4, 9), image(3, 4, 3)), {"stride": 2, "padding": 1}),
    (F.conv3d, (image(1, 2, 5, 6, 7), image(3, 2, 2, 2, 2)), {}),
    (F.max_pool2d, (image(), 3, 2, 1), {}),
    (torch.max_pool2d, (image(), (2, 3)), {}),
    (F.avg_pool2d, (image(), 2, 2, 0, False, True, None), {}),
    (F.adaptive_avg_pool2d, (image(), (2, 1)), {}),
    (F.adaptive_avg_pool2d, (image(), 1), {}),
    (torch.mean, (image(), (2, 3)), {}),
    ("mean", (image(), -1), {"keepdim": True}),
    ("sum", (image(),), {}),
    (torch.cat, ([image(), image(2, 3, 6, 5)], 1), {}),
    (torch.cat, ((image(), image()),), {"dim": -1}),
    (F.embedding, (torch.randint(0, 9, (2, 3)), image(9, 4), None), {}),
]  # fmt: skip


@pytest.mark.parametrize(("target", "args", "kwargs"), KNOWN)
def test_what_is_told_is_what_kernels_give(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    found = result_of(target, meta(args), meta(kwargs))
    assert found is not None and found.is_meta
    assert told(found) == told(run(target, args, kwargs))


UNKNOWN: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
    (torch.relu, (image().long(),), {}),
    (torch.relu, (image().transpose(1, 2),), {}),
    (torch.relu, (image().to(memory_format=torch.channels_last),), {}),
    (F.softmax, (image(), -1), {"dtype": torch.float64}),
    (F.batch_norm, (image(), image(4), image(4), None, None, True), {}),
    (torch.div, (image(), 2), {"rounding_mode": "floor"}),
    (operator.truediv, (image().long(), 2), {}),
    (torch.add, (image(), image()), {"alpha": 2}),
    (torch.matmul, (image(), image(5, 3)), {}),
    (torch.conv2d, (image(4, 6, 5), image(8, 4, 3, 3)), {}),
    (F.conv2d, (image(), image(8, 4, 3, 3)), {"padding": "same"}),
    (F.max_pool2d, (image(), 3, 2, 1), {"ceil_mode": True}),
    (torch.cat, ([image(), image().double()], 1), {}),
    (torch.cat, ([image(), image().transpose(2, 3)[:, :, :, :6]], 1), {}),
    ("mean", (image(), ()), {}),
    (torch.roll, (image(), 1), {}),
]  # fmt: skip


@pytest.mark.parametrize(("target", "args", "kwargs"), UNKNOWN)
def test_what_the_rules_do_not_hold_for_is_left_to_torch(
    target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    assert result_of(target, meta(args), meta(kwargs)) is None


WRONG: list[tuple[Any, tuple[Any, ...]]] = [
    (torch.add, (image(), image(4))),
    (F.layer_norm, (image(), (6,))),
    (F.layer_norm, (image(), (5,), image(6))),
    (F.batch_norm, (image(), image(5), image(5))),
    (F.linear, (image(), image(7, 4))),
    (F.linear, (image(), image(7, 5), image(5))),
    (torch.matmul, (image(), image(2, 4, 6, 3))),
    (torch.conv2d, (image(), image(8, 3, 3, 3))),
    (torch.conv2d, (image(), image(8, 4, 7, 7))),
    (F.max_pool2d, (image(), 7)),
    (torch.mean, (image(), 4)),
    (torch.mean, (image(), (1, 1))),
    (torch.cat, ([image(), image(2, 4, 6, 4)], 1)),
    (torch.cat, ([image(), image(4, 6, 5)], 1)),
    (torch.cat, ([image(), image()], 4)),
]


@pytest.mark.parametrize(("target", "args"), WRONG)
def test_sizes_that_do_not_fit_are_left_to_torch(target: Any, args: tuple[Any, ...]) -> None:
    assert result_of(target, meta(args), {}) is None
    with pytest.raises((RuntimeError, IndexError)):
        run(target, args, {})


SIZES = st.integers(0, 4)


def agrees(target: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """What is told is right; sizes that do not fit are never told."""
    found = result_of(target, meta(args), {})
    try:
        expected = target(*args)
    except (RuntimeError, IndexError, ValueError):
        assert found is None
        return
    assert found is None or told(found) == told(expected)


@given(st.lists(SIZES, max_size=4), st.lists(SIZES, max_size=4), st.sampled_from([torch.add, operator.truediv]))
def test_broadcasting(first: list[int], second: list[int], target: Callable[..., Any]) -> None:
    agrees(target, (torch.rand(first), torch.rand(second)))


WINDOWS = st.tuples(*[st.integers(1, 3)] * 3)


@given(st.integers(1, 9), st.integers(1, 9), WINDOWS, WINDOWS, st.booleans())
def test_convolution(height: int, width: int, kernel: Any, step: Any, one: bool) -> None:
    stride, padding, dilation = step
    args = torch.rand(1, 2, height, width), torch.rand(3, 2, *kernel[:2]), None, stride, padding - 1, dilation
    agrees(torch.conv2d, args if one else (*args[:3], (stride, 1), (0, padding), (dilation, 1)))


@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.lists(st.integers(-5, 4), max_size=3), st.booleans())
def test_reduction(sizes: list[int], dims: list[int], keepdim: bool) -> None:
    agrees(torch.sum, (torch.rand(sizes), dims, keepdim))


@given(st.lists(st.lists(SIZES, min_size=1, max_size=3), min_size=1, max_size=3), st.integers(-4, 3))
def test_concatenation(shapes: list[list[int]], dim: int) -> None:
    agrees(torch.cat, (list(map(torch.rand, shapes)), dim))


PROGRAM = """
import sys
import torch
from torch import nn
from fxquant import pipeline

class Pads(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Linear(2, 2)
    def forward(self, x):
        y = torch.relu(self.norm(self.conv(x))) + x
        if y.shape[-1] % 2:
            y = nn.functional.pad(y, (0, 1))
        return self.head(y.mean((2, 3)))

pipeline.capture(Pads().eval(), (torch.randn(1, 2, 8, 8),))
print("torch._dynamo" in sys.modules, "sympy" in sys.modules)
"""


def test_capture_of_common_models_imports_no_compiler() -> None:
    assert subprocess.check_output([sys.executable, "-c", PROGRAM], text=True).split() == ["False", "False"]
