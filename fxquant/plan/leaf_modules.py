"""Modules that the custom config makes one operator of the plan: standalone and custom modules.

A standalone module is quantized on its own; the plan around it only knows which of its arguments, and whether its
result, are integers. A custom module computes on integers throughout: one tensor in, one tensor out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import fx

from fxquant.errors import ConfigError
from fxquant.fusion.rule import UnitDraft
from fxquant.ir.meta import ALIASED, info
from fxquant.ir.quant_plan import STANDALONE, KernelChoice
from fxquant.plan.assign_domains import Candidate
from fxquant.plan.resolve_qconfig import Resolved


@dataclass(frozen=True)
class LeafModule:
    """One such module.

    Attributes:
        convention: ``standalone`` or ``custom``.
        title: its class.
        parameters: for standalone modules: names of its inputs, in order.
        integer_inputs: those of them that are integers.
        integer_output: whether its result is.
    """

    convention: str
    title: str
    parameters: tuple[str, ...] = ()
    integer_inputs: tuple[str, ...] = ()
    integer_output: bool = False


def classify_leaf(draft: UnitDraft, leaf: LeafModule, resolved: Resolved) -> Candidate:
    """Classify the call of a leaf module.

    Raises:
        ConfigError: the call does not fit: it changes in place what others read after it, an argument that is to be
            quantized is no float tensor, or a custom module is called with other than one tensor.
    """
    anchor = draft.anchor
    if info(anchor).op == ALIASED:
        why = "changes a tensor in place that is read again after it"
        raise _misfit(anchor, leaf, why, "write its forward without in-place operations")
    kernel = KernelChoice(leaf.convention, f"{leaf.title} ({leaf.convention} module)")
    if leaf.convention == STANDALONE:
        operands = tuple((name, _operand(anchor, name, leaf)) for name in leaf.integer_inputs)
        return Candidate(draft, None, STANDALONE, operands, kernel, gives_integers=leaf.integer_output)
    source = _only_argument(anchor, leaf)
    if resolved.qconfig is None:
        reason = f"excluded by qconfig ({resolved.entry})"
        return Candidate(draft, None, "float", (("input", source),), reason=reason, excluded=True)
    return Candidate(draft, None, "requantize", (("input", source),), kernel)


def map_arguments(
    call: fx.Node, parameters: tuple[str, ...], change: Callable[[str, Any], Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call of a standalone module, each changed knowing the input it is for."""
    args = tuple(change(parameters[position], value) for position, value in enumerate(call.args))
    return args, {name: change(name, value) for name, value in call.kwargs.items()}


def argument_of(call: fx.Node, name: str, parameters: tuple[str, ...]) -> Any:
    """The argument that a call of a standalone module gives to one of its inputs."""
    position = parameters.index(name)
    return call.args[position] if position < len(call.args) else call.kwargs.get(name)


def _operand(call: fx.Node, name: str, leaf: LeafModule) -> fx.Node:
    found = argument_of(call, name, leaf.parameters)
    if not isinstance(found, fx.Node) or not info(found).is_float_tensor:
        raise _misfit(call, leaf, f"takes {name} quantized, and it is no float tensor here", "take its index out")
    return found


def _only_argument(call: fx.Node, leaf: LeafModule) -> fx.Node:
    arguments = [*call.args, *call.kwargs.values()]
    single = len(arguments) == 1 and isinstance(arguments[0], fx.Node) and info(arguments[0]).is_float_tensor
    if not single or not info(call).is_float_tensor:
        raise _misfit(
            call,
            leaf,
            "is a custom module that does not take one float tensor and return one",
            "wrap what it needs besides the tensor into the module, or use set_standalone_module_class",
        )
    source: Any = arguments[0]
    return source  # type: ignore[no-any-return]


def _misfit(call: fx.Node, leaf: LeafModule, why: str, remedy: str) -> ConfigError:
    origin = info(call).origin
    return ConfigError(
        f"{call.target} ({leaf.title}) {why}",
        op=leaf.title,
        module_path=origin.module_path,
        source=origin.source,
        remedy=remedy,
    )
