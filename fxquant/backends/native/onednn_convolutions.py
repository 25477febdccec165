"""Which convolutions onednn computes rightly on this CPU.

On CPUs with AVX-512 the int8 kernels of oneDNN, as torch 2.13 has it, give other numbers for many groups, for dilated
kernels, for kernels wider than 7, and for kernels higher than wide or, in three dimensions, uneven; some never return,
some write beyond their memory. Which ones depends on sizes that are known only when the model runs, so that trying them
at convert tells nothing.
Source: ``benchmarks/onednn_convolutions.py``, which tries random ones against exact sums.
"""

from __future__ import annotations

from collections.abc import Sequence

from fxquant.backends.native.engine import has_avx512

_WIDEST = 7
WRONG_HERE = "onednn computes convolutions like it wrongly on CPUs with AVX-512"


def onednn_is_right(weight_shape: Sequence[int], dilation: Sequence[int], groups: int) -> bool:
    """Whether onednn's kernel can be trusted on this CPU.

    Args:
        weight_shape: [C_out, C_in/groups, *kernel].
        dilation: one number per spatial dimension.
        groups: of the convolution.
    """
    if not has_avx512():
        return True
    outputs, channels, *kernel = weight_shape
    small, even = max(kernel) <= _WIDEST, len(set(kernel)) == 1
    if groups > 1:
        return small and len(kernel) < 3 and channels == 1 and outputs == groups
    shaped = even if len(kernel) == 3 else kernel == sorted(kernel)
    return small and shaped and all(step == 1 for step in dilation)
