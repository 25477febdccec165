"""Fixes for calls that plain tracing cannot record: factories, unpacking, assignments to items, modules."""

from __future__ import annotations

import ast

from fxquant.check.fixes.fix import Fix, Subject, called_name, called_on

_SIZED = frozenset(("zeros", "ones", "empty", "rand", "randn", "new_zeros", "new_ones", "new_empty", "expand"))
# What modules that are made for a size of the input can be written as; ``x`` is what they are called with.
_FUNCTIONS = {
    "GroupNorm": "`F.group_norm(x, groups)`",
    "AdaptiveAvgPool1d": "`F.adaptive_avg_pool1d(x, size)`", "AdaptiveAvgPool2d": "`F.adaptive_avg_pool2d(x, size)`",
    "AdaptiveMaxPool2d": "`F.adaptive_max_pool2d(x, size)`", "Upsample": "`F.interpolate(x, size)`",
    "AvgPool1d": "`F.avg_pool1d(x, size)`", "AvgPool2d": "`F.avg_pool2d(x, size)`",
    "MaxPool2d": "`F.max_pool2d(x, size)`",
}  # fmt: skip
_CONTAINERS = {ast.List: "ModuleList", ast.ListComp: "ModuleList", ast.Tuple: "ModuleList", ast.Dict: "ModuleDict"}


def fix_factory(subject: Subject) -> Fix:
    """The fix for a tensor made from sizes."""
    node = subject.node
    if isinstance(node, ast.Call):
        name, arguments = called_name(node), [subject.source_of(item) for item in node.args]
        function = subject.source_of(node.func)
        keywords = "".join(f", {key.arg}={subject.source_of(key.value)}" for key in node.keywords if key.arg)
        if name in _SIZED and len(arguments) > 1:
            return subject.replacing(node, f"{function}(({', '.join(arguments)}){keywords})")
        if name in ("tensor", "as_tensor") and called_on(node) == "torch" and len(arguments) == 1:
            if _is_listed(node.args[0]):
                return Fix(
                    "nothing to do for fxquant; for plain tracing keep the numbers in a buffer, and use what takes a "
                    f"size, `self.numbers.repeat(n)` or `torch.arange(n)`, instead of `{subject.source_of(node)}`"
                )
            return subject.replacing(node, f"torch.full((), {arguments[0]}{keywords})")
        if name in ("finfo", "iinfo"):
            constant = "torch.float32" if name == "finfo" else "torch.int64"
            return subject.replacing(node, f"torch.{name}({constant})", ", the dtype the model is used with")
    return Fix(
        "nothing to do for fxquant; for plain tracing give sizes as one tuple, `torch.zeros((n, 4))`, or make the "
        f"tensor from another one, `x.new_zeros(...)`, instead of `{subject.seen.place.expression}`"
    )


def _is_listed(node: ast.expr) -> bool:
    """Whether a value is a list, however it is put together."""
    return any(isinstance(part, (ast.List, ast.Tuple, ast.ListComp)) for part in ast.walk(node))


def fix_item_assignment(subject: Subject) -> Fix:
    """The fix for ``x[index] = value``."""
    statement = subject.statement
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Subscript):
        target, value = statement.targets[0], statement.value
        base, text = subject.source_of(target.value), subject.source_of(value)
        if isinstance(target.slice, ast.Constant) and isinstance(target.slice.value, str):
            return Fix(
                f"write into a copy of the dict: `{base} = {{**{base}, {subject.source_of(target.slice)}: {text}}}`"
            )
        if isinstance(target.slice, ast.Compare) and isinstance(target.value, ast.Name):
            mask = subject.source_of(target.slice)
            if _is_number(value):
                return subject.rewriting(statement, [f"{base} = {base}.masked_fill({mask}, {text})"])
            return subject.rewriting(statement, [f"{base} = torch.where({mask}, {text}, {base})"])
        method = "fill_" if _is_number(value) else "copy_"
        if isinstance(target.slice, (ast.Slice, ast.Tuple, ast.Constant)):
            return subject.rewriting(statement, [f"{subject.source_of(target)}.{method}({text})"])
    return Fix(
        "nothing to do for fxquant; for plain tracing build the tensor instead of writing into it: masked_fill for "
        "masks, torch.where, torch.select_scatter, torch.cat"
    )


