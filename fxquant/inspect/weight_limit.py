"""What a kernel demands of int8 weights, in words."""

from __future__ import annotations

from fxquant.ir.quant_plan import KernelChoice

_PAIRS = "weights limited in pairs: CPUs without VNNI add two products in int16"
_WORDS = {
    "none": "",
    "channels": _PAIRS,
    "taps_then_channels": _PAIRS,
    "half": "weights within ±63: this kernel adds two products in int16 on every CPU",
}


def describe_weight_limit(kernel: KernelChoice | None) -> str:
    """The limit on a kernel's weights in words, ``""`` when there is none."""
    if kernel is None:
        return ""
    return _WORDS.get(kernel.weight_limit, f"weights limited: {kernel.weight_limit}")
