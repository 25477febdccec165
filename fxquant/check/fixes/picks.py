"""Fixes for picking from a list, a dict or a ModuleList by the value of a tensor."""

from __future__ import annotations

import ast

from fxquant.check.fixes.fix import Fix, Subject


def fix_pick(node: ast.Subscript, subject: Subject) -> Fix:
    """The fix for ``items[index]`` where the index is the value of a tensor."""
    base, index = subject.source_of(node.value), subject.source_of(node.slice)
    if isinstance(node.slice, (ast.Slice, ast.Tuple)):
        return Fix(
            f"a slice `{base}[{index}]` whose ends are tensor values has another size each time: keep the whole and "
            f"mask it, `torch.where(torch.arange({base}.shape[-1]) < length, {base}, 0)`; or {subject.float_setting}"
        )
    if isinstance(node.ctx, ast.Store):
        return Fix(f"let forward return `{index}`, and write into `{base}` in the caller; or {subject.float_setting}")
    above = subject.file.parent(node)
    if isinstance(above, ast.Call) and is_called(node, subject):
        return _fix_called(above, base, index, subject)
    stacked = f"torch.stack(tuple({base}))[{index}]"
    if isinstance(node.value, (ast.List, ast.Tuple)):
        stacked = f"torch.stack(({', '.join(map(subject.source_of, node.value.elts))},))[{index}]"
    of_numbers = subject.replacing(node, f"torch.tensor({base})[{index}]")
    otherwise = Fix(
        f"compute with all of `{base}`, stack the results into a tensor, and index that: "
        f"`torch.stack(results)[{index}]`; or {subject.float_setting}"
    )
    return subject.replacing(node, stacked).unless_it_fails(of_numbers.unless_it_fails(otherwise))


def is_called(node: ast.expr, subject: Subject) -> bool:
    """Whether ``node`` is what a call calls: a module or a function, and no tensor."""
    above = subject.file.parent(node)
    return isinstance(above, ast.Call) and above.func is node


def _fix_called(call: ast.Call, base: str, index: str, subject: Subject) -> Fix:
    """The fix for ``parts[index](x)``: call all of them, and select."""
    keywords = [f"{key.arg}={subject.source_of(key.value)}" for key in call.keywords]
    arguments = ", ".join([*map(subject.source_of, call.args), *keywords])
    otherwise = Fix(
        f"call all of `{base}` and select, with a number instead of a key, "
        f"`torch.stack([part({arguments}) for part in parts])[number]`; or {subject.float_setting}"
    )
    all_of_them = f"torch.stack([part({arguments}) for part in {base}])[{index}]"
    return subject.replacing(call, all_of_them, ", which calls all of them").unless_it_fails(otherwise)
