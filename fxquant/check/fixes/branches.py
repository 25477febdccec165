"""Fixes for Python decisions on tensor values: compute both and select."""

from __future__ import annotations

import ast

from fxquant.capture.branches import WRITES, is_not
from fxquant.capture.names_in_code import names_in
from fxquant.check.fixes.both_sides import assigned, returned
from fxquant.check.fixes.fix import Fix, Subject, called_name, called_on
from fxquant.check.fixes.inner_decisions import fix_inner_decision
from fxquant.check.fixes.picks import fix_pick, is_called
from fxquant.check.fixes.tensor_conditions import condition, of_all

_EXTREMES = {"max": ("maximum", "min"), "min": ("minimum", "max")}


def fix_branch(subject: Subject) -> Fix:
    """The fix for a decision on the value of a tensor."""
    node = subject.node
    if isinstance(node, ast.Subscript) and (is_called(node, subject) or not _is_asked(node, subject)):
        return fix_pick(node, subject)
    return _fix_decision(subject).unless_it_fails(_without_selecting(subject))


def _fix_decision(subject: Subject) -> Fix:
    node, statement = subject.node, subject.statement
    for above in (node, *(subject.file.parents(node) if node is not None else ())):
        if isinstance(above, ast.IfExp) and _is_in(node, above.test):
            picked = f"{subject.source_of(above.body)}, {subject.source_of(above.orelse)}"
            return subject.replacing(above, f"torch.where({condition(above.test, subject)}, {picked})")
    if isinstance(node, ast.Call):
        found = _fix_call(node, subject)
        if found is not None:
            return found
    if isinstance(node, ast.BoolOp) and not _decides(node, subject) and not _is_in_test(node, subject):
        return subject.replacing(node, _selected(node, subject))
    if isinstance(statement, ast.Assert):
        message = _text_of(statement.msg) if statement.msg is not None else repr("assertion failed")
        return subject.rewriting(statement, [f"torch._assert({condition(statement.test, subject)}, {message})"])
    if isinstance(statement, ast.If) and _is_in(node, statement.test):
        return _fix_if(statement, subject)
    if isinstance(statement, ast.While):
        return Fix(
            "a loop whose length depends on values cannot be a graph: run a fixed number of steps and keep the old "
            f"value where it is done, `x = torch.where({condition(statement.test, subject)}, step(x), x)`; "
            f"or {subject.float_setting}"
        )
    if isinstance(node, ast.Call) and not _is_asked(node, subject):
        return fix_inner_decision(node, subject)
    return _generic(subject, condition(node, subject) if node is not None else "condition")


def _is_in_test(node: ast.expr, subject: Subject) -> bool:
    """Whether an expression is, or is part of, what decides a comprehension or an ``if`` in an expression."""
    inside: ast.AST = node
    for above in subject.file.parents(node):
        if inside is getattr(above, "test", None) or inside in getattr(above, "ifs", ()):
            return True
        if isinstance(above, ast.stmt) or called_name(above) == "bool":
            return called_name(above) == "bool"
        inside = above
    return False


def _selected(node: ast.BoolOp, subject: Subject) -> str:
    """``a or b`` and ``a and b``, whose value is one of the two, as a selection."""
    *before, text = map(subject.source_of, node.values)
    for value in reversed(before):
        asked = f"{value} != 0" if value.isidentifier() else f"({value}) != 0"
        sides = f"{text}, {value}" if isinstance(node.op, ast.And) else f"{value}, {text}"
        text = f"torch.where({asked}, {sides})"
    return text


def _fix_call(node: ast.Call, subject: Subject) -> Fix | None:
    name, arguments = called_name(node), node.args
    if isinstance(node.func, ast.Name) and name in _EXTREMES and len(arguments) == 2 and not node.keywords:
        both, bound = _EXTREMES[name]
        constants = [isinstance(argument, (ast.Constant, ast.UnaryOp)) for argument in arguments]
        first, second = map(subject.source_of, arguments)
        if constants[0] != constants[1]:
            number, tensor = (first, second) if constants[0] else (second, first)
            return subject.replacing(node, f"torch.clamp({tensor}, {bound}={number})")
        by_second = subject.replacing(node, f"torch.clamp({first}, {bound}={second})")
        by_first = subject.replacing(node, f"torch.clamp({second}, {bound}={first})").unless_it_fails(
            _without_selecting(subject)
        )
        either = subject.replacing(node, f"torch.{both}({first}, {second})")
        return either.unless_it_fails(by_second.unless_it_fails(by_first))
    if isinstance(node.func, ast.Name) and name in _EXTREMES and arguments and not node.keywords:
        listed = f"[{', '.join(map(subject.source_of, arguments))}]"
        listed = listed if len(arguments) > 1 else f"tuple({subject.source_of(arguments[0])})"
        listed = subject.source_of(arguments[0]) if isinstance(arguments[0], (ast.List, ast.Tuple)) else listed
        return subject.replacing(node, f"torch.stack({listed}).{name}()").unless_it_fails(_without_selecting(subject))
    if name == "sorted" and len(arguments) == 1 and not node.keywords:
        sorts = subject.source_of(arguments[0])
        sorts = f"torch.stack({sorts})" if isinstance(arguments[0], (ast.Tuple, ast.List)) else sorts
        return Fix(f"sort in torch: `torch.sort({sorts}).values`")
    if _decides(node, subject):
        return None
    if isinstance(node.func, ast.Name) and name in ("any", "all") and len(arguments) == 1:
        return subject.replacing(node, of_all(arguments[0], name, subject))
    if name == "bool" and len(arguments) == 1:
        return subject.replacing(node, condition(arguments[0], subject))
    if name in ("equal", "allclose") and called_on(node) == "torch":
        return subject.replacing(node, condition(node, subject))
    return None


