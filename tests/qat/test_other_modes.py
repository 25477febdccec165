"""Models that do something else in training in ways of their own: without rounding, the prepared model is the model."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant.errors import CaptureError
from fxquant.numerics.sqnr import sqnr_db

FLOAT = fxquant.QConfigMapping()


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)


class ChildMode(Layer):
    """Asks a child of torch.nn for its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.linear(x), self.dropout.p, self.dropout.training)


class NormOfChild(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        return F.batch_norm(
            self.linear(x), norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.training, 0.1, 1e-5
        )


class Temperature(Layer):
    """Sets an attribute when its mode is set."""

    def train(self, mode: bool = True) -> Temperature:
        super().train(mode)
        self.temperature = 0.5 if mode else 1.0
        return self

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x) / self.temperature
        return y


class TrainingBranch(nn.Module):
    """Calls a module in training whose tensors it reads in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return torch.relu(self.norm(self.conv(x)))
        assert self.norm.running_var is not None and self.norm.running_mean is not None
        scale = self.norm.weight / (self.norm.running_var + self.norm.eps).sqrt()
        bias = self.norm.bias - self.norm.running_mean * scale
        return torch.relu(F.conv2d(x, self.conv.weight * scale.reshape(-1, 1, 1, 1), bias))


class Codebook(Layer):
    """Multiplies by a buffer that training updates."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("codes", torch.eye(4))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        if self.training:
            self.codes.copy_(self.codes * 0.9)
        return y @ self.codes


class OneLine(Layer):
    """Three equal operations on a line, of which training uses two."""

    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        middle, small, large = y * 1, y * 0.01, y * 100
        if self.training:
            return middle + large
        return middle, small, large


class NormInPart(Layer):
    """Calls a batch norm and a dropout in statements that run as Python, in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm1d(4), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        if self.training and random.random() < 2:
            y = self.dropout(self.norm(y))
        return y.relu()


class LayerDrop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            if self.training and torch.rand(()).item() < 0.3:
                continue
            x = F.relu(layer(x))
        return x


class Momentum(Layer):
    """An encoder that follows another one, in training."""

    def __init__(self) -> None:
        super().__init__()
        self.follows = nn.Linear(4, 4).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        if not self.training:
            return y
        with torch.no_grad():
            for mine, other in zip(self.follows.parameters(), self.linear.parameters(), strict=True):
                mine.data = mine.data * 0.9 + other.data * 0.1
        return y + 0 * self.follows(x)


class Centered(Layer):
    """Asks in evaluation for what training counts."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        if self.training:
            with torch.no_grad():
                self.count += 1
                self.mean.lerp_(y.mean(0), 0.5)
            return y - y.mean(0)
        if self.count > 0:
            y = y - self.mean
        return y


class Twice(Layer):
    """Calls in training what evaluation calls once."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm1d(4), nn.Dropout(0.4)

    def once(self, x: Tensor) -> Tensor:
        y: Tensor = self.dropout(self.norm(self.linear(x)))
        return y

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self.once(x) + 0.1 * self.once(x)
        return self.once(x)


class Apart(nn.Module):
    """Calls the same modules in both modes, on other lines and on other values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.dropout = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            y = self.norm(self.conv(x + 0.1 * x.abs()))
            return self.dropout(F.relu(y).mean((2, 3)))  # type: ignore[no-any-return]
        y = self.conv(x)
        y = F.relu(self.norm(y))
        return self.dropout(y.mean((2, 3)))  # type: ignore[no-any-return]


