"""State that a model keeps between calls: what forward changes on its modules, and what becomes of it in a graph.

A buffer that forward updates is updated by the graph. An attribute is not: where a later call computes something else
because of it, its module is kept whole. A cache, or what nothing reads, changes no result.
"""

from __future__ import annotations

import functools
import itertools
import linecache
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from torch import fx, nn

from fxquant.capture.attribute_uses import (
    Functions,
    Uses,
    first_mention,
    functions_of,
    is_attribute,
    spots_of_uses,
)
from fxquant.capture.attribute_writes import RENORMALIZING
from fxquant.capture.call_history import depends_on_history, run_eagerly
from fxquant.capture.carried_over import Carried, carried_over
from fxquant.capture.copy_module import copy_module
from fxquant.capture.facts import Fact, FactKind
from fxquant.capture.fingerprint import fingerprint
from fxquant.capture.keep_state import Change
from fxquant.capture.set_anew import set_anew
from fxquant.capture.trouble import Spot, Trouble, spots_around
from fxquant.ir.ancestors import with_ancestors
from fxquant.ir.meta import Origin, by_storage, info
from fxquant.ir.walk_modules import OF_EVERY_MODULE

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer

_Key = TypeVar("_Key", bound=Hashable)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_CLASS = "__class__"  # of a module: every call reads it
_NOTED = (FactKind.ATTRIBUTE_UPDATE, FactKind.CONTAINER_UPDATE)


def find_state(
    model: nn.Module,
    root: nn.Module,
    changes: list[Change],
    tracer: ValueTracer,
    example_inputs: Any,
    leaf_paths: Collection[str],
    changing: Collection[str] = (),
) -> list[Trouble]:
    """What forward changed that no graph keeps; the rest is written down as facts.

    Args:
        model: the user's.
        root: the copy that was traced.
        changes: what the trace changed on it.
        tracer: of the trace.
        example_inputs: of the capture.
        leaf_paths: modules that are kept whole: their state lives on in them.
        changing: names of buffers that change though this graph does not write into them.
    """
    outside = [change for change in changes if not _inside(change.module_path, leaf_paths)]
    _note_what_is_as_it_was(tracer, changes)
    troubles = [*_changed_parameters(root, outside, tracer), *_asked_of_written(tracer, changing)]
    attributes = [change for change in outside if not change.tensor and not _is_made(root, change, tracer)]
    if not attributes:
        return troubles
    functions = functions_of(root)
    depends = depends_on_history(model, example_inputs)
    used = copy_module(model)
    again = changing_again(used, example_inputs, {change: _reading(used, change) for change in attributes})
    known = any(change.tensor or Uses.of(functions, change.name, ()).read for change in changes)
    uses_of = {change: Uses.of(functions, change.name, _lines_of(tracer, change)) for change in attributes}
    others = [change for change in attributes if change not in again and change.name not in OF_EVERY_MODULE]
    carried = Carried() if depends else carried_over(model, example_inputs, others)
    counted = [change for change in others if uses_of[change].read and uses_of[change].counted]
    unused = set() if depends else set_anew(model, example_inputs, counted)
    for change in attributes:
        if change.name == "training":  # the mode of a module is no attribute of a graph: what sets it is kept whole
            owner = change.module_path.rpartition(".")[0]
            troubles.append(Trouble(_take_facts(tracer, change, functions)[0], spots_around(owner)))
            continue
        uses, (fact, *more) = uses_of[change], _take_facts(tracer, change, functions)
        is_read = uses.read or change in carried.results
        counts = change in again or ((uses.counted or change in carried.over) and change not in unused)
        if change.name in _HOOKS and (depends or change in again):  # on whatever module, and by whichever
            troubles.append(Trouble(fact, spots_around("")))
        elif (counts and is_read) or (depends and (uses.read or not known or change.name == _CLASS)):
            troubles.append(Trouble(fact, _spots_of_change(model, change, example_inputs, functions)))
        else:
            is_new = change in unused or change in carried.anew
            why = "each call sets it anew" if is_new else "a cache: the graph computes it anew"
            handled = why if uses.read else "nothing in the model reads it"
            tracer.recorder.facts.update(dict.fromkeys(_handled(item, handled) for item in (fact, *more)))
    return troubles


