"""Batch norms that nothing folds, and that have no weights of their own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxquant
from fxquant.inspect.agreement import check_agreement


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 6), (5, 4, 6, 6), (3, 4, 4, 4, 4)])
def test_batch_norm_without_weights_runs_in_integers(shape: tuple[int, ...], relu: bool) -> None:
    torch.manual_seed(0)
    norm: nn.Module = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[len(shape) - 2](4, affine=False)
    model = nn.Sequential(
        nn.Hardtanh(-2, 2), norm, nn.ReLU() if relu else nn.Identity(), nn.Flatten(), nn.LazyLinear(3)
    )
    x = torch.randn(shape)
    model.train()(x)
    model.eval()
    observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping("x86"), (x,))
    with torch.no_grad():
        observed(x)
    reference, quantized = fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed)
    assert not check_agreement(reference, quantized, x).violations
    row = next(row for row in fxquant.explain(quantized).rows if "norm" in row.op)
    assert row.outcome == "int8"
