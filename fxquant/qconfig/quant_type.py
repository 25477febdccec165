"""The kinds of quantization that custom module mappings speak of. Names are torch.ao's."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from fxquant.errors import ConfigError


class QuantType(IntEnum):
    """Kind of quantization."""

    DYNAMIC = 0
    STATIC = 1
    QAT = 2
    WEIGHT_ONLY = 3


def require_static(quant_type: Any, setter: str) -> QuantType:
    """Return ``QuantType.STATIC`` when that is what was given: ours, torch.ao's, or the word ``static``.

    Raises:
        ConfigError: another kind.
    """
    name = str(getattr(quant_type, "name", quant_type)).upper()
    if name != QuantType.STATIC.name:
        raise ConfigError(
            f"{setter} takes QuantType.STATIC only, not {quant_type!r}",
            remedy="custom modules are quantized statically; leave quant_type out",
        )
    return QuantType.STATIC
