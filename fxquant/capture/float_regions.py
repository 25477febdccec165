"""Which parts of a model are kept whole, and putting that in force for a trace.

Each trouble names what could be kept whole around it, the smallest first. What did not help in one trace is replaced by
the next larger in the following one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from types import CodeType, FunctionType
from typing import TYPE_CHECKING

from fxquant.capture.call_part import stand_in
from fxquant.capture.cut_function import PART, Cut, CutKey, Where, find_cut, rewrite
from fxquant.capture.facts import FactKind
from fxquant.capture.functions_with import functions_with
from fxquant.capture.shared_state import shares_state
from fxquant.capture.trouble import FunctionSpot, ModuleSpot, Spot, StatementSpot, Trouble
from fxquant.capture.truth_cuts import narrow_cut, wide_cut
from fxquant.capture.watched_code import WatchedCode
from fxquant.ir.own_functions import copies_with

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer

Undo = Callable[[], None]
_SIZES = frozenset((FactKind.SIZE, FactKind.SIZE_BRANCH, FactKind.SIZE_LOOP, FactKind.FORMAT))


@dataclass
class FloatRegions:
    """What is kept whole.

    Attributes:
        modules: paths of modules.
        cuts: statements, with what kinds of trouble they are kept whole for, by the code of their function.
        whole: whether it is the whole model.
        refused: (code, position) of statements that ask for sizes and could not be kept whole.
        chosen: what is cut out, by (code, position) of what asks for a size: see ``size_regions``.
        rejected: the keys of those on whose results branches depend.
        rounds: how many traces there were.
        each_layer: whether each layer is traced by itself, also where many are alike.
        looked_at: statements that ask for sizes, and that traces need not end early for.
        no_containers: names of attributes of the model that are tensors and modules.
        is_read_around: whether code around the module at a path reads attributes that it sets.
        is_weightless: whether the module at a path, a part of the model, has no weights that could be int8.
        watched: what of the code of layers ran in traces with these parts, see ``KnownCode``.

    A part kept because of one trouble is often the answer to others of the same trace: every layer runs the same code.
    ``begin_round`` is called between traces: what was there before it and did not help makes way for what is larger.
    """

    modules: set[str] = field(default_factory=set)
    cuts: dict[CodeType, dict[Cut, set[FactKind]]] = field(default_factory=dict)
    whole: bool = False
    refused: set[tuple[CodeType, Where]] = field(default_factory=set)
    chosen: dict[tuple[CodeType, Where], Cut] = field(default_factory=dict)
    rejected: set[CutKey] = field(default_factory=set)
    rounds: int = 0
    each_layer: bool = False
    looked_at: set[Spot] = field(default_factory=set)
    no_containers: frozenset[str] = frozenset()
    is_read_around: Callable[[str], bool] = lambda path: False
    is_weightless: Callable[[str], bool] = lambda path: False
    watched: dict[type, WatchedCode] = field(default_factory=dict)
    _functions: dict[CodeType, list[FunctionType]] = field(default_factory=dict)
    _calling: dict[CodeType, tuple[CodeType, list[str]]] = field(default_factory=dict)
    _new: set[Cut | str] = field(default_factory=set)
    _stateful: set[Spot] = field(default_factory=set)
    _found: dict[tuple[Spot, bool], Cut | None] = field(default_factory=dict)

    def begin_round(self) -> None:
        """What is kept from now on was not tried yet."""
        self._new.clear()
        self.rounds += 1

    def keep(self, trouble: Trouble) -> str:
        """Keep the smallest part around a trouble whole that was not tried yet; returns what it is, "" for none."""
        if trouble.optional:
            statement = next((spot for spot in trouble.spots if isinstance(spot, StatementSpot)), None)
            title = "" if statement is None else self._keep(statement, trouble.fact.kind, self.rejected)
            around = next((spot for spot in trouble.spots if isinstance(spot, ModuleSpot)), None)
            if not title and statement in self._stateful and around is not None and self.is_weightless(around.path):
                title = self._add_module(around.path)
            if not title and statement is not None:
                self.refused.add((statement.code, statement.where))
            return title
        for spot in trouble.spots:
            title = self._keep(spot, trouble.fact.kind)
            if title:
                return title
        return ""

    def has_line(self, code: CodeType, line: int, module_path: str) -> bool:
        """Whether a line of a function, run by a module's forward, is in a part that is kept whole."""
        inside = any(module_path == path or module_path.startswith(f"{path}.") for path in self.modules)
        cuts = self.cuts.get(code, {})
        return self.whole or inside or any(cut.first_line <= line <= cut.last_line for cut in cuts)

    def has_line_of(self, file: str, line: int) -> bool:
        """Whether a line of a file is in statements that are kept whole."""
        every = (cut for cuts in self.cuts.values() for cut in cuts)
        return self.whole or any(
            cut.code.co_filename == file and cut.first_line <= line <= cut.last_line for cut in every
        )

    def reject(self, cut: Cut) -> None:
        """Do not keep statements whole for the sake of sizes: branches depend on what they give."""
        self.cuts.get(cut.code, {}).pop(cut, None)
        self._is_rewritten(cut.code)
        self._found = {key: found for key, found in self._found.items() if found is not cut}
        self.rounds += 1
        self.rejected.add(cut.key)

    def _keep(self, spot: Spot, kind: FactKind, rejected: Collection[CutKey] = ()) -> str:
        if isinstance(spot, ModuleSpot):
            return "" if self.is_read_around(spot.path) else self._add_module(spot.path)
        key = spot, kind in _SIZES
        if key not in self._found:  # every layer that runs the same code has the same spots
            self._found[key] = self._cut_for(*key)
        cut = self._found[key]
        if cut is None or cut.key in rejected:
            return ""
        return self._add(cut, kind)

    def _cut_for(self, spot: StatementSpot | FunctionSpot, for_sizes: bool) -> Cut | None:
        if isinstance(spot, FunctionSpot):
            cut = find_cut(spot.code, None)
        elif for_sizes:
            cut = self.chosen.get((spot.code, spot.where)) or wide_cut(spot.code, spot.where)
        else:
            cut = narrow_cut(spot.code, spot.where)
        if cut is None or not self._functions_with(spot.code) or not _fits(cut):
            return None
        if shares_state(cut, self.no_containers, not for_sizes):
            self._stateful.add(spot)
            return None
        return cut

    def _add_module(self, path: str) -> str:
        known = path in self.modules or (not path and self.whole)
        if known and path not in self._new:
            return ""
        self._new.add(path)
        if path:
            self.modules.add(path)
        self.whole |= not path
        return f"module {path!r}" if path else "the whole model"

    def _add(self, cut: Cut, kind: FactKind) -> str:
        known = self.cuts.setdefault(cut.code, {})
        around = next((other for other in known if other.holds(cut) and other.returns >= cut.returns), None)
        if around is not None and around in self._new:
            known[around].add(kind)
            return str(around)
        if around is not None:
            return ""
        inside = [other for other in known if cut.holds(other)]
        kinds = {kind}.union(*(known.pop(other) for other in inside))
        known[cut] = kinds
        self._is_rewritten(cut.code)
        self._new.add(cut)
        return str(cut)

    def _functions_with(self, code: CodeType) -> list[FunctionType]:
        """The functions that have this code, as far as they exist before the model is called."""
        if code not in self._functions:
            self._functions[code] = functions_with(code)
        return self._functions[code]

    def _rewritten(self, code: CodeType) -> tuple[CodeType, list[str]]:
        """Code that calls parts, the same in all traces with these parts, and what it calls them."""
        if code not in self._calling:
            names = [f"{PART}{id(cut)}" for cut in self.cuts[code]]
            self._calling[code] = rewrite(code, list(self.cuts[code]), names), names
        return self._calling[code]

    def _is_rewritten(self, code: CodeType) -> None:
        """Other parts are cut out of some code from now on: what it does is not known any more."""
        self._calling.pop(code, None)
        self.watched.clear()

    def install(self, tracer: ValueTracer) -> Iterator[Undo]:
        """Make the functions call their parts as wholes; yields what undoes it."""
        for code, cuts in self.cuts.items():
            new, names = self._rewritten(code)
            tracer.recorder.written[new] = code
            for function in (*self._functions_with(code), *copies_with(code)):
                space = function.__globals__
                for name, (cut, kinds) in zip(names, cuts.items(), strict=True):
                    space[name] = stand_in(tracer, cut, function, kinds <= _SIZES)
                    yield functools.partial(space.pop, name, None)
                function.__code__ = new
                yield functools.partial(setattr, function, "__code__", code)


def _fits(cut: Cut) -> bool:
    try:
        rewrite(cut.code, [cut], ["part"])
        cut.source()
    except (ValueError, SyntaxError, LookupError):
        return False
    return True
