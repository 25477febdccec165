"""What common operations give, as far as sizes go: worked out here, where torch would import its compiler first.

Most operations on tensors without data go through torch's reference implementations in Python, the first of which
imports ``torch._dynamo`` and SymPy: more than a second. The rules below hold for contiguous tensors that are not empty,
and give contiguous ones. For any other, for what is not listed, and for sizes that do not fit, there is no answer, and
torch is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fxquant.capture.structures import leaves
from fxquant.ir.effects import name_of

Shape = Sequence[int]
# The shape and dtype of a result; None where a rule does not know.
Result = tuple[Shape, torch.dtype] | None


def result_of(target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """What an operation gives for tensors without data; None where that is not known here.

    Args:
        target: a function of torch's or of Python's, or the name of a method.
        args, kwargs: operands.
    """
    rule = _RULES.get(name_of(target))
    if rule is None or not all(map(_is_common, leaves((args, dict(kwargs))))):
        return None
    try:
        found = rule(*args, **kwargs)
    except TypeError:  # arguments that the rule has no names for
        return None
    return None if found is None else torch.empty(found[0], dtype=found[1], device="meta")


def _is_common(leaf: Any) -> bool:
    """Whether an operand, or an item of one, is no tensor, or one that the rules hold for."""
    if not isinstance(leaf, Tensor):
        return True
    return type(leaf) is Tensor and leaf.is_meta and leaf.is_contiguous() and leaf.numel() > 0


# -- each element by itself -----------------------------------------------------------------------


def _same(input: Any, *others: Any, **options: Any) -> Result:
    """What gives as many elements of the same dtype."""
    fits = isinstance(input, Tensor) and input.is_floating_point() and options.keys() <= _OPTIONS
    return (input.shape, input.dtype) if fits else None


def _softmax(input: Any, dim: Any, _stacklevel: int = 3, dtype: Any = None) -> Result:
    return _same(input) if dtype is None else None


def _layer_norm(input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, *others: Any) -> Result:
    wanted = tuple(normalized_shape)
    fits = isinstance(input, Tensor) and tuple(input.shape[-len(wanted) :]) == wanted
    return _same(input) if fits and all(item is None or item.shape == wanted for item in (weight, bias)) else None


def _batch_norm(input: Any, *others: Any) -> Result:
    statistics = [item for item in others if isinstance(item, Tensor)]
    is_trained = any(item is True for item in others)
    fits = isinstance(input, Tensor) and input.dim() > 1 and not is_trained
    return _same(input) if fits and all(item.shape == input.shape[1:2] for item in statistics) else None


def _promoted(x: Any, y: Any) -> Result:
    shape = _broadcast(x, y)
    return None if shape is None else (shape, torch.result_type(x, y))


def _compared(x: Any, y: Any) -> Result:
    shape = _broadcast(x, y)
    return None if shape is None else (shape, torch.bool)


def _divided(x: Any, y: Any) -> Result:
    shape = _broadcast(x, y)
    dtype = None if shape is None else torch.result_type(x, y)
    return (shape, dtype) if shape is not None and dtype is not None and dtype.is_floating_point else None


def _broadcast(*operands: Any) -> Shape | None:
    """The shape of what is computed of tensors and numbers, one element each."""
    shapes = [item.shape for item in operands if isinstance(item, Tensor)]
    if not shapes or not all(isinstance(item, (Tensor, int, float)) for item in operands):
        return None
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    sizes = [{size for size in column if size != 1} for column in zip(*padded, strict=True)]
    return None if any(len(found) > 1 for found in sizes) else [next(iter(found), 1) for found in sizes]


# -- products -------------------------------------------------------------------------------------


def _linear(input: Any, weight: Any, bias: Any = None) -> Result:
    fits = isinstance(input, Tensor) and weight.dim() == 2 and input.dim() and input.shape[-1] == weight.shape[1]
    alike = fits and input.dtype == weight.dtype and (bias is None or bias.shape == weight.shape[:1])
    return ([*input.shape[:-1], weight.shape[0]], input.dtype) if alike else None


def _matmul(x: Any, y: Any) -> Result:
    if not isinstance(x, Tensor) or not isinstance(y, Tensor) or min(x.dim(), y.dim()) < 2 or x.dtype != y.dtype:
        return None
    same = x.shape[:-2] == y.shape[:-2] and x.shape[-1] == y.shape[-2]
    return ([*x.shape[:-1], y.shape[-1]], x.dtype) if same else None


def _convolution(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Result:
    """Source of the sizes: torch.nn.Conv2d, "Shape"."""
    rank = weight.dim() - 2
    fits = isinstance(input, Tensor) and input.dim() == rank + 2 and input.shape[1] == weight.shape[1] * groups
    if not fits or input.dtype != weight.dtype or (bias is not None and bias.shape != weight.shape[:1]):
        return None
    sizes = _windows(input.shape[2:], weight.shape[2:], stride, padding, dilation)
    return None if sizes is None else ([input.shape[0], weight.shape[0], *sizes], input.dtype)


def _pooled(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Result:
    if not isinstance(input, Tensor) or input.dim() != 4 or ceil_mode is not False or return_indices is not False:
        return None
    kernel = _each(kernel_size, 2)
    sizes = kernel and _windows(input.shape[2:], kernel, stride or kernel_size, padding, dilation)
    return ([*input.shape[:2], *sizes], input.dtype) if sizes else None


def _averaged(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: Any = None,
) -> Result:
    return _pooled(input, kernel_size, stride, padding, 1, ceil_mode)


def _averaged_to(input: Any, output_size: Any) -> Result:
    sizes = _each(output_size, 2)
    fits = isinstance(input, Tensor) and input.dim() == 4 and input.is_floating_point() and sizes is not None
    return ([*input.shape[:2], *sizes], input.dtype) if fits and sizes is not None else None


def _windows(sizes: Shape, kernel: Shape, stride: Any, padding: Any, dilation: Any) -> Shape | None:
    """How many windows fit into each dimension."""
    steps = [_each(item, len(sizes)) for item in (stride, padding, dilation)]
    if None in steps:
        return None
    found = []
    strides, pads, dilations = (step or () for step in steps)
    for size, width, step, pad, apart in zip(sizes, kernel, strides, pads, dilations, strict=True):
        found.append((size + 2 * pad - apart * (width - 1) - 1) // step + 1)
    return found if min(found, default=1) > 0 else None


def _each(value: Any, count: int) -> Shape | None:
    """A number for each dimension, where one may stand for all."""
    if type(value) is int:
        return [value] * count
    fits = isinstance(value, (tuple, list)) and len(value) == count and all(type(item) is int for item in value)
    return value if fits else None


# -- others ---------------------------------------------------------------------------------------


def _reduced(input: Any, dim: Any = None, keepdim: bool = False) -> Result:
    if not isinstance(input, Tensor) or not input.is_floating_point() or type(keepdim) is not bool:
        return None
    rank, asked = input.dim(), (dim,) if type(dim) is int else dim
    if dim is None:
        asked = range(rank)
    if not isinstance(asked, (tuple, list, range)) or not asked or not all(-rank <= item < rank for item in asked):
        return None
    gone = {item % rank for item in asked}
    sizes = [1 if place in gone else size for place, size in enumerate(input.shape) if keepdim or place not in gone]
    return (sizes, input.dtype) if len(gone) == len(asked) else None


def _joined(tensors: Any, dim: Any = 0) -> Result:
    if not isinstance(tensors, (tuple, list)) or not tensors or not all(isinstance(item, Tensor) for item in tensors):
        return None
    first = tensors[0]
    rank = first.dim()
    if type(dim) is not int or not -rank <= dim < rank or any(item.dtype != first.dtype for item in tensors):
        return None
    shapes = [[1 if place == dim % rank else size for place, size in enumerate(item.shape)] for item in tensors]
    sizes = list(first.shape)
    sizes[dim] = sum(item.shape[dim] for item in tensors if item.dim() == rank)
    return (sizes, first.dtype) if all(shape == shapes[0] for shape in shapes) else None


def _embedded(input: Any, weight: Any, padding_idx: Any = None) -> Result:
    fits = isinstance(input, Tensor) and isinstance(weight, Tensor) and weight.dim() == 2
    return ([*input.shape, weight.shape[1]], weight.dtype) if fits and not input.is_floating_point() else None


_UNCHANGED = (
    "relu", "relu6", "silu", "hardswish", "hardsigmoid", "mish", "selu", "gelu", "leaky_relu", "elu", "sigmoid",
    "tanh", "exp", "sqrt", "rsqrt", "neg", "abs", "erf", "sin", "cos",
)  # fmt: skip
_OPTIONS = frozenset(("inplace", "approximate", "negative_slope", "alpha"))
_RULES: dict[str, Callable[..., Result]] = {
    **dict.fromkeys(_UNCHANGED, _same),
    "softmax": _softmax,
    "layer_norm": _layer_norm,
    "batch_norm": _batch_norm,
    **dict.fromkeys(("add", "sub", "mul", "maximum", "minimum"), _promoted),
    **dict.fromkeys(("div", "truediv"), _divided),
    **dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge"), _compared),
    "linear": _linear,
    "matmul": _matmul,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    "max_pool2d": _pooled,
    "avg_pool2d": _averaged,
    "adaptive_avg_pool2d": _averaged_to,
    **dict.fromkeys(("mean", "sum"), _reduced),
    "cat": _joined,
    "embedding": _embedded,
}
