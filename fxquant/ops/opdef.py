"""The shape of a catalogue row: one operator, every way to spell it, and what quantization may do with it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

Bound = dict[str, Any]


@dataclass(frozen=True)
class Requantize:
    """The output has new numbers and a range of its own."""


@dataclass(frozen=True)
class Moves:
    """The output holds the same numbers in other places: same scale, free on integers."""


@dataclass(frozen=True)
class Selects:
    """The output holds some of the input's numbers: same scale, exact on integers."""


@dataclass(frozen=True)
class Averages:
    """The output holds means of the input's numbers: same scale, rounded on integers."""


@dataclass(frozen=True)
class Fixed:
    """The output's range is known before any data.

    Attributes:
        scale, zero_point: for uint8 in 0..255.
    """

    scale: float
    zero_point: int


@dataclass(frozen=True)
class FloatOnly:
    """There is no integer kernel worth using: dequantize, compute in float, quantize, as one step."""

    why: str = "no int8 kernel"


@dataclass(frozen=True)
class Identity:
    """In eval mode the output is the input; the node disappears at freeze."""


@dataclass(frozen=True)
class Query:
    """The output is no floating-point activation: a size, a mask, an index."""


Output = Requantize | Moves | Selects | Averages | Fixed | FloatOnly | Identity | Query


@dataclass(frozen=True)
class Kernel:
    """What a backend calls for an op.

    Attributes:
        convention: how it is called; the backend has one implementation per convention.
        function: what it calls, for example ``quantized.conv2d``.
    """

    convention: str
    function: str = ""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a signature; ``kind`` is ``positional``, ``variadic`` or ``keyword``."""

    name: str
    kind: str
    required: bool
    default: Any = None


@dataclass(frozen=True)
class Example:
    """A call to test the op with: shapes of its activations (float32 unless noted) and other arguments."""

    shapes: tuple[tuple[int, ...], ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OpDef:
    """One operator.

    Attributes:
        name: the torch functional's name.
        target: what canonical graph nodes call: a function, or a method name.
        signature: parameters as Python source, ``"input, dim=None, *, dtype=None"``; ``*name`` is variadic.
        functions: other functions that mean the same, in-place forms included.
        methods: tensor method names that mean the same, in-place forms included.
        modules: module classes that stay modules in a captured graph (batch norm, dropout).
        activations: parameters that are activations.
        weights: parameters that may be constants of the model: weight and bias.
        output: what happens to the numbers.
        clip: for ops that only clip, maps bound arguments to (low, high), either may be None.
        kernels: backend name to kernel.
        macs: multiply-accumulates from (bound shapes of the weight or operand, output shape).
        examples: calls that become tests.
        source: documentation URL.
    """

    name: str
    target: Callable[..., Any] | str
    signature: str
    functions: tuple[Callable[..., Any], ...] = ()
    methods: tuple[str, ...] = ()
    modules: tuple[type[nn.Module], ...] = ()
    activations: tuple[str, ...] = ("input",)
    weights: tuple[str, ...] = ()
    output: Output = FloatOnly()
    clip: Callable[[Bound], tuple[float | None, float | None]] | None = None
    kernels: Mapping[str, Kernel] = field(default_factory=dict)
    macs: Callable[[tuple[int, ...], tuple[int, ...]], int] | None = None
    examples: tuple[Example, ...] = ()
    source: str = ""

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """The signature, parsed."""
        tree = ast.parse(f"def f({self.signature}): pass").body[0]
        assert isinstance(tree, ast.FunctionDef)
        spec = tree.args
        plain = [*spec.posonlyargs, *spec.args]
        missing = len(plain) - len(spec.defaults)
        out = [
            Parameter(arg.arg, "positional", i < missing, _default(spec.defaults, i - missing))
            for i, arg in enumerate(plain)
        ]
        if spec.vararg is not None:
            out.append(Parameter(spec.vararg.arg, "variadic", False, ()))
        for arg, default in zip(spec.kwonlyargs, spec.kw_defaults, strict=True):
            value = None if default is None else ast.literal_eval(default)
            out.append(Parameter(arg.arg, "keyword", default is None, value))
        return tuple(out)

    @property
    def shares_range(self) -> bool:
        """Whether input and output have the same scale and zero point."""
        return isinstance(self.output, (Moves, Selects, Averages))

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Bound:
        """Name every argument of a call, defaults filled in.

        Raises:
            TypeError: the call does not fit the signature.
        """
        rest, named, bound = list(args), dict(kwargs), {}
        for parameter in self.parameters:
            if parameter.name in named:
                bound[parameter.name] = named.pop(parameter.name)
            elif parameter.kind == "variadic":
                bound[parameter.name] = _flatten_variadic(rest)
                rest = []
            elif parameter.kind == "positional" and rest:
                bound[parameter.name] = rest.pop(0)
            elif parameter.required:
                raise TypeError(f"{self.name}: missing argument {parameter.name!r}")
            else:
                bound[parameter.name] = parameter.default
            if parameter.kind == "variadic" and any(isinstance(item, torch.dtype) for item in bound[parameter.name]):
                raise TypeError(f"{self.name}: a dtype among sizes")
        if rest or named:
            raise TypeError(f"{self.name}: unexpected arguments {rest} {sorted(named)}")
        return bound

    def unbind(self, bound: Bound) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Turn named arguments back into a call: required ones by position, others by keyword when not default."""
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for parameter in self.parameters:
            value = bound[parameter.name]
            if parameter.kind == "variadic":
                args.extend(value)
            elif parameter.required and parameter.kind == "positional":
                args.append(value)
            elif not _same(value, parameter.default):
                kwargs[parameter.name] = value
        return tuple(args), kwargs


def _default(defaults: list[ast.expr], index: int) -> Any:
    return ast.literal_eval(defaults[index]) if index >= 0 else None


def _flatten_variadic(rest: list[Any]) -> tuple[Any, ...]:
    if len(rest) == 1 and isinstance(rest[0], (tuple, list)):
        return tuple(rest[0])
    return tuple(rest)


def _same(value: Any, default: Any) -> bool:
    return type(value) is type(default) and bool(value == default)