def _decides(node: ast.expr, subject: Subject) -> bool:
    """Whether Python branches on ``node``."""
    test = getattr(subject.statement, "test", None)
    return isinstance(test, ast.expr) and _is_in(node, test)


def _is_asked(node: ast.expr, subject: Subject) -> bool:
    """Whether Python asks for the truth of ``node``, or of what it is part of."""
    if called_name(node) == "bool":
        return True
    for above in subject.file.parents(node):
        if isinstance(above, (ast.BoolOp, ast.IfExp, ast.comprehension)):
            return True
        if is_not(above) or called_name(above) == "bool":
            return True
    return _decides(node, subject)


def _fix_if(statement: ast.If, subject: Subject) -> Fix:
    statement = _first_of_chain(statement, subject)
    if _only_writes(statement):
        return Fix(f"leave the message out of forward: nothing else follows from `{subject.source_of(statement.test)}`")
    if _asks_python(statement.test):
        return _fix_mixed(statement.test, subject)
    test = condition(statement.test, subject)
    if len(statement.body) == 1 and isinstance(statement.body[0], ast.Raise) and not statement.orelse:
        message = _message(statement.body[0], subject)
        if not message:
            return _without_selecting(subject)
        return subject.rewriting(statement, [f"torch._assert({_negated(statement.test, subject)}, {message})"])
    given = returned(statement, subject)
    if given is not None:
        return subject.rewriting(statement, [f"return {given[0]}"], last=given[1])
    values = assigned(statement, subject)
    if values is not None:
        return subject.rewriting(statement, [f"{name} = {value}" for name, value in values.items()])
    return _generic(subject, test)


def _first_of_chain(statement: ast.If, subject: Subject) -> ast.If:
    """The ``if`` that an ``elif`` belongs to."""
    above = subject.file.parent(statement)
    while isinstance(above, ast.If) and above.orelse == [statement]:
        if not subject.file.line(statement.lineno).startswith("elif"):
            break
        statement, above = above, subject.file.parent(above)
    return statement


def _only_writes(statement: ast.If) -> bool:
    """Whether an ``if`` does nothing but give messages."""
    calls = [part.value for part in statement.body if isinstance(part, ast.Expr) and isinstance(part.value, ast.Call)]
    return (
        not statement.orelse
        and len(calls) == len(statement.body)
        and all(called_name(call) in WRITES for call in calls)
    )


def _negated(test: ast.expr, subject: Subject) -> str:
    """The condition under which an error is not raised."""
    if is_not(test):
        return condition(test.operand, subject)
    return f"torch.logical_not({condition(test, subject)})"


def _fix_mixed(test: ast.expr, subject: Subject) -> Fix:
    """The fix for a condition of which Python can decide one part: ``mask is not None and mask.any()``."""
    parts = test.values if isinstance(test, ast.BoolOp) else [test]
    python = [subject.source_of(part) for part in parts if _is_of_python(part)]
    tensors = [condition(part, subject) for part in parts if not _is_of_python(part)]
    if not isinstance(test, ast.BoolOp) or isinstance(test.op, ast.Or) or not python or not tensors:
        return _without_selecting(subject)
    both = " & ".join(f"({item})" for item in tensors) if len(tensors) > 1 else tensors[0]
    return Fix(
        f"let Python decide by `{' and '.join(python)}` alone, and select inside: "
        f"`torch.where({both}, what the block gives, what there was before)`; or {subject.float_setting}"
    )


