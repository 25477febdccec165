"""What forward asks of the circumstances of a call: gradients, modes, memory order, values that may be None."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant import pipeline
from fxquant.errors import FxquantError

SEEN: set[int] = set()


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)


class ByGradMode(Layer):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        if torch.is_grad_enabled():
            y = y * 2
        return y


class ByInferenceMode(Layer):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        return y * 2 if torch.is_inference_mode_enabled() else y


class ByRequiresGrad(Layer):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        return y * 2 if y.requires_grad else y


class ByGradFunction(Layer):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        return y * 2 if y.grad_fn is not None else y


class ByLeaf(Layer):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        return y * 2 if y.is_leaf else y


class ByInput(Layer):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        return y * 2 if x.requires_grad else y


class AsksParameter(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if self.linear.weight.requires_grad else x


class AsksBoth(Layer):
    def forward(self, x: Tensor) -> Tensor:
        trained = 1 if self.linear.weight.requires_grad else 0
        y: Tensor = self.linear(x) * (2 if x.requires_grad else 1)
        return y + trained


class AsksTwice(Layer):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        if y.requires_grad:
            y = y * 3
        if x.requires_grad:
            y = y + 1
        return y


GRADIENTS = (
    AsksBoth,
    AsksTwice,
    ByGradMode,
    ByInferenceMode,
    ByRequiresGrad,
    ByGradFunction,
    ByLeaf,
    ByInput,
    AsksParameter,
)


@pytest.mark.parametrize("kind", GRADIENTS)
def test_the_graph_is_right_with_gradients_and_without(kind: type[nn.Module]) -> None:
    model = kind().eval()
    captured = pipeline.capture(model, (torch.randn(2, 4),))
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            x = torch.randn(3, 4)
            assert torch.equal(captured(x), model(x))
    x = torch.randn(3, 4, requires_grad=True)
    assert torch.equal(captured(x), model(x))


def test_a_question_for_a_parameter_keeps_nothing_in_float() -> None:
    captured = pipeline.capture(AsksParameter().eval(), (torch.randn(2, 4),))
    assert not captured.state.capture_notes


def test_two_questions_in_training() -> None:
    model, x = AsksTwice().train(), torch.randn(2, 4)
    prepared = fxquant.prepare_qat_fx(model, fxquant.get_default_qat_qconfig_mapping(), (x,))
    assert prepared(x).shape == (2, 4)


class ByMemory(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y if y.is_contiguous() else y * 2


class ByView(ByMemory):
    """Goes on where a view fails."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        try:
            return y.view(y.shape[0], -1)
        except RuntimeError:
            return y.reshape(y.shape[0], -1) * 2


class Contiguous(ByMemory):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y.relu() if y.is_contiguous() else y.contiguous().relu()


@pytest.mark.parametrize(("kind", "kept"), [(ByMemory, True), (ByView, True), (Contiguous, False)])
def test_the_order_in_memory(kind: type[nn.Module], kept: bool) -> None:
    model, x = kind().eval(), torch.randn(2, 2, 5, 5)
    captured = pipeline.capture(model, (x,))
    assert bool(captured.state.capture_notes) is kept
    for given in (x, x.to(memory_format=torch.channels_last)):
        assert torch.equal(captured(given), model(given))


class Slices(Layer):
    """Writes into a part of an array that lies in the memory of a tensor."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x).detach()
        part = torch.from_numpy(y.numpy()[:, 1:])
        part.mul_(1 + F.relu(x.mean()))
        return y


def test_arrays_in_the_memory_of_tensors() -> None:
    model = Slices().eval()
    captured = pipeline.capture(model, (-torch.ones(2, 4),))
    for x in (-torch.ones(2, 4), torch.ones(3, 4)):
        assert torch.equal(captured(x), model(x))


class Environment(Layer):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x) * float(os.environ.get("FXQUANT_TEST_SCALE", "1"))
        return y


def test_what_is_read_of_the_environment_is_told() -> None:
    captured = pipeline.capture(Environment().eval(), (torch.randn(2, 4),))
    (fact,) = captured.state.facts
    assert fact.is_guard and fact.value == "environment: FXQUANT_TEST_SCALE=None"
    assert "__getitem__" in vars(os._Environ) and os._Environ.__getitem__.__module__ == "os"


class NoneForOnes(Layer):
    def mask(self, m: Tensor) -> Any:
        if m.all():
            return None
        return m

    def forward(self, x: Tensor, m: Tensor) -> Tensor:
        mask, y = self.mask(m), self.linear(x)
        return y.mean(1) if mask is None else (y * mask).sum(1)


@pytest.mark.parametrize("first", [torch.ones(2, 4), torch.tensor([[1.0, 0, 1, 1]] * 2)])
def test_none_for_a_tensor_is_refused_by_name(first: Tensor) -> None:
    x = torch.randn(2, 4)
    model = NoneForOnes().eval()
    captured = pipeline.capture(model, (x, first))
    assert torch.equal(captured(x, first), model(x, first))
    other = torch.ones(2, 4) if not first.all() else torch.zeros(2, 4)
    with pytest.raises(FxquantError, match=r"NoneForOnes\.mask, which runs as Python, gave"):
        captured(x, other)


class ClassAttribute(Layer):
    stride: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.stride = torch.tensor([8.0])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x) * self.stride
        return y


class NumpyScalar(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.scale, self.root = np.float32(0.5), np.sqrt(2.0)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.scale * self.linear(x) + self.root / (x.abs() + 1)
        return y


class Arrays(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.mean, self.scale = np.full(4, 0.5, np.float32), np.array(2.0, np.float32)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear((x - self.mean) / self.scale)
        return y


class SizesByName(Layer):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x) + torch.ones(size=x.shape) + torch.ones(1, 4).expand(size=x.size())
        return y


class Seeded(Layer):
    def forward(self, x: Tensor) -> Tensor:
        generator = torch.Generator()
        generator.manual_seed(42)
        y: Tensor = self.linear(x) + torch.randn(x.shape, generator=generator)
        return y


class OfStorage(Layer):
    def forward(self, x: Tensor) -> Tensor:
        share = x.untyped_storage().nbytes() / 16
        y: Tensor = self.linear(x) / share
        return y


class NormBySize(Layer):
    def forward(self, x: Tensor) -> Any:
        return nn.LayerNorm(x.shape[1:])(self.linear(x))


class CountOfCpu(Layer):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        return y.gather(1, y.argmax(1).cpu()[:, None]) + (y > 0).cpu().sum(1, keepdim=True)


class FreshDropout(Layer):
    def forward(self, x: Tensor) -> Any:
        return nn.Dropout(0.5)(self.linear(x))


class ComputedState(Layer):
    """Keeps what it computed, with its gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.last: Any = None

    def forward(self, x: Tensor) -> Tensor:
        before = torch.zeros(4) if self.last is None else self.last
        self.last = torch.tanh(self.linear(x).mean(0) + before)
        return x * self.last


