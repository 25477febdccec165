"""The shape of a catalogue row: one operator, every way to spell it, and what quantization may do with it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import torch
from torch import fx, nn

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
    """A call to test the op with.

    Attributes:
        shapes: of its activations, float32.
        kwargs: its other arguments; tensors among them are constants of the model.
        outcome: what is planned for it between integer neighbours where that is not the row's usual outcome, such as
            ``step``.
    """

    shapes: tuple[tuple[int, ...], ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    outcome: str = ""


@dataclass(frozen=True)
class OpDef:
    """One operator.

    Attributes:
        name: the torch functional's name.
        target: what canonical graph nodes call: a function, or a method name.
        signature: parameters as Python source, ``"input, dim=None, *, dtype=None"``; ``*name`` is variadic.
        signatures: of the functions and methods (by name) that order their parameters in another way.
        redirect: for functions that are several operators in one (``torch.max``): the name of the row that describes
            a call, and the call's arguments in that row's names.
        functions: other functions that mean the same, in-place forms included.
        methods: tensor method names that mean the same, in-place forms included.
        modules: module classes that stay modules in a captured graph (batch norm, dropout).
        activations: parameters that are activations.
        weights: parameters that may be constants of the model: weight and bias.
        output: what happens to the numbers.
        clip: for ops that only clip, maps bound arguments to (low, high), either may be None.
        pointwise: whether every number of the output depends on the numbers at the same place of the inputs alone, so
            that tables can describe it. Broadcasting is allowed.
        channel_axis: the input's axis along which the weights run; None where they broadcast.
        kernels: backend name to kernel; ``name.mode`` to the kernel of a mode (see ``Unit.mode``), float in and out.
        light: whether it takes no longer in float than on integers.
        contiguous: whether torch's float operator is several times faster on contiguous tensors than on channels last.
        macs: multiply-accumulates from (bound shapes of the weight or operand, output shape).
        macs_over: the operand whose shape it gets in place of the output's.
        renamed: other names that torch takes for parameters, such as ``{"split_size": "split_size_or_sections"}``.
        joins: whether tensors of the model among its activations are written into the output as they are, so that they
            are stored in its range.
        fills: the parameter that may hold a number which is written into the output, ``""`` for none.
        examples: calls that become tests.
        source: documentation URL.
    """

    name: str
    target: Callable[..., Any] | str
    signature: str
    signatures: Mapping[Any, str] = field(default_factory=dict)
    redirect: Callable[[Bound], tuple[str, Bound]] | None = None
    functions: tuple[Callable[..., Any], ...] = ()
    methods: tuple[str, ...] = ()
    modules: tuple[type[nn.Module], ...] = ()
    activations: tuple[str, ...] = ("input",)
    weights: tuple[str, ...] = ()
    output: Output = FloatOnly()
    clip: Callable[[Bound], tuple[float | None, float | None]] | None = None
    pointwise: bool = False
    channel_axis: int | None = None
    kernels: Mapping[str, Kernel] = field(default_factory=dict)
    macs: Callable[[tuple[int, ...], tuple[int, ...]], int] | None = None
    macs_over: str = ""
    light: bool = False
    contiguous: bool = False
    renamed: Mapping[str, str] = field(default_factory=dict)
    joins: bool = False
    fills: str = ""
    examples: tuple[Example, ...] = ()
    source: str = ""

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """The signature, parsed."""
        return _parse(self.signature)

    @cached_property
    def required(self) -> int:
        """How many arguments by position, and no others, make a call canonical; -1 where what they are decides it."""
        required = [parameter for parameter in self.parameters if parameter.required]
        is_decided = any(parameter.name in ("shape", "training") for parameter in self.parameters)
        is_plain = all(parameter.kind == "positional" for parameter in required)
        is_plain = is_plain and all(parameter.kind != "variadic" for parameter in self.parameters)
        return len(required) if is_plain and not is_decided and self.redirect is None else -1

    @property
    def shares_range(self) -> bool:
        """Whether input and output have the same scale and zero point."""
        return isinstance(self.output, (Moves, Selects, Averages))

    def is_pointwise(self, bound: Bound) -> bool:
        """Whether a call treats every number alone; one that draws random numbers does not."""
        return self.pointwise and not bound.get("training")

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], spelling: Any = None) -> Bound:
        """Name every argument of a call, defaults filled in.

        Args:
            args, kwargs: of the call.
            spelling: the function or the method's name that is called; None for the target.

        Raises:
            TypeError: the call does not fit the signature.
        """
        parameters = _parse(self.signatures.get(spelling, self.signature))
        rest, named, bound = list(args), _in_our_names(kwargs, parameters, self.renamed), {}
        for parameter in parameters:
            if parameter.name in named:
                given = named.pop(parameter.name)
                bound[parameter.name] = _flatten_variadic([given]) if parameter.kind == "variadic" else given
            elif parameter.kind == "variadic":
                bound[parameter.name] = _flatten_variadic(rest)
                rest = []
            elif parameter.kind == "positional" and rest:
                bound[parameter.name] = rest.pop(0)
            elif parameter.required:
                raise TypeError(f"{self.name}: missing argument {parameter.name!r}")
            else:
                bound[parameter.name] = parameter.default
            if parameter.name == "shape" and any(isinstance(item, torch.dtype) for item in bound["shape"]):
                raise TypeError(f"{self.name}: a dtype instead of sizes")  # x.view(torch.int32) reinterprets
        if rest or named:
            raise TypeError(f"{self.name}: unexpected arguments {rest} {sorted(named)}")
        return bound

    def unbind(self, bound: Bound) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Turn named arguments back into a call: required ones by position, others by keyword when not default."""
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for parameter in self.parameters:
            value = bound.get(parameter.name, parameter.default)
            if parameter.kind == "variadic":
                whole = isinstance(value, fx.Node) or (not value and parameter.name in _SIZES)
                args.extend((value or (),) if whole else value)
            elif parameter.required and parameter.kind == "positional":
                args.append(value)
            elif not _same(value, parameter.default):
                kwargs[parameter.name] = value
        return tuple(args), kwargs


# torch takes NumPy's names for some parameters. Source: torch/csrc/utils/python_arg_parser.cpp, numpy_compatibility.
_NUMPY_NAMES = {"axis": "dim", "keepdims": "keepdim", "x": "input", "a": "input", "x1": "input", "x2": "other"}


def _in_our_names(
    kwargs: Mapping[str, Any], parameters: tuple[Parameter, ...], renamed: Mapping[str, str]
) -> dict[str, Any]:
    if not kwargs:
        return {}
    known, others = {parameter.name for parameter in parameters}, {**_NUMPY_NAMES, **renamed}
    return {name if name in known else others.get(name, name): value for name, value in kwargs.items()}


# Variadic parameters for which no sizes are a size: ``x.reshape(())``.
_SIZES = ("size", "shape", "dims", "repeats")


@cache
def _parse(signature: str) -> tuple[Parameter, ...]:
    """The parameters of a signature."""
    tree = ast.parse(f"def f({signature}): pass").body[0]
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


def _default(defaults: list[ast.expr], index: int) -> Any:
    return ast.literal_eval(defaults[index]) if index >= 0 else None


def _flatten_variadic(rest: list[Any]) -> tuple[Any, ...]:
    if len(rest) == 1 and isinstance(rest[0], (tuple, list)):
        return tuple(rest[0])
    return tuple(rest)


def _same(value: Any, default: Any) -> bool:
    return type(value) is type(default) and bool(value == default)
