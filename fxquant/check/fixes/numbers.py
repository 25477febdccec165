"""Fixes for Python numbers: taken from tensor values, or from sizes."""

from __future__ import annotations

import ast
import math
from dataclasses import replace
from fractions import Fraction

import torch

from fxquant.capture.facts import RECORDED
from fxquant.check.fixes.branches import fix_branch
from fxquant.check.fixes.fix import Fix, Subject, called_name, called_on
from fxquant.check.fixes.picks import fix_pick, is_called


def fix_tensor_number(subject: Subject) -> Fix:
    """The fix for a tensor value that Python takes out of torch."""
    node = subject.node
    if isinstance(node, ast.Subscript):
        return fix_pick(node, subject)
    if node is not None and any(isinstance(above, ast.JoinedStr) for above in subject.file.parents(node)):
        return _in_text(subject)
    if node is not None and any(called_name(above) == "getattr" for above in subject.file.parents(node)):
        return Fix(
            "compute all that may be asked for by name, stack the results and pick by a number, "
            f"`torch.stack(results)[number]`; or {subject.float_setting}"
        )
    called = _key_of_called(node, subject)
    if called is not None:
        return fix_pick(called, subject)
    if isinstance(node, ast.Call) and called_on(node) == "torch" and called_name(node) in ("tensor", "as_tensor"):
        return _fix_tensor_of_tensors(node, subject)
    if not isinstance(node, ast.Call) or _used_as_index(node, subject) or _is_in_function(node, subject):
        return _generic_number(subject)
    name, text = called_name(node), [subject.source_of(argument) for argument in node.args]
    rounded = _rounded(node, subject)
    if rounded is not None:
        return rounded
    if name == "int" and not _is_operand(node, subject):
        return _generic_number(subject)
    tensor = ""
    if name == "item" and isinstance(node.func, ast.Attribute):
        tensor = subject.source_of(node.func.value)
    elif isinstance(node.func, ast.Name) and len(text) == 1 and name in ("float", "int"):
        value = text[0] if _is_atom(node.args[0]) else f"({text[0]})"
        tensor = value if name == "float" else f"{value}.long()"
    elif called_on(node) == "math" and hasattr(torch, name):
        tensor = f"torch.{name}({', '.join(text)})"
    if not tensor:
        return _generic_number(subject)
    decision = subject.decision(node)
    if decision is not None:  # a tensor in the place of the number would still be asked for its value
        number = subject.source_of(node), _detached(tensor, name) if isinstance(decision, ast.Call) else tensor
        return fix_branch(replace(subject, node=decision, number=number))
    if any(subject.decision(use) is not None for use in _uses(subject)):
        return Fix(
            f"stay in torch, where Python decides by it too: `torch.where` instead of branches, `torch.clamp` instead "
            f"of min and max, with `{tensor}` instead of `{subject.source_of(node)}`; or {subject.float_setting}"
        )
    return subject.replacing(node, _detached(tensor, name))


def _detached(tensor: str, name: str) -> str:
    """A tensor in the place of a number, which has no gradients."""
    if name in ("int", "ceil", "floor"):
        return tensor
    return f"{tensor}.detach()" if _is_atom(ast.parse(tensor, mode="eval").body) else f"({tensor}).detach()"


def _in_text(subject: Subject) -> Fix:
    return Fix(f"leave the text out of forward, or the values of tensors out of it: `{subject.seen.place.code}`")


def _key_of_called(node: ast.expr | None, subject: Subject) -> ast.Subscript | None:
    """``self.parts[str(int(k))]`` in ``self.parts[str(int(k))](x)``, of which a node is the key or a part of it."""
    for above in subject.file.parents(node) if node is not None else ():
        if isinstance(above, ast.Subscript) and is_called(above, subject):
            return above
    return None


def _fix_tensor_of_tensors(node: ast.Call, subject: Subject) -> Fix:
    """The fix for ``torch.tensor`` of tensors, which takes their values, and has no gradients."""
    otherwise = Fix(
        "stay in torch: torch.stack or torch.cat of the tensors, and `.detach()`, instead of "
        f"`{subject.source_of(node)}`; or {subject.float_setting}"
    )
    if len(node.args) != 1:
        return otherwise
    dtype = next((subject.source_of(key.value) for key in node.keywords if key.arg == "dtype"), "")
    cast = f".to({dtype})" if dtype else ""
    value = node.args[0]
    if isinstance(value, (ast.List, ast.Tuple, ast.ListComp)):
        listed = subject.source_of(value)
        return subject.replacing(node, f"torch.stack({listed}).detach(){cast}").unless_it_fails(otherwise)
    text = subject.source_of(value) if _is_atom(value) else f"({subject.source_of(value)})"
    return subject.replacing(node, f"{text}.detach().clone(){cast}").unless_it_fails(otherwise)