OTHER: tuple[Callable[[], nn.Module], ...] = (
    ClassAttribute, NumpyScalar, NormBySize, CountOfCpu, FreshDropout, Arrays, SizesByName, Seeded, OfStorage,
)  # fmt: skip


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # of arrays beside tensors, in eager too
@pytest.mark.parametrize("kind", OTHER)
def test_what_raised_raw_errors_or_was_wrong(kind: Callable[[], nn.Module]) -> None:
    model = kind().eval()
    observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping(), (torch.randn(2, 4),))
    for rows in (2, 3):
        x = torch.randn(rows, 4)
        torch.manual_seed(0)
        expected = model(x)
        torch.manual_seed(0)
        torch.testing.assert_close(observed(x), expected, rtol=1e-6, atol=0)
    fxquant.convert_fx(observed)(x)


def test_computed_state_is_converted() -> None:
    observed = fxquant.prepare_fx(ComputedState().eval(), fxquant.get_default_qconfig_mapping(), (torch.randn(2, 4),))
    observed(torch.randn(2, 4))
    fxquant.convert_fx(observed)(torch.randn(2, 4))


class Once(Layer):
    """A cache with room for one call."""

    def __init__(self) -> None:
        super().__init__()
        self.used = False

    def forward(self, x: Tensor) -> Any:
        if self.used:
            raise RuntimeError("the cache is full")
        self.used = True
        return self.linear(x)


def test_a_model_that_cannot_be_called_twice() -> None:
    model, x = Once().eval(), torch.randn(2, 4)
    captured = pipeline.capture(model, (x,))
    assert torch.equal(captured(x), model.linear(x))
    assert str(fxquant.check_traceable(model, (x,)))


class SetsEnvironment(Layer):
    def forward(self, x: Tensor) -> Any:
        os.environ["FXQUANT_TEST_ROWS"] = str(x.shape[0])
        return self.linear(x)


class SetsClass(Layer):
    def forward(self, x: Tensor) -> Any:
        type(self).seen = True  # type: ignore[attr-defined]
        return self.linear(x)


class AddsToSet(Layer):
    def forward(self, x: Tensor) -> Any:
        SEEN.add(x.size(-1))
        return self.linear(x)


@pytest.mark.parametrize("kind", [SetsEnvironment, SetsClass, AddsToSet])
def test_what_is_outside_is_put_back_and_reported(kind: type[nn.Module]) -> None:
    report = fxquant.check_traceable(kind().eval(), (torch.randn(2, 4),))
    pipeline.capture(kind().eval(), (torch.randn(2, 4),))
    assert "FXQUANT_TEST_ROWS" not in os.environ and not hasattr(SetsClass, "seen") and not SEEN
    assert "global-update" in {finding.kind.value for finding in report.findings}


class Counter(Layer):
    """Reads a buffer before it changes it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.steps + 1
        self.steps.add_(1)
        y: Tensor = self.linear(x) * weight + torch.sigmoid(self.steps)
        return y


@pytest.mark.parametrize("config", [fxquant.QConfigMapping(), fxquant.get_default_qconfig_mapping()])
def test_reads_stay_before_writes(config: fxquant.QConfigMapping) -> None:
    model, x = Counter().eval(), torch.randn(2, 4)
    observed = fxquant.prepare_fx(model, config, (x,))
    observed(x)
    observed.steps.zero_()  # type: ignore[operator]
    for converted in (fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed)):
        model.steps.zero_()  # type: ignore[operator]
        for _ in range(3):
            expected, found = model(x), converted(x)
            assert (found - expected).abs().max() <= 0.02 * expected.abs().max()


class Draws(Layer):
    """Draws from a constant before it draws for an activation."""

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.bernoulli(torch.full((4,), 0.5))
        y: Tensor = self.linear(x + torch.rand_like(x)) * mask
        return y


def test_draws_stay_in_order() -> None:
    model, x = Draws().eval(), torch.randn(3, 4)
    converted = fxquant.convert_fx(fxquant.prepare_fx(model, fxquant.QConfigMapping(), (x,)))
    torch.manual_seed(3)
    expected = model(x)
    torch.manual_seed(3)
    assert torch.equal(converted(x), expected)


class InPlaceDtype(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x.bfloat16() * 1
        y += torch.full((4,), 0.25)
        return F.relu(y)


def test_in_place_keeps_the_dtype() -> None:
    model, x = InPlaceDtype(), torch.randn(2, 4)
    captured = pipeline.capture(model, (x,))
    assert captured(x).dtype is torch.bfloat16
    assert torch.equal(captured(x), model(x))