def spectral() -> nn.Module:
    return nn.Sequential(nn.utils.spectral_norm(nn.Linear(4, 4)), nn.ReLU())


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mode of a child": (ChildMode, (5, 4)),
    "norm of a child": (NormOfChild, (5, 4)),
    "train() of its own": (Temperature, (5, 4)),
    "module in training only": (TrainingBranch, (2, 3, 6, 6)),
    "buffer in training only": (Codebook, (5, 4)),
    "one line": (OneLine, (5, 4)),
    "hook": (spectral, (5, 4)),
    "modules in a part": (NormInPart, (5, 4)),
    "layer drop": (LayerDrop, (5, 4)),
    "momentum": (Momentum, (5, 4)),
    "evaluation asks": (Centered, (5, 4)),
    "twice": (Twice, (5, 4)),
    "on other lines": (Apart, (2, 3, 6, 6)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("training", [True, False])
def test_all_in_float_it_is_the_model(name: str, training: bool) -> None:
    make, shape = CASES[name]
    torch.manual_seed(0)
    model = make().train(training)
    prepared = fxquant.prepare_qat_fx(model, FLOAT, (torch.randn(shape),))
    learn = [torch.optim.SGD(network.parameters(), 0.05) for network in (model, prepared)]
    for mode in (True, True, False, True):
        x, results = torch.randn(shape), []
        for network, optimizer in zip((model, prepared), learn, strict=True):
            network.train(mode)
            torch.manual_seed(1)
            random.seed(1)
            result = network(x)
            results.append(result if isinstance(result, tuple) else (result,))
            if mode:
                optimizer.zero_grad()
                result.square().mean().backward()
                optimizer.step()
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("name", ["module in training only", "buffer in training only", "on other lines"])
def test_with_fake_quantization_it_trains(name: str) -> None:
    make, shape = CASES[name]
    prepared = fxquant.prepare_qat_fx(make().train(), fxquant.get_default_qat_qconfig_mapping(), (torch.randn(shape),))
    prepared(torch.randn(shape)).sum().backward()
    fxquant.convert_fx(prepared.eval())(torch.randn(shape))


def test_equal_operations_on_one_line_keep_their_ranges() -> None:
    torch.manual_seed(0)
    model, x = OneLine().train(), torch.randn(64, 4)
    prepared = fxquant.prepare_qat_fx(model, fxquant.get_default_qat_qconfig_mapping(), (x,))
    for _ in range(3):
        prepared(torch.randn(64, 4))
    quantized = fxquant.convert_fx(prepared.eval())
    assert all(sqnr_db(a, b) > 25 for a, b in zip(model.eval()(x), quantized(x), strict=True))


class Merged(Layer):
    """Adds to its weights in evaluation, as adapters do."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.merged = nn.Parameter(torch.randn(4, 4)), False

    def train(self, mode: bool = True) -> Merged:
        super().train(mode)
        if mode == self.merged:
            self.linear.weight.data += self.low * (-1 if mode else 1)
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        return y if self.merged else y + x @ self.low.T


def test_other_weights_in_training_are_refused() -> None:
    with pytest.raises(CaptureError, match=r"change 'linear\.weight'"):
        fxquant.prepare_qat_fx(Merged().train(), FLOAT, (torch.randn(3, 4),))


class NormStays(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def train(self, mode: bool = True) -> NormStays:
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x: Tensor) -> Any:
        return self.norm(self.linear(x))


class AugmentedInEvaluation(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Any:
        if self.training:
            return self.norm(self.linear(x))
        return self.norm(self.linear(x)) + self.norm(self.linear(-x))


class NoisyInEvaluation(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        return y if self.training else y + torch.randn_like(y)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (NormStays, "leaves 'norm' in evaluation mode"),
        (AugmentedInEvaluation, "only evaluation calls module 'norm'"),
        (NoisyInEvaluation, "only evaluation calls torch.randn_like"),
    ],
)
def test_what_a_prepared_model_would_do_otherwise_is_refused(kind: type[nn.Module], message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        fxquant.prepare_qat_fx(kind().train(), FLOAT, (torch.randn(3, 4),))


class ByParameter(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.05))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.scale if self.scale > 0 else -self.scale
        y: Tensor = self.linear(x) * scale
        return y


def test_a_branch_on_a_trained_parameter_is_asked_anew() -> None:
    model, x = ByParameter().train(), torch.randn(3, 4)
    prepared = fxquant.prepare_qat_fx(model, FLOAT, (x,))
    scales = [item for name, item in prepared.named_parameters() if name.endswith("scale")]
    assert len(scales) == 1
    for value in (0.5, -0.5):
        with torch.no_grad():
            scales[0].fill_(value)
            model.scale.fill_(value)
        assert torch.allclose(prepared(x), model(x))


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    was = [parameter.requires_grad for parameter in module.parameters()]
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, wanted in zip(module.parameters(), was, strict=True):
            parameter.requires_grad_(wanted)


class Critic(Layer):
    """Judges its own output with weights that get no gradient of it."""

    def __init__(self) -> None:
        super().__init__()
        self.critic = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        with frozen(self.critic):
            score = self.critic(y)
        return score, self.critic(y.detach() * math.pi)


def test_parameters_frozen_in_forward_get_no_gradient_there() -> None:
    torch.manual_seed(0)
    model, x = Critic().train(), torch.randn(3, 4)
    prepared = fxquant.prepare_qat_fx(model, FLOAT, (x,))
    for part in (0, 1):
        gradients = []
        for network in (model, prepared):
            network.zero_grad()
            network(x)[part].sum().backward()
            gradients.append({name: item.grad for name, item in network.named_parameters() if item.grad is not None})
        assert gradients[0].keys() == gradients[1].keys()
        assert all(torch.allclose(value, gradients[1][name]) for name, value in gradients[0].items())
