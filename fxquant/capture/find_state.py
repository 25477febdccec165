"""State that a model keeps between calls: what forward changes on its modules, and what becomes of it in a graph.

A buffer that forward updates is updated by the graph. An attribute is not: where a later call computes something else
because of it, its module is kept whole. A cache, or what nothing reads, changes no result.
"""

from __future__ import annotations

import linecache
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from fxquant.capture.attribute_uses import Functions, Uses, first_mention, functions_of
from fxquant.capture.call_history import depends_on_history
from fxquant.capture.carried_over import Carried, carried_over
from fxquant.capture.copy_module import copy_module
from fxquant.capture.facts import Fact, FactKind
from fxquant.capture.keep_state import Change
from fxquant.capture.set_anew import set_anew
from fxquant.capture.trouble import Trouble, spots_around
from fxquant.capture.where_changed import CLASS, changing_again, reading, spots_of_change
from fxquant.capture.written_tensors import asked_of_written, changed_parameters
from fxquant.ir.walk_modules import OF_EVERY_MODULE

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
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
    troubles = [*changed_parameters(root, outside, tracer), *asked_of_written(tracer, changing)]
    attributes = [change for change in outside if not change.tensor and not _is_made(root, change, tracer)]
    if not attributes:
        return troubles
    evidence = _Evidence.of(model, root, attributes, changes, tracer, example_inputs)
    for change in attributes:
        fact, *more = _take_facts(tracer, change, evidence.functions)
        if change.name == "training":  # the mode of a module is no attribute of a graph: what sets it is kept whole
            troubles.append(Trouble(fact, spots_around(change.module_path.rpartition(".")[0])))
        elif change.name in _HOOKS and evidence.moves_on(change):  # on whatever module, and by whichever
            troubles.append(Trouble(fact, spots_around("")))
        elif evidence.is_state(change):
            troubles.append(Trouble(fact, spots_of_change(model, change, example_inputs, evidence.functions)))
        else:
            handled = evidence.why_it_is_none(change)
            tracer.recorder.facts.update(dict.fromkeys(_handled(item, handled) for item in (fact, *more)))
    return troubles


@dataclass(frozen=True)
class _Evidence:
    """What tells whether attributes that forward changes are state.

    Attributes:
        functions: of the model's classes.
        depends: whether a call computes something else after others.
        again: what another call on the same inputs changes again.
        uses: how the source uses each.
        are_read: whether the source reads any of what changes, so that this may be why calls differ.
        carried: what is carried over from a call to the next.
        unused: what each call sets before it reads it.
    """

    functions: Functions
    depends: bool
    again: set[Change]
    uses: dict[Change, Uses]
    are_read: bool
    carried: Carried
    unused: set[Change]

    @staticmethod
    def of(
        model: nn.Module,
        root: nn.Module,
        attributes: list[Change],
        changes: list[Change],
        tracer: ValueTracer,
        example_inputs: Any,
    ) -> _Evidence:
        """Evidence on ``attributes``; all else as for ``find_state``. Copies of the model are called."""
        functions, used = functions_of(root), copy_module(model)
        depends = depends_on_history(model, example_inputs)
        again = changing_again(used, example_inputs, {change: reading(used, change) for change in attributes})
        are_read = any(change.tensor or Uses.of(functions, change.name, ()).read for change in changes)
        uses = {change: Uses.of(functions, change.name, _lines_of(tracer, change)) for change in attributes}
        others = [change for change in attributes if change not in again and change.name not in OF_EVERY_MODULE]
        carried = Carried() if depends else carried_over(model, example_inputs, others)
        counted = [change for change in others if uses[change].read and uses[change].counted]
        unused = set() if depends else set_anew(model, example_inputs, counted)
        return _Evidence(functions, depends, again, uses, are_read, carried, unused)

    def moves_on(self, change: Change) -> bool:
        """Whether it, or what calls compute, is something else after each call."""
        return self.depends or change in self.again

    def is_state(self, change: Change) -> bool:
        """Whether a later call may compute something else because of it."""
        uses = self.uses[change]
        is_made_of_itself = uses.counted or change in self.carried.over
        counts = change in self.again or (is_made_of_itself and change not in self.unused)
        if counts and (uses.read or change in self.carried.results):
            return True
        return self.depends and (uses.read or not self.are_read or change.name == CLASS)

    def why_it_is_none(self, change: Change) -> str:
        """Why it is no state, for people."""
        if not self.uses[change].read:
            return "nothing in the model reads it"
        is_new = change in self.unused or change in self.carried.anew
        return "each call sets it anew" if is_new else "a cache: the graph computes it anew"


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
