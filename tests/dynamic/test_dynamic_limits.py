"""What a BackendConfig allows with floats on both sides."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant import BackendConfig, BackendPatternConfig, DTypeConfig


class _All(nn.Module):
    """One operator of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.layer, self.last = nn.Embedding(9, 8), nn.LSTM(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.layer(self.table(x))[0])
        return result


def _modes(backend_config: Any, mapping: Any = None) -> dict[str, str]:
    mapping = mapping or fxquant.get_default_dynamic_qconfig_mapping()
    observed = fxquant.prepare_fx(_All().eval(), mapping, (torch.ones(5, 2).long(),), backend_config=backend_config)
    return {
        unit.op: unit.mode or unit.reason for unit in observed.plan.units if unit.op in ("embedding", "lstm", "linear")
    }


ALL = {"embedding": "weights", "lstm": "dynamic", "linear": "dynamic"}


def test_generated_configs_allow_every_mode() -> None:
    config = fxquant.get_native_backend_config()
    assert _modes(config) == _modes(None) == ALL
    half = fxquant.QConfigMapping().set_global(fxquant.float16_dynamic_qconfig)
    assert _modes(config, half) == _modes(None, half)
    four = fxquant.QConfigMapping().set_object_type(nn.Embedding, fxquant.float_qparams_weight_only_qconfig_4bit)
    assert _modes(config, four)["embedding"] == "weights4"


@pytest.mark.parametrize("name", ["native", "fbgemm"])
def test_torch_ao_configs_allow_what_they_list(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("torch.ao.quantization.backend_config.utils")
        from torch.ao.quantization import backend_config as ao

        assert _modes(getattr(ao, f"get_{name}_backend_config")()) == ALL


def test_what_is_not_listed_stays_float_with_a_reason() -> None:
    static = BackendPatternConfig(nn.Linear).add_dtype_config(DTypeConfig(torch.quint8, torch.quint8, torch.qint8))
    found = _modes(BackendConfig("mine").set_backend_pattern_configs([static]))
    assert found["lstm"] == found["embedding"] == "not in backend_config 'mine'"
    assert found["linear"] == "backend_config 'mine' asks for ranges known before"
    half = DTypeConfig(torch.float16, torch.float32, torch.float16, is_dynamic=True)
    found = _modes(BackendConfig("mine").set_backend_pattern_configs([static.add_dtype_config(half)]))
    assert found["linear"].endswith("ranges known before; or inputs of float16, and they are uint8 here")
