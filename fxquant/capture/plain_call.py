"""Whether plain ``torch.fx`` would record a call: found by making it with plain proxies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx
from torch.fx.node import map_aggregate

from fxquant.capture.proxy import ValueProxy


def plainly_recorded(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether plain tracing records a call of ``function`` instead of failing.

    Call it while the tracer is executing, so that the call is not recorded.

    Args:
        function: of torch.
        args, kwargs: of the call; proxies among them are replaced by plain ones.
    """
    graph = fx.Graph()

    def plain(leaf: Any) -> Any:
        return fx.Proxy(graph.placeholder("x")) if isinstance(leaf, ValueProxy) else leaf

    try:
        return isinstance(function(*map_aggregate(args, plain), **map_aggregate(kwargs, plain)), fx.Proxy)
    except NotImplementedError:  # the call was recorded, and has tensors among its arguments
        return True
    except Exception:
        return False
