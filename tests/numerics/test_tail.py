"""How far beyond calibration a range is made to reach."""

from __future__ import annotations

import torch

from fxquant.numerics.tail import KEPT_PEAKS, keep_peaks, reach


def _kept(values: torch.Tensor) -> torch.Tensor:
    return keep_peaks(torch.zeros(KEPT_PEAKS), values)


def test_peaks_are_the_largest_whatever_the_batches() -> None:
    values = torch.randn(100, generator=torch.Generator().manual_seed(0))
    peaks = torch.zeros(KEPT_PEAKS)
    for part in values.split(7):
        peaks = keep_peaks(peaks, part)
    assert torch.equal(peaks, _kept(values))
    assert torch.equal(peaks, values.sort(descending=True).values[:KEPT_PEAKS].clamp(min=0))


def test_peaks_that_are_all_alike_reach_no_further() -> None:
    assert reach(_kept(torch.full((40,), 6.0)), 40, 8) == 1.0


def test_a_heavy_tail_reaches_further_than_a_light_one() -> None:
    uniform = torch.rand(400, generator=torch.Generator().manual_seed(1))
    light, heavy = reach(_kept(0.9 + 0.1 * uniform), 400, 8), reach(_kept(uniform**-0.4), 400, 8)
    assert 1.0 < light < 1.05
    assert 1.5 < heavy <= 2.0


def test_the_index_of_a_pareto_tail_is_found() -> None:
    """Of tails with index 0.2, 8 times as many samples reach ``8 ** 0.2 = 1.52`` times as far, on average."""
    found = []
    for seed in range(200):
        uniform = torch.rand(128, generator=torch.Generator().manual_seed(seed))
        found.append(reach(_kept(uniform**-0.2), 128, 8))
    assert abs(torch.tensor(found).mean().item() - 8**0.2) < 0.05


def test_nothing_is_claimed_from_few_samples() -> None:
    assert reach(_kept(torch.tensor([1.0, 5.0, 90.0])), 3, 8) == 1.0


def test_an_end_that_is_never_reached_stays() -> None:
    assert reach(torch.zeros(KEPT_PEAKS), 100, 8) == 1.0