def fix_numpy(subject: Subject) -> Fix:
    """The fix for a computation in numpy."""
    node = subject.node
    if isinstance(node, ast.Call) and node.args and _is_about_sizes(node.args[0]):
        return _fix_numpy_of_sizes(node, subject)
    outer = subject.file.parent(node) if node is not None else None
    alone = not (isinstance(outer, ast.Call) and called_on(outer).startswith(("np", "numpy")))
    if (
        isinstance(node, ast.Call)
        and called_on(node) in ("np", "numpy")
        and hasattr(torch, called_name(node))
        and alone
    ):
        arguments = ", ".join(subject.source_of(item) for item in (*node.args, *(key.value for key in node.keywords)))
        if not node.keywords:
            return subject.replacing(node, f"torch.{called_name(node)}({arguments})")
    return Fix(
        f"compute in torch, which has most of numpy's functions: instead of `{subject.seen.place.expression}`, the "
        f"function of the same name in torch; or {subject.float_setting}"
    )


def _is_about_sizes(node: ast.expr) -> bool:
    """Whether an expression is computed from sizes alone."""
    parts = [part for part in ast.walk(node) if isinstance(part, (ast.Attribute, ast.Call))]
    shapes = [part for part in parts if getattr(part, "attr", "") == "shape" or called_name(part) in ("size", "len")]
    return bool(shapes) and isinstance(node, (ast.Attribute, ast.Subscript, ast.Call, ast.BinOp))


def _fix_numpy_of_sizes(node: ast.Call, subject: Subject) -> Fix:
    name, value = called_name(node), node.args[0]
    if name == "prod" and isinstance(value, ast.Attribute) and value.attr == "shape":
        return subject.replacing(node, f"{subject.source_of(value.value)}.numel()")
    if hasattr(math, name):
        return subject.replacing(node, f"math.{name}({subject.source_of(value)})").unless_it_fails(
            Fix(f"compute with Python's numbers: `math.{name}({subject.source_of(value)})`, with `import math`")
        )
    return Fix(
        f"compute with Python's own operators on the sizes, which keeps them symbolic, instead of "
        f"`{subject.seen.place.expression}`"
    )


def fix_size(subject: Subject) -> Fix:
    """The fix for a size that became a Python number."""
    node = subject.node
    if isinstance(node, ast.Call) and len(node.args) == 1 and not node.keywords:
        argument, name = node.args[0], called_name(node)
        text = subject.source_of(argument)
        if name == "len":
            return subject.replacing(node, f"{text}.shape[0]")
        whole = _whole(argument, subject) if name in ("int", "floor") else ""
        if whole:
            return subject.replacing(node, whole)
        if name == "ceil" and _division(argument) is not None:
            above, below = (subject.source_of(part) for part in _division(argument) or ())
            return subject.replacing(node, f"-(-{_in_brackets(above)} // {_in_brackets(below)})")
        if name in ("int", "float") and _is_atom(argument):
            return subject.replacing(node, text)
    if subject.seen.handled == RECORDED:
        return Fix(
            f"nothing to do for fxquant; for plain tracing compute with `//`, `*` and slices instead of "
            f"`{subject.seen.place.expression}`"
        )
    return Fix(
        f"keep sizes in the graph: compute with `//`, `*` and slices instead of `{subject.seen.place.expression}`, and "
        "over whole tensors instead of in Python loops; or make one model a size"
    )


def fix_format(subject: Subject) -> Fix:
    """The fix for a value that becomes text."""
    node, shown = subject.node, subject.seen.place.expression
    keys = (
        (above for above in subject.file.parents(node) if isinstance(above, ast.Subscript)) if node is not None else ()
    )
    if any(keys):
        return Fix(f"choose by an attribute that is set in __init__ instead of `{shown}`, or capture one model a size")
    return Fix(f"take `{shown}` out of forward, or print outside")


def fix_size_branch(subject: Subject) -> Fix:
    """The fix for a decision on a size."""
    statement = subject.statement
    if isinstance(statement, ast.Assert):
        message = subject.source_of(statement.msg) if statement.msg is not None else repr("unexpected size")
        return subject.rewriting(statement, [f"torch._assert({subject.source_of(statement.test)}, {message})"])
    return Fix(
        f"decide `{subject.seen.place.expression}` in __init__, by a setting of the module; or capture with an example "
        "of each size, one model for each branch"
    )


def fix_loop(subject: Subject) -> Fix:
    """The fix for a loop over a tensor or a size."""
    shown = subject.seen.place.expression
    return Fix(
        f"compute over the whole tensor instead of looping over `{shown}`: operations broadcast over leading "
        "dimensions, torch.cumsum and torch.einsum replace most loops; where the number is always the same, make it a "
        "number in __init__ and index: `x[0], x[1]`"
    )


