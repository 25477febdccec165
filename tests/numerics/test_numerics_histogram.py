"""Histograms keep their mass; the range search finds what an exhaustive search finds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fxquant.numerics import add_to_histogram, choose_qparams, fake_quantize, search_range

EMPTY = (math.inf, -math.inf)


def collect(*batches: Tensor, bins: int = 2048) -> tuple[Tensor, float, float]:
    counts, (lo, hi) = torch.zeros(bins, dtype=torch.float64), EMPTY
    for batch in batches:
        counts, lo, hi = add_to_histogram(counts, lo, hi, float(batch.min()), float(batch.max()), batch)
    return counts, lo, hi


def exact_error(counts: Tensor, lo: float, hi: float, levels: int, left: float, right: float) -> float:
    """The documented objective by fine numerical integration, bin by bin; clipping costs three times as much."""
    parts = 400
    width = (hi - lo) / counts.numel()
    offsets = (np.arange(parts) + 0.5) / parts
    x = lo + width * (np.arange(counts.numel())[:, None] + offsets[None, :])
    weight = np.repeat(counts.numpy()[:, None] / parts, parts, axis=1)
    step = (right - left) / (levels - 1)
    cost = np.where(np.abs(x) < step / 2, x * x, step * step / 12)
    cost = np.where(x < left, 3 * (x - left) ** 2, cost)
    cost = np.where(x > right, 3 * (x - right) ** 2, cost)
    return float((cost * weight).sum())


def exhaustive_search(counts: Tensor, lo: float, hi: float, levels: int, points: int = 41) -> float:
    lefts = np.linspace(min(lo, 0.0), min(hi, 0.0), points) if lo < 0 else [0.0]
    rights = np.linspace(max(lo, 0.0), max(hi, 0.0), points) if hi > 0 else [0.0]
    return min(exact_error(counts, lo, hi, levels, a, b) for a in lefts for b in rights)


@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 2**20),
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=5),
    spread=st.sampled_from([0.0, 1e-3, 1.0, 1e6]),
    bins=st.sampled_from([1, 7, 64]),
)
def test_mass_is_kept_when_the_range_grows(seed: int, sizes: list[int], spread: float, bins: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    batches = [torch.randn(size, generator=generator) * spread * 3**i + i for i, size in enumerate(sizes)]
    counts, lo, hi = collect(*batches, bins=bins)
    everything = torch.cat(batches)
    assert (lo, hi) == (float(everything.min()), float(everything.max()))
    assert float(counts.sum()) == pytest.approx(sum(sizes), rel=1e-12)
    assert (counts >= 0).all()


def test_widening_interpolates_the_cumulative_counts() -> None:
    counts = torch.tensor([4.0, 0.0, 0.0, 8.0], dtype=torch.float64)
    widened, lo, hi = add_to_histogram(counts, 0.0, 4.0, -4.0, -4.0, torch.tensor([-4.0]))
    assert (lo, hi) == (-4.0, 4.0)
    assert widened.tolist() == [1.0, 0.0, 4.0, 8.0]
    widened, _, _ = add_to_histogram(counts, 0.0, 4.0, 6.0, 6.0, torch.tensor([6.0]))
    assert widened.tolist() == [4.0, 0.0, 8.0, 1.0]


def test_one_histogram_of_everything_is_close_to_many_small_ones() -> None:
    x = torch.randn(20000, generator=torch.Generator().manual_seed(0))
    whole, _, _ = collect(x, bins=128)
    merged, _, _ = collect(*x.chunk(20), bins=128)
    assert float((whole.cumsum(0) - merged.cumsum(0)).abs().max()) < 0.01 * x.numel()


def test_counts_go_on_past_float32_integers() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # each thread of torch.histc counts by itself
    try:
        counts, _, _ = collect(torch.tensor([1.0]), torch.zeros(1).expand(2**24 + 1000), bins=4)
    finally:
        torch.set_num_threads(threads)
    assert counts.tolist() == [2**24 + 1000, 0, 0, 1]


def test_constants_stay_where_they_are() -> None:
    counts, lo, hi = collect(torch.full((5,), 3.0), torch.full((2,), 3.0), bins=8)
    assert (lo, hi) == (3.0, 3.0) and counts.sum() == 7
    assert search_range(counts, lo, hi, 256) == (0.0, 3.0)
    assert search_range(counts, lo, hi, 256, symmetric=True) == (-3.0, 3.0)
    counts, lo, hi = add_to_histogram(counts, lo, hi, 0.0, 4.0, torch.tensor([0.0, 4.0]))
    assert counts.tolist() == [1, 0, 0, 0, 0, 0, 7, 1]


@settings(deadline=None, max_examples=40)
@given(
    counts=st.lists(st.integers(0, 30), min_size=8, max_size=8),
    outlier=st.sampled_from([0, 1, 3]),
    lo=st.sampled_from([-8.0, -5.3, -1.0, 0.0, 2.0, -30.0]),
    levels=st.sampled_from([4, 16, 256]),
)
def test_search_is_as_good_as_an_exhaustive_one(counts: list[int], outlier: int, lo: float, levels: int) -> None:
    histogram = torch.tensor([*counts, *[0] * 7, outlier], dtype=torch.float64)
    hi = lo + 16.0
    if not histogram.any():
        return
    left, right = search_range(histogram, lo, hi, levels)
    assert min(lo, 0.0) <= left <= 0.0 <= right <= max(hi, 0.0)
    got = exact_error(histogram, lo, hi, levels, left, right)
    assert got <= exhaustive_search(histogram, lo, hi, levels, points=25) * 1.01 + 1e-9


@pytest.mark.parametrize("lo", [-1.0, 0.0, -3.0])
def test_symmetric_search_is_as_good_as_an_exhaustive_one(lo: float) -> None:
    counts = torch.tensor([3.0, 40, 90, 40, 10, 3, 1, 0, 0, 0, 0, 1], dtype=torch.float64)
    left, right = search_range(counts, lo, lo + 3.0, 16, symmetric=True)
    assert left == -right
    reach = max(-lo, lo + 3.0)
    best = min(exact_error(counts, lo, lo + 3.0, 16, -m, m) for m in np.linspace(0.01, reach, 600))
    assert exact_error(counts, lo, lo + 3.0, 16, left, right) <= best * 1.001


def sample(name: str) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(50_000, generator=generator)
    return {
        "normal": normal,
        "relu": normal.relu(),
        "gelu": torch.nn.functional.gelu(normal * 3),
        "heavy": normal.sign() * normal.abs() ** 3,
        "cauchy": normal / torch.randn(50_000, generator=generator),
        "outlier": torch.cat((normal, torch.tensor([100.0]))),
        "negative": -normal.abs() - 0.5,
    }[name]


@pytest.mark.parametrize("name", ["normal", "relu", "gelu", "heavy", "cauchy", "outlier", "negative"])
def test_measured_error_is_no_worse_than_the_full_range(name: str) -> None:
    x = sample(name)

    def measured(low: float, high: float) -> float:
        scale, zero_point = choose_qparams(torch.tensor(low), torch.tensor(high), 0, 255, symmetric=False)
        return float((fake_quantize(x, scale, zero_point, 0, 255, torch.uint8) - x).double().square().mean())

    assert measured(*search_range(*collect(x), 256)) <= 1.01 * measured(float(x.min()), float(x.max()))


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_one_sided_data_end_at_zero(side: float) -> None:
    x = side * (torch.rand(1000, generator=torch.Generator().manual_seed(0)) + 0.5)
    left, right = search_range(*collect(x), 256)
    assert (left == 0.0) if side > 0 else (right == 0.0)
    assert max(-left, right) == pytest.approx(1.5, rel=0.01)


def test_nothing_counted_and_extreme_ranges() -> None:
    assert search_range(torch.zeros(16), *EMPTY, 256) == (0.0, 0.0)
    assert search_range(torch.zeros(16), -1.0, 1.0, 256) == (0.0, 0.0)
    counts, lo, hi = collect(torch.tensor([-1e38, 1e-38, 1e38]))
    left, right = search_range(counts, lo, hi, 256)
    assert math.isfinite(left) and math.isfinite(right) and right - left > 1e37
    tiny = collect(torch.tensor([1e-40, 2e-40]))
    assert search_range(*tiny, 256)[1] <= 2.1e-40


def test_all_mass_in_one_bin() -> None:
    counts = torch.zeros(64, dtype=torch.float64)
    counts[63] = 10
    left, right = search_range(counts, -1.0, 1.0, 256)
    assert left == pytest.approx(0.0, abs=0.05) and 0.95 < right <= 1.0
