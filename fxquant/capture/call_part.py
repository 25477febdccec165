"""Calling a part of the user's model as a whole while the rest of it is traced."""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Callable, ItemsView, Iterable, Iterator, Sequence, ValuesView
from enum import Enum
from types import FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from fxquant.capture.cut_function import Cut
from fxquant.capture.effects_in_code import acts, writes, written_names
from fxquant.capture.facts import FactKind
from fxquant.capture.given_objects import GivenObjects
from fxquant.capture.held_elsewhere import CONTAINERS, Holder, holders_of
from fxquant.capture.hidden_values import hides_values
from fxquant.capture.plain_code import is_torchs
from fxquant.capture.proxy import Depends, ValueAttribute, ValueProxy
from fxquant.capture.repeated_parts import may_repeat
from fxquant.capture.shared_state import computes_only, keeps_nothing
from fxquant.capture.size_regions import reads_activations
from fxquant.capture.structures import has_parts, holds_tensor, leaves, rebuild, unwrap
from fxquant.capture.truth_cuts import may_give_truth
from fxquant.ir.checks import require_none, require_some
from fxquant.ir.float_part import BoundMethod, Child, FloatPart, ForwardCall, Hole, Imported, PartCode
from fxquant.ir.own_functions import cell_content, parts_of_partial

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer

_REACHING = (FunctionType, functools.partial, MethodType, ValuesView, ItemsView)
_DATA = (Tensor, nn.Parameter, torch.Size, torch.dtype, torch.device, int, float, bool, str, type(None))
_DEPTH = 4  # of functions in functions


