"""From a BackendConfig to limits on plans. What cannot be honoured is refused here, by name.

Honoured: which operators are quantized, which of them as one group, dtypes, integer ranges, smallest scales, exact
parameters, and whether an output shares its input's range. Entries of torch.ao's own that only steer torch.ao's passes
(its fusers, its module classes) need no honouring: fxquant fuses by its own rules. The same entries of a user's own
would be lost, so they are errors.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from fxquant.errors import ConfigError
from fxquant.ops.opened_modules import row_of_element
from fxquant.plan.backend_limits import BackendLimits, PatternLimit
from fxquant.qconfig.backend_config import BackendConfig
from fxquant.qconfig.backend_pattern_config import BackendPatternConfig

# Operators that torch.ao's own configs list and the catalogue has no row for: listed or not, they stay float.
_FLOAT_ANYWAY = frozenset(
    (
        *(nn.RNNCell, nn.LSTMCell, nn.GRUCell, nn.LSTM, nn.GRU, nn.EmbeddingBag),
        *(torch.addmm, torch.permute_copy, torch.repeat_interleave, operator.floordiv),
        *("detach_", "squeeze_", "unsqueeze_", "resize_", "repeat_interleave", "shape"),
        *("hardsigmoid", "hardsigmoid_", "leaky_relu"),
    )
)
_NOTHING_AT_ALL = frozenset((nn.Identity,))  # capture leaves no node of them
_HOOKS = (
    "fuser_method",
    "fused_module",
    "root_module",
    "qat_module",
    "reference_quantized_module",
    "_root_node_getter",
    "_extra_inputs_getter",
)


def read_backend_config(given: Any) -> BackendLimits:
    """Read a BackendConfig, ours or torch.ao's, or the dictionary of either.

    Raises:
        ConfigError: an entry that cannot be honoured: a pattern that the catalogue does not know, functions or classes
            of the user's own that torch.ao's passes would call, an upper bound of scales.
    """
    config = BackendConfig.of(given)
    patterns = []
    for entry in config.configs:
        elements = tuple(_elements(entry, config))
        if any(_is_stage_of_torch_ao(element) for element in elements):
            continue
        for element in elements:
            _require_known(element, config)
        _require_no_hooks(entry, elements, config)
        _require_dtypes(entry, elements, config)
        _require_positions(entry, elements, config)
        patterns.append(PatternLimit(elements, entry))
    return BackendLimits(config.name, tuple(patterns), config.every_group)


def _elements(entry: BackendPatternConfig, config: BackendConfig) -> Iterator[Any]:
    """The operators of a pattern in execution order."""
    if entry._pattern_complex_format is not None:
        yield from _reversed_elements(entry._pattern_complex_format)
    elif not isinstance(entry.pattern, tuple):
        yield entry.pattern
    elif any(isinstance(item, tuple) for item in entry.pattern):
        raise _refusal(config, entry.pattern, "is nested", "list its operators in execution order")
    else:
        yield from entry.pattern


def _reversed_elements(pattern: Any) -> Iterator[Any]:
    """torch.ao's nested form, ``(relu, (add, conv, MatchAllNode))``: an operator, then what it reads."""
    head, *sources = pattern if isinstance(pattern, tuple) else (pattern,)
    for source in sources:
        yield from _reversed_elements(source)
    if getattr(head, "__name__", "") != "MatchAllNode":
        yield head


def _is_stage_of_torch_ao(element: Any) -> bool:
    """Fused and training classes, which torch.ao's own passes put into a graph and fxquant's never do."""
    return isinstance(element, type) and element.__module__.startswith("torch.ao.")


def _require_known(element: Any, config: BackendConfig) -> None:
    if row_of_element(element) is not None or element in _FLOAT_ANYWAY or element in _NOTHING_AT_ALL:
        return
    if isinstance(element, type) and not element.__module__.startswith("torch."):
        raise _refusal(
            config,
            element,
            "is a class of your own, whose forward is captured operator by operator",
            "list those operators; or quantize the module by set_float_to_observed_mapping of PrepareCustomConfig",
        )
    raise _refusal(config, element, "is not in fxquant's catalogue", "leave it out: the operator stays float")


def _require_no_hooks(entry: BackendPatternConfig, elements: tuple[Any, ...], config: BackendConfig) -> None:
    for name in _HOOKS:
        hook = getattr(entry, name)
        if hook is not None and not str(getattr(hook, "__module__", "")).startswith("torch."):
            raise _refusal(
                config,
                elements,
                f"has a {name.removeprefix('_')} of your own, {_title(hook)}, which fxquant never calls",
                "leave it out: fxquant fuses listed groups by its own rules, and lowers by its own kernels",
            )


def _require_dtypes(entry: BackendPatternConfig, elements: tuple[Any, ...], config: BackendConfig) -> None:
    for dtypes in entry.dtype_configs:
        for slot in ("input", "output", "weight"):
            if getattr(dtypes, f"{slot}_dtype_with_constraints").scale_max_upper_bound is not None:
                raise _refusal(
                    config,
                    elements,
                    f"bounds the scale of its {slot} from above, which is known only after calibration",
                    "leave scale_max_upper_bound out",
                )


def _require_positions(entry: BackendPatternConfig, elements: tuple[Any, ...], config: BackendConfig) -> None:
    """Where weight and bias stand is the catalogue's to say; an entry that says otherwise means another function."""
    row = row_of_element(elements[0])
    names = [] if row is None else [parameter.name for parameter in row.parameters]
    for name, index in entry._input_type_to_index.items():
        if row is not None and name in row.weights and names.index(name) != index:
            raise _refusal(
                config, elements, f"puts {name} at {index}, and it is at {names.index(name)}", "correct the entry"
            )


def _refusal(config: BackendConfig, pattern: Any, why: str, remedy: str) -> ConfigError:
    shown = ", ".join(_title(item) for item in (pattern if isinstance(pattern, tuple) else (pattern,)))
    return ConfigError(f"backend_config {config.name!r}: the pattern {shown} {why}", remedy=remedy)


def _title(element: Any) -> str:
    if isinstance(element, tuple):
        return f"({', '.join(_title(item) for item in element)})"
    return repr(element) if isinstance(element, str) else str(getattr(element, "__name__", element))
