"""Which inputs decide the dtype of a value: what code that asks ``mask[:, None].dtype`` is traced for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import fx

from fxquant.ir.effects import name_of
from fxquant.ir.meta import TensorMeta, info

# Their results have a dtype that does not depend on that of their operands.
_OF_ITS_OWN = frozenset(
    ("to", "type", "float", "double", "half", "bfloat16", "int", "long", "short", "char", "byte", "bool", "eq", "ne",
     "lt", "le", "gt", "ge", "isnan", "isinf", "isfinite", "logical_not", "logical_and", "logical_or", "logical_xor",
     "argmax", "argmin", "argsort", "one_hot", "embedding", "size", "getattr", "len", "nonzero", "type_as")
)  # fmt: skip


def inputs_of_dtype(node: fx.Node, is_given: Callable[[fx.Node], bool]) -> Iterator[fx.Node]:
    """The inputs whose dtype decides that of a value, as far as no parameter and no module of the model does.

    Args:
        node: a tensor.
        is_given: whether a node is a tensor that the model is given.
    """
    pending, seen = [node], set[fx.Node]()
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        if is_given(node):
            yield node
        elif node.op in ("call_function", "call_method") and name_of(node.target) not in _OF_ITS_OWN:
            sources = [item for item in node.all_input_nodes if _is_tensor(item)]
            if not any(item.op == "get_attr" for item in sources):
                pending += sources


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(info(node).value, (TensorMeta, tuple, list))
