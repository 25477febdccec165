"""Every way to write a catalogue operator: module, function, method, operator, in place, positional, keywords."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.ops.opdef import Example, OpDef

Call = Callable[..., Any]

# torch.nn classes whose name does not follow from the functional's.
_MODULES: dict[str, tuple[type[nn.Module], ...]] = {
    "interpolate": (nn.Upsample,),
    "batch_norm": (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
    "instance_norm": (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    "log_softmax": (nn.LogSoftmax,),
    "softmin": (nn.Softmin,),
}
_PADS = {"reflect": "ReflectionPad", "replicate": "ReplicationPad", "circular": "CircularPad", "constant": "ZeroPad"}


@dataclass(frozen=True)
class Spelling:
    """One way to write an operator.

    Attributes:
        title: for test names.
        call: takes the activations in the order of the row's ``activations``.
        module: what must be registered on the model for ``call`` to use, None without one.
        in_place: whether the call may write to its first activation.
    """

    title: str
    call: Call
    module: nn.Module | None = field(default=None, compare=False)
    in_place: bool = False


def spellings(row: OpDef, example: Example) -> Iterator[Spelling]:
    """Yield the spellings of ``row`` that torch accepts for ``example``."""
    holder = _weights_holder(row, example)
    for module in _modules(row, example, holder):
        inplace = bool(getattr(module, "inplace", False))
        yield Spelling(f"nn.{type(module).__name__}{' inplace' * inplace}", module, module, inplace)
    kwargs = {**example.kwargs, **_weight_arguments(row, holder)}
    for name, function in _functions(row):
        in_place = name.endswith("_") or name.startswith("operator.i")
        for style, call in _styles(row, function, kwargs, example):
            if _accepts(call, example):
                yield Spelling(f"{name} {style}", call, holder, in_place)


def tensors_of(example: Example, generator: torch.Generator | None = None) -> list[Tensor]:
    """Activations for an example, standard normal."""
    return [torch.randn(shape, generator=generator) for shape in example.shapes]


def _functions(row: OpDef) -> Iterator[tuple[str, Call]]:
    """The target, the other functions and the methods of a row, once each."""
    seen: set[Any] = set()
    for function in (row.target, *row.functions):
        if callable(function) and function not in seen:
            seen.add(function)
            module = getattr(function, "__module__", None) or "torch"
            yield f"{'operator' if module == '_operator' else module}.{function.__name__}", function
    for name in dict.fromkeys((*row.methods, *((row.target,) if isinstance(row.target, str) else ()))):
        if hasattr(Tensor, name) and name not in ("__radd__", "__rmul__", "__rsub__"):
            yield f".{name}", _method(name)


def _method(name: str) -> Call:
    def call(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return getattr(x, name)(*args, **kwargs)

    return call


def _styles(row: OpDef, function: Call, kwargs: dict[str, Any], example: Example) -> Iterator[tuple[str, Call]]:
    """The call with its other arguments by position, by keyword, and spread out where the row is variadic."""
    names = [p.name for p in row.parameters if p.name in kwargs]
    variadic = next((p.name for p in row.parameters if p.kind == "variadic" and p.name in kwargs), None)
    joined = row.activations == ("tensors",)

    def activations(tensors: tuple[Tensor, ...]) -> tuple[Any, ...]:
        return (list(tensors),) if joined else tensors

    keyword = {name: kwargs[name] for name in names}
    if keyword or len(row.activations) == 1:
        yield "keywords", lambda *tensors: function(*activations(tensors), **keyword)
    if keyword:
        filled = _positional(row, kwargs)
        if filled is not None:
            yield "positional", lambda *tensors: function(*activations(tensors), *filled)
    if variadic is not None and isinstance(kwargs[variadic], tuple):
        yield "variadic", lambda *tensors: function(*activations(tensors), *kwargs[variadic])
    if not keyword and len(row.activations) > 1:
        yield "positional", lambda *tensors: function(*activations(tensors))


def _positional(row: OpDef, kwargs: dict[str, Any]) -> list[Any] | None:
    """Arguments after the activations in signature order, gaps filled with defaults; None when keyword-only."""
    values: list[Any] = []
    pending: list[Any] = []
    for parameter in row.parameters:
        if parameter.name in row.activations:
            continue
        pending.append(kwargs.get(parameter.name, parameter.default))
        if parameter.name in kwargs:
            if parameter.kind == "keyword":
                return None
            values += pending
            pending = []
    return values


def _accepts(call: Call, example: Example) -> bool:
    """Whether this is a call that eager torch knows at all; a ``TypeError`` says it is none."""
    try:
        call(*tensors_of(example))
    except TypeError:
        return False
    return True


def _weights_holder(row: OpDef, example: Example) -> nn.Module | None:
    """A module of torch.nn with the weights that the functional forms need."""
    if not row.weights:
        return None
    torch.manual_seed(0)
    shape = example.shapes[0]
    rank = len(shape) - 2
    if row.name.startswith("conv"):
        name = "".join(part.capitalize() for part in row.name.split("_")).replace("d", "d")
        return getattr(nn, name)(shape[1], 6, 3, padding=1).eval()  # type: ignore[no-any-return]
    if row.name == "linear":
        return nn.Linear(shape[-1], 6).eval()
    if row.name in ("batch_norm", "instance_norm"):
        module = _MODULES[row.name][max(rank, 1) - 1](shape[1])
        return _with_statistics(module.eval())
    if row.name == "layer_norm":
        return nn.LayerNorm(example.kwargs["normalized_shape"]).eval()
    if row.name == "group_norm":
        return nn.GroupNorm(example.kwargs["num_groups"], shape[1]).eval()
    if row.name == "prelu":
        return nn.PReLU(shape[1]).eval()
    raise AssertionError(f"no torch.nn module known for {row.name}")


def _with_statistics(module: nn.Module) -> nn.Module:
    if getattr(module, "running_mean", None) is not None:
        module.running_mean.normal_()  # type: ignore[union-attr,operator]
        module.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr,operator]
    return module


def _weight_arguments(row: OpDef, holder: nn.Module | None) -> dict[str, Any]:
    """Arguments of the functional form that are attributes of the module of the same name."""
    if holder is None:
        return {}
    skipped = {"inplace", "training", *row.activations} - set(row.weights)
    names = [p.name for p in row.parameters if p.name not in skipped and hasattr(holder, p.name)]
    return {name: getattr(holder, name) for name in names}


def _modules(row: OpDef, example: Example, holder: nn.Module | None) -> Iterator[nn.Module]:
    """torch.nn modules that do what the row does."""
    if holder is not None:
        yield holder
        return
    if row.name == "pad":
        yield _pad_module(example)
        return
    simple = row.name.replace("_", "").lower()
    found = {name.lower(): getattr(nn, name) for name in dir(nn)}
    kinds = _MODULES.get(row.name, (found[simple],) if simple in found else ())
    for kind in kinds:
        if inspect.isclass(kind) and issubclass(kind, nn.Module):
            yield kind(**example.kwargs).eval()
            if "inplace" in inspect.signature(kind).parameters:
                yield kind(**example.kwargs, inplace=True).eval()


def _pad_module(example: Example) -> nn.Module:
    amounts = tuple(example.kwargs["pad"])
    name = f"{_PADS[example.kwargs.get('mode', 'constant')]}{len(amounts) // 2}d"
    return getattr(nn, name)(amounts)  # type: ignore[no-any-return]
