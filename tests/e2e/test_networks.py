"""Whole networks: floors on accuracy and signal-to-quantization-noise, on data that calibration did not see."""

from __future__ import annotations

import importlib.util

import pytest
import torch

import fxquant
from fxquant.demo import DemoTask, build_task
from fxquant.inspect.agreement import check_agreement
from fxquant.numerics.sqnr import sqnr_db


@pytest.fixture(scope="module")
def digits() -> DemoTask:
    return build_task("digits")


@pytest.mark.parametrize("engine", ["x86", "qnnpack"])
def test_digits_lose_at_most_a_third_of_a_point(engine: str, digits: DemoTask) -> None:
    if engine not in torch.backends.quantized.supported_engines:
        pytest.skip(f"no {engine} in this build of torch")
    quantized = fxquant.quantize(digits.model, digits.calibration, backend=engine, progress=False)
    before, after = digits.evaluate(digits.model)["accuracy"], digits.evaluate(quantized)["accuracy"]
    assert before > 0.975 and after >= before - 0.003


def test_efficientnet_lite0_agrees_with_float() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    networks = pytest.importorskip("networks")
    model = networks.NETWORKS["efficientnet_lite0"]()
    quantized = fxquant.quantize(model, networks.calibration_batches("efficientnet_lite0"), progress=False)
    x = torch.cat(networks.test_batches("efficientnet_lite0"))
    with torch.no_grad():
        expected, found = model(x), quantized(x)
    assert sqnr_db(expected, found) > 18
    assert float((expected.argmax(1) == found.argmax(1)).float().mean()) >= 0.95
    assert fxquant.explain(quantized).int8_mac_share == 1.0


@pytest.mark.parametrize(("name", "floor_db"), [("resnet18", 27.0), ("mobilenet_v2", 11.5)])
def test_torchvision_networks(name: str, floor_db: float) -> None:
    if importlib.util.find_spec("torchvision") is None:  # importing it needs a little preparation, see networks.py
        pytest.skip("no torchvision")
    networks = pytest.importorskip("networks")
    model, calibration = networks.NETWORKS[name](), networks.calibration_batches(name)
    observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping("x86"), (calibration[0][:1],))
    with torch.no_grad():
        for batch in calibration:
            observed(batch)
        reference, quantized = fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed)
        x = torch.cat(networks.test_batches(name))
        assert sqnr_db(model(x), quantized(x)) > floor_db
        agreement = check_agreement(reference, quantized, x[:1])
    assert not agreement.violations, str(agreement)
    assert fxquant.explain(quantized).counts["float"] == 0
