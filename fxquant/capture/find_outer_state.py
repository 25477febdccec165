"""What forward changed outside of its model's tensors, attributes and containers, and what becomes of it in a graph.

What is drawn from, a generator or an iterator, is drawn from anew at every call: the statement that draws runs as
Python. Of anything else, the module that changes it is kept whole, where a later call computes something else because
of it.
"""

from __future__ import annotations

import ast
import linecache
from collections.abc import Callable, Collection, Iterator
from types import CodeType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fxquant.capture.attribute_uses import Uses, functions_of
from fxquant.capture.call_history import depends_on_history, run_eagerly
from fxquant.capture.carried_outside import carried_outside
from fxquant.capture.copy_module import copy_module
from fxquant.capture.facts import Fact, FactKind
from fxquant.capture.find_lines import ChangingLine, changing_lines
from fxquant.capture.outer_state import Held, OuterState, is_drawn_from, is_random
from fxquant.capture.parsed_files import function_of, tree_of
from fxquant.capture.trouble import Spot, Trouble, spots_around
from fxquant.capture.where_changed import changing_again
from fxquant.ir.own_functions import functions_kept
from fxquant.ir.walk_modules import Inventory

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer

IsKept = Callable[[CodeType, int, str], bool]


def find_outer_state(
    model: nn.Module, changed: Collection[Held], tracer: ValueTracer, example_inputs: Any, is_kept: IsKept
) -> list[Trouble]:
    """What no graph keeps; the rest is written down as facts.

    Args:
        model: the user's.
        changed: what the trace changed, put back already.
        tracer: of the trace.
        example_inputs: of the capture.
        is_kept: whether a line is in a part that is kept whole.
    """
    keys = {item.key for item in changed}
    copy = copy_module(model)
    outer = OuterState(Inventory(copy))
    watched = [item for item in outer.held if item.key in keys]
    try:
        lines = changing_lines(copy, watched, lambda: run_eagerly(copy, example_inputs))
        lines = [line for line in lines if not is_kept(line.code, line.line, line.module_path)]
        if not lines:
            return []
        outer.restore()
        again = changing_again(copy, example_inputs, {item.key: item.get for item in watched})
        outer.restore()
        depends = depends_on_history(model, example_inputs, outer.restore)
        others = [item for item in watched if item.key not in again]
        carried, settled = carried_outside(copy, example_inputs, () if depends else others, outer.restore)
    finally:
        outer.restore()
    troubles, functions = [], functions_of(copy)
    for line in lines:
        fact, drawn = _fact(line), is_drawn_from(line.held.get())
        counts = line.held.key in again and (
            Uses.of(functions, line.held.name, ()).read or _attribute_read_in_file(line) or _read_by_another(line, copy)
        )
        may_count = line.held.key not in settled and _read_elsewhere(line)
        if drawn or depends or counts or may_count or line.held.key in carried:
            troubles.append(Trouble(fact, _spots(line, drawn)))
        else:
            handled = "nothing that the model computes depends on it: the graph leaves it as it is"
            tracer.recorder.facts[Fact(**{**vars(fact), "handled": handled})] = None
    return troubles


def _fact(line: ChangingLine) -> Fact:
    value, file = line.held.get(), line.code.co_filename
    if is_random(value):
        kind = FactKind.TORCH_RANDOM if isinstance(value, torch.Generator) else FactKind.PYTHON_RANDOM
    else:
        kind = FactKind.CONTAINER_UPDATE if line.held.attribute else FactKind.GLOBAL_UPDATE
    code = linecache.getline(file, line.line).strip()
    return Fact(kind, file, line.line, code, line.module_path, "", line.held.name)


def _spots(line: ChangingLine, drawn: bool) -> tuple[Spot, ...]:
    spot = line.spot() if drawn else None
    around = spots_around(line.module_path)
    return around if spot is None else (spot, *around)


def _read_elsewhere(line: ChangingLine) -> bool:
    """Whether the function reads the variable in another statement than the one that changes it."""
    function, statement = function_of(line.code), line.statement()
    name = line.held.name.rpartition(".")[2]
    if function is None or statement is None:
        return False
    inside = {id(node) for node in ast.walk(statement)}
    stored = {part for part, where in _parts_of(statement, name) if isinstance(getattr(where, "ctx", None), ast.Store)}
    outside = [part for part, where in _parts_of(function, name) if id(where) not in inside]
    return any(not stored or not part or part in stored for part in outside)


def _attribute_read_in_file(line: ChangingLine) -> bool:
    """Whether the file that changes an attribute of a function or a class, ``tick.n``, reads one of that name."""
    owner, _, name = line.held.name.rpartition(".")
    tree = tree_of(line.code.co_filename)
    if tree is None or line.held.attribute or not owner:
        return False
    return any(
        isinstance(node, ast.Attribute)
        and node.attr == name
        and isinstance(node.ctx, ast.Load)
        and ast.unparse(node.value) in (owner, "cls", "type(self)", "self.__class__")
        for node in ast.walk(tree)
    )


def _read_by_another(line: ChangingLine, model: nn.Module) -> bool:
    """Whether another function that the model keeps has the variable of a function, too."""
    codes = [function.__code__ for function in functions_kept(model)] if line.held.place else []
    return any(line.held.name in code.co_freevars for code in codes if code is not line.code)


def _parts_of(tree: ast.AST, name: str) -> Iterator[tuple[str, ast.AST]]:
    """(attribute, node) of each use of a variable's attributes, and ("", node) of other uses of it."""
    owners = {id(node.value): node for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == name:
            above = owners.get(id(node))
            yield ("", node) if above is None else (above.attr, above)
