"""Find in-place operations that cannot become functional, and keep everything they touch as the user wrote it.

Before::

    %v = getitem(%y, ...);  %m = mul_(%y, 2);  %z = add(%y, %v)      # %v sees the change

After: ``%y``, ``%v`` and ``%m`` carry the op name ``aliased``: they run in float, in place, unquantized.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from fxquant.ir.effects import name_of
from fxquant.ir.float_part import EFFECTS, HOLDS, PYTHON, WRITES
from fxquant.ir.meta import ALIASED, NodeInfo, by_storage, info, set_info, update_info, writers_in

MADE_BY = "mark_aliases"
_ACCUMULATE = frozenset(("cumsum_", "cumprod_"))
_PROMOTE = frozenset(
    ("add_", "sub_", "subtract_", "mul_", "multiply_", "div_", "divide_", "true_divide_", "pow_", "addcmul_",
     "addcdiv_", "clamp_", "clip_", "clamp_min_", "clamp_max_", "lerp_", "atan2_", "hypot_", "fmod_", "remainder_",
     "iadd", "isub", "imul", "itruediv", "ipow", "imod", "ifloordiv", "__iadd__", "__isub__", "__imul__",
     "__itruediv__", "__ipow__")
)  # fmt: skip
# Give their tensor another form in place; what looked into it before keeps the old one.
FORMS = frozenset(
    ("t_", "transpose_", "swapaxes_", "swapdims_", "unsqueeze_", "squeeze_", "resize_", "resize_as_", "as_strided_",
     "set_")
)  # fmt: skip
# Give their tensor itself or a copy, whichever its strides call for; those of one row are often fit for both.
_MAY_COPY = frozenset(("contiguous", "reshape", "reshape_as", "flatten", "ravel", "to", "sum_to_size"))


def mark_aliases(graph: fx.Graph) -> None:
    """Mark nodes of ``graph``, which must still be spelled as the user wrote it."""
    writers, parts = writers_in(graph), [node for node in graph.nodes if node.meta.get(WRITES)]
    if not writers and not parts:
        return
    order = {node: position for position, node in enumerate(graph.nodes)}
    by_name = {node.name: node for node in graph.nodes}
    sharing = by_storage(graph)
    for node in writers:
        for name in info(node).mutates:
            target = by_name.get(name) or next((source for source in node.all_input_nodes if source.name == name), None)
            if target is not None:
                _mark(node, target, order, sharing.get(info(target).storage, []))
    for part in parts:
        _mark_written_by(part, order)
    for nodes in sharing.values():
        if any(node.target in FORMS for node in nodes) and _writes_values(writers, nodes):
            for node in nodes:
                if node.op.startswith("call_"):
                    update_info(node, op=ALIASED)


def _mark_written_by(part: fx.Node, order: dict[fx.Node, int]) -> None:
    """Keep what a part that runs as Python may write into, for some inputs, and what is read after it, in float."""
    for source in [part.args[place] for place in part.meta[WRITES]]:
        if not isinstance(source, fx.Node):
            continue
        memory = _same_memory(source, lambda item: order[item] < order[part])
        before = [member for member in memory if order[member] < order[part]]
        read_later = [member for member in before if any(order[user] > order[part] for user in member.users)]
        for member in (*read_later, *([source] if read_later else ())):
            if info(member).tensor is not None and member.op.startswith("call_"):
                update_info(member, op=ALIASED)


def _writes_values(writers: list[fx.Node], sharing: list[fx.Node]) -> bool:
    """Whether one of the writers changes more than the form of what lies in the memory that some nodes share."""
    names = {node.name for node in sharing}
    return any(node.target not in FORMS and names.intersection(info(node).mutates) for node in writers)


def _mark(node: fx.Node, target: fx.Node, order: dict[fx.Node, int], sharing: list[fx.Node]) -> None:
    same, memory = _same_tensor(target), _same_memory(target, lambda item: order[item] < order[node])
    others = dict.fromkeys((*sharing, *memory))
    aliases = _aliases_seen_later(node, target, order, [other for other in others if other not in same])
    kept = _is_of_part(target) or any(member.op == "get_attr" for member in memory)
    read_later = any(order[user] > order[node] for user in target.users)
    functional = not read_later or _returns_its_target(node, target)
    if not aliases and not kept and functional and not _gives_another_dtype(node, target):
        return
    for member in {node, target, *aliases, *memory}:
        if member.op.startswith("call_"):
            update_info(member, op=ALIASED)
        elif member.op == "placeholder" and info(member).tensor is not None and not _is_copied(member):
            copy = _copy_input(member)
            order[copy] = order[member]


def _is_copied(placeholder: fx.Node) -> bool:
    return any(info(user).made_by == MADE_BY for user in placeholder.users)


def _copy_input(placeholder: fx.Node) -> fx.Node:
    """Let the model write into a copy: the caller's tensor is never changed, unlike in eager; a container is."""
    readers, known = list(placeholder.users), info(placeholder)
    with placeholder.graph.inserting_after(placeholder):
        copy = placeholder.graph.call_method("clone", (placeholder,))
    set_info(copy, NodeInfo(op=ALIASED, value=known.value, origin=known.origin, origins=(copy.name,), made_by=MADE_BY))
    for reader in readers:
        reader.replace_input_with(placeholder, copy)
        changed = tuple(copy.name if name == placeholder.name else name for name in info(reader).mutates)
        update_info(reader, mutates=changed)
    return copy


