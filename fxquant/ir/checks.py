"""Run-time checks that a captured graph carries."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fxquant.errors import FxquantError
from fxquant.ir.likeness import likeness
from fxquant.ir.meta import storage_of


def require_equal(value: Any, expected: Any, name: str) -> None:
    """Raise when a flag that was built into the graph arrives with another value; 1 is another than True or 1.0.

    Raises:
        FxquantError: ``value`` differs from what the example had.
    """
    tensor = isinstance(value, Tensor)
    numbers = isinstance(expected, (bool, int, float, complex))
    if tensor or (value is not expected and (value != expected or (numbers and type(value) is not type(expected)))):
        shown = "a tensor" if tensor else repr(value)
        raise FxquantError(
            f"input {name!r} was {expected!r} when the model was captured and is {shown} now",
            remedy="prepare the model again with the new value in example_inputs",
        )


def require_container(value: Any, kind: str, size: Any, name: str) -> None:
    """Raise when a list, tuple or dictionary that is an input is of another kind, length, or has other keys.

    Args:
        value: what is given now.
        kind: name of the class of the example's.
        size: its length; of a dictionary, its keys in order; None where the length does not matter.
        name: of the input.

    Raises:
        FxquantError: it is another one.
    """
    sized = hasattr(value, "__len__")
    found = None if size is None or not sized else list(value) if isinstance(size, list) else len(value)
    if type(value).__name__ != kind or found != size:
        before, now = (
            title if number is None else f"{title} of {number}"
            for title, number in ((kind, size), ("None" if value is None else type(value).__name__, found))
        )
        raise FxquantError(
            f"input {name!r} was a {before} when the model was captured and is {now} now",
            remedy="prepare the model again with such a value in example_inputs",
        )


def require_same(value: Any, expected: Any, question: str, source: str) -> None:
    """Raise when Python's question about a size, or a check of the user's, has another answer than on the example.

    Args:
        value: the answer now.
        expected: the answer that the graph has built in.
        question: the user's line.
        source: ``file:line`` of it.

    Raises:
        FxquantError: ``value`` differs.
    """
    if value is not expected and value != expected:
        raise FxquantError(
            f"`{question}` asks for what was {expected!r} when the model was captured and is {value!r} now",
            source=source,
            remedy="prepare the model with example_inputs of which the same is true as of these",
        )


def type_name(value: Any) -> str:
    """The name of the class of a value; that of a tensor for parameters."""
    return "Tensor" if isinstance(value, Tensor) else type(value).__name__


def count_steps(*args: int) -> int:
    """How often a loop over ``range(*args)`` runs."""
    return len(range(*args))


def count_parts(size: int, step: int) -> int:
    """How many parts ``split`` makes of a dimension of ``size``, of ``step`` each."""
    return max(1, -(-size // step))


def count_chunks(size: int, chunks: int) -> int:
    """How many parts ``chunk`` makes of a dimension of ``size`` when asked for ``chunks``."""
    return count_parts(size, max(1, -(-size // chunks)))


def require_none(result: Any, index: int | None, title: str) -> None:
    """Raise when a part of the model that runs as Python gives something where it gave None on the example.

    Args:
        result: what the part gives, or a tuple of that.
        index: in the tuple, None for the result itself.
        title: of the part: which lines of which function.

    Raises:
        FxquantError: it is not None.
    """
    found = result if index is None else result[index]
    if found is not None:
        _raise_other(title, "None", f"a {type(found).__name__}")


def require_some(result: Any, title: str) -> None:
    """Raise when a part of the model that runs as Python gives None where it gave something else on the example.

    Args:
        result: what the part gives.
        title: of the part: which lines of which function.

    Raises:
        FxquantError: it is None.
    """
    if result is None:
        _raise_other(title, "a value", "None")


def _raise_other(title: str, before: str, now: str) -> None:
    raise FxquantError(
        f"{title}, which runs as Python, gave {before} when the model was captured and gives {now} now",
        remedy="prepare the model with example_inputs for which it gives the same",
    )


def require_tensor(value: Any, name: str) -> None:
    """Raise when what was a tensor in an object that is an input is none now.

    Raises:
        FxquantError: ``value`` is no tensor.
    """
    if not isinstance(value, Tensor):
        raise FxquantError(
            f"input {name!r} was a tensor when the model was captured and is {likeness(value, 0)} now",
            remedy="prepare the model again with such a value in example_inputs",
        )


def require_alike(value: Any, expected: str, name: str) -> None:
    """Raise when an input that is no tensor and that was built into the graph arrives with other contents.

    Args:
        value: a function, a module, an object, ...
        expected: the ``likeness`` of what the example had.
        name: of the input.

    Raises:
        FxquantError: it is another one.
    """
    if likeness(value) != expected:
        raise FxquantError(
            f"input {name!r} is another {type(value).__name__} than when the model was captured",
            remedy="prepare the model again with this one in example_inputs",
        )


def require_apart(name: str, written: Any, *others: Any) -> None:
    """Raise when a tensor that the model writes into has memory in common with another input.

    Args:
        name: of the input.
        written: it.
        others: tensors among the inputs.

    Raises:
        FxquantError: one of them overlaps with it.
    """
    if any(_overlap(written, other) for other in others):
        raise FxquantError(
            f"input {name!r} lies in the memory of another input, and the model writes into it",
            remedy="pass a copy of it, or prepare the model again with such inputs as example_inputs",
        )


def _overlap(first: Any, second: Any) -> bool:
    """Whether two tensors may have a number in common."""
    if not isinstance(first, Tensor) or not isinstance(second, Tensor) or not first.numel() or not second.numel():
        return False
    if storage_of(first) != storage_of(second) or not storage_of(first):
        return False
    (start, end), (begin, stop) = _extent(first), _extent(second)
    return start < stop and begin < end


def _extent(tensor: Tensor) -> tuple[int, int]:
    """The bytes of its memory from the first that a tensor takes up to behind the last."""
    last = sum((int(size) - 1) * int(step) for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    start = int(tensor.storage_offset()) * tensor.element_size()
    return start, start + (last + 1) * tensor.element_size()


def require_others(question: str, source: str, *inputs: Any) -> None:
    """Raise when two inputs are one object, where the model's code asks for that and they were two in the example.

    Args:
        question: the user's line.
        source: ``file:line`` of it.
        inputs: all tensors that the model is given.

    Raises:
        FxquantError: two of them are one.
    """
    if len(set(map(id, inputs))) < len(inputs):
        raise FxquantError(
            f"`{question}` asks whether two are one, as no inputs were when the model was captured and two are now",
            source=source,
            remedy="pass a copy of one of them, or prepare the model again with such inputs as example_inputs",
        )


def require_computed(result: Any) -> None:
    """Keep an operation whose result nobody reads where forward catches what it raises: it raises in the graph."""


CHECKS = (
    require_equal, require_container, require_same, require_none, require_some, require_tensor, require_alike,
    require_apart, require_others, require_computed,
)  # fmt: skip


def take_integers(x: Tensor, scale: Tensor, zero_point: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """Take a quantized input as it is.

    Args:
        x: integers of ``dtype``, any shape.
        scale: float32 [], zero_point: int64 []: what the integers are read with.
        dtype: dtype they must have.
        name: of the input.

    Raises:
        FxquantError: ``x`` is of another dtype.
    """
    if not isinstance(x, Tensor) or x.dtype != dtype:
        raise FxquantError(
            f"input {name!r} is to be {dtype} and is {getattr(x, 'dtype', type(x).__name__)}",
            remedy=f"quantize it first, with scale {float(scale):.8g} and zero point {int(zero_point)}",
        )
    return x
