"""Statements that ask for sizes, and may run as Python, so that the graph is right for every size.

Before: ``if height * width == self.count: return self.positions`` is built in as the example has it, and checked.

After: the statement and what follows runs as Python: no int8 is lost, since it computes from sizes and parameters
alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import BuiltinFunctionType, FrameType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fxquant.capture.cut_function import Cut
from fxquant.capture.expression_cuts import expression_cuts
from fxquant.capture.plain_code import is_literal, is_torchs
from fxquant.capture.proxy import Depends, ValueProxy
from fxquant.capture.source import position
from fxquant.capture.structures import leaves
from fxquant.capture.truth_cuts import may_give_truth, narrow_cut, wide_cut
from fxquant.ir.codes import codes_in

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer

_GO_THROUGH_ALL = frozenset(
    ("children", "modules", "named_children", "named_modules", "parameters", "named_parameters", "state_dict",
     "_modules", "_parameters", "getattr", "vars", "__dict__", "get_submodule", "get_parameter", "__call__", "forward")
)  # fmt: skip
_TABLES = (nn.Embedding, nn.EmbeddingBag)
_SHAPE_ONLY = frozenset(
    ("shape", "size", "device", "dtype", "ndim", "dim", "numel", "is_cuda", "is_contiguous", "new_zeros", "new_ones")
)


def may_run_as_python(tracer: ValueTracer, frame: FrameType, loops: bool, inside: bool = False) -> bool:
    """Whether the statement that ``frame`` is at may be kept whole.

    Args:
        tracer: the trace.
        frame: of the user's code.
        loops: whether it is a loop over a size. Such a loop may read activations: unrolled, it would be right for one
            length only.
        inside: whether it may be an expression of the statement, where the statement multiplies by weights.
    """
    with tracer.nothing_recorded():  # looking at the model's tensors is no part of the trace
        return _may_run_as_python(tracer, frame, loops, inside)


def _may_run_as_python(tracer: ValueTracer, frame: FrameType, loops: bool, inside: bool) -> bool:
    where = position(frame.f_code, frame.f_lasti)
    code = tracer.recorder.written.get(frame.f_code, frame.f_code)
    if where is None or tracer.settings.sizes_built_in or (code, where) in tracer.settings.refused:
        return False
    every = [wide_cut(code, where), narrow_cut(code, where), *(expression_cuts(code, where) if inside else ())]
    known = tracer.settings.chosen.get((code, where))
    for cut in every[every.index(known) :] if known in every else every if known is None else ():
        if cut is not None and _may_be_cut(tracer, cut, frame, loops):
            tracer.settings.chosen[code, where] = cut
            return True
    return False


def _may_be_cut(tracer: ValueTracer, cut: Cut, frame: FrameType, loops: bool) -> bool:
    if cut.key in tracer.settings.rejected_before:
        return False
    names = frame.f_locals
    values = {name: names[name] for name in cut.inputs if name in names}
    if any(_has_weights(value, name, cut) for name, value in values.items()):
        return False
    if cut.expression is not None and not all(map(_cannot_change, values.values())):
        return False
    if reads_activations(cut, values):
        return loops
    return not may_give_truth(cut)  # what asks for it next would be built in


def _cannot_change(value: Any) -> bool:
    """Whether an expression may read a local name without changing what the statement around it reads, too."""
    if type(value) in (tuple, torch.Size):
        return all(map(_cannot_change, value))
    if isinstance(value, ValueProxy):
        return isinstance(value.value, (Tensor, int, float, torch.Size, tuple))
    if isinstance(value, (FunctionType, BuiltinFunctionType, type)):
        return is_torchs(value)
    return is_literal(value) or isinstance(value, (nn.Module, Tensor, ModuleType, torch.dtype, torch.device))


def _has_weights(value: Any, name: str, cut: Cut) -> bool:
    """Whether a statement that uses the value of a local name may run modules with weights."""
    if not isinstance(value, nn.Module):
        return any(_weighted(leaf) for leaf in leaves(value) if isinstance(leaf, nn.Module))
    if None in cut.used.attributes.get(name, set()):
        return _weighted(value)
    return any(_reaches_weights(value, chain) for chain in cut.used.chains.get(name, set()))


def _reaches_weights(module: nn.Module, chain: tuple[str, ...]) -> bool:
    """Whether attributes of a module, taken one of the other, are or use a module with weights, or its weight."""
    inside = module
    for name in chain:
        child = inside._modules.get(name)
        if child is None:
            if callable(getattr(type(inside), name, None)):
                return _weighted(inside) and (inside is not module or _method_reaches_weights(module, name, set()))
            weight = None if isinstance(inside, _TABLES) else inside._parameters.get(name)
            return inside is not module and weight is not None and weight.dim() > 1
        inside = child
    return _weighted(inside)


def _method_reaches_weights(module: nn.Module, name: str, seen: set[str]) -> bool:
    """Whether a method of a module, or one that it calls, mentions what has weights, or goes through all there is."""
    seen.add(name)
    code = getattr(inspect.unwrap(getattr(type(module), name)), "__code__", None)
    if code is None:
        return True
    names = {mentioned for inner in codes_in(code) for mentioned in inner.co_names}
    if names & _GO_THROUGH_ALL:
        return True
    held = {**module._modules, **module._parameters}
    if any(_is_weighted(held[item]) for item in names if item in held):
        return True
    own = names - seen - vars(nn.Module).keys()  # ``x.float()`` is a tensor's
    methods = [item for item in own if callable(getattr(type(module), item, None))]
    return any(_method_reaches_weights(module, item, seen) for item in methods)


def _is_weighted(held: nn.Module | nn.Parameter | None) -> bool:
    if isinstance(held, nn.Module):
        return _weighted(held)
    return held is not None and held.dim() > 1


def _weighted(module: nn.Module) -> bool:
    """Whether a module multiplies by weights, which would be int8; tables that it looks up in need not be."""
    parts = (part for part in module.modules() if not isinstance(part, _TABLES))
    held = (parameter for part in parts for parameter in part._parameters.values())
    return any(parameter is not None and parameter.dim() > 1 for parameter in held)


def reads_activations(cut: Cut, values: Mapping[str, Any]) -> bool:
    """Whether a statement reads numbers that depend on the values of inputs.

    Args:
        cut: the statement.
        values: of local names.
    """
    return any(_reads_activation(value, cut, name) for name, value in values.items())


def _reads_activation(value: Any, cut: Cut, name: str) -> bool:
    """Whether a statement reads numbers that depend on the values of inputs."""
    if isinstance(value, ValueProxy) and isinstance(value.value, Tensor):
        attributes = cut.used.attributes.get(name, set())
        return value.depends is Depends.VALUES and not attributes <= _SHAPE_ONLY
    return any(isinstance(leaf, ValueProxy) and leaf.depends is Depends.VALUES for leaf in leaves(value))
