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
_PADS = {"reflect": "Reflection", "replicate": "Replication", "circular": "Circular", "constant": "Constant"}


@dataclass(frozen=True)
class Spelling:
    """One way to write an operator.

    Attributes:
        title: for test names.
        call: takes ``module``, then the activations in the order of the row's ``activations``.
        module: a module of torch.nn that does the same, or holds the weights; None where there is none.
    """

    title: str
    call: Call
    module: nn.Module | None = field(default=None, compare=False)


def spellings(row: OpDef, example: Example) -> Iterator[Spelling]:
    """Yield the spellings of ``row`` that torch accepts for ``example``."""
    holder = _weights_holder(row, example)
    for module in _modules(row, example, holder):
        inplace = bool(getattr(module, "inplace", False))
        extra = tuple(v for v in example.kwargs.values() if isinstance(v, Tensor)) if holder is None else ()
        call = _calling_with(extra) if extra and not _holds(module, extra) else _call_module
        yield Spelling(f"nn.{type(module).__name__}{' inplace' * inplace}", call, module)
    names = (*example.kwargs, *_weight_names(row, holder))
    for name, function in _functions(row):
        for style, call in _styles(row, function, tuple(dict.fromkeys(names)), example):
            if style == "keywords" and name.startswith(".__"):  # what Python calls for operators, by position
                continue
            if _accepts(call, holder, example):
                yield Spelling(f"{name} {style}", call, holder)


def _call_module(module: nn.Module, *tensors: Tensor) -> Any:
    return module(*tensors)


def _calling_with(extra: tuple[Any, ...]) -> Call:
    """Modules like ``nn.MaxUnpool2d`` take more than activations when they are called."""
    return lambda module, *tensors: module(*tensors, *extra)


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
        if hasattr(Tensor, name):
            yield f".{name}", _method(name)


