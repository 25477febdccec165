"""What a kernel demands of int8 weights, and what else to know of it, in words."""

from __future__ import annotations

from fxquant.ir.quant_plan import KernelChoice

_PAIRS = "weights limited in pairs: CPUs without VNNI add two products in int16"
_WORDS = {
    "none": "",
    "channels": _PAIRS,
    "taps_then_channels": _PAIRS,
    "half": "weights within ±63: this kernel adds two products in int16",
}


def describe_weight_limit(kernel: KernelChoice | None) -> str:
    """The limit on a kernel's weights and its note in words, ``""`` when there are none."""
    if kernel is None:
        return ""
    limit = _WORDS.get(kernel.weight_limit, f"weights limited: {kernel.weight_limit}")
    return "; ".join(text for text in (kernel.note, limit) if text)
