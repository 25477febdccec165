"""Conditions on the values of tensors as boolean tensors: ``x.sum() > 0 and not y.any()`` without Python's ``and``."""

from __future__ import annotations

import ast

from fxquant.capture.branches import is_not
from fxquant.check.fixes.fix import Subject, called_name

_BOOLEAN_CALLS = frozenset(("any", "all", "isnan", "isinf", "isfinite", "logical_and", "logical_or", "logical_not"))


def condition(test: ast.expr, subject: Subject) -> str:
    """``test`` as a boolean tensor instead of a Python truth value."""
    text = subject.source_of(test)
    if isinstance(test, ast.BoolOp):
        joint = " & " if isinstance(test.op, ast.And) else " | "
        return joint.join(f"({condition(part, subject)})" for part in test.values)
    if is_not(test):
        return f"torch.logical_not({condition(test.operand, subject)})"
    if isinstance(test, ast.Compare):
        return _comparison(test, subject)
    name = called_name(test)
    if isinstance(test, ast.Call):
        if isinstance(test.func, ast.Name) and name in ("any", "all") and len(test.args) == 1:
            return of_all(test.args[0], name, subject)
        arguments = [subject.source_of(argument) for argument in test.args]
        if name == "bool" and len(test.args) == 1:
            return condition(test.args[0], subject)
        if name in ("item", "bool") and not arguments and isinstance(test.func, ast.Attribute):
            return condition(test.func.value, subject)
        if name == "equal" and len(arguments) == 2:
            return f"({arguments[0]} == {arguments[1]}).all()"
        if name == "allclose" and len(arguments) >= 2:
            return f"torch.isclose({', '.join(arguments)}).all()"
    return text if name in _BOOLEAN_CALLS or isinstance(test, ast.Constant) else f"({text}) != 0"


def of_all(argument: ast.expr, name: str, subject: Subject) -> str:
    """Python's ``any`` or ``all`` of some answers, as one of a tensor."""
    if called_name(argument) == "map" and isinstance(argument, ast.Call) and isinstance(argument.args[0], ast.Lambda):
        function, items = argument.args[0], subject.source_of(argument.args[1])
        given = ", ".join(item.arg for item in function.args.args)
        return f"torch.stack([{condition(function.body, subject)} for {given} in {items}]).{name}()"
    if isinstance(argument, (ast.GeneratorExp, ast.ListComp)):
        loops = "".join(ast.unparse(part) for part in argument.generators)
        return f"torch.stack([{condition(argument.elt, subject)}{loops}]).{name}()"
    if isinstance(argument, (ast.List, ast.Tuple)):
        return f"torch.stack([{', '.join(condition(item, subject) for item in argument.elts)}]).{name}()"
    return f"({subject.source_of(argument)}).{name}()"


def _comparison(test: ast.Compare, subject: Subject) -> str:
    left, operator, right = test.left, test.ops[0], test.comparators[0]
    if len(test.ops) > 1:
        parts = [test.left, *test.comparators]
        pairs = zip(parts, test.ops, parts[1:], strict=False)
        shown = [ast.unparse(ast.Compare(first, [between], [second])) for first, between, second in pairs]
        return " & ".join(f"({part})" for part in shown)
    if isinstance(operator, (ast.In, ast.NotIn)):
        if isinstance(right, (ast.List, ast.Tuple, ast.Set)):
            values = ", ".join(subject.source_of(item) for item in right.elts)
            found = f"torch.isin({subject.source_of(left)}, torch.tensor([{values}]))"
        else:
            found = f"({subject.source_of(right)} == {subject.source_of(left)}).any()"
        return f"torch.logical_not({found})" if isinstance(operator, ast.NotIn) else found
    return subject.source_of(test)