def fix_unpacking(subject: Subject) -> Fix:
    """The fix for ``a, *b = x.shape``, ``f(*x.shape)`` and ``tuple(x.shape)``."""
    node, statement = subject.node, subject.statement
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Tuple):
        found = _fix_starred_targets(statement, statement.targets[0], subject)
        if found is not None:
            return found
    calls = [part for part in ast.walk(statement) if isinstance(part, ast.Call)] if statement is not None else []
    for call in calls:
        if called_name(call) in ("tuple", "list") and len(call.args) == 1 and _is_shape(call.args[0]):
            return subject.replacing(call, subject.source_of(call.args[0]))
        if len(call.args) == 1 and isinstance(call.args[0], ast.Starred) and _is_shape(call.args[0].value):
            return subject.replacing(call.args[0], subject.source_of(call.args[0].value))
    joined = _joined(node, subject)
    if joined is not None:
        return joined
    if called_name(node) == "len" and isinstance(node, ast.Call) and node.args and _is_shape(node.args[0]):
        return subject.replacing(node, f"{subject.source_of(node.args[0]).removesuffix('.shape')}.dim()")
    return _fix_named(subject)


def _fix_named(subject: Subject) -> Fix:
    """The fix that names what is unpacked: parameters behind a star, or elements."""
    node = subject.node
    parts = list(ast.walk(node)) if node is not None else []
    gathered = _gathered(subject)
    stars = [f"*{part.id}" for part in parts if isinstance(part, ast.Name) and part.id == gathered]
    if stars:
        return Fix(f"nothing to do for fxquant; for plain tracing name the parameters instead of `{stars[0]}`")
    starred = next((part.value for part in parts if isinstance(part, ast.Starred)), node)
    shown = subject.source_of(starred) if starred is not None else subject.seen.place.expression
    if isinstance(starred, ast.Compare) and isinstance(starred.left, ast.Constant) and _gathers(starred, subject):
        name = str(starred.left.value)
        return Fix(
            f"name it in the signature, `{name}=None`, and ask `{name} is not None` instead of `{shown}`; for fxquant "
            "there is nothing to do"
        )
    if isinstance(starred, (ast.Call, ast.Compare, ast.GeneratorExp, ast.ListComp)):
        return Fix(
            f"index what is gone through one by one, `sizes[0]`, `sizes[1]`, instead of `{shown}`; for fxquant there "
            "is nothing to do"
        )
    return Fix(f"name the elements: `{shown}[0]`, `{shown}[1]`, instead of a star or a loop")


def _gathered(subject: Subject) -> str:
    """Name of the parameter that gathers positional inputs, ``args`` of ``*args``."""
    parameters = _parameters(subject)
    return parameters.vararg.arg if parameters is not None and parameters.vararg is not None else ""


def _parameters(subject: Subject) -> ast.arguments | None:
    """Those of the function that the finding is in."""
    function = subject.file.function_of(subject.statement) if subject.statement is not None else None
    return None if function is None else function.args


def _gathers(asked: ast.Compare, subject: Subject) -> bool:
    """Whether a comparison asks for a name among the keywords that a parameter gathers: ``"mask" in kwargs``."""
    parameters, where = _parameters(subject), asked.comparators[0]
    keywords = parameters.kwarg.arg if parameters is not None and parameters.kwarg is not None else ""
    is_in = isinstance(asked.ops[0], (ast.In, ast.NotIn))
    return is_in and isinstance(where, ast.Name) and where.id == keywords


