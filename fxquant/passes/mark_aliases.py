"""Find in-place operations that cannot become functional, and keep everything they touch as the user wrote it.

Before::

    %v = getitem(%y, ...);  %m = mul_(%y, 2);  %z = add(%y, %v)      # %v sees the change

After: ``%y``, ``%v`` and ``%m`` carry the op name ``aliased``: they run in float, in place, unquantized.
"""

from __future__ import annotations

import torch
from torch import fx

from fxquant.ir.float_part import WRITES
from fxquant.ir.meta import ALIASED, NodeInfo, info, set_info, update_info, writers_in
from fxquant.ir.shared_memory import SharedMemory, Values

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


def mark_aliases(graph: fx.Graph) -> None:
    """Mark nodes of ``graph``, which must still be spelled as the user wrote it."""
    writers, parts = writers_in(graph), [node for node in graph.nodes if node.meta.get(WRITES)]
    if not writers and not parts:
        return
    memory = SharedMemory(graph)
    by_name = {node.name: node for node in graph.nodes}
    for node in writers:
        for name in info(node).mutates:
            target = by_name.get(name) or next((source for source in node.all_input_nodes if source.name == name), None)
            if target is not None:
                _mark(node, target, memory)
    for part in parts:
        _mark_written_by(part, memory)
    for nodes in memory.by_address.values():
        if any(node.target in FORMS for node in nodes) and _writes_values(writers, nodes):
            for node in nodes:
                if node.op.startswith("call_"):
                    update_info(node, op=ALIASED)


def _mark_written_by(part: fx.Node, memory: SharedMemory) -> None:
    """Keep what a part that runs as Python may write into, for some inputs, and what is read after it, in float."""
    for source in [part.args[place] for place in part.meta[WRITES]]:
        if not isinstance(source, fx.Node):
            continue
        read_later = memory.tied_to(source, part).read_after(part)
        for member in (*read_later, *([source] if read_later else ())):
            if info(member).tensor is not None and member.op.startswith("call_"):
                update_info(member, op=ALIASED)


def _writes_values(writers: list[fx.Node], sharing: list[fx.Node]) -> bool:
    """Whether one of the writers changes more than the form of what lies in the memory that some nodes share."""
    names = {node.name for node in sharing}
    return any(node.target not in FORMS and names.intersection(info(node).mutates) for node in writers)


def _mark(node: fx.Node, target: fx.Node, memory: SharedMemory) -> None:
    order, tied = memory.order, memory.tied_to(target, node)
    aliases = _aliases_seen_later(node, target, memory, tied)
    kept = memory.is_of_part(target) or tied.has_attributes
    read_later = any(order[user] > order[node] for user in target.users)
    functional = not read_later or _returns_its_target(node, target)
    if not aliases and not kept and functional and not _gives_another_dtype(node, target):
        return
    for member in {node, target, *aliases, *tied.members}:
        if member.op.startswith("call_"):
            update_info(member, op=ALIASED)
        elif member.op == "placeholder" and info(member).tensor is not None and not _is_copied(member):
            copy = _copy_input(member)
            order[copy] = order[member]
            memory.has_changed()


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


def _aliases_seen_later(node: fx.Node, target: fx.Node, memory: SharedMemory, tied: Values) -> list[fx.Node]:
    """Other values in the target's memory, or tied to it, that are read after a node changed it."""
    order, storage = memory.order, info(target).storage
    read = dict.fromkeys((*memory.at(storage).read_after(node), *tied.read_after(node)))
    found = [
        other
        for other in read
        if other is not target and any(order[user] > order[node] and not _asks_for_form(user) for user in other.users)
    ]
    same = _same_tensor(target) if found else ()
    return [other for other in found if other not in same]


def _asks_for_form(user: fx.Node) -> bool:
    """Whether a node asks a tensor for its shape, device or the like; the tensor may be gone, and its memory in use."""
    return user.target is getattr and info(user).tensor is None
