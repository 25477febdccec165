"""compare: local and cumulative errors, what they are made of, and the planted layer in the first place."""

from __future__ import annotations

import copy
import gc
import math
import weakref
from pathlib import Path

import planted
import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant import Comparison, FxquantError, compare
from fxquant.inspect.compare import ComparisonRow
from fxquant.numerics.sqnr import sqnr_db


def quantized(model: nn.Module, mapping: object = None) -> nn.Module:
    return fxquant.quantize(model, planted.batches(), qconfig_mapping=mapping, backend="x86", progress=False)


def by_module(comparison: Comparison) -> dict[str, ComparisonRow]:
    return {row.module_path: row for row in comparison.rows if row.op == "conv2d"}


def test_rows_are_in_execution_order_and_levels_are_consistent() -> None:
    model = planted.network()
    comparison = compare(model, quantized(model), planted.batches(2, seed=2))
    modules = [row.module_path for row in comparison.rows if row.op == "conv2d"]
    assert modules == [f"blocks.{i}" for i in range(5)]
    assert comparison.batches == 2
    first = comparison.rows[0]
    assert (first.op, first.node) == ("quantize", "x")
    assert first.local_sqnr_db == pytest.approx(first.cumulative_sqnr_db, abs=1e-3)
    for row in by_module(comparison).values():
        assert 30 < row.local_sqnr_db < min(row.weight_sqnr_db, row.activation_sqnr_db)
        assert row.cumulative_sqnr_db < row.local_sqnr_db and 0.99 < row.cosine <= 1
    assert "blocks.3" in str(comparison)


def test_levels_are_those_of_a_direct_computation() -> None:
    """The last row is the output as it runs; the first convolution's local error, computed by hand."""
    model, x = planted.network(), planted.batches(1, seed=3)[0]
    observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping("x86"), (x,))
    observed(x)
    reference, lowered = fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed)
    comparison = compare(model, lowered, [x])
    with torch.no_grad():
        assert comparison.rows[-1].cumulative_sqnr_db == pytest.approx(sqnr_db(model(x), lowered(x)), abs=1e-3)
        row, block = comparison.rows[1], model.blocks[0]
        kernel = reference.get_submodule(f"int8.{row.value}")
        weight = kernel.weight.float() * kernel.weight_scale.reshape(-1, 1, 1, 1)
        exact, half = torch.relu(block(x)), (len(x) + 1) // 2
        expected, weighted = exact[:half], torch.relu(torch.conv2d(x[:half], weight, kernel.bias, padding=1))
        low, high = row.grid.range
        rounded = torch.clamp(torch.round(weighted / row.grid.scale) * row.grid.scale, low, high)
    assert row.weight_sqnr_db == pytest.approx(sqnr_db(expected, weighted), abs=1e-2)
    assert row.local_sqnr_db == pytest.approx(sqnr_db(expected, rounded), abs=1e-2)
    low_share, high_share = (float(x.mean()) for x in ((exact < low - 1).float(), (exact > high).float()))
    assert row.saturated_low == low_share == 0.0
    assert row.saturated_high == pytest.approx(high_share, abs=1e-3)


def test_reference_and_quantized_models_compare_alike() -> None:
    model, x = planted.network(), planted.batches(1)[0]
    observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping("x86"), (x,))
    observed(x)
    rows = compare(model, fxquant.convert_to_reference_fx(observed), [x]).rows
    lowered = compare(model, fxquant.convert_fx(observed), [x]).rows
    assert [row.node for row in rows] == [row.node for row in lowered]
    for ours, theirs in zip(rows, lowered, strict=True):
        assert ours.local_sqnr_db == pytest.approx(theirs.local_sqnr_db, abs=1e-2)


@pytest.mark.parametrize("factor", [30.0, 300.0, 1e5])
def test_outlier_channel_comes_first(factor: float) -> None:
    model = planted.with_outlier_channel(planted.network(), factor)
    comparison = compare(model, quantized(model), planted.batches(2, seed=2))
    assert comparison.worst is comparison.ranked[0]
    assert comparison.worst.module_path == planted.PLANTED
    assert comparison.worst.dead_range > 0.5 or comparison.worst.channel_sqnr_db < comparison.worst.tensor_sqnr_db - 6
    assert comparison.summary().startswith(comparison.worst.node)


def test_wrong_scale_comes_first_and_is_called_clipping() -> None:
    model = planted.network()
    comparison = compare(model, quantized(model, planted.wrong_scale()), planted.batches(2, seed=2))
    worst = min(comparison.rows, key=lambda row: row.local_sqnr_db)
    assert worst.module_path == planted.PLANTED == comparison.worst.module_path
    assert worst.saturated_high > 0.1 and "clipped" in comparison.summary()
    rows = by_module(comparison)
    assert rows["blocks.3"].local_sqnr_db > 30 > 10 > rows["blocks.3"].cumulative_sqnr_db


