"""Calibration data: what batches may look like, and errors that say where."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant import FxquantError


class One(nn.Module):
    """One input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y.relu()


class Two(nn.Module):
    """Two inputs, the second optional."""

    def __init__(self, optional: bool) -> None:
        super().__init__()
        self.conv, self.optional = nn.Conv2d(3, 4, 3), optional

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        y: Tensor = self.conv(x)
        return y if bias is None else y + bias


X, LABEL = torch.randn(2, 3, 8, 8), torch.tensor([1, 2])


@pytest.mark.parametrize("batch", [X, (X,), [X], {"x": X}, (X, LABEL), [X, LABEL], (X, LABEL, "name")])
def test_forms_of_a_batch(batch: object) -> None:
    quantized = fxquant.quantize(One().eval(), [batch, batch], progress=False)
    assert quantized(X).shape == (2, 4, 6, 6)


def test_pairs_that_fit_in_two_ways_are_refused() -> None:
    with pytest.raises(FxquantError, match=r"with and without its last value(.|\n)*example_inputs"):
        fxquant.quantize(Two(True).eval(), [(X, LABEL)], progress=False)
    quantized = fxquant.quantize(Two(True).eval(), [(X, LABEL)], example_inputs=(X,), progress=False)
    assert quantized(X).shape == (2, 4, 6, 6)
    both = (X, torch.randn(2, 4, 6, 6))
    assert fxquant.quantize(Two(True).eval(), [both], progress=False)(*both).shape == (2, 4, 6, 6)


class Pair(nn.Module):
    """Two inputs, both needed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y * scale


@pytest.mark.parametrize("inputs", [(X, torch.ones(1)), [X, torch.ones(1)], {"x": X, "scale": torch.ones(1)}])
def test_inputs_may_be_a_container_beside_the_label(inputs: object) -> None:
    quantized = fxquant.quantize(Pair().eval(), [(inputs, LABEL)], progress=False)
    assert quantized(x=X, scale=torch.ones(1)).shape == (2, 4, 6, 6)


@pytest.mark.parametrize("label", [torch.rand(2, 5), torch.rand(2, 1), 3, "cat"])
def test_labels_that_are_no_integers_are_ambiguous_too(label: object) -> None:
    with pytest.raises(FxquantError, match="with and without its last value"):
        fxquant.quantize(Two(True).eval(), [(X, label)], progress=False)


def test_keys_that_forward_does_not_take_are_named() -> None:
    with pytest.raises(FxquantError, match=r"'x', 'label'(.|\n)*dicts of 'x' only"):
        fxquant.quantize(One().eval(), [{"x": X, "label": LABEL}], progress=False)
    with pytest.raises(FxquantError, match=r"pass a list of batches"):
        fxquant.quantize(One().eval(), {"x": X}, progress=False)


def test_a_one_shot_iterator_loses_no_batch() -> None:
    seen: list[int] = []

    def batches() -> Iterator[Tensor]:
        for index in range(3):
            seen.append(index)
            yield torch.full((1, 3, 8, 8), float(index))

    quantized = fxquant.quantize(One().eval(), batches(), progress=False)
    assert seen == [0, 1, 2]
    assert "over 3 batches" in quantized.state.range_notes["x"]
    assert quantized.get_buffer("int8.x_quantize.scale") * 255 > 1.9


@pytest.mark.parametrize("data", [[], iter(())])
def test_no_data_is_an_error(data: object) -> None:
    with pytest.raises(FxquantError, match="empty"):
        fxquant.quantize(One().eval(), data, progress=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_name_node_and_batch(value: float) -> None:
    bad = X.clone()
    bad[0, 0, 0, 0] = value
    with pytest.raises(FxquantError, match=r"node 'x' in calibration batch 1"):
        fxquant.quantize(One().eval(), [X, bad], progress=False)


class Weighted(nn.Module):
    """Layers, one of which may be broken, and a logarithm."""

    def __init__(self, broken: str = "", logarithm: bool = False) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2)
        self.logarithm = logarithm
        if broken:
            {**dict(self.named_parameters()), **dict(self.named_buffers())}[broken].data.view(-1)[0] = float("nan")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        return self.head(torch.log(x * 0) if self.logarithm else x)


@pytest.mark.parametrize(
    ("model", "data", "words"),
    [
        (Weighted(), X * float("nan"), "node 'x'.*batch 0.*holds NaN"),
        (Weighted(), X / 0, "node 'conv'.*batch 0.*x holds NaN or infinity"),
        (Weighted("conv.weight"), X, "node 'conv'.*conv_weight holds NaN"),
        (Weighted("head.bias"), X, "node 'head'.*head_bias holds NaN"),
        (Weighted("norm.running_var"), X, "node 'norm'.*leave the range"),
        (Weighted(logarithm=True), X, "node 'head'.*log holds NaN or infinity"),
    ],
)
def test_example_inputs_are_looked_at_too(model: nn.Module, data: torch.Tensor, words: str) -> None:
    """What is not finite there would stay float without a word."""
    with pytest.raises(fxquant.FxquantError, match=words):
        fxquant.quantize(model.eval(), [data], progress=False)
    assert fxquant.prepare_fx(model.eval(), fxquant.QConfigMapping(), (data,)).plan.units


def test_observers_without_data_are_named() -> None:
    observed = fxquant.prepare_fx(One().eval(), fxquant.get_default_qconfig_mapping(), (X,))
    with pytest.raises(FxquantError, match=r"saw no data: x, relu"):
        fxquant.convert_fx(observed)


def test_convert_wants_a_prepared_model() -> None:
    with pytest.raises(FxquantError, match="prepare_fx"):
        fxquant.convert_fx(One().eval())  # type: ignore[arg-type]


def test_fake_quantization_as_an_observer_sees_every_batch() -> None:
    """Its qconfig may be given to ``prepare_fx``, and calibration is usually done in evaluation mode."""

    def scale(mode: bool) -> float:
        torch.manual_seed(0)
        mapping = fxquant.QConfigMapping().set_global(fxquant.get_default_qat_qconfig("x86"))
        observed = fxquant.prepare_fx(One().eval(), mapping, (X,)).train(mode)
        for factor in (1, 5):
            observed(X * factor)
        return float(fxquant.convert_fx(observed).get_buffer("int8.x_quantize.scale"))

    assert scale(False) == scale(True)