def stand_in(
    tracer: ValueTracer, cut: Cut, function: FunctionType, sizes_only: bool
) -> Callable[[dict[str, Any]], Any]:
    """What a function calls in the place of the statements cut out of it, with its local names.

    Args:
        tracer: records the call.
        cut: the statements.
        function: that they are cut out of.
        sizes_only: whether it is kept whole for the sake of sizes.
    """
    space, defaults = function.__globals__, (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    code = PartCode(cut.source(), str(space.get("__name__")), cut.code.co_filename, cut.first_line, cut.compile(space))

    def call(names: dict[str, Any]) -> Any:
        values = {name: names.get(name) for name in cut.inputs}
        if tracer.executing:
            return code(**values)
        reads = reads_activations(cut, values)
        part, inputs = _part_of(tracer, cut, code, names, defaults, sizes_only)
        proxy = call_part(tracer, part, inputs, not sizes_only)
        kept = {
            name
            for name in cut.outputs
            if name not in cut.used.stored and not isinstance(values[name], (list, dict, set))
        }
        named = [] if cut.gives_one else zip(cut.outputs, proxy.value, strict=True)
        given = [proxy.value] if cut.gives_one else [value for name, value in named if name not in kept]
        part.repeats = may_repeat(part, given)
        if any(isinstance(value, Tensor) for value in given) and any(
            isinstance(unwrap(item), Tensor) for item in inputs
        ):
            tracer.answers.identity_of(cut.outputs, Depends.SIZES if sizes_only else Depends.VALUES)
        if sizes_only:
            _judge_sizes(tracer, cut, proxy, given, reads)
        if cut.gives_one:
            return _take(tracer, proxy, None, str(cut), sizes_only)
        results = [
            values[name] if name in kept else _take(tracer, proxy, index, str(cut), sizes_only)
            for index, name in enumerate(cut.outputs)
        ]
        for result in results if sizes_only and not cut.loops else ():
            if isinstance(result, ValueProxy) and not holds_tensor(result.value):
                result.depends = min(result.depends, Depends.SIZES)
        return tuple(results)

    return call


def _part_of(
    tracer: ValueTracer,
    cut: Cut,
    code: PartCode,
    names: dict[str, Any],
    defaults: Sequence[Any],
    sizes_only: bool,
) -> tuple[FloatPart, list[Any]]:
    """The part that statements are, and what is passed to it.

    Args:
        tracer, cut, sizes_only: as for ``stand_in``.
        code: of the part.
        names: local names of the function, with their values. defaults: of its arguments.
    """
    values = {name: names.get(name) for name in cut.inputs}
    made = _Arguments(tracer, cut.used.attributes)
    arguments = {name: made.lower(name, value) for name, value in values.items()}
    for name in made.behind_functions:  # they would not be trained, moved or saved
        tracer.recorder.report(FactKind.OPAQUE_CALL, f"{name!r} reaches modules of the model")
    if made.hidden and sizes_only:
        tracer.rejected.append(cut)
    elif made.hidden:
        tracer.recorder.report(FactKind.OPAQUE_CALL, f"{made.hidden[0]!r} keeps values of the trace")
    lines = cut.first_line, cut.last_line
    part = FloatPart(code, arguments, made.children, str(cut), cut.code.co_filename, lines, tracer.recorder.module_path)
    part.label, part.child_paths = f"{cut.code.co_name}_line_{cut.first_line}", made.paths
    part.learns = not computes_only(cut)
    places = (item.index for name in sorted(written_names(cut)) if isinstance(item := arguments.get(name), Hole))
    part.writes = tuple(place for place in places if _has_memory(unwrap(made.inputs[place])))
    part.keeps_nothing = keeps_nothing(cut) and all(map(_is_data, values.values()))
    held = [name for name in cut.inputs if name in cut.used.changed and _is_held(values[name])]
    containers = [name for name in held if isinstance(values[name], CONTAINERS)]
    holders = holders_of(containers, names, defaults, tracer.root)  # others would not see what the part changes
    part.shared = tuple(name for name in held if name in holders or (name in cut.shared and not sizes_only))
    part.lasting = tuple(name for name, holder in holders.items() if holder is Holder.ALWAYS)
    part.sizes_only = sizes_only and not (acts(cut) or part.writes or part.shared)
    for name in (*cut.shared, *cut.outputs):
        if hasattr(type(values.get(name)), "__next__"):  # how much of an iterator is left cannot be told
            _report_change(tracer, name)
    return part, made.inputs


def _has_memory(value: Any) -> bool:
    """Whether a value is, or holds, something that lies in memory which other values may look into."""
    return any(isinstance(leaf, (Tensor, np.ndarray)) for leaf in leaves(value))


def _is_data(value: Any) -> bool:
    """Whether a value is tensors, numbers and texts, and no object with code of its own."""
    value = unwrap(value)
    if type(value) in (tuple, list, dict):
        return all(map(_is_data, value.values() if type(value) is dict else value))
    return type(value) in _DATA


def _is_held(value: Any) -> bool:
    """Whether a value has contents that a part would have for itself."""
    return not isinstance(value, (ValueProxy, nn.Module)) and (isinstance(value, CONTAINERS) or has_parts(value))


def _judge_sizes(tracer: ValueTracer, cut: Cut, proxy: ValueProxy, given: list[Any], by_values: bool) -> None:
    """What is computed from sizes depends on sizes. A truth value, or None, moves the branch to what reads it.

    Code that sizes choose is no value of a graph: the choice is built in. Torch's functions are, where all compute.
    """
    decides = any(item is None or isinstance(item, (bool, str)) for item in given) or may_give_truth(cut)
    writes_there = any(map(callable, given)) and writes(cut)
    if writes_there or any(map(_is_code, given)) or (decides and not by_values):
        tracer.rejected.append(cut)
        tracer.answers.checks.early_end.met(cut)
    if not cut.loops and not by_values:
        proxy.depends = min(proxy.depends, Depends.SIZES)


def _is_code(value: Any) -> bool:
    """Whether a value is code, or one of a few that code asks for by what they are: no value of a graph."""
    is_function = isinstance(value, FunctionType) and not is_torchs(value)  # torch's only compute
    return is_function or isinstance(value, (nn.Module, MethodType, type, Enum))


def call_whole(tracer: ValueTracer, args: Any, kwargs: Any) -> Any:
    """Call the whole model as one part."""
    made = _Arguments(tracer, {"module": {None}})
    given = {"module": tracer.root, "args": tuple(args), "kwargs": kwargs}
    arguments = {name: made.lower(name, value) for name, value in given.items()}
    kind = type(tracer.root)
    part = FloatPart(ForwardCall(), arguments, made.children, f"forward of {kind.__qualname__}")
    part.child_paths, part.label = made.paths, "whole_model"
    return call_part(tracer, part, made.inputs, True)


def call_part(tracer: ValueTracer, part: FloatPart, inputs: list[Any], by_values: bool) -> Any:
    """Record the call of a part."""
    name = tracer.add_module(part.label, part)
    objects = GivenObjects(part.arguments, False)
    part.report_change = functools.partial(_report_change, tracer)
    proxy = objects.unchanged_by(tracer.create_proxy("call_module", name, tuple(inputs), {}), tracer.recorder)
    part.report_change = None
    proxy.from_part = True
    if by_values or not inputs:
        proxy.depends = Depends.VALUES
    return proxy


def _report_change(tracer: ValueTracer, name: str) -> None:
    title = f"{name!r}, which others may hold too, is changed by a part that is kept whole"
    tracer.recorder.report(FactKind.WRITE_TO_CONSTANT, title)


def is_of_part(target: Any, proxies: list[ValueProxy], value: Any) -> bool:
    """Whether a value was taken out of what a part that runs as Python gives, or is a list made of such a list."""
    if target is operator.getitem:
        return proxies[0].from_part
    return type(value) is list and any(proxy.from_part for proxy in proxies if type(proxy.value) is list)


class _Arguments:
    """Turns local names into inputs of a part, modules it needs, and constants."""

    def __init__(self, tracer: ValueTracer, attributes: dict[str, set[str | None]]) -> None:
        self.tracer = tracer
        self.attributes = attributes
        self.inputs: list[Any] = []
        self.children: dict[str, nn.Module] = {}
        self.paths: dict[str, str] = {}
        self.behind_functions: list[str] = []
        self.hidden: list[str] = []
        self._names: dict[int, str] = {}

    def lower(self, name: str, value: Any) -> Any:
        """What stands for the value of a local name."""

        def change(leaf: Any) -> Any:
            if isinstance(leaf, ValueAttribute):
                return BoundMethod(self._input(leaf.root), leaf.attr)
            if isinstance(leaf, (ValueProxy, Tensor)):
                return self._input(leaf)
            if isinstance(leaf, nn.Module):
                return self._module(leaf, self.attributes.get(name, set()) if leaf is value else {None})
            if isinstance(leaf, MethodType) and isinstance(leaf.__self__, nn.Module):
                return BoundMethod(self._module(leaf.__self__, {None}), leaf.__name__)
            if isinstance(leaf, ModuleType):
                return Imported(leaf.__name__)
            return leaf

        if any(map(self._reaches_model, _in_containers(value, _DEPTH))):
            self.behind_functions.append(name)
        if has_parts(value) and holds_tensor(value):  # an object: passed on as a value of the graph
            return self._input(value)
        made = rebuild(self._as_it_is_now(value) if has_parts(value) else value, change)
        if hides_values(made):
            self.hidden.append(name)
        return made

    def _reaches_model(self, thing: Any) -> bool:
        """Whether a function reaches modules of the model, in another way than as a method of one."""
        if not isinstance(thing, _REACHING) or (
            isinstance(thing, MethodType) and isinstance(thing.__self__, nn.Module)
        ):
            return False
        modules = (item for item in _behind(thing, _DEPTH) if isinstance(item, nn.Module))
        return any(item in (self.tracer.submodule_paths or {}) for item in modules)

    def _as_it_is_now(self, thing: Any) -> Any:
        """A copy of an object, such as an empty cache that is filled later in forward; the model's modules stay."""
        try:
            return copy.deepcopy(thing, {id(module): module for module in self.tracer.root.modules()})
        except Exception:  # a class may refuse in whatever way
            return thing

    def _input(self, value: Any) -> Hole:
        for index, known in enumerate(self.inputs):
            if known is value:
                return Hole(index)
        self.inputs.append(value)
        return Hole(len(self.inputs) - 1)

    def _module(self, module: nn.Module, attributes: set[str | None]) -> Child:
        if id(module) not in self._names:
            name = f"module_{len(self._names)}"
            self._names[id(module)] = name
            self.children[name] = self.tracer.views.of(module, attributes)
            self.paths[name] = (self.tracer.submodule_paths or {}).get(module, "")
        return Child(self._names[id(module)])


def _in_containers(thing: Any, depth: int) -> Iterator[Any]:
    """A value, and what lists, tuples and dictionaries hold that it is."""
    yield thing
    parts = list(thing.values()) if type(thing) is dict else thing if type(thing) in (list, tuple) else ()
    for part in parts if depth else ():
        yield from _in_containers(part, depth - 1)


def _behind(thing: Any, depth: int) -> Iterator[Any]:
    """What a function, a partial call, a method or a view of a dictionary holds."""
    yield thing
    if not depth:
        return
    parts: Iterable[Any] = ()
    if isinstance(thing, FunctionType):
        defaults = (*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values())
        parts = (*defaults, *(cell_content(cell) for cell in thing.__closure__ or ()))
    elif isinstance(thing, functools.partial):
        parts = parts_of_partial(thing)
    elif isinstance(thing, MethodType):
        parts = (thing.__self__,)
    elif isinstance(thing, (ValuesView, ItemsView, list, tuple)):
        parts = list(thing)
    elif isinstance(thing, dict):
        parts = list(thing.values())
    for part in parts:
        yield from _behind(part, depth - 1)


def _take(tracer: ValueTracer, proxy: ValueProxy, index: int | None, title: str, sizes_only: bool) -> Any:
    """What a part gives, as the code after it can use it; code that values choose is no value of a graph."""
    value = proxy.value if index is None else proxy.value[index]
    if value is None:
        tracer.create_proxy("call_function", require_none, (proxy, index, title), {})
        return None
    if _is_code(value) or isinstance(value, ModuleType):
        if not sizes_only and proxy.depends is Depends.VALUES and not isinstance(value, ModuleType):
            tracer.report(FactKind.OPAQUE_CALL, f"which {type(value).__name__} it gives depends on values")
        return value
    found: Any = proxy if index is None else tracer.create_proxy("call_function", operator.getitem, (proxy, index), {})
    if type(value) not in (tuple, dict):  # code may ask whether it is None
        tracer.create_proxy("call_function", require_some, (found, title), {})
    if type(value) is tuple:
        tracer.answers.checks.check_type(found)
        tracer.answers.lengths.part_has(found, len(value), len)
        return tuple(_take(tracer, found, place, title, sizes_only) for place in range(len(value)))
    if type(value) is dict and all(isinstance(key, str) for key in value):
        tracer.answers.checks.check_type(found)
        tracer.answers.lengths.part_has(found, list(value), list)
        return {key: found[key] for key in value}
    return found
