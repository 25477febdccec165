"""torch.ao's tutorials of quantization-aware training, tiny, with nothing but their imports changed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from trained_networks import Residual

import fxquant
from fxquant.errors import ConfigError

EAGER_IMPORTS = {
    "torch.ao": (
        "import torch.ao.quantization\n"
        "from torch.ao.quantization import DeQuantStub, QuantStub, convert, disable_observer, fuse_modules_qat\n"
        "from torch.ao.quantization import get_default_qat_qconfig, prepare_qat\n"
        "from torch.ao.nn.quantized import FloatFunctional\n"
        "from torch.ao.nn.intrinsic.qat import freeze_bn_stats\n"
    ),
    "fxquant": (
        "from fxquant.eager import DeQuantStub, QuantStub, convert, disable_observer, fuse_modules_qat\n"
        "from fxquant.eager import get_default_qat_qconfig, prepare_qat\n"
        "from fxquant.eager import FloatFunctional\n"
        "from fxquant.eager import freeze_bn_stats\n"
    ),
}
# Section 5 of https://docs.pytorch.org/tutorials/advanced/static_quantization_tutorial.html on a small network.
EAGER = """
class ConvBNReLU(nn.Sequential):
    def __init__(self, given, made, stride=1):
        super().__init__(nn.Conv2d(given, made, 3, stride, 1, bias=False), nn.BatchNorm2d(made), nn.ReLU(inplace=False))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = ConvBNReLU(3, 8, 2)
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8))
        self.skip_add = FloatFunctional()
        self.quant = QuantStub()
        self.dequant = DeQuantStub()
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(8, 4))

    def forward(self, x):
        x = self.first(self.quant(x))
        x = self.skip_add.add(x, self.second(x))
        x = self.classifier(nn.functional.adaptive_avg_pool2d(x, (1, 1)).reshape(x.shape[0], -1))
        return self.dequant(x)

    def fuse_model(self):
        fuse_modules_qat(self.first, ["0", "1", "2"], inplace=True)
        fuse_modules_qat(self.second, ["0", "1"], inplace=True)

def train_one_epoch(model, criterion, optimizer, data_loader):
    model.train()
    for image, target in data_loader:
        output = model(image)
        loss = criterion(output, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

torch.manual_seed(0)
qat_model = Net()
qat_model.train()
qat_model.fuse_model()

optimizer = torch.optim.SGD(qat_model.parameters(), lr=0.01)
qat_model.qconfig = get_default_qat_qconfig('x86')
prepare_qat(qat_model, inplace=True)

for nepoch in range(8):
    train_one_epoch(qat_model, criterion, optimizer, data_loader)
    if nepoch > 3:
        # Freeze quantizer parameters
        qat_model.apply(disable_observer)
    if nepoch > 2:
        # Freeze batch norm mean and variance estimates
        qat_model.apply(freeze_bn_stats)
    # Check the accuracy after each epoch
    quantized_model = convert(qat_model.eval(), inplace=False)
    quantized_model.eval()
"""
FX_IMPORTS = {
    "torch.ao": (
        "from torch.ao.quantization import get_default_qat_qconfig_mapping\n"
        "from torch.ao.quantization.quantize_fx import convert_fx, prepare_qat_fx\n"
    ),
    "fxquant": "from fxquant import get_default_qat_qconfig_mapping\nfrom fxquant import convert_fx, prepare_qat_fx\n",
}
# The example of ``prepare_qat_fx`` in https://docs.pytorch.org/docs/stable/quantization-support.html.
FX = """
def train_loop(model, train_data):
    model.train()
    for image, target in train_data:
        loss = criterion(model(image), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

float_model = Residual()
qconfig_mapping = get_default_qat_qconfig_mapping("fbgemm")
example_inputs = (torch.randn(1, 3, 8, 8),)
model_to_quantize = copy.deepcopy(float_model).train()
prepared_model = prepare_qat_fx(model_to_quantize, qconfig_mapping, example_inputs)
optimizer = torch.optim.SGD(prepared_model.parameters(), lr=0.01)
train_loop(prepared_model, data_loader)
prepared_model.eval()
quantized_model = convert_fx(prepared_model)
"""


def _names() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.randn(4, 3, 8, 8, generator=generator), torch.randint(0, 4, (4,), generator=generator)) for _ in range(2)
    ]
    return {
        "torch": torch, "nn": nn, "copy": copy, "Residual": Residual, "criterion": nn.CrossEntropyLoss(),
        "data_loader": batches,
    }  # fmt: skip


def _distance(trained: nn.Module, quantized: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        expected = trained.eval()(x)
        return float((expected - quantized(x)).abs().max() / expected.abs().max())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("source", list(EAGER_IMPORTS))
def test_eager_tutorial(source: str) -> None:
    if source == "torch.ao":
        pytest.importorskip("torch.ao.quantization")
    names = _names()
    exec(EAGER_IMPORTS[source] + EAGER, names)
    x = names["data_loader"][0][0]
    assert _distance(names["qat_model"], names["quantized_model"], x) < 0.2  # torch.ao: 0.10
    if source == "fxquant":
        assert not isinstance(names["quantized_model"].classifier[1], nn.Linear)
        features = []
        with torch.no_grad():  # the pooling, whose rounding eager training does not know, is left out
            for model in (names["qat_model"].eval(), names["quantized_model"]):
                y = model.first(model.quant(x))
                features.append(model.dequant(model.skip_add.add(y, model.second(y))))
        assert torch.equal(*features)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("source", list(FX_IMPORTS))
def test_graph_mode_tutorial(source: str) -> None:
    if source == "torch.ao":
        pytest.importorskip("torch.ao.quantization.quantize_fx")
    names = _names()
    exec(FX_IMPORTS[source] + FX, names)
    assert _distance(names["prepared_model"], names["quantized_model"], names["data_loader"][0][0]) < 0.2


def test_what_eager_training_refuses() -> None:
    model = nn.Sequential(fxquant.eager.QuantStub(), nn.Linear(4, 4))
    with pytest.raises(ConfigError, match="training mode"):
        fxquant.eager.prepare_qat(model.eval())
    with pytest.raises(ConfigError, match="no module that can be quantized has a qconfig"):
        fxquant.eager.prepare_qat(model.train())
    with pytest.raises(ConfigError, match="no group that can be fused"):
        fxquant.eager.fuse_modules_qat(model, ["1", "0"])
