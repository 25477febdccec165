"""Models in float16 and bfloat16: float32 inside, their own dtypes at their inputs and outputs."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxquant.capture.copy_module import copy_module
from fxquant.capture.facts import Fact
from fxquant.capture.inputs import copy_tensors, split_inputs
from fxquant.capture.keep_state import randomness_kept
from fxquant.capture.proxy import ValueProxy
from fxquant.capture.structures import leaves, rebuild
from fxquant.errors import CaptureError
from fxquant.ir.meta import NodeInfo, info, set_info, update_info
from fxquant.ir.walk_modules import Inventory

_HALF = (torch.float16, torch.bfloat16)
_ROUNDING = 0.1  # of the norm of a result
_CONVERSIONS = frozenset(("half", "bfloat16"))


@dataclass(frozen=True)
class HalfPrecision:
    """What a trace in float32 of a model in half precision has to know.

    Attributes:
        dtype: of the model.
        results: the floating tensors that the model itself returns, in order; None when unknown: all are of its dtype.
    """

    dtype: torch.dtype
    results: tuple[Tensor, ...] | None

    @staticmethod
    def of(held: Inventory, example_inputs: Any) -> HalfPrecision | None:
        """None for models without parameters in half precision. The model runs once, to see what it returns."""
        dtype = half_dtype(held.parameters)
        return None if dtype is None else HalfPrecision(dtype, _results(held.model, example_inputs))

    def widened(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any, Any]:
        """An operation with float32 in place of half precision, where it names a dtype."""
        if isinstance(target, str) and target in _CONVERSIONS:
            return "float", args, kwargs
        named = [_wide(item) for item in args], {key: _wide(item) for key, item in kwargs.items()}
        return target, tuple(named[0]), named[1]

    def narrowed(self, result: Any) -> Any:
        """What the trace returns, each floating tensor in the dtype that the model returns it in.

        Args:
            result: nested containers and objects of proxies.
        """
        found = list(_floats(result))
        known = self.results is not None and len(self.results) == len(found)
        dtypes = iter([item.dtype for item in self.results or ()] if known else [self.dtype] * len(found))

        def narrow(leaf: Any) -> Any:
            if not isinstance(leaf, ValueProxy) or not list(_floats(leaf)):
                return leaf
            if isinstance(leaf.value, Tensor):
                dtype = next(dtypes)
                return leaf if dtype == leaf.value.dtype else leaf.to(dtype)
            if type(leaf.value) in (tuple, list):
                return type(leaf.value)(narrow(operator.getitem(leaf, index)) for index in range(len(leaf.value)))
            for _ in _floats(leaf):
                next(dtypes)
            return leaf

        return rebuild(result, narrow)

    def require_same(self, found: Any, asked: Sequence[Fact]) -> None:
        """Refuse a trace that computes something else than the model itself.

        Args:
            found: what the trace computes in float32.
            asked: where the model asks for dtypes.

        Raises:
            CaptureError: it does, by more than rounding, and may do so because of what it asks.
        """
        floats = list(_floats(found))
        if not asked or self.results is None or len(self.results) != len(floats):
            return
        if not all(map(_is_near, self.results, floats)):
            lines = "".join(f"\n  {fact.code}, {fact.source}" for fact in asked)
            raise CaptureError(
                f"the model asks for dtypes, and computes something else in {self.dtype} than in float32:{lines}",
                module_path=asked[0].module_path,
                source=asked[0].source,
                remedy="pass model.float() if what it computes in float32 is wanted: int8 models compute that",
            )


def _is_near(expected: Tensor, found: Tensor) -> bool:
    """Whether two results differ by no more than what rounding to half precision may add up to."""
    if expected.shape != found.shape:
        return True
    first, second = expected.detach().double(), found.detach().double()
    both = first.isfinite() & second.isfinite()
    return bool((first - second)[both].norm() <= _ROUNDING * first[both].norm())


def _floats(structure: Any) -> Iterator[Tensor]:
    """Floating tensors in nested containers and objects, those that proxies stand for included."""
    for leaf in leaves(structure):
        if isinstance(leaf, ValueProxy):
            yield from _floats(leaf.value)
        elif isinstance(leaf, Tensor) and leaf.is_floating_point():
            yield leaf


def _wide(item: Any) -> Any:
    return torch.float32 if isinstance(item, torch.dtype) and item in _HALF else item


def _results(model: nn.Module, example_inputs: Any) -> tuple[Tensor, ...] | None:
    args, kwargs = split_inputs(example_inputs)
    try:
        with torch.no_grad(), randomness_kept(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = copy_module(model)(*copy_tensors(args), **copy_tensors(kwargs))
    except Exception:  # the trace says what is wrong
        return None
    return tuple(_floats(result))


def half_dtype(parameters: Iterable[nn.Parameter]) -> torch.dtype | None:
    """The dtype of a model in half precision, else None."""
    return next((parameter.dtype for parameter in parameters if parameter.dtype in _HALF), None)


def to_float32(tensor: Tensor) -> Tensor:
    """A tensor in half precision as float32; others as they are."""
    return tensor.float() if tensor.dtype in _HALF else tensor


def widen_inputs(graph: fx.Graph, dtype: torch.dtype) -> None:
    """Convert floating inputs, which are given in ``dtype``, to float32."""
    for node in _given(graph):
        known = info(node).tensor
        if known is not None and known.is_float and node.users:
            _insert_conversion(graph, node, torch.float32)
            update_info(node, value=replace(known, dtype=dtype))


def _given(graph: fx.Graph) -> list[fx.Node]:
    """Inputs, and what is taken out of inputs that are containers."""
    given: list[fx.Node] = []
    for node in graph.nodes:
        taken = node.target in (operator.getitem, getattr) and node.args[0] in given
        if node.op == "placeholder" or (taken and info(node.args[0]).tensor is None):
            given.append(node)
    return given


def _insert_conversion(graph: fx.Graph, node: fx.Node, dtype: torch.dtype) -> None:
    users = list(node.users)
    with graph.inserting_after(node):
        new = graph.call_method("to", (node, dtype))
    set_info(new, NodeInfo(value=info(node).value, origin=info(node).origin, origins=(new.name,)))
    for user in users:
        user.replace_input_with(node, new)
