"""Attributes that the user wants to find on a converted model again.

Before: ``observed.classes``. After: ``quantized.classes``, a copy, which also survives copies and files.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

from fxquant.errors import ConfigError
from fxquant.ir.stages import StageModule

_Stage = TypeVar("_Stage", bound=StageModule)


def require_attributes(model: Any, names: Sequence[str]) -> None:
    """Raise when ``model`` lacks one of the attributes to preserve.

    Raises:
        ConfigError: naming those.
    """
    missing = [name for name in names if not hasattr(model, name)]
    if missing:
        raise ConfigError(
            f"set_preserved_attributes names {', '.join(missing)}, which {type(model).__name__} does not have",
            remedy="correct the name, or set the attribute before the call",
        )


def preserve_attributes(result: _Stage, source: StageModule, names: Sequence[str]) -> _Stage:
    """Copy attributes of ``source`` to ``result``, to be kept by the stages after it; returns ``result``."""
    for name in names:
        if name not in result.state.preserved:
            setattr(result, name, copy.deepcopy(getattr(source, name)))
    result.state = replace(result.state, preserved=tuple(dict.fromkeys((*result.state.preserved, *names))))
    return result
