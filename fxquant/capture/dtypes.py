"""Which inputs decide the dtype of a value: what code that asks ``mask[:, None].dtype`` is traced for."""

from __future__ import annotations

from collections.abc import Callable

from torch import fx

from fxquant.ir.effects import name_of
from fxquant.ir.meta import TensorMeta, info

# Their results have a dtype that does not depend on that of their operands.
_OF_ITS_OWN = frozenset(
    ("to", "type", "float", "double", "half", "bfloat16", "int", "long", "short", "char", "byte", "bool", "eq", "ne",
     "lt", "le", "gt", "ge", "isnan", "isinf", "isfinite", "logical_not", "logical_and", "logical_or", "logical_xor",
     "argmax", "argmin", "argsort", "one_hot", "embedding", "size", "getattr", "len", "nonzero", "type_as")
)  # fmt: skip


# Operators that take operands of different dtypes, and whose result is of the wider one.
_PROMOTE = frozenset(
    ("add", "sub", "subtract", "rsub", "mul", "multiply", "div", "divide", "true_divide", "truediv", "floor_divide",
     "floordiv", "pow", "remainder", "mod", "fmod", "maximum", "minimum", "fmax", "fmin", "where", "atan2", "hypot",
     "cat", "stack", "addcmul", "addcdiv", "copysign", "iadd", "isub", "imul", "itruediv", "cross", "cumsum")
)  # fmt: skip


class Dtypes:
    """What decides the dtypes of the values of one trace.

    Args:
        is_given: whether a node is a tensor of a dtype that is not decided by others: an input, or what a part gives.
    """

    def __init__(self, is_given: Callable[[fx.Node], bool]) -> None:
        self._is_given = is_given
        self._known: dict[fx.Node, tuple[fx.Node, ...]] = {}

    def inputs_of(self, node: fx.Node) -> tuple[fx.Node, ...]:
        """The inputs whose dtype decides that of a value, as far as no parameter and no module of the model does.

        Args:
            node: a tensor.
        """
        pending = [node]
        while pending:
            item = pending[-1]
            if item in self._known:
                pending.pop()
                continue
            sources = self.operands_of(item)
            unknown = [source for source in sources if source not in self._known]
            if unknown:
                pending += unknown
                continue
            found = [item] if self._is_given(item) else [one for source in sources for one in self._known[source]]
            self._known[item] = tuple(dict.fromkeys(found))
        return self._known[node]

    def operands_of(self, node: fx.Node) -> list[fx.Node]:
        """The operands that decide the dtype of what a node computes."""
        calls = node.op in ("call_function", "call_method") and name_of(node.target) not in _OF_ITS_OWN
        if not calls or self._is_given(node):
            return []
        sources = [item for item in node.all_input_nodes if _is_tensor(item)]
        decided = any(item.op == "get_attr" for item in sources) and name_of(node.target) not in _PROMOTE
        return [] if decided else sources


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(info(node).value, (TensorMeta, tuple, list))
