"""Questions that Python answers without asking a value: ``flag is True``, ``padded is not x``.

What stands for a truth value in a trace is neither True nor False itself, and what stands for the tensor that a part
gives is never what it was given. So the statement that asks runs as Python.
"""

from __future__ import annotations

import ast
import dis
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from types import CodeType

from fxquant.capture.parsed_files import path_to, tree_of
from fxquant.capture.source import position, user_frame, user_frames

_LOADS_CONSTANT = "LOAD_CONST"
Test = tuple[CodeType, int]  # code, and the instruction in it that asks


def tests_behind() -> Iterator[Test]:
    """The questions about a truth value that is being computed right now.

    The question is around the value in one expression, or about the variable that gets the value.
    """
    for frame in user_frames():
        code, tests = frame.f_code, _tests_in(frame.f_code, True)
        if tests:
            yield from ((code, each) for _, each in _asked(code, tests, position(code, frame.f_lasti), ()))


def tests_of(names: Collection[str]) -> Iterator[Test]:
    """The questions about which tensor something is that a part gives which is being called right now.

    Args:
        names: that get what it gives; none where that is the value of an expression.
    """
    frame = user_frame()
    if frame is not None and (tests := _tests_in(frame.f_code, False)):
        where = position(frame.f_code, frame.f_lasti)
        yield from ((frame.f_code, instruction) for _, instruction in _asked(frame.f_code, tests, where, names))


def _asked(
    code: CodeType,
    tests: Sequence[tuple[int, ast.AST]],
    where: tuple[int, int, int, int] | None,
    names: Collection[str],
) -> Iterator[tuple[ast.AST, int]]:
    """Which of some questions are around a position, or about what is set there."""
    tree = tree_of(code.co_filename) if where is not None else None
    path = [] if tree is None or where is None else path_to(tree, where)
    targets = {*names, *(name for node in path for name in _targets_of(node))}
    for instruction, compare in tests:
        if compare in path or targets.intersection(_names_in(compare)):
            yield compare, instruction


@lru_cache(maxsize=1024)
def _tests_in(code: CodeType, for_truth: bool) -> tuple[tuple[int, ast.AST], ...]:
    """Where the instructions are that ask whether one thing is another, and what they are in the source.

    Args:
        code: of a function.
        for_truth: whether the other is True or False; or anything but these and None.
    """
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


def _targets_of(node: ast.AST) -> Iterator[str]:
    """Names that a statement sets."""
    if isinstance(node, ast.Assign):
        yield from (name for target in node.targets for name in _names_in(target))
    elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)):
        yield from _names_in(node.target)


def _names_in(node: ast.AST) -> set[str]:
    return {item.id for item in ast.walk(node) if isinstance(item, ast.Name)}
