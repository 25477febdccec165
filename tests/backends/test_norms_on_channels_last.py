"""torch's int8 group and instance norm return garbage on channels-last images with few channels; ours do not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxquant
from fxquant.inspect.agreement import check_agreement
from fxquant.numerics.sqnr import sqnr_db


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 8), nn.InstanceNorm2d(8, affine=True)], ids=["group", "instance"])
def test_norm_after_a_convolution(norm: nn.Module) -> None:
    """The convolution hands on channels last; every unit agrees with the reference, for every batch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    batches = [torch.randn(4, 3, 9, 9) for _ in range(3)]
    observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping("x86"), (batches[0],))
    with torch.no_grad():
        for batch in batches:
            observed(batch)
    reference, quantized = fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed)
    for batch in (batches[0], batches[0][:1]):
        agreement = check_agreement(reference, quantized, batch)
        assert not agreement.violations, f"\n{agreement}"
        with torch.no_grad():
            assert sqnr_db(model(batch), quantized(batch)) > 30.0
    row = next(row for row in fxquant.explain(quantized).rows if "norm" in row.op)
    assert row.outcome == "step" and "not right" in row.reason
