"""Questions that Python answers without asking a value: ``flag is True``.

What stands for a truth value in a trace is neither True nor False itself. So the statement that asks runs as Python.
"""

from __future__ import annotations

import ast
import dis
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType

from fxquant.capture.parsed_files import path_to, tree_of
from fxquant.capture.source import position, user_frames

_LOADS_CONSTANT = "LOAD_CONST"


def tests_behind() -> Iterator[tuple[CodeType, int]]:
    """Code, and the instruction in it, that asks whether a value is True or False which is being computed right now.

    The question is around the value in one expression, or about the variable that gets the value.
    """
    for frame in user_frames():
        tests = _tests_in(frame.f_code)
        where = position(frame.f_code, frame.f_lasti) if tests else None
        tree = tree_of(frame.f_code.co_filename) if where is not None else None
        path = [] if tree is None or where is None else path_to(tree, where)
        targets = {name for node in path for name in _targets_of(node)}
        for instruction, compare in tests:
            if compare in path or targets.intersection(_names_in(compare)):
                yield frame.f_code, instruction


@lru_cache(maxsize=1024)
def _tests_in(code: CodeType) -> tuple[tuple[int, ast.AST], ...]:
    """Where the instructions are that ask whether something is True or False, and what they are in the source."""
    instructions = [item for item in dis.get_instructions(code) if item.opname != "CACHE"]
    found, tree = [], tree_of(code.co_filename)
    for index, item in enumerate(instructions):
        operands = [each for each in instructions[max(index - 2, 0) : index] if each.opname == _LOADS_CONSTANT]
        where = position(code, item.offset)
        if item.opname == "IS_OP" and any(type(each.argval) is bool for each in operands) and tree and where:
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
