"""What is known of the input of a layer with a weight."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fxquant.observers.input_statistics import InputStatistics, statistics_for


def test_covariance_of_channels() -> None:
    torch.manual_seed(0)
    rows = torch.randn(4000, 6) @ torch.randn(6, 6) + 3.0
    statistics = statistics_for(0, (8, 6))
    for part in rows.split(500):
        statistics(part.reshape(5, 100, 6))
    found = statistics.correlations
    assert found is not None and found.channels is not None
    assert torch.equal(found.taps, torch.ones(1, 1))
    expected = torch.cov(rows.t(), correction=0)
    shrunk = expected * (4000 / 4006) + expected.diagonal().diag() * (6 / 4006)
    torch.testing.assert_close(found.channels, shrunk, rtol=1e-4, atol=1e-3)
    assert statistics.mean is not None and statistics.variance is not None
    torch.testing.assert_close(statistics.mean, rows.mean(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(statistics.variance, expected.diagonal(), rtol=1e-4, atol=1e-4)


def test_few_places_say_little_of_many_channels() -> None:
    statistics = statistics_for(0, (4, 300))
    statistics(torch.randn(3, 300))
    found = statistics.correlations
    assert found is not None and found.channels is not None
    apart = found.channels - found.channels.diagonal().diag()
    assert apart.abs().max() < 0.05 * found.channels.diagonal().max()


@pytest.mark.parametrize(("kernel", "dilation"), [((3, 3), 1), ((3, 3), 2), ((1, 5), 1), ((2, 2), 1)])
def test_correlation_of_taps(kernel: tuple[int, int], dilation: int) -> None:
    """Against the correlations of unfolded patches."""
    torch.manual_seed(1)
    image = F.avg_pool2d(torch.randn(1, 12, 120, 120), 5, 1)
    statistics = statistics_for(2, (12, 1, *kernel), groups=12, dilation=dilation)
    statistics(image)
    found = statistics.correlations
    assert found is not None and found.channels is None
    centred = image - image.mean((2, 3), keepdim=True)
    patches = F.unfold(centred.transpose(0, 1), kernel, dilation=dilation).transpose(1, 2).flatten(0, 1)
    expected = patches.t() @ patches / len(patches) / centred.square().mean()
    assert (found.taps - expected).abs().max() < 0.02
    assert torch.equal(found.taps, found.taps.t()) and torch.equal(found.taps.diagonal(), torch.ones(len(found.taps)))


def test_nothing_is_kept_of_what_is_not_asked_for() -> None:
    statistics = InputStatistics(-3)
    statistics(torch.randn(2, 4, 5, 5))
    assert statistics.correlations is None and statistics.products.numel() == 0
    assert statistics_for(2, (8, 4, 3, 3)).correlations is None  # before data


def test_images_smaller_than_the_kernel_and_without_a_batch() -> None:
    statistics = statistics_for(2, (8, 4, 3, 3))
    statistics(torch.randn(4, 2, 1))
    statistics(torch.zeros(0, 4, 2, 1))
    found = statistics.correlations
    assert found is not None and found.taps.shape == (9, 9) and bool(torch.isfinite(found.taps).all())


def test_too_many_channels_are_not_crossed() -> None:
    statistics = statistics_for(0, (4, 1000))
    statistics(torch.randn(8, 1000))
    assert statistics.products.numel() == 0 and statistics.correlations is None and statistics.mean is not None


def test_state_is_loaded_and_moved() -> None:
    torch.manual_seed(2)
    statistics, other = statistics_for(2, (8, 4, 3, 3)), statistics_for(2, (8, 4, 3, 3))
    statistics(torch.randn(2, 4, 9, 9))
    other.load_state_dict(statistics.state_dict())
    first, second = statistics.correlations, other.double().correlations
    assert first is not None and second is not None and first.channels is not None and second.channels is not None
    assert torch.equal(first.channels, second.channels) and torch.equal(first.taps, second.taps)
