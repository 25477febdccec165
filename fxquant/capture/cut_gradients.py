"""Blocks without gradients: what is computed in one is detached where it is used outside."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fxquant.capture.proxy import ValueProxy

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer


def outside_gradients() -> bool:
    """Whether the user's code is in a block without gradients."""
    return not torch.is_grad_enabled()


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
