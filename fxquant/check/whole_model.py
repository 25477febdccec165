"""What is true of a model and its example before any line runs: hooks, signatures, masks, inputs left out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from fxquant.capture.inputs import split_inputs
from fxquant.check.finding import FindingKind
from fxquant.check.hooks import defined, forward_hooks_of, name_of
from fxquant.check.observation import Observation, Place
from fxquant.check.probes import Example, is_mask
from fxquant.check.source_tree import Sources

FirstUse = Callable[[str, nn.Module, Sources], Place]
_SIGNATURE = (
    "co_varnames is too small"  # what fx says of a forward behind a decorator. Source: torch/fx/_symbolic_trace.py
)


def observe_whole(
    model: nn.Module, inputs: Any, plain_error: str, sources: Sources, first_use: FirstUse
) -> Iterator[Observation]:
    """What is seen without running the model.

    Args:
        model: the user's.
        inputs: the example inputs.
        plain_error: what plain tracing says of the model, "" when it traces it.
        sources: parsed files.
        first_use: the first line of forward that reads one of its parameters.
    """
    for hook in forward_hooks_of(model):
        yield Observation(FindingKind.ROOT_HOOK, defined(hook, sources), name_of(hook))
    if type(model).__module__.startswith("torch.nn.") and plain_error:
        yield Observation(FindingKind.ROOT_LEAF, Place(), type(model).__name__)
    if _SIGNATURE in plain_error:
        yield Observation(FindingKind.KEYWORDS, defined(inspect.unwrap(model.forward), sources))
    for leaf in Example.of(model, inputs).leaves():
        if is_mask(leaf.name, leaf.tensor):
            place = first_use(leaf.name.partition(".")[0], model, sources)
            yield Observation(FindingKind.HIDDEN_CASE, place, f"`{leaf.name}`, which masks nothing,")
    for name in _left_out(model, inputs):
        place = first_use(name, model, sources)
        if place.file:
            yield Observation(FindingKind.PRESENCE, place, name)


def _left_out(model: nn.Module, inputs: Any) -> list[str]:
    """Optional parameters of forward that the example does not give."""
    args, kwargs = split_inputs(inputs)
    signature = inspect.signature(model.forward)
    try:
        given = signature.bind(*args, **kwargs).arguments
    except TypeError:
        return []
    return [name for name, item in signature.parameters.items() if item.default is None and name not in given]
