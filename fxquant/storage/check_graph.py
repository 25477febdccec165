"""What a graph from a file may say: fx writes Python source from it, so every name in it is checked first."""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from fxquant.errors import FxquantError
from fxquant.ir.records import NamedFunction, NodeRecord, TorchOp
from fxquant.storage.names import is_public, may_call_method

_OPS = ("placeholder", "get_attr", "call_function", "call_method", "call_module", "output")


def check_nodes(nodes: tuple[NodeRecord, ...], body: Mapping[str, Any], with_user_code: bool) -> None:
    """Raise unless a graph of ``nodes`` is safe to compile and to run.

    Args:
        nodes: in order.
        body: attributes of its module, children, parameters and buffers in ``_modules``, ``_parameters``, ``_buffers``.
        with_user_code: whether the file needs code of the user's, whose objects have methods of their own.

    Raises:
        ValueError: it is not.
    """
    for node in nodes:
        if node.op not in _OPS or not _is_name(node.name):
            raise ValueError(f"a node {node.name!r} that is none")
        if not isinstance(node.kwargs, dict) or not all(map(_is_name, node.kwargs)) or not isinstance(node.args, tuple):
            raise ValueError(f"the arguments of {node.name}")
        if not _is_safe(node, body, with_user_code):
            raise ValueError(f"the target {node.target!r} of {node.name}")


def require_savable(nodes: tuple[NodeRecord, ...], with_user_code: bool) -> None:
    """Raise when a graph calls a method that a file of this kind may not name.

    Raises:
        FxquantError: naming it.
    """
    for node in nodes:
        wrong = node.op == "call_method" and not _may_call(node.target, with_user_code)
        if wrong or not _reads_public(node):
            raise FxquantError(
                f"{node.name} calls {node.target!r} on {node.args!r}, which files may not name",
                op=str(node.target),
                module_path=node.info.origin.module_path,
                source=node.info.origin.source,
                remedy="keep it out of the model, or pickle the model for use on machines you trust",
            )


def _is_safe(node: NodeRecord, body: Mapping[str, Any], with_user_code: bool) -> bool:
    target = node.target
    if node.op in ("placeholder", "output"):
        return isinstance(target, str) and _is_name(target.lstrip("*"))
    if node.op == "call_function":
        return (callable(target) or isinstance(target, (TorchOp, NamedFunction))) and _reads_public(node)
    if not isinstance(target, str):
        return False
    if node.op == "call_method":
        return _may_call(target, with_user_code)
    found = _at(body, target)
    return isinstance(found, nn.Module) if node.op == "call_module" else isinstance(found, (Tensor, nn.Module))


def _reads_public(node: NodeRecord) -> bool:
    """Whether attributes are read by names that are known and public."""
    is_read = node.target in (getattr, hasattr)
    return not is_read or (len(node.args) > 1 and is_public(node.args[1]) and not node.kwargs)


def _may_call(name: Any, with_user_code: bool) -> bool:
    return may_call_method(name) or (with_user_code and is_public(name))


def _at(body: Mapping[str, Any], path: str) -> Any:
    found: Any = body
    for name in path.split("."):
        space = found if isinstance(found, Mapping) else vars(found)
        if '"' in name or "\\" in name or "\n" in name:
            return None
        kinds = (space.get(kind, {}) for kind in ("_modules", "_parameters", "_buffers"))
        found = next((kind[name] for kind in kinds if name in kind), space.get(name))
        if found is None or not isinstance(found, (Tensor, nn.Module)):
            return None
    return found


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and name.isidentifier() and not keyword.iskeyword(name)
