"""Every fusion rule on its own evidence: it fires where it says, refuses with a reason where it says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant.fusion.fuse_units import RULES
from fxquant.fusion.rule import Rule, RuleExample
from fxquant.inspect.agreement import check_agreement
from fxquant.ir.meta import info
from fxquant.ir.quant_plan import FusionRecord, QuantPlan

ACCEPTS = [pytest.param(rule, item, id=f"{rule.name}-{item.title}") for rule in RULES for item in rule.accepts]
REJECTS = [pytest.param(rule, item, id=f"{rule.name}-{item.title}") for rule in RULES for item in rule.rejects]


def _model(example: RuleExample) -> tuple[nn.Module, Tensor]:
    """The example's model with batch norms that change something, and an input."""
    torch.manual_seed(0)
    model = example.build()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
    return model, torch.randn(example.shape)


def _records(plan: QuantPlan, rule: Rule) -> list[FusionRecord]:
    return [record for record in plan.fusions if record.rule == rule.name]


def _assert_converts(model: nn.Module, x: Tensor) -> QuantPlan:
    """Prepare, calibrate, convert: capture is exact and every unit agrees with the reference; returns the plan."""
    with torch.no_grad():
        eager = model(x)
        observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping("x86"), (x,))
        assert torch.equal(observed(x), eager)
        reference, quantized = fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed)
        agreement = check_agreement(reference, quantized, x)
        assert not agreement.violations, f"\n{agreement}"
        assert quantized(x).shape == eager.shape
    return quantized.plan


def test_every_rule_has_evidence() -> None:
    """A rule without examples is a rule without tests."""
    assert [rule.name for rule in RULES if not rule.accepts or not rule.rejects] == []


@pytest.mark.parametrize(("rule", "example"), ACCEPTS)
def test_accepts(rule: Rule, example: RuleExample) -> None:
    """The rule fires, what it absorbed is part of a unit under the rule's role, and the model converts."""
    plan = _assert_converts(*_model(example))
    fired = [record for record in _records(plan, rule) if record.fired]
    assert fired, [str(record) for record in plan.fusions]
    for record in fired:
        units = {plan.unit_of(name).name for name in record.nodes}
        assert len(units) == 1, f"{record.nodes} ended up in {units}"
        absorbed = plan.unit_of(record.nodes[0]).role(rule.role)
        assert absorbed in record.nodes or (rule.any_operand and absorbed)  # later heads join the same unit


@pytest.mark.parametrize(("rule", "example"), REJECTS)
def test_rejects(rule: Rule, example: RuleExample) -> None:
    """The rule refuses with a reason, and the model converts all the same."""
    plan = _assert_converts(*_model(example))
    refused = [record for record in _records(plan, rule) if not record.fired]
    assert refused, [str(record) for record in plan.fusions]
    assert all(len(record.reason.split()) > 2 for record in refused)


@pytest.mark.parametrize(("rule", "example"), ACCEPTS + REJECTS)
def test_fused_float_model_equals_eager(rule: Rule, example: RuleExample) -> None:
    """``fuse_fx`` keeps the numbers, and where batch norm folds, its node is gone."""
    model, x = _model(example)
    fused = fxquant.fuse_fx(model, example_inputs=(x,))
    with torch.no_grad():
        eager = model(x)
        torch.testing.assert_close(fused(x), eager, rtol=1e-5, atol=1e-5 * float(eager.abs().max()))
    folds = [record for record in fused.plan.fusions if record.fired and record.rule == "fold_batch_norm"]
    norms = [node for node in fused.graph.nodes if info(node).op == "batch_norm"]
    assert not (folds and norms)