def _note_what_is_as_it_was(tracer: ValueTracer, changes: list[Change]) -> None:
    """Attributes that forward set, and set back or deleted before it ended."""
    changed = {change.name for change in changes}  # of the module that forward runs in, or of another one
    facts = tracer.recorder.facts
    for fact in list(facts):
        known = fact.handled or fact.value in changed
        if fact.kind is FactKind.ATTRIBUTE_UPDATE and not known:
            del facts[fact]
            facts[_handled(fact, "it is as it was when forward ends")] = None


def _inside(path: str, leaf_paths: Collection[str]) -> bool:
    return any(path == leaf or path.startswith(f"{leaf}.") for leaf in leaf_paths)


def _is_made(root: nn.Module, change: Change, tracer: ValueTracer) -> bool:
    """Whether the change is a module or a constant that the trace itself put on the root."""
    made = change.name in tracer.constants or isinstance(getattr(root, change.name, None), nn.Module)
    return made and not change.module_path


# -- parameters and buffers ---------------------------------------------------------------------------


def _changed_parameters(root: nn.Module, changes: list[Change], tracer: ValueTracer) -> list[Trouble]:
    """Writes to parameters; a graph takes these for constants. Writes to buffers are written down."""
    if not any(change.tensor for change in changes):
        return []
    written, shortened = _written_attributes(tracer), _renormalized(root, tracer.graph)
    troubles = []
    for change in changes:
        path = f"{change.module_path}.{change.name}".lstrip(".")
        is_parameter = change.name in root.get_submodule(change.module_path)._parameters
        if not change.tensor or not (path in written or (is_parameter and path not in shortened)):
            continue
        origin = written.get(path, Origin())  # of a part that runs as Python it is not known
        place = (origin.file, origin.line, origin.code)
        if is_parameter:
            fact = Fact(FactKind.BUFFER_UPDATE, *place, origin.module_path, "", f"parameter {path}")
            around = _around_both(change.module_path, origin.module_path) if path in written else ""
            troubles.append(Trouble(fact, spots_around(around)))
        else:
            handled = "the graph updates the buffer"
            fact = Fact(FactKind.BUFFER_UPDATE, *place, change.module_path, "", change.name, handled)
            tracer.recorder.facts[fact] = None
    return troubles


def _renormalized(root: nn.Module, graph: fx.Graph) -> set[str]:
    """Tables whose rows embeddings shorten to ``max_norm``, as they do in a graph."""
    found = set[str]()
    for node in graph.nodes:
        if node.target in RENORMALIZING and (len(node.args) > 3 or node.kwargs.get("max_norm") is not None):
            found.update(str(source.target) for source in node.all_input_nodes if source.op == "get_attr")
        elif node.op == "call_module" and getattr(root.get_submodule(str(node.target)), "max_norm", None) is not None:
            found.add(f"{node.target}.weight")
    return found


