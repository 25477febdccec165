"""Both sides of an ``if`` as one expression: what it returns, or assigns, selected with ``torch.where``."""

from __future__ import annotations

import ast

from fxquant.check.fixes.fix import Subject
from fxquant.check.fixes.tensor_conditions import condition


def returned(statement: ast.If, subject: Subject) -> tuple[str, int] | None:
    """What an ``if`` returns, as one expression, and the last line that this replaces."""
    body, orelse, last = statement.body, statement.orelse, statement.end_lineno or 0
    if not orelse:
        following = _following(statement, subject)
        orelse, last = ([following], following.end_lineno or 0) if following is not None else ([], 0)
    if len(body) != 1 or len(orelse) != 1 or not isinstance(body[0], ast.Return) or body[0].value is None:
        return None
    other = orelse[0]
    if isinstance(other, ast.Return) and other.value is not None:
        second = subject.source_of(other.value)
    elif isinstance(other, ast.If):
        inner = returned(other, subject)
        if inner is None:
            return None
        second, last = inner[0], max(last, inner[1])
    else:
        return None
    test = condition(statement.test, subject)
    return f"torch.where({test}, {subject.source_of(body[0].value)}, {second})", last


def _following(statement: ast.stmt, subject: Subject) -> ast.stmt | None:
    """The statement after ``statement`` in its block."""
    above = subject.file.parent(statement)
    for block in (getattr(above, "body", []), getattr(above, "orelse", [])):
        if isinstance(block, list) and statement in block:
            index = block.index(statement) + 1
            return block[index] if index < len(block) else None
    return None


def assigned(statement: ast.If, subject: Subject) -> dict[str, str] | None:
    """What an ``if`` assigns, as one expression a name; None where that is not all it does."""
    first = _assignments(statement.body, subject)
    if len(statement.orelse) == 1 and isinstance(statement.orelse[0], ast.If):
        second = assigned(statement.orelse[0], subject)
    else:
        second = _assignments(statement.orelse, subject)
    if first is None or second is None:
        return None
    names = list(dict.fromkeys((*first, *second)))
    if len(names) != 1 and any(_reads(value, names) for value in (*first.values(), *second.values())):
        return None
    if any((name not in first or name not in second) and not _bound_before(name, statement, subject) for name in names):
        return None
    test = condition(statement.test, subject)
    return {name: f"torch.where({test}, {first.get(name, name)}, {second.get(name, name)})" for name in names}


def _assignments(block: list[ast.stmt], subject: Subject) -> dict[str, str] | None:
    found: dict[str, str] = {}
    for statement in block:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target, value = statement.targets[0], subject.source_of(statement.value)
        elif isinstance(statement, ast.AugAssign):
            target = statement.target
            value = ast.unparse(ast.BinOp(statement.target, statement.op, statement.value))
        elif isinstance(statement, ast.Pass):
            continue
        else:
            return None
        if not isinstance(target, ast.Name) or target.id in found:
            return None
        found[target.id] = value
    return found


def _reads(value: str, names: list[str]) -> bool:
    return any(isinstance(node, ast.Name) and node.id in names for node in ast.walk(ast.parse(value)))


def _bound_before(name: str, statement: ast.stmt, subject: Subject) -> bool:
    function = subject.file.function_of(statement)
    if function is None:
        return False
    arguments = [argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)]
    stored = (
        node.id
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.lineno < statement.lineno
    )
    return name in arguments or name in stored