def _joined(node: ast.expr | None, subject: Subject) -> Fix | None:
    """``(*a, b)`` and ``f(*a, b)`` as ``a + (b,)``, which plain tracing records."""
    items = node.args if isinstance(node, ast.Call) else node.elts if isinstance(node, (ast.Tuple, ast.List)) else []
    stars = [item for item in items if isinstance(item, ast.Starred)]
    if node is None or len(stars) != 1 or items[0] is not stars[0] or (isinstance(node, ast.Call) and node.keywords):
        return None
    rest = ", ".join(subject.source_of(item) for item in items[1:])
    comma = "," if len(items) == 2 else ""
    sum_of = f"{subject.source_of(stars[0].value)} + ({rest}{comma})" if rest else subject.source_of(stars[0].value)
    new = f"{subject.source_of(node.func)}({sum_of})" if isinstance(node, ast.Call) else sum_of
    return subject.replacing(node, new, ", which plain tracing records too")


def _fix_starred_targets(statement: ast.Assign, targets: ast.Tuple, subject: Subject) -> Fix | None:
    value, count = subject.source_of(statement.value), len(targets.elts)
    stars = [index for index, item in enumerate(targets.elts) if isinstance(item, ast.Starred)]
    if len(stars) != 1:
        return None
    lines: list[str] = []
    if not isinstance(statement.value, (ast.Name, ast.Attribute)):  # it is computed once
        lines, value = [f"parts = {value}"], "parts"
    names, parts = [], []
    for index, item in enumerate(targets.elts):
        names.append(subject.source_of(item.value if isinstance(item, ast.Starred) else item))
        if index < stars[0]:
            parts.append(f"{value}[{index}]")
        elif index > stars[0]:
            parts.append(f"{value}[{index - count}]")
        else:
            end = str(index + 1 - count) if index + 1 < count else ""
            parts.append(f"{value}[{index or ''}:{end}]")
    return subject.rewriting(statement, [*lines, f"{', '.join(names)} = {', '.join(parts)}"])


def fix_module_in_forward(subject: Subject) -> Fix:
    """The fix for a module made in forward."""
    node = subject.node
    made = subject.source_of(node) if node is not None else subject.seen.place.expression
    name = (called_name(node) or "part").lower()
    used = f"self.{name}"
    if isinstance(node, ast.Call) and any(_is_local(part) for item in node.args for part in ast.walk(item)):
        function = _FUNCTIONS.get(called_name(node) or "", "the function of torch.nn.functional that does the same")
        if called_name(node) == "LayerNorm":
            function = _layer_norm(node, subject)
        return Fix(
            f"`{made}` is made from what only forward knows: call {function} instead, or fix the size and make the "
            f"module once, in __init__"
        )
    outer = subject.file.parent(node) if node is not None else None
    if isinstance(outer, ast.Call) and outer.func is node:
        used += f"({', '.join(map(subject.source_of, outer.args))})"
    return Fix(f"make it once, `self.{name} = {made}` in __init__, and write `{used}` here")


def _layer_norm(node: ast.Call, subject: Subject) -> str:
    """The function that does what a layer norm does that is made for the sizes of its input."""
    outer, shape = subject.file.parent(node), subject.source_of(node.args[0])
    parts = node.args[0]
    is_one = isinstance(parts, (ast.Name, ast.Constant, ast.Call)) or (
        isinstance(parts, ast.Subscript) and not isinstance(parts.slice, ast.Slice)
    )
    given = isinstance(outer, ast.Call) and outer.func is node and outer.args
    value = subject.source_of(outer.args[0]) if given and isinstance(outer, ast.Call) else "x"
    return f"`F.layer_norm({value}, {f'({shape},)' if is_one else shape})`"


def _is_local(node: ast.AST) -> bool:
    """Whether an expression reads a variable of forward."""
    return isinstance(node, ast.Name) and node.id not in ("self", "nn", "torch", "F")


