"""Blocks without gradients: what is computed in one is detached where it is used outside."""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx, nn

from fxquant.capture.proxy import ValueProxy

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer


_gradients_enabled = torch.is_grad_enabled  # what takes its place during a trace is for the user's code


def outside_gradients() -> bool:
    """Whether the user's code is in a block without gradients."""
    return not _gradients_enabled()


def with_gradients_cut(tracer: ValueTracer, proxy: ValueProxy, written: Collection[int]) -> ValueProxy:
    """An operand as the operation sees it: detached where eager would not follow it backward.

    Args:
        tracer: records the detaching.
        proxy: the operand.
        written: ids of the tensors that the operation changes. In a block without gradients, what is written into them
            is detached, since they are read outside.
    """
    value = proxy.value
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return proxy
    inside = outside_gradients()
    cut = (bool(written) and id(value) not in written) if inside else proxy.outside_grad
    if not cut:
        return proxy
    before, proxy.outside_grad = proxy.outside_grad, False
    found: ValueProxy = tracer.create_proxy("call_method", "detach", (proxy,), {})
    proxy.outside_grad = before
    return found


def follows_gradients(proxy: ValueProxy) -> bool:
    """Whether eager would record how a value was computed: gradients are on, and it depends on a trained parameter."""
    value = proxy.value
    if outside_gradients() or proxy.outside_grad or not (value.is_floating_point() or value.is_complex()):
        return False
    with proxy.tracer.nothing_recorded():  # what is looked up is the model's own
        return _is_made_of_trained(proxy.node, proxy.tracer.root)


def _is_made_of_trained(node: fx.Node, root: nn.Module) -> bool:
    waiting, seen = [node], set[fx.Node]()
    while waiting:
        node = waiting.pop()
        if node in seen or node.target in ("detach", torch.detach):
            continue
        seen.add(node)
        waiting += node.all_input_nodes
        if node.op == "get_attr" and operator.attrgetter(str(node.target))(root).requires_grad:
            return True
        if node.op == "call_module" and any(
            item.requires_grad for item in root.get_submodule(str(node.target)).parameters()
        ):
            return True
    return False