def _method(name: str) -> Call:
    def call(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return getattr(x, name)(*args, **kwargs)

    return call


def _styles(row: OpDef, function: Call, names: tuple[str, ...], example: Example) -> Iterator[tuple[str, Call]]:
    """The call with its other arguments by keyword, by position, and spread out where the row is variadic."""
    variadic = next((p.name for p in row.parameters if p.kind == "variadic" and p.name in names), None)
    activations = [name for name in row.activations if name not in example.kwargs]
    leading = [p.name for p, name in zip(row.parameters, activations, strict=False) if p.name == name]

    def value(name: str, holder: nn.Module | None, tensors: tuple[Tensor, ...]) -> Any:
        """Weights are read off the module when it runs: capture works on a copy of it."""
        if name == "tensors":
            return list(tensors)
        if name in activations:
            return tensors[activations.index(name)]
        return example.kwargs[name] if name in example.kwargs else getattr(holder, name)

    def by_keyword(holder: nn.Module | None, *tensors: Tensor) -> Any:
        named = (*(name for name in activations[: len(tensors)] if name not in leading), *names)
        first = [value(name, holder, tensors) for name in leading[: len(tensors)]]
        return function(*first, **{name: value(name, holder, tensors) for name in named})

    def by_position(holder: nn.Module | None, *tensors: Tensor) -> Any:
        given = (*activations[: len(tensors)], *names)
        return function(*(value(n, holder, tensors) if n in given else d for n, d in order or ()))

    def spread(holder: nn.Module | None, *tensors: Tensor) -> Any:
        return function(*tensors, *value(str(variadic), holder, tensors))

    yield "keywords" if names else "plain", by_keyword
    order = _order(row, (*activations[: len(example.shapes)], *names))
    if order and names:
        yield "positional", by_position
    if variadic is not None and isinstance(example.kwargs.get(variadic), tuple):
        yield "variadic", spread


def _order(row: OpDef, names: tuple[str, ...]) -> list[tuple[str, Any]] | None:
    """Names and defaults up to the last that is given; None when one is keyword-only."""
    if any(p.kind == "keyword" and p.name in names for p in row.parameters):
        return None
    last = max((i for i, p in enumerate(row.parameters) if p.name in names), default=-1)
    return [(p.name, p.default) for p in row.parameters[: last + 1]]


def _accepts(call: Call, holder: nn.Module | None, example: Example) -> bool:
    """Whether this is a call that eager torch knows; mm, for one, takes matrices only."""
    try:
        call(holder, *tensors_of(example))
    except (TypeError, RuntimeError):
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
        name = "".join(part.capitalize() for part in row.name.split("_"))
        return getattr(nn, name)(shape[1], 6, 3, **{"padding": 1, **example.kwargs}).eval()  # type: ignore[no-any-return]
    if row.name == "linear":
        return nn.Linear(shape[-1], 6).eval()
    if row.name in ("batch_norm", "instance_norm"):
        module = _MODULES[row.name][max(rank, 1) - 1](shape[1])
        return _with_statistics(module.eval())
    if row.name == "layer_norm":
        return nn.LayerNorm(example.kwargs["normalized_shape"]).eval()
    if row.name == "rms_norm":
        return nn.RMSNorm(example.kwargs["normalized_shape"]).eval()
    if row.name == "bilinear":
        return nn.Bilinear(shape[-1], example.shapes[1][-1], 4).eval()
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


def _weight_names(row: OpDef, holder: nn.Module | None) -> list[str]:
    """Arguments of the functional form that are attributes of the module of the same name."""
    skipped = {"inplace", "training", *row.activations} - set(row.weights)
    return [p.name for p in row.parameters if p.name not in skipped and hasattr(holder, p.name)]


def _modules(row: OpDef, example: Example, holder: nn.Module | None) -> Iterator[nn.Module]:
    """torch.nn modules that do what the row does."""
    if holder is not None:
        yield holder
        return
    if row.name == "pad":
        yield _pad_module(example)
        return
    if row.name == "interpolate":
        yield from _upsampling(example)
    simple = row.name.replace("_with_indices", "").replace("_", "").lower()
    found = {name.lower(): getattr(nn, name) for name in dir(nn)}
    kinds = _MODULES.get(row.name, (found[simple],) if simple in found else ())
    for kind in kinds:
        if inspect.isclass(kind) and issubclass(kind, nn.Module):
            yield from _made(kind, example)


# Arguments of torch.nn classes that are called otherwise than the functional's.
_RENAMED = {"sizes": "unflattened_size"}


def _made(kind: type[nn.Module], example: Example) -> Iterator[nn.Module]:
    """Modules of one class with an example's arguments, in place too; none when the class does not take them."""
    known = inspect.signature(kind).parameters
    settings = {name: value for name, value in example.kwargs.items() if name != "training"}
    renamed = {_RENAMED[n] if n not in known and n in _RENAMED else n: value for n, value in settings.items()}
    kwargs = {name: value for name, value in renamed.items() if name in known or not isinstance(value, Tensor)}
    if all(name in known for name in kwargs):
        yield kind(**kwargs).eval()
        if "inplace" in known:
            yield kind(**kwargs, inplace=True).eval()


def _holds(module: nn.Module, tensors: tuple[Any, ...]) -> bool:
    return any(value is tensor for value in module.buffers() for tensor in tensors)


def _upsampling(example: Example) -> Iterator[nn.Module]:
    """The two older classes, each for one mode."""
    size = {name: value for name, value in example.kwargs.items() if name in ("size", "scale_factor")}
    how = {name: value for name, value in example.kwargs.items() if name not in size}
    if len(example.shapes[0]) == 4 and how in ({}, {"mode": "bilinear", "align_corners": True}):
        yield (nn.UpsamplingBilinear2d if how else nn.UpsamplingNearest2d)(**size)


def _pad_module(example: Example) -> nn.Module:
    amounts, value = tuple(example.kwargs["pad"]), example.kwargs.get("value")
    mode = example.kwargs.get("mode", "constant")
    title = "Zero" if mode == "constant" and value is None else _PADS[mode]
    name = f"{title}Pad{len(amounts) // 2}d"
    kind = getattr(nn, name)
    return kind(amounts) if value is None else kind(amounts, value)  # type: ignore[no-any-return]
