"""Planning units again: as data, and every kind of unit in float at last."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

import fxquant
from fxquant import pipeline
from fxquant.inspect.agreement import check_agreement
from fxquant.ir.quant_plan import KernelChoice, QuantPlan, Unit
from fxquant.ir.stages import ObservedModel
from fxquant.numerics.sqnr import sqnr_db
from fxquant.plan.demote_unit import Demotion, demote_unit


class _Everything(nn.Module):
    """Kernels with weights, kernels that share ranges, tuples, joins."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.up, self.last = nn.Conv2d(4, 8, 3), nn.ConvTranspose2d(4, 4, 2, 2), nn.Linear(8, 3)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.first(x).relu().chunk(2, 1)
        joined = torch.cat([self.pool(self.up(left)), torch.sigmoid(right)], 1)
        y: Tensor = self.last(joined.mean((2, 3)))
        return y


def _observed() -> tuple[ObservedModel, nn.Module, Tensor]:
    torch.manual_seed(0)
    model, x = _Everything().eval(), torch.randn(16, 4, 8, 8)
    observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping("x86"), (x,))
    observed(x)
    return observed, model, x


def _in_float(plan: QuantPlan, name: str) -> int:
    """How often a unit has to be demoted until it has no kernel."""
    unit = next(unit for unit in plan.units if unit.name == name)
    return 1 + len(unit.fallbacks)


def test_every_unit_can_run_in_float() -> None:
    """One at a time: the others stay integer, agree with the reference, and the output stays close to float."""
    observed, model, x = _observed()
    names = [unit.name for unit in observed.plan.units if unit.output and unit.kernel is not None]
    assert {"up", "pool", "cat", "chunk", "sigmoid", "last"} <= set(names)
    for name in names:
        if observed.plan.unit_of(name).kernel.convention == "element":  # type: ignore[union-attr]
            continue
        demotions = [Demotion("", name, "is wrong")] * _in_float(observed.plan, name)
        with torch.no_grad():
            reference = pipeline.freeze(observed, demotions=demotions)
            quantized = pipeline.lower(reference)
            assert not check_agreement(reference, quantized, x).violations, name
            assert sqnr_db(model(x), quantized(x)) > 30.0, name
        unit = quantized.plan.unit_of(name)
        assert unit.kernel is None and unit.outcome in ("step", "float") and "is wrong" in unit.reason
        still = sum(bool(unit.output) for unit in quantized.plan.units)
        assert still >= len(names) - (3 if name == "chunk" else 1)


def test_reasons_name_what_failed_and_what_runs() -> None:
    """Kernels in between are mentioned once."""
    first, second, third = (KernelChoice("conv", "quantized.conv2d", engine) for engine in ("a", "b", "c"))
    unit = Unit("conv", "conv2d", "conv", ("conv",), (), "int8", (), "conv", first, (second, third))
    plan = QuantPlan("native", "x86", (unit,))
    plan = demote_unit(plan, "conv", "left the reference by 2 quanta")
    assert plan.units[0].reason == "a's quantized.conv2d left the reference by 2 quanta; runs on b's quantized.conv2d"
    plan = demote_unit(plan, "conv", "failed")
    assert plan.units[0] == replace(
        unit,
        kernel=third,
        fallbacks=(),
        reason="a's quantized.conv2d left the reference by 2 quanta; b's quantized.conv2d failed; "
        "runs on c's quantized.conv2d",
    )
    plan = demote_unit(plan, "conv", "failed")
    assert plan.units[0].reason.endswith("c's quantized.conv2d failed; computed in float")
    assert (plan.units[0].outcome, plan.units[0].kernel, plan.units[0].output) == ("float", None, "")
