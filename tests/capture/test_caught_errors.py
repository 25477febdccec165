"""Operations whose errors forward catches: for other inputs it goes another way than on the example."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant import pipeline
from fxquant.capture.facts import FactKind


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)


class ResultUnused(Layer):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        try:
            y[:, 10]
            z = y * 2
        except IndexError:
            z = y
        return z


class InHelper(Layer):
    @staticmethod
    def is_positive(x: Tensor) -> bool:
        try:
            torch.linalg.cholesky(x)
            return True
        except RuntimeError:
            return False

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        return y if self.is_positive(x) else y + 1


class Returns(Layer):
    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        try:
            return y + bias
        except RuntimeError:
            return y - bias.mean()


class SetsFlag(Layer):
    def forward(self, x: Tensor) -> Tensor:
        y, even = self.linear(x), True
        try:
            y.view(y.shape[0], 2, -1, 8)
        except RuntimeError:
            even = False
        return y * 2 if even else y


class Suppressed(Layer):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        with contextlib.suppress(IndexError):
            y = y * y[:, 10:11].sum()
            y = y * y[:, 12][:, None]
        return y


class WithWeights(Layer):
    def forward(self, x: Tensor) -> Tensor:
        try:
            y: Tensor = self.linear(x)
            x[:, 10]
        except IndexError:
            y = self.linear(x) * 2
        return y


class RaisesAnother(Layer):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        try:
            y = y * 2
        except RuntimeError as error:
            raise ValueError("sizes") from error
        return y


class Deep(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList([kind() for _ in range(9)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


LONG, SHORT = torch.randn(2, 64, 8), torch.randn(2, 5, 8)
CASES: dict[str, tuple[nn.Module, tuple[Tensor, ...], tuple[Tensor, ...]]] = {
    "result unused": (ResultUnused(), (LONG,), (SHORT,)),
    "in a helper": (InHelper(), (torch.eye(8) + 0.1,), (torch.zeros(8, 8),)),
    "returns": (Returns(), (LONG[0], LONG[0, 0]), (LONG[0], LONG[0, 0, :7])),
    "sets a flag": (SetsFlag(), (LONG,), (SHORT,)),
    "suppressed": (Suppressed(), (LONG,), (SHORT,)),
    "layers": (Deep(ResultUnused), (LONG,), (SHORT,)),
}


@pytest.mark.parametrize("title", CASES)
def test_the_graph_goes_the_way_that_eager_goes(title: str) -> None:
    model, example, other = CASES[title]
    captured = pipeline.capture(model.eval(), example)
    observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping(), example)
    observed(*example), observed(*other)
    for given in (example, other):
        assert torch.allclose(captured(*given), model(*given), atol=1e-5)
        assert torch.allclose(observed(*given), model(*given), atol=1e-5)
    report = fxquant.check_traceable(model, example)
    assert report.ok and any(item.kind.value == "caught-error" for item in report.findings)


@pytest.mark.parametrize("kind", [WithWeights, lambda: Deep(WithWeights)])
def test_where_weights_are_the_graph_raises(kind: type[nn.Module]) -> None:
    model = kind().eval()
    captured = pipeline.capture(model, (LONG,))
    assert not captured.state.capture_notes
    assert any(fact.kind is FactKind.CAUGHT_ERROR for fact in captured.state.facts)
    assert torch.allclose(captured(LONG), model(LONG), atol=1e-5)
    quantized = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping(), (LONG,))
    quantized(LONG)
    for call in (captured, fxquant.convert_fx(quantized)):
        with pytest.raises(IndexError):
            call(SHORT)


def test_what_raises_another_error_is_no_way_on() -> None:
    captured = pipeline.capture(RaisesAnother().eval(), (LONG,))
    assert not captured.state.capture_notes and not captured.state.facts