def _without_selecting(subject: Subject) -> Fix:
    """What to do about a decision where both sides cannot be computed and selected from."""
    statement, shown = subject.statement, subject.seen.place.expression
    if any(_is_size(part) for part in (ast.walk(subject.node) if subject.node is not None else ())):
        return Fix(
            f"`{shown}` asks how many values were picked: keep all of them with a mask instead, "
            f"`torch.where(mask, x, 0)`; or {subject.float_setting}"
        )
    if any(_gives_none(part) for part in (ast.walk(statement) if statement is not None else ())):
        return Fix(
            "give a tensor in both cases instead of None: a mask of ones, or a summand of zeros, changes nothing; or "
            f"{subject.float_setting}"
        )
    if not _is_of_inputs(subject):
        return Fix(
            f"let both ways give tensors of one shape and dtype, and select from these by `{shown}` with torch.where; "
            f"or {subject.float_setting}"
        )
    return Fix(
        f"decide `{shown}` outside of the model and pass what follows from it as an input; or {subject.float_setting}"
    )


def _is_of_inputs(subject: Subject) -> bool:
    """Whether an expression reads nothing but what forward is given, so that its caller could compute it."""
    node = subject.node
    function = subject.file.function_of(node) if node is not None else None
    if node is None or function is None or function.name != "forward":
        return False
    stored = {part.id for part in ast.walk(function) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
    arguments = {item.arg for item in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)}
    read = names_in(node) - {"self", "torch", "bool", "F"}
    return bool(read) and read <= arguments - stored


def _is_size(node: ast.AST) -> bool:
    return called_name(node) in ("numel", "len", "size", "nelement") or (
        isinstance(node, ast.Attribute) and node.attr == "shape"
    )


def _gives_none(node: ast.AST) -> bool:
    """Whether None is what a branch assigns, returns or picks."""
    values: list[ast.expr | None] = []
    if isinstance(node, ast.IfExp):
        values = [node.body, node.orelse]
    elif isinstance(node, (ast.Assign, ast.Return)):
        values = [node.value]
    return any(isinstance(value, ast.Constant) and value.value is None for value in values)


def _asks_python(test: ast.expr) -> bool:
    """Whether a condition is also about what is no tensor."""
    return isinstance(test, ast.BoolOp) and _is_of_python(test)


def _is_of_python(test: ast.expr) -> bool:
    return any(
        isinstance(node, (ast.Is, ast.IsNot))
        or called_name(node) in ("isinstance", "hasattr", "len", "is_tensor")
        or (isinstance(node, ast.Attribute) and node.attr == "training")
        for node in ast.walk(test)
    )


def _message(statement: ast.Raise, subject: Subject) -> str:
    """What an error says, as source; "" where the error is more than a message: it carries a value, or is caught."""
    raised = statement.exc
    kind = raised.func if isinstance(raised, ast.Call) else raised
    if kind is None or _is_caught(ast.unparse(kind), subject):
        return ""
    if not isinstance(raised, ast.Call) or not raised.args:
        return repr("assertion failed")
    return _text_of(raised.args[0]) if _is_text(raised.args[0]) else ""


def _text_of(node: ast.expr) -> str:
    """The source of a text; without the values in it, which would be asked for at every call."""
    if isinstance(node, ast.JoinedStr) and any(isinstance(part, ast.FormattedValue) for part in node.values):
        parts = [str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values]
        return repr("".join(parts).strip())
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod) and isinstance(node.left, ast.Constant):
        return repr(node.left.value)
    return ast.unparse(node)


def _is_caught(kind: str, subject: Subject) -> bool:
    """Whether the file catches errors of a kind and does more than raise them again."""
    nodes = ast.walk(subject.file.tree) if subject.file.tree is not None else ()
    handlers = [node for node in nodes if isinstance(node, ast.ExceptHandler) and node.type is not None]
    named = [item for item in handlers if any(ast.unparse(part) == kind for part in ast.walk(item.type or item))]
    return any(not isinstance(item.body[0], ast.Raise) or item.body[0].exc is not None for item in named)


def _is_text(node: ast.expr) -> bool:
    """Whether an expression is a text for sure."""
    if isinstance(node, ast.BinOp):
        return _is_text(node.left) or _is_text(node.right)
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str)
    return isinstance(node, ast.JoinedStr) or called_name(node) in ("str", "repr", "format", "join")


def _is_in(node: ast.AST | None, around: ast.AST) -> bool:
    return node is not None and any(part is node for part in ast.walk(around))


def _generic(subject: Subject, test: str) -> Fix:
    if isinstance(subject.node, ast.IfExp):
        test = subject.source_of(subject.node.test)
    parts = list(ast.walk(subject.statement)) if subject.statement is not None else []
    if any(map(_is_size, ast.walk(subject.node))) if subject.node is not None else False:
        return _without_selecting(subject)
    if isinstance(subject.statement, ast.If) and any(isinstance(part, (ast.Break, ast.Continue)) for part in parts):
        return Fix(
            "how often a loop runs, or which rounds it leaves out, cannot depend on values in a graph: run all rounds, "
            f"and keep the old value where `{test}` ends them, `x = torch.where(done, x, step(x))`; or "
            f"{subject.float_setting}"
        )
    return Fix(f"compute both sides and select: `torch.where({test}, if_true, if_false)`; or {subject.float_setting}")
