"""Calling a captured graph beside eager, some calls in a row and on other values, where that may make a difference.

It may where a part of the model runs as Python, and where forward changes what outlives it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxquant.capture.against_eager import Eager, same_results, without_gradients_of
from fxquant.capture.facts import Fact, FactKind
from fxquant.capture.inputs import BoundInputs
from fxquant.capture.keep_state import randomness_kept
from fxquant.errors import FxquantError
from fxquant.ir.float_part import FloatPart, runs_user_code

_CHANGES = (
    FactKind.ATTRIBUTE_UPDATE, FactKind.CONTAINER_UPDATE, FactKind.BUFFER_UPDATE, FactKind.GLOBAL_UPDATE,
)  # fmt: skip


_CALLS = ("the example", "other values", "the example again")


def calls_to_try(parts: Iterable[object], facts: Iterable[Fact], inputs: BoundInputs) -> tuple[str, ...]:
    """The calls in a row in which a graph may part from eager: all, those on other values alone, or none.

    Args:
        parts: what capture put on the root.
        facts: what the trace met.
        inputs: the example.
    """
    whole = [part for part in parts if isinstance(part, FloatPart) and runs_user_code(part)]
    keeps = inputs.share_memory or any(fact.kind in _CHANGES for fact in facts)
    if keeps or not all(part.keeps_nothing for part in whole):
        return _CALLS
    return _CALLS[1:2] if whole else ()  # on the example it was called, as it was traced


def parts_from_eager(
    model: nn.Module,
    traced: fx.GraphModule,
    inputs: BoundInputs,
    titles: Collection[str],
    restore: Callable[[], None],
    gradients: bool,
) -> str:
    """On which of some calls in a row a graph and eager compute something else, "" for none.

    Args:
        model: the user's; not changed.
        traced: the graph on the copy that was traced.
        inputs: the example.
        titles: of the calls, see ``calls_to_try``.
        restore: puts back what calls change on the root and outside of it.
        gradients: whether parameters have them, as for ``Eager``.
    """
    every = dict(zip(_CALLS, (inputs, inputs.changed(_negated), inputs), strict=True))
    calls = {title: every[title] for title in titles}
    tries = (calls, dict.fromkeys(_CALLS, inputs), {_CALLS[0]: inputs}) if len(calls) == len(every) else (calls,)
    calls, expected = _accepted(model, tries, restore, gradients)
    try:
        for title, wanted in expected.items():
            args, kwargs = calls[title].copied()
            wanted_of = nullcontext() if gradients else without_gradients_of(traced)
            with torch.enable_grad(), wanted_of, randomness_kept(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = traced.forward(*args, *kwargs.values())  # whose call would print errors
            if not same_results(wanted, found):
                return title
    except FxquantError:  # it says so; but on the example it must run
        return title if title == _CALLS[0] else ""
    except Exception as error:
        return f"{title}: {type(error).__name__}"
    finally:
        restore()
    return ""


def _accepted(
    model: nn.Module, tries: Sequence[dict[str, BoundInputs]], restore: Callable[[], None], gradients: bool
) -> tuple[dict[str, BoundInputs], dict[str, Any]]:
    """The first calls that a model takes, and their results: it may refuse other values, or to be called again."""
    for calls in tries:
        try:
            eager = Eager(model, gradients=gradients)
            return calls, {title: eager.call(given) for title, given in calls.items()}
        except Exception:  # whatever it raises
            continue
        finally:
            restore()
    return {}, {}


def _negated(tensor: Tensor) -> Tensor:
    if tensor.is_floating_point() or tensor.is_complex():
        return -tensor
    return tensor.flip(-1) if tensor.dim() and tensor.dtype != torch.bool else tensor
