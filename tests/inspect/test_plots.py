"""Plots hold what was found; without matplotlib the error says what to install."""

from __future__ import annotations

import io
import sys

import planted
import pytest

import fxquant
from fxquant import FxquantError, compare, sensitivity
from fxquant.inspect.plots import plot_activations, plot_error, plot_share


def test_plots_are_written() -> None:
    pytest.importorskip("matplotlib")
    model = planted.with_outlier_channel(planted.network())
    lowered = fxquant.quantize(model, planted.batches(1), backend="x86", progress=False)
    comparison = compare(model, lowered, planted.batches(1))
    found = sensitivity(model, planted.batches(1), backend="x86", progress=False)
    error, activations, share = plot_error(comparison), plot_activations(comparison, 2), plot_share(found)
    labels = [tick.get_text() for tick in error.axes[0].get_xticklabels()]
    assert labels == [row.node for row in comparison.rows]
    assert len(activations.axes) == 2 and comparison.ranked[0].node in activations.axes[0].get_title()
    assert len(share.axes[0].lines[0].get_xdata()) == 1 + len(found.recommendations)
    for figure in (error, activations, share):
        figure.savefig(file := io.BytesIO(), format="png")
        assert len(file.getvalue()) > 1000


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(FxquantError, match="matplotlib"):
        plot_error(fxquant.Comparison((), 0))
