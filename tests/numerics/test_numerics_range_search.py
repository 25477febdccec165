"""Histograms searched together get the ranges that they get alone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fxquant.numerics import add_to_histogram, search_range, search_ranges


def histogram(seed: int, kind: str, size: int, bins: int) -> tuple[Tensor, float, float]:
    """Counts and ends of random data of a kind."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, generator=generator) * 10.0 ** (seed % 7 - 3)
    x = {
        "normal": x,
        "relu": x.relu(),
        "negative": -x.abs(),
        "away": x.abs() + x.abs().max(),
        "outlier": torch.cat((x, 1000 * x[:1])),
        "constant": x[:1].expand(size),
        "nothing": x[:0],
    }[kind]
    counts = torch.zeros(bins, dtype=torch.float64)
    if x.numel() == 0:
        return counts, math.inf, -math.inf
    return add_to_histogram(counts, math.inf, -math.inf, float(x.min()), float(x.max()), x)


KINDS = ["normal", "relu", "negative", "away", "outlier", "constant", "nothing"]


@settings(deadline=None, max_examples=60)
@given(
    cases=st.lists(
        st.tuples(st.integers(0, 2**20), st.sampled_from(KINDS), st.sampled_from([1, 4, 300])), min_size=1, max_size=30
    ),
    bins=st.sampled_from([1, 7, 256]),
    levels=st.sampled_from([2, 16, 255, 256]),
    symmetric=st.booleans(),
)
def test_many_at_once_are_the_same_as_one_by_one(
    cases: list[tuple[int, str, int]], bins: int, levels: int, symmetric: bool
) -> None:
    histograms = [histogram(*case, bins) for case in cases]
    counts = torch.stack([counts for counts, _, _ in histograms])
    lo = torch.tensor([lo for _, lo, _ in histograms], dtype=torch.float64)
    hi = torch.tensor([hi for _, _, hi in histograms], dtype=torch.float64)
    left, right = search_ranges(counts, lo, hi, levels, symmetric=symmetric)
    assert left.dtype == right.dtype == torch.float64 and left.shape == right.shape == lo.shape
    alone = [search_range(*each, levels, symmetric=symmetric) for each in histograms]
    assert list(zip(left.tolist(), right.tolist(), strict=True)) == alone
    assert bool((left <= 0).all()) and bool((right >= 0).all())


@pytest.mark.parametrize("symmetric", [False, True])
def test_float32_counts_and_no_histograms_at_all(symmetric: bool) -> None:
    counts, lo, hi = histogram(0, "normal", 300, 64)
    assert search_range(counts.float(), lo, hi, 256, symmetric=symmetric) == search_range(
        counts, lo, hi, 256, symmetric=symmetric
    )
    none = torch.zeros(0, dtype=torch.float64)
    left, right = search_ranges(torch.zeros(0, 64), none, none, 256, symmetric=symmetric)
    assert left.shape == right.shape == (0,)
