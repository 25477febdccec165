"""Pictures of what ``compare`` and ``sensitivity`` found. They need matplotlib: ``pip install 'fxquant[plots]'``."""

from __future__ import annotations

import importlib
import math
from typing import Any

from fxquant.errors import FxquantError
from fxquant.inspect.compare import Comparison, ComparisonRow
from fxquant.inspect.error_sums import BINS, FIRST_LEVEL
from fxquant.inspect.sensitivity import Sensitivity

_WIDTH_INCHES, _HEIGHT_INCHES = 9.0, 4.0
_SHOWN_NAMES = 40


def plot_error(comparison: Comparison) -> Any:
    """Local and cumulative error along the depth of the model.

    Returns:
        A matplotlib Figure; ``figure.savefig("error.png")`` writes it.

    Raises:
        FxquantError: matplotlib is not installed.
    """
    figure = _figure(1, 1)
    axes = figure.axes[0]
    for label, name, style in (("cumulative", "cumulative_sqnr_db", "-"), ("local", "local_sqnr_db", "o")):
        points = [(i, getattr(row, name)) for i, row in enumerate(comparison.rows) if math.isfinite(getattr(row, name))]
        axes.plot([i for i, _ in points], [level for _, level in points], style, label=label, markersize=3)
    if len(comparison.rows) <= _SHOWN_NAMES:
        axes.set_xticks(range(len(comparison.rows)), [row.node for row in comparison.rows], rotation=90, fontsize=6)
    axes.set_xlabel("operators in execution order")
    axes.set_ylabel("SQNR (dB)")
    axes.legend()
    return figure


def plot_activations(comparison: Comparison, count: int = 4) -> Any:
    """Histograms of the activations with the largest errors of their own, and the range that their integers hold.

    Args:
        comparison: what was found.
        count: how many.

    Returns:
        A matplotlib Figure.

    Raises:
        FxquantError: matplotlib is not installed, or no value is held in integers.
    """
    rows = [row for row in comparison.ranked if row.grid is not None][:count]
    if not rows:
        raise FxquantError("no value of this comparison is held in integers", remedy="compare a quantized model")
    figure = _figure(len(rows), 1)
    for axes, row in zip(figure.axes, rows, strict=True):
        _histogram(axes, row)
    return figure


def plot_share(found: Sensitivity) -> Any:
    """The metric against the share of multiply-accumulates in int8, one recommendation after the other.

    Returns:
        A matplotlib Figure.

    Raises:
        FxquantError: matplotlib is not installed.
    """
    figure = _figure(1, 1)
    axes = figure.axes[0]
    shares, levels, names = [1.0], [found.quantized_metric], ["all int8"]
    for step in found.recommendations:
        shares.append(shares[-1] - step.macs_share)
        levels.append(step.after)
        names.append(", ".join(path or node for node, path in zip(step.nodes, step.module_paths, strict=True)))
    axes.plot([100 * share for share in shares], levels, "o-")
    for share, level, name in zip(shares, levels, names, strict=True):
        if math.isfinite(level):
            axes.annotate(name, (100 * share, level), fontsize=7)
    axes.invert_xaxis()
    axes.set_xlabel("multiply-accumulates in int8 (%)")
    axes.set_ylabel("SQNR of the output (dB)" if found.in_db else "metric")
    return figure


def _histogram(axes: Any, row: ComparisonRow) -> None:
    assert row.grid is not None
    scale, zero_point = row.grid.scale, row.grid.zero_point
    centers = [(FIRST_LEVEL + index - zero_point) * scale for index in range(BINS)]
    axes.fill_between(centers, row.levels, step="mid")
    axes.set_yscale("symlog", linthresh=1)
    for bound in row.grid.range:
        axes.axvline(bound, color="red", linewidth=1)
    axes.set_title(f"{row.node}: {row.local_sqnr_db:.1f} dB by itself", fontsize=8)


def _figure(rows: int, columns: int) -> Any:
    """A figure with its own canvas: no window, no global state."""
    try:
        figure_module = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise FxquantError(
            f"plots need matplotlib, which cannot be imported ({error})", remedy="pip install 'fxquant[plots]'"
        ) from error
    size = (_WIDTH_INCHES, _HEIGHT_INCHES * max(1.0, 0.5 * rows))
    figure = figure_module.Figure(figsize=size, layout="constrained")
    figure.subplots(rows, columns)
    return figure