def _same_memory(start: fx.Node, is_before: Callable[[fx.Node], bool] = lambda node: True) -> set[fx.Node]:
    """Nodes tied to ``start`` by operations that return, or look into, the memory they were given.

    Parts of it may come through a tuple (``split``), which has no memory of its own. What is copied for some sizes only
    is tied to what it may be a copy of, and what the user's code gives to what it was given.

    Args:
        start: a value.
        is_before: whether a node runs before what is written.
    """
    storage = info(start).storage
    found, open_ends = {start}, [(start, storage)] if storage else []
    while open_ends:
        node, storage = open_ends.pop()
        for other in (*node.all_input_nodes, *node.users):
            own = info(other).storage
            tied = own == storage or isinstance(info(other).value, (tuple, list))
            if other not in found and (tied or (own and (_may_copy(node, other) or _may_copy(other, node)))):
                found.add(other)
                open_ends.append((other, storage if tied else own))
        for other in _through_users_code(node, is_before):
            if other not in found:
                found.add(other)
                open_ends.append((other, info(other).storage))
    return found


def _may_copy(node: fx.Node, source: fx.Node) -> bool:
    """Whether a node is another node's tensor or a copy of it, as sizes will have it."""
    return name_of(node.target) in _MAY_COPY and node.args[:1] == (source,)


def _through_users_code(node: fx.Node, is_before: Callable[[fx.Node], bool]) -> list[fx.Node]:
    """What a value may be the same as, or look into, by code of the user's that ran before.

    Args:
        node: given by that code, or given to it.
        is_before: whether a node runs before what is written.
    """
    giving: Any = node
    while isinstance(giving, fx.Node) and giving.target is operator.getitem:
        giving = giving.args[0]
    ran = isinstance(giving, fx.Node) and _runs_python(giving) and is_before(giving)
    found = list(giving.all_input_nodes) if ran and isinstance(giving, fx.Node) else []
    for call in node.users:
        if _runs_python(call) and is_before(call):
            found += [call, *(item for item in call.users if item.target is operator.getitem)]
    kind = info(node).tensor
    return [item for item in found if (own := info(item).tensor) is not None and kind and own.dtype == kind.dtype]


def _is_users(node: fx.Node) -> bool:
    return node.op == "call_module" and EFFECTS in node.meta


def _runs_python(node: fx.Node) -> bool:
    """Whether a node runs code of the user's, be it code that only computes."""
    return PYTHON in node.meta or _is_users(node)


def _may_hold(node: fx.Node) -> bool:
    """Whether what a node gives may be a tensor that the code which it runs has for itself."""
    return _is_users(node) or node.meta.get(PYTHON) == HOLDS


def _is_of_part(node: fx.Node) -> bool:
    """Whether a value was given by the user's code, which may hold it too, or is a view of such a value."""
    storage = info(node).storage
    while not _may_hold(node):
        first = node.args[0] if node.args else None
        if not isinstance(first, fx.Node):
            return False
        if info(first).storage != storage and not isinstance(info(first).value, (tuple, list)):
            return _may_hold(first)
        node = first
    return True


def _returns_its_target(node: fx.Node, target: fx.Node) -> bool:
    """Whether the node's value is the changed tensor, so that later readers can read the node instead.

    Item assignment returns nothing; its functional form returns the changed tensor.
    """
    same = info(node).storage == info(target).storage and info(node).value == info(target).value
    return target.op != "get_attr" and (same or getattr(node.target, "__name__", "") == "setitem")


def _gives_another_dtype(node: fx.Node, target: fx.Node) -> bool:
    """Whether the functional form would: in place, a bfloat16 tensor stays one whatever is added to it."""
    own, name = info(target).tensor, str(getattr(node.target, "__name__", node.target))
    if own is None:
        return False
    if name in _ACCUMULATE:
        return not own.is_float and own.dtype != torch.int64
    others = [info(source).tensor for source in node.all_input_nodes if source is not target]
    given = [other.dtype for other in others if other is not None and (other.shape or other.is_float > own.is_float)]
    return name in _PROMOTE and any(torch.promote_types(own.dtype, dtype) != own.dtype for dtype in given)


def _same_tensor(target: fx.Node) -> set[fx.Node]:
    """Nodes whose value is the very tensor, changed in place since: ``y.mul_(2).add_(1)``. Readers are redirected."""
    found = {target}
    while info(target).op != ALIASED and len(info(target).mutates) == 1:
        before = next((node for node in target.all_input_nodes if node.name == info(target).mutates[0]), None)
        if before is None or not _returns_its_target(target, before) or info(target).value != info(before).value:
            break
        found.add(before)
        target = before
    return found


def _aliases_seen_later(
    node: fx.Node, target: fx.Node, order: dict[fx.Node, int], sharing: list[fx.Node]
) -> list[fx.Node]:
    """Other nodes, of those ``sharing`` the target's storage, that are read after ``node`` changed it."""
    return [
        other
        for other in sharing
        if other not in (node, target)
        and order[other] < order[node]
        and any(order[user] > order[node] and not _asks_for_form(user) for user in other.users)
    ]


def _asks_for_form(user: fx.Node) -> bool:
    """Whether a node asks a tensor for its shape, device or the like; the tensor may be gone, and its memory in use."""
    return user.target is getattr and info(user).tensor is None
