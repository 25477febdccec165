"""explain: outcomes, reasons and totals, on every stage, before and after pickling."""

from __future__ import annotations

import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant import Explanation, FxquantError, QConfigMapping, explain
from fxquant.inspect.explain import OUTCOMES, ExplanationRow
from fxquant.ir.stages import StageModule

STAGES = ("fused", "observed", "reference", "quantized")


class Network(nn.Module):
    """One operator of every outcome."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.padded = nn.Conv2d(8, 8, 3, stride=2)
        self.drop = nn.Dropout()
        self.linear = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.conv(x)))
        y = self.padded(F.pad(y, (0, 1, 0, 1)))
        y = F.softmax(y, dim=1)
        y = self.drop(torch.flatten(F.max_pool2d(y, 4), 1))
        return torch.i0(self.linear(y))


def stages(mapping: QConfigMapping | None = None, model: nn.Module | None = None) -> dict[str, StageModule]:
    torch.manual_seed(0)
    model = (model or Network()).eval()
    x = torch.randn(4, 3, 10, 10)
    mapping = mapping or fxquant.get_default_qconfig_mapping("onednn")
    observed = fxquant.prepare_fx(model, mapping, (x,), backend_config="onednn")
    observed(x)
    return {
        "fused": fxquant.fuse_fx(model, example_inputs=(x,)),
        "observed": observed,
        "reference": fxquant.convert_to_reference_fx(observed),
        "quantized": fxquant.convert_fx(observed),
    }


@pytest.fixture(scope="module")
def made() -> dict[str, StageModule]:
    return stages()


def by_op(explanation: Explanation) -> dict[str, ExplanationRow]:
    return {row.op: row for row in explanation.rows}


@pytest.mark.parametrize("stage", STAGES)
def test_works_on_every_stage_and_survives_pickling(made: dict[str, StageModule], stage: str) -> None:
    explanation = explain(made[stage])
    assert explanation == explain(pickle.loads(pickle.dumps(made[stage])))
    assert explanation.stage == stage
    assert tuple(explanation.counts) == tuple(explanation.macs) == OUTCOMES
    assert sum(explanation.counts.values()) == len(explanation.rows) == 11
    assert explanation.summary() in str(explanation)


def test_outcomes_of_the_quantized_model(made: dict[str, StageModule]) -> None:
    rows = {row.node: row for row in explain(made["quantized"]).rows}
    assert [row.outcome for row in rows.values() if row.op == "conv2d"] == ["int8", "int8"]
    ops = by_op(explain(made["quantized"]))
    outcomes = {op: ops[op].outcome for op in ("batch_norm", "relu", "pad", "softmax", "dropout", "flatten", "linear")}
    assert outcomes == {
        "batch_norm": "folded",
        "relu": "folded",
        "pad": "folded",
        "softmax": "step",
        "dropout": "free",
        "flatten": "free",
        "linear": "int8",
    }
    assert ops["linear"].kernel.startswith("quantized.linear [onednn")
    assert "VNNI" in ops["linear"].reason


def test_reasons_name_the_rule_and_the_unit(made: dict[str, StageModule]) -> None:
    ops = by_op(explain(made["quantized"]))
    assert ops["batch_norm"].reason == "batch norm folded into conv [fold_batch_norm]"
    assert ops["pad"].reason == "padding folded into padded [fold_padding]"
    assert ops["relu"].reason == "absorbed by conv: costs nothing, the range lies inside the clip [absorb_clip]"
    unknown = next(row for row in explain(made["quantized"]).rows if row.op.endswith("i0"))
    assert (unknown.outcome, unknown.kernel) == ("float", "")
    assert "catalogue" in unknown.reason


def test_rows_say_where_the_operator_came_from(made: dict[str, StageModule]) -> None:
    row = by_op(explain(made["quantized"]))["batch_norm"]
    assert row.module_path == "norm"
    file, _, line = row.source.rpartition(":")
    assert file.endswith("test_explain.py")
    assert int(line) > 0


def test_fused_model_folds_only_the_batch_norm(made: dict[str, StageModule]) -> None:
    explanation = explain(made["fused"])
    assert [row.op for row in explanation.rows if row.outcome == "folded"] == ["batch_norm"]
    assert explanation.counts["int8"] == 0


def test_macs_are_counted_by_outcome(made: dict[str, StageModule]) -> None:
    explanation = explain(made["quantized"])
    conv, padded, linear = 4 * 8 * 8 * 8 * 27, 4 * 8 * 4 * 4 * 72, 4 * 4 * 8
    assert explanation.macs["int8"] == conv + padded + linear
    assert explanation.int8_mac_share == 1.0


def test_excluded_layers_stay_float_with_all_their_members() -> None:
    mapping = fxquant.get_default_qconfig_mapping("onednn").set_module_name("conv", None)
    explanation = explain(stages(mapping)["quantized"])
    ops = {row.node: row for row in explanation.rows}
    assert ops["conv"].outcome == "float"
    assert ops["norm"].outcome == "float"
    assert "set_module_name('conv')" in ops["conv"].reason
    assert explanation.macs["float"] == 4 * 8 * 8 * 8 * 27


def test_refused_fusions_are_told() -> None:
    class TwoReaders(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return torch.relu(y) * y

    rows = by_op(explain(stages(model=TwoReaders())["quantized"]))
    assert "not fused: conv is also read by others" in rows["relu"].reason


def test_notes_hold_object_types_that_matched_nothing() -> None:
    mapping = fxquant.get_default_qconfig_mapping("onednn").set_object_type(nn.LSTM, None)
    assert "set_object_type(LSTM) matched nothing" in explain(stages(mapping)["quantized"]).notes


def test_notes_hold_half_precision() -> None:
    x = torch.randn(2, 3, 4, 4, dtype=torch.bfloat16)
    model = nn.Sequential(nn.Conv2d(3, 4, 1)).eval().to(torch.bfloat16)
    mapping = fxquant.get_default_qconfig_mapping("onednn")
    notes = explain(fxquant.prepare_fx(model, mapping, (x,), backend_config="onednn")).notes
    assert any("takes and returns bfloat16" in note for note in notes)


def test_plain_modules_are_refused_with_a_remedy() -> None:
    with pytest.raises(FxquantError, match="prepare_fx"):
        explain(nn.Linear(2, 2))
