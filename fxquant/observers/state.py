"""What a model's observers have seen, as a state_dict of its own: calibrate once, load it anywhere."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from fxquant.errors import CalibrationError
from fxquant.observers.attached import AttachedObserver
from fxquant.observers.base import ObserverBase
from fxquant.observers.input_statistics import InputStatistics

_HOLDERS = (AttachedObserver, InputStatistics, ObserverBase)


def get_observer_state_dict(mod: nn.Module) -> OrderedDict[str, Tensor]:
    """Statistics of every observer in a model.

    Args:
        mod: a model from ``prepare_fx``, or any module that holds observers.

    Returns:
        The entries of ``mod.state_dict()`` that belong to observers, under the same names.
    """
    prefixes = _prefixes(mod)
    kept = {key: value for key, value in mod.state_dict().items() if key.startswith(prefixes)}
    return OrderedDict(kept)


def load_observer_state_dict(mod: nn.Module, obs_dict: Mapping[str, Any]) -> None:
    """Load what ``get_observer_state_dict`` returned into a model prepared the same way.

    Args:
        mod: a model from ``prepare_fx``; its weights stay as they are.
        obs_dict: statistics by name.

    Raises:
        CalibrationError: an observer has no entry, or an entry no observer; nothing is loaded then.
    """
    own, given = set(get_observer_state_dict(mod)), set(obs_dict)
    if own != given:
        lacks = "; ".join(
            f"{title}: {', '.join(sorted(names)[:5])}"
            for title, names in (("missing", own - given), ("unexpected", given - own))
            if names
        )
        raise CalibrationError(
            f"the statistics are not those of this model's observers ({lacks})",
            remedy="prepare the same model with the same qconfig_mapping that the statistics come from",
        )
    mod.load_state_dict(obs_dict, strict=False)


def _prefixes(mod: nn.Module) -> tuple[str, ...]:
    """``name.`` of each module that holds statistics."""
    held = (name for name, module in mod.named_modules(remove_duplicate=False) if isinstance(module, _HOLDERS))
    return tuple(f"{name}." if name else "" for name in held)