def _rounded(node: ast.Call, subject: Subject) -> Fix | None:
    """Python's ``round`` of a number that was a tensor, as torch's."""
    above = subject.file.parent(node)
    if not isinstance(above, ast.Call) or called_name(above) != "round" or above.args[:1] != [node]:
        return None
    tensor = node.func.value if isinstance(node.func, ast.Attribute) else node.args[0]
    digits = [*above.args[1:], *(key.value for key in above.keywords)]
    decimals = f", decimals={subject.source_of(digits[0])}" if digits else ""
    return subject.replacing(above, f"torch.round({subject.source_of(tensor)}{decimals})")


def _is_in_function(node: ast.expr, subject: Subject) -> bool:
    """Whether a number is computed for what calls a function: ``sorted(..., key=lambda i: float(x[i]))``."""
    return any(isinstance(above, ast.Lambda) for above in subject.file.parents(node))


def _is_operand(node: ast.expr, subject: Subject) -> bool:
    """Whether a number takes part in arithmetic, and nothing else: a tensor of integers can stand there."""
    return isinstance(subject.file.parent(node), (ast.BinOp, ast.UnaryOp, ast.Compare))


def _generic_number(subject: Subject) -> Fix:
    shown = subject.seen.place.expression or subject.seen.place.code
    if isinstance(subject.node, ast.JoinedStr):
        return _in_text(subject)
    if called_name(subject.node) == "range":
        return Fix(
            f"pass how often it loops as a Python number instead of a tensor, or loop as often as it can be and select "
            f"with torch.where, instead of `{shown}`; or {subject.float_setting}"
        )
    if called_name(subject.node) == "int" and isinstance(subject.node, ast.Call) and len(subject.node.args) == 1:
        whole = subject.source_of(subject.node.args[0])
        whole = whole if _is_atom(subject.node.args[0]) else f"({whole})"
        return Fix(
            f"stay in torch: `{whole}.long()` where a tensor can stand for `{shown}`, torch.where or an index into "
            f"stacked results where Python decides by it; or {subject.float_setting}"
        )
    return Fix(f"stay in torch: use the tensor itself instead of `{shown}`; or {subject.float_setting}")


def _used_as_index(node: ast.expr, subject: Subject) -> bool:
    """Whether the number, or the variable it is put into, is an index, a size, or the end of a range."""
    return _is_index(node, subject) or any(_is_index(use, subject) for use in _uses(subject))


def _uses(subject: Subject) -> list[ast.Name]:
    """Where the variable that the statement assigns to is read."""
    statement = subject.statement
    if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
        return []
    function, name = subject.file.function_of(statement), statement.targets[0].id
    nodes = ast.walk(function) if function is not None else ()
    return [use for use in nodes if isinstance(use, ast.Name) and use.id == name and isinstance(use.ctx, ast.Load)]


def _is_index(node: ast.expr, subject: Subject) -> bool:
    inside: ast.AST = node
    for above in subject.file.parents(node):
        if isinstance(above, ast.Subscript) and inside is above.slice:
            return True
        if called_name(above) in ("range", "narrow", "zeros", "ones", "arange", "view", "reshape", "expand", "repeat"):
            return True
        if isinstance(above, ast.stmt):
            return False
        inside = above
    return False


def _whole(node: ast.expr, subject: Subject) -> str:
    """``int(node)`` of products and quotients of sizes, in whole numbers; "" for anything else."""
    division = _division(node)
    if division is not None:
        above, below = division
        if isinstance(below, ast.Constant) and isinstance(below.value, float) and not below.value.is_integer():
            part = Fraction(str(below.value))
            return _times(subject.source_of(above), part.denominator, part.numerator)
        return (
            f"{_in_brackets(subject.source_of(above))} // {_in_brackets(subject.source_of(below).removesuffix('.0'))}"
        )
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        for number, size in ((node.right, node.left), (node.left, node.right)):
            if isinstance(number, ast.Constant) and isinstance(number.value, float):
                part = Fraction(str(number.value))
                return _times(subject.source_of(size), part.numerator, part.denominator)
    return ""


def _times(size: str, above: int, below: int) -> str:
    product = f"{_in_brackets(size)} * {above}" if above != 1 else _in_brackets(size)
    return f"{product} // {below}" if below != 1 else product


def _division(node: ast.expr) -> tuple[ast.expr, ast.expr] | None:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return node.left, node.right
    return None


def _is_atom(node: ast.expr) -> bool:
    return isinstance(node, (ast.Name, ast.Attribute, ast.Subscript, ast.Call))


def _in_brackets(text: str) -> str:
    return text if _is_atom(ast.parse(text, mode="eval").body) or text.isalnum() else f"({text})"
