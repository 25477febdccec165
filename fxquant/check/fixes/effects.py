"""Fixes for what vanishes or changes meaning in a graph: state, randomness, modes, in-place writes; and for errors."""

from __future__ import annotations

import ast

from fxquant.check.fixes.fix import Fix, Subject, called_name, called_on

_SEEDS = frozenset(("manual_seed", "manual_seed_all", "seed", "set_rng_state", "set_state"))
# Classes that make tensors when they are called with a list, and cannot be recorded.
_OF_CLASSES = {
    "Tensor": "torch.float32", "FloatTensor": "torch.float32", "DoubleTensor": "torch.float64",
    "HalfTensor": "torch.float16", "LongTensor": "torch.int64", "IntTensor": "torch.int32",
    "BoolTensor": "torch.bool", "ByteTensor": "torch.uint8",
}  # fmt: skip
_PYTHON_DRAWS = {"random": "torch.rand(())", "rand": "torch.rand(())", "randn": "torch.randn(())"}


def fix_dropout(subject: Subject) -> Fix:
    """The fix for dropout that is on in eval mode too."""
    node = subject.node
    for keyword in node.keywords if isinstance(node, ast.Call) else ():
        if keyword.arg == "dropout_p":  # of attention, which has no ``training``
            probability = subject.source_of(keyword.value)
            return subject.replacing(keyword.value, f"{probability} if self.training else 0.0")
    if isinstance(node, ast.Call) and called_on(node) in ("F", "torch.nn.functional", "nn.functional", "functional"):
        for keyword in node.keywords:
            if keyword.arg == "training":
                return subject.replacing(keyword.value, "self.training")
        if len(node.args) < 3:
            arguments = [subject.source_of(item) for item in node.args]
            arguments += [f"{key.arg}={subject.source_of(key.value)}" for key in node.keywords]
            text = f"{subject.source_of(node.func)}({', '.join([*arguments, 'training=self.training'])})"
            return subject.replacing(node, text, ", or use nn.Dropout, which follows train() and eval()")
    if isinstance(node, ast.Call) and called_name(node.func).endswith("Dropout"):
        return Fix(f"make `{subject.source_of(node.func)}` once, in __init__: there it follows train() and eval()")
    if isinstance(node, ast.Call) and subject.source_of(node.func).startswith("self."):
        return Fix(
            f"leave the mode of `{subject.source_of(node.func)}` to train() and eval(): something turns it on in eval "
            "mode too, such as a train() of its own"
        )
    return Fix("use nn.Dropout, which follows train() and eval(), instead of a dropout that is always on")


def fix_python_random(subject: Subject) -> Fix:
    """The fix for numbers drawn in Python."""
    node = subject.node
    decision = subject.decision(node) if node is not None else None
    if isinstance(node, ast.Compare):
        return Fix(
            f"draw outside and pass what follows from it as an input instead of `{subject.seen.place.expression}`; or "
            f"{subject.float_setting}"
        )
    if isinstance(node, ast.Call) and decision is None:
        arguments = [subject.source_of(item) for item in node.args]
        if called_name(node) in _PYTHON_DRAWS and not arguments:
            return subject.replacing(node, _PYTHON_DRAWS[called_name(node)])
        if called_name(node) == "uniform" and len(arguments) == 2:
            low, high = arguments
            return subject.replacing(node, f"torch.empty(()).uniform_({low}, {high})")
    shown = subject.seen.place.expression
    if decision is not None:
        return Fix(
            f"draw outside instead of `{shown}`, pass the result as a tensor, and select with torch.where instead of a "
            "branch"
        )
    return Fix(f"draw outside and pass the result as an input, or draw in torch, instead of `{shown}`")


def fix_grad_mode(subject: Subject) -> Fix:
    """The fix for a block without gradients, or with them."""
    statement, shown = subject.statement, subject.seen.place.expression
    if _turns_on(subject.node) and _takes_gradients(statement):
        return Fix(
            "nothing to do: what takes gradients runs as Python, in float; put it into a module of its own, so that "
            "the rest can be int8"
        )
    if _turns_on(subject.node):
        return Fix(
            f"leave `{shown}` out, and set the gradient mode where the model is called; or {subject.float_setting}"
        )
    if (
        isinstance(subject.node, ast.Call)
        and called_name(subject.node) == "set_grad_enabled"
        and _is_computed(subject.node)
    ):
        return Fix(
            f"freeze parameters by `requires_grad_(False)`, in __init__, instead of `{shown}`; or "
            f"{subject.float_setting}"
        )
    if isinstance(statement, ast.With) and all(_is_write(part) for part in statement.body):
        return Fix(
            "compute with the new value instead of writing it, and leave the block out; or write outside of forward, "
            "before the model is called"
        )
    if isinstance(statement, ast.With) and len(statement.body) == 1 and len(statement.items) == 1:
        inner = statement.body[0]
        off = called_name(statement.items[0].context_expr) in ("no_grad", "inference_mode")
        if off and isinstance(inner, ast.Assign) and len(inner.targets) == 1:
            name, value = subject.source_of(inner.targets[0]), subject.source_of(inner.value)
            return subject.rewriting(statement, [f"{name} = ({value}).detach()"])
    return Fix(
        f"detach the results instead of `{shown}`: `y = y.detach()`; or call the whole model under torch.no_grad()"
    )