def test_layers_left_float_have_no_local_error() -> None:
    model = planted.network()
    mapping = fxquant.get_default_qconfig_mapping("x86").set_module_name("head", None)
    row = compare(model, quantized(model, mapping), planted.batches(1)).rows[-1]
    assert (row.outcome, row.local_sqnr_db) == ("float", math.inf)
    assert math.isfinite(row.cumulative_sqnr_db)


def test_batches_are_not_kept() -> None:
    model = planted.network()
    lowered = quantized(model)
    alive: list[weakref.ref[Tensor]] = []

    def stream() -> object:
        for batch in planted.batches(4):
            alive.append(weakref.ref(batch.clone()))
            yield batch
            gc.collect()
            assert sum(reference() is not None for reference in alive) <= 2

    assert compare(model, lowered, stream()).batches == 4


def test_wrong_arguments_are_named() -> None:
    model = planted.network()
    with pytest.raises(FxquantError, match="expected a converted model"):
        compare(model, model, planted.batches(1))
    with pytest.raises(FxquantError, match="empty"):
        compare(model, quantized(model), [])
    with pytest.raises(FxquantError, match=r"no .*blocks"):
        compare(nn.Sequential(nn.Conv2d(3, 4, 1)), quantized(model), planted.batches(1))


class _Mixed(nn.Module):
    """A recurrent layer, a convolution and linears of one input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lstm = nn.Conv1d(6, 8, 3, padding=1), nn.LSTM(8, 8, batch_first=True)
        self.left, self.right = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map [N, 6, T] to twice [N, T, 4]."""
        y, _ = self.lstm(torch.relu(self.conv(x)).transpose(1, 2))
        return torch.relu(self.left(y)), self.right(y)


@pytest.mark.parametrize("stage", ["reference", "quantized"])
def test_kernels_that_round_what_arrives_have_errors_of_their_own(stage: str) -> None:
    torch.manual_seed(0)
    model, batches = _Mixed().eval(), [torch.randn(4, 6, 9) for _ in range(2)]
    observed = fxquant.prepare_fx(model, fxquant.get_default_dynamic_qconfig_mapping("x86"), (batches[0],))
    convert = {"reference": fxquant.convert_to_reference_fx, "quantized": fxquant.convert_fx}[stage]
    lowered = convert(observed)
    sound = {row.node: row for row in compare(model, lowered, batches).rows}
    assert all(25 < sound[name].local_sqnr_db < 60 for name in ("conv", "lstm", "left", "right"))
    assert sound["conv"].local_sqnr_db == pytest.approx(sound["conv"].cumulative_sqnr_db, abs=0.1)
    assert math.isnan(sound["left"].weight_sqnr_db) and math.isnan(sound["left"].activation_sqnr_db)
    comparison = compare(model, lowered, batches)
    assert "the rounding of its weights and of its input" in comparison.summary()
    with torch.no_grad():
        changed = copy.deepcopy(model)
        changed.lstm.weight_hh_l0.mul_(-1)
    found = compare(changed, lowered, batches)
    assert found.worst is not None and (found.worst.node, found.rows[-1].local_sqnr_db > 25) == ("lstm", True)


def test_all_outputs_together_have_a_level() -> None:
    torch.manual_seed(0)
    model, x = _Mixed().eval(), torch.randn(4, 6, 9)
    lowered = fxquant.quantize(model, [x], backend="x86", progress=False)
    found = compare(model, lowered, [x])
    with torch.no_grad():
        exact, made = (torch.cat(result, -1) for result in (model(x), lowered(x)))
    assert found.output_sqnr_db == pytest.approx(sqnr_db(exact, made), abs=1e-3)


def test_batches_that_do_not_run_are_named() -> None:
    model = planted.network()
    lowered, good = quantized(model), planted.batches(1)[0]
    with pytest.raises(FxquantError, match="batch 1 cannot be run: RuntimeError"):
        compare(model, lowered, [good, good[:, :2]])
    with pytest.raises(FxquantError, match="'x', 'extra' does not fit"):
        compare(model, lowered, [{"x": good, "extra": good}])
    with pytest.raises(FxquantError, match="a batch with no inputs does not fit"):
        compare(model, lowered, [{}])


_OUTSIDE = torch.linspace(0.5, 1.5, 6)


def test_constants_that_are_no_parameters(tmp_path: Path) -> None:
    class Constants(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)
            self.kept = [torch.linspace(1.0, 2.0, 6)]

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x) * torch.tensor([0.5, 1.0, 2.0, 0.5, 1.0, 2.0]) + self.kept[0]
            z: Tensor = self.last(y * _OUTSIDE)
            return z

    model, x = Constants().eval(), torch.randn(8, 4)
    quantized = fxquant.quantize(model, [x], progress=False)
    fxquant.save(quantized, tmp_path / "model.fxq")
    for other in (quantized, fxquant.load(tmp_path / "model.fxq"), copy.deepcopy(quantized)):
        found = fxquant.compare(model, other, [x])
        assert all(row.local_sqnr_db > 30 for row in found.rows)
        assert not any("constant" in key for key in other.state_dict())