def _around_both(first: str, second: str) -> str:
    """Path of the innermost module that holds both."""
    pairs = zip(first.split("."), second.split("."), strict=False)
    return ".".join(a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _asked_of_written(tracer: ValueTracer, changing: Collection[str]) -> list[Trouble]:
    """Answers that were built in although the graph itself writes into the buffer that gave them, or it is trained."""
    if not tracer.answers.of_state:
        return []
    parameters = tracer.root.named_parameters() if tracer.settings.trains else ()
    trained = [name for name, item in parameters if item.requires_grad]
    written, troubles = {*_written_attributes(tracer), *trained, *changing}, []
    for fact, node, spots in tracer.answers.of_state:
        if any(item.op == "get_attr" and str(item.target) in written for item in with_ancestors([node])):
            tracer.recorder.facts.pop(fact, None)
            troubles.append(Trouble(fact, spots))
    return troubles


def _written_attributes(tracer: ValueTracer) -> dict[str, Any]:
    """Origin of the node that writes into each parameter and buffer that the graph writes into, by path."""
    by_name = {node.name: node for node in tracer.graph.nodes}
    paths = {
        storage: str(node.target)
        for storage, nodes in by_storage(tracer.graph).items()
        for node in nodes
        if node.op == "get_attr"
    }
    found = {}
    for node in tracer.graph.nodes:
        for name in info(node).mutates:
            target = by_name.get(name)
            if target is not None and target.op == "get_attr":
                found[str(target.target)] = info(node).origin
            elif target is not None and info(target).storage in paths:  # a view of it, or ``p.data``
                found[paths[info(target).storage]] = info(node).origin
    return found


# -- attributes ---------------------------------------------------------------------------------------


def _lines_of(tracer: ValueTracer, change: Change) -> set[tuple[str, int]]:
    """Lines on which the attribute was seen to be set."""
    return {
        (fact.file, fact.line)
        for fact in tracer.recorder.facts
        if fact.kind in _NOTED and fact.module_path == change.module_path and fact.value == change.name and fact.line
    }


def _take_facts(tracer: ValueTracer, change: Change, functions: Functions) -> list[Fact]:
    """The facts of a change: those written down when it happened, else one at the first line that mentions it."""
    known = [
        fact
        for fact in tracer.recorder.facts
        if fact.kind in _NOTED and fact.module_path == change.module_path and fact.value == change.name
    ]
    for fact in known:
        del tracer.recorder.facts[fact]
    file, line = first_mention(functions, change.name)
    code = linecache.getline(file, line).strip() if line else ""
    first = Fact(FactKind.CONTAINER_UPDATE, file, line, code, change.module_path, f"self.{change.name}", change.name)
    return known or [first]


def _handled(fact: Fact, handled: str) -> Fact:
    return Fact(fact.kind, fact.file, fact.line, fact.code, fact.module_path, fact.expression, fact.value, handled)


def changing_again(model: nn.Module, example_inputs: Any, values: Mapping[_Key, Callable[[], Any]]) -> set[_Key]:
    """Keys of what another call on the same inputs changes again: it counts, or collects.

    Args:
        model: a copy; it is called.
        example_inputs: of the capture.
        values: read what a call may change.
    """
    seen = []
    for _ in range(3):
        try:
            run_eagerly(model, example_inputs)
        except Exception:  # it counts its calls
            return set(values)
        seen.append({key: fingerprint(read(), identity=False) for key, read in values.items()})
    return {key for key in values if seen[1][key] != seen[2][key]}


def _spots_of_change(model: nn.Module, change: Change, example_inputs: Any, functions: Functions) -> tuple[Spot, ...]:
    """What could be kept whole around an attribute and all that changes it, be it the forward of another module."""
    path = _changed_inside(model, change, example_inputs)
    if path != change.module_path:
        return spots_around(path)
    module = model.get_submodule(path)
    return (*spots_of_uses(module, functions, functools.partial(is_attribute, change.name)), *spots_around(path))


def _changed_inside(model: nn.Module, change: Change, example_inputs: Any) -> str:
    """Path of the innermost module around an attribute that changes while that module runs, and at no other time."""
    spots = spots_around(change.module_path)
    return next((spot.path for spot in spots if not _changes_outside(model, spot.path, change, example_inputs)), "")


def _changes_outside(model: nn.Module, path: str, change: Change, example_inputs: Any) -> bool:
    """Whether an attribute changes while a module does not run; also where it cannot be told."""
    copied = copy_module(model)
    module, read = copied.get_submodule(path), _reading(copied, change)
    left, elsewhere = [fingerprint(read(), identity=False)], list[bool]()

    def enter(*_: Any) -> None:
        elsewhere.append(fingerprint(read(), identity=False) != left[-1])

    def leave(*_: Any) -> None:
        left.append(fingerprint(read(), identity=False))

    module.register_forward_pre_hook(enter)
    module.register_forward_hook(leave, always_call=True)
    try:
        run_eagerly(copied, example_inputs)
    except Exception:  # it refuses to be called again
        return True
    enter()
    return any(elsewhere)


def _reading(model: nn.Module, change: Change) -> Callable[[], Any]:
    """Reads an attribute of a copy."""
    module = model.get_submodule(change.module_path)
    if change.name == _CLASS:
        return lambda: id(type(module))
    space = vars(module)
    return lambda: space.get(change.name)