def fix_module_in_container(subject: Subject) -> Fix:
    """The fix for modules in a plain container: nn.ModuleList or nn.ModuleDict."""
    nodes = ast.walk(subject.file.tree) if subject.file.tree is not None else ()
    kept = [item for item in nodes if isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Attribute)]
    for node in sorted(
        kept, key=lambda item: (not _is_in_expression(item, subject), not _makes(item.value, subject.seen.value))
    ):
        if _is_named(node, subject):
            registered = _registered(node.value, subject)
            if registered not in ("", subject.source_of(node.value)) and _imports("nn", subject):
                return subject.replacing(node.value, registered)
    return Fix(
        "keep modules as attributes, or in nn.ModuleList or nn.ModuleDict, instead of in a plain list, dict, object or "
        "function, and what is no module apart from them"
    )


def _is_in_expression(node: ast.Assign, subject: Subject) -> bool:
    """Whether the expression that was seen mentions the attribute that is assigned to."""
    parts = ast.walk(subject.node) if subject.node is not None else ()
    target = node.targets[0]
    return isinstance(target, ast.Attribute) and any(
        isinstance(part, ast.Attribute) and part.attr == target.attr for part in parts
    )


def _is_named(node: ast.Assign, subject: Subject) -> bool:
    """Whether the function that runs mentions the attribute that is assigned to."""
    place = subject.seen.place
    words = f"{place.expression} {subject.seen.value} {place.code}".replace("[", " ").replace(".", " ").split()
    function = subject.file.function_of(subject.statement) if subject.statement is not None else None
    attribute = node.targets[0].attr if isinstance(node.targets[0], ast.Attribute) else ""
    mentioned = ast.walk(function) if function is not None and _makes(node.value, subject.seen.value) else ()
    return attribute in words or any(isinstance(part, ast.Attribute) and part.attr == attribute for part in mentioned)


def _makes(node: ast.expr, kind: str) -> bool:
    """Whether an expression makes an object of a class."""
    return any(called_name(part) == kind for part in ast.walk(node))


def _imports(name: str, subject: Subject) -> bool:
    """Whether the file imports something under a name."""
    nodes = ast.walk(subject.file.tree) if subject.file.tree is not None else ()
    imports = (node for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom)))
    return any(name == (alias.asname or alias.name) for node in imports for alias in node.names)


def _registered(node: ast.expr, subject: Subject) -> str:
    """A container of modules as one that registers them, and those inside it too; "" where not all are modules."""
    container = _CONTAINERS.get(type(node))
    if container is None:
        return _made_module(node, subject)
    if isinstance(node, ast.ListComp):
        inner = _registered(node.elt, subject)
        loops = "".join(ast.unparse(part) for part in node.generators)
        return f"nn.{container}([{inner}{loops}])" if inner else ""
    items = node.values if isinstance(node, ast.Dict) else getattr(node, "elts", [])
    inside = [_registered(item, subject) for item in items]
    if not inside or not all(inside):
        return ""
    if not isinstance(node, ast.Dict):
        return f"nn.{container}([{', '.join(inside)}])"
    if not all(isinstance(key, ast.Constant) and isinstance(key.value, str) for key in node.keys):
        return ""
    keys = [subject.source_of(key) for key in node.keys if key is not None]
    return f"nn.{container}({{{', '.join(f'{key}: {item}' for key, item in zip(keys, inside, strict=True))}}})"


def _made_module(node: ast.expr, subject: Subject) -> str:
    """The text of a call of a class, "" for anything else."""
    return subject.source_of(node) if called_name(node)[:1].isupper() else ""


def _is_number(node: ast.expr) -> bool:
    if isinstance(node, ast.UnaryOp):
        return _is_number(node.operand)
    return isinstance(node, ast.Constant) or (called_name(node) == "float" and not _is_shape(node))


def _is_shape(node: ast.expr) -> bool:
    return (isinstance(node, ast.Attribute) and node.attr == "shape") or called_name(node) == "size"