def _takes_gradients(statement: ast.stmt | None) -> bool:
    """Whether a statement calls ``torch.autograd.grad``."""
    parts = ast.walk(statement) if statement is not None else iter(())
    return any(called_name(part) == "grad" and called_on(part).endswith("autograd") for part in parts)


def _turns_on(node: ast.expr | None) -> bool:
    """Whether a call turns gradients on."""
    if isinstance(node, ast.Call) and called_name(node) == "set_grad_enabled":
        given = [*node.args, *(key.value for key in node.keywords)]
        return isinstance(given[0], ast.Constant) and given[0].value is True
    return called_name(node) == "enable_grad"


def _is_computed(call: ast.Call) -> bool:
    """Whether what a call is given is no constant."""
    return any(not isinstance(item, ast.Constant) for item in (*call.args, *(key.value for key in call.keywords)))


def _is_write(statement: ast.stmt) -> bool:
    """Whether a statement gives no name a value: it writes into what there is."""
    if isinstance(statement, ast.Assign):
        return not any(isinstance(target, (ast.Name, ast.Tuple)) for target in statement.targets)
    return isinstance(statement, (ast.Expr, ast.AugAssign))


def fix_autocast(subject: Subject) -> Fix:
    """The fix for an autocast block."""
    node, shown = subject.node, subject.seen.place.expression
    keywords = node.keywords if isinstance(node, ast.Call) else []
    off = (key.value for key in keywords if key.arg == "enabled" and isinstance(key.value, ast.Constant))
    if any(value.value is False for value in off):
        return Fix(
            f"leave `{shown}` out, and call the model outside of autocast, where it has no effect: casts in the block, "
            "such as `x.float()`, are in the graph"
        )
    return Fix(f"cast where it is meant, `x.to(torch.bfloat16)`, or call the whole model under `{shown}`")


def fix_torch_random(subject: Subject) -> Fix:
    """The fix for numbers that torch draws, and for its seeds."""
    if called_name(subject.node) in _SEEDS:
        return Fix(
            f"leave `{subject.seen.place.expression}` to the caller; numbers that are the same at every call are drawn "
            "once, in __init__, and kept in a buffer"
        )
    return Fix("draw outside and pass the numbers as an input, if results should repeat")


def fix_input_update(subject: Subject) -> Fix:
    """The fix for a write into an input."""
    statement = subject.statement
    if isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
        changed = ast.unparse(ast.BinOp(statement.target, statement.op, statement.value))
        return subject.rewriting(statement, [f"{statement.target.id} = {changed}"])
    name = _written_name(statement)
    if statement is None or not name:
        return Fix("write into a copy, `x = x.clone()`, or use the operation that is not in place")
    lines = subject.source_of(statement).split("\n")
    return subject.rewriting(statement, [f"{name} = {name}.clone()", *lines])


def _written_name(statement: ast.stmt | None) -> str:
    """The variable that a statement writes into."""
    node: ast.AST | None = None
    if isinstance(statement, (ast.Assign, ast.AugAssign)):
        node = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        node = statement.value.func
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        node = statement.value.func if isinstance(statement.value, ast.Call) else None
    while isinstance(node, (ast.Subscript, ast.Attribute, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) and node.id != "self" else ""


def fix_update(subject: Subject) -> Fix:
    """The fix for attributes, containers, buffers and globals changed in forward."""
    changed = subject.seen.changed or _written_into(subject) or subject.seen.place.expression
    if changed.endswith(".training"):
        return Fix(
            f"leave {changed} to train() and eval(), and say in the call what is meant, as "
            f"`F.batch_norm(..., training=True)` does, instead of `{subject.seen.place.expression}`; or "
            f"{subject.float_setting}"
        )
    return Fix(
        f"let forward compute only: return the new value of {changed} and store it in the caller, or take it as an "
        f"input; or {subject.float_setting}"
    )


def _written_into(subject: Subject) -> str:
    """What a method in place writes into: ``self.gain`` of ``self.gain.data.clamp_(0, 1)``; "" where it is none."""
    node = subject.node
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr.endswith("_"):
        return subject.source_of(node.func.value).removesuffix(".data")
    return ""


def fix_error(subject: Subject) -> Fix:
    """The fix for an error that stopped capture."""
    place, remedy = subject.seen.place, subject.seen.remedy
    if not place.line or remedy.startswith("pass "):
        text = remedy or subject.float_setting
        return Fix(f"{text[0].upper()}{text[1:]}")
    if _takes_gradients(subject.statement):
        return Fix(
            "take gradients under `with torch.enable_grad():`, from the line that makes what they are taken of: that "
            "runs as Python, in float; in a module of its own, so that the rest can be int8"
        )
    node = subject.node
    dtype = _OF_CLASSES.get(called_name(node), "") if called_on(node) in ("torch", "th") else ""
    if isinstance(node, ast.Call) and dtype and len(node.args) == 1:
        text = f"torch.tensor({subject.source_of(node.args[0])}, dtype={dtype})"
        return subject.replacing(node, text).unless_it_fails(Fix(f"keep it float: {subject.float_setting}"))
    return Fix(f"write this line in another way, or {subject.float_setting}")
