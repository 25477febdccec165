"""Questions that Python answers without asking a value: ``flag is True``, ``padded is not x``.

What stands for a truth value in a trace is neither True nor False itself, and what stands for the tensor that a part
gives is never what it was given. So the statement that asks runs as Python.
"""

from __future__ import annotations

import ast
import dis
from collections.abc import Collection, Iterator, Sequence
from types import CodeType, FrameType, FunctionType
from typing import Any

from torch import nn

from fxquant.capture.names_in_code import names_in, targets_of
from fxquant.capture.parsed_files import function_of, path_to, tree_of
from fxquant.capture.source import position, user_frame, user_frames
from fxquant.ir.codes import has_instruction, remembered

_LOADS_CONSTANT = "LOAD_CONST"
Where = tuple[int, int, int, int]
Test = tuple[CodeType, int]  # code, and the instruction in it that asks


def tests_behind() -> Iterator[Test]:
    """The questions about a truth value that is being computed right now.

    The question is around the value in one expression, or about the variable that gets the value, or in a function that
    is given one of both.
    """
    for frame in user_frames():
        code, tests = frame.f_code, _tests_in(frame.f_code, True)
        if tests:
            yield from _asked(code, tests, position(code, frame.f_lasti), ())
        asking = [(call, called) for call in _calls_in(code) if (called := _called(call, frame)) is not None]
        if asking:
            yield from _asked_in(asking, *_around(code, position(code, frame.f_lasti)))


def tests_of(names: Collection[str]) -> Iterator[Test]:
    """The questions about which tensor something is that a part gives which is being called right now.

    Args:
        names: that get what it gives; none where that is the value of an expression.
    """
    frame = user_frame()
    if frame is not None and (tests := _tests_in(frame.f_code, False)):
        yield from _asked(frame.f_code, tests, position(frame.f_code, frame.f_lasti), names)


def _asked(
    code: CodeType,
    tests: Sequence[tuple[int, ast.AST]],
    where: Where | None,
    names: Collection[str],
) -> Iterator[Test]:
    """Which of some questions are around a position, or about what is set there."""
    path, targets = _around(code, where)
    for instruction, compare in tests:
        if compare in path or not names_in(compare).isdisjoint({*names, *targets}):
            yield code, instruction


def _around(code: CodeType, where: Where | None) -> tuple[list[ast.AST], set[str]]:
    """Nodes down to a position, and the names that are set there."""
    tree = tree_of(code.co_filename) if where is not None else None
    path = [] if tree is None or where is None else path_to(tree, where)
    return path, {name for node in path for target in targets_of(node) for name in names_in(target)}


def _asked_in(
    asking: Sequence[tuple[ast.Call, FunctionType]], path: list[ast.AST], targets: set[str]
) -> Iterator[Test]:
    """The questions that functions ask about what they are given: the value at the end of a path, or some names."""
    for call, function in asking:
        code = function.__code__
        is_method = int(isinstance(call.func, ast.Attribute) and "self" in code.co_varnames[:1])
        given = {code.co_varnames[place + is_method]: item for place, item in enumerate(call.args[: code.co_argcount])}
        given |= {item.arg: item.value for item in call.keywords if item.arg is not None}
        names = {name for name, item in given.items() if item in path or not names_in(item).isdisjoint(targets)}
        yield from ((code, each) for each, compare in _tests_in(code, True) if not names_in(compare).isdisjoint(names))


@remembered
def _calls_in(code: CodeType) -> tuple[ast.Call, ...]:
    """The calls of named functions and methods in a function."""
    function = function_of(code)
    calls = (node for node in ast.walk(function) if isinstance(node, ast.Call)) if function is not None else ()
    return tuple(call for call in calls if isinstance(call.func, (ast.Name, ast.Attribute)))


def _called(call: ast.Call, frame: FrameType) -> FunctionType | None:
    """The function that is called, where it asks whether something is True or False."""
    function, names = call.func, frame.f_locals
    found: Any = None
    if isinstance(function, ast.Name):
        found = names.get(function.id, frame.f_globals.get(function.id))
    elif isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        owner = names.get(function.value.id)
        if isinstance(owner, nn.Module):
            found = owner._modules.get(function.attr) or getattr(type(owner), function.attr, None)
    found = type(found).forward if isinstance(found, nn.Module) else found
    while isinstance(found, FunctionType) and "__wrapped__" in vars(found):
        found = vars(found)["__wrapped__"]
    return found if isinstance(found, FunctionType) and _tests_in(found.__code__, True) else None


@remembered
def _tests_in(code: CodeType, for_truth: bool) -> tuple[tuple[int, ast.AST], ...]:
    """Where the instructions are that ask whether one thing is another, and what they are in the source.

    Args:
        code: of a function.
        for_truth: whether the other is True or False; or anything but these and None.
    """
    if not has_instruction(code, "IS_OP"):
        return ()
    instructions = [item for item in dis.get_instructions(code) if item.opname != "CACHE"]
    found, tree = [], tree_of(code.co_filename)
    for index, item in enumerate(instructions):
        if item.opname != "IS_OP" or tree is None or (where := position(code, item.offset)) is None:
            continue
        operands = [each for each in instructions[max(index - 2, 0) : index] if each.opname == _LOADS_CONSTANT]
        of_truth, of_none = (
            any(any(each.argval is kind for kind in kinds) for each in operands) for kinds in ((True, False), (None,))
        )
        if of_truth is for_truth and not (of_none and not for_truth):
            found.append((item.offset, path_to(tree, where)[-1]))
    return tuple(found)
