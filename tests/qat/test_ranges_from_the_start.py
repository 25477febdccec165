"""Weights have ranges when a model is prepared: copies can be averaged, and ranges may stay from the first step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode
from trained_networks import CASES, Residual, train

import fxquant
from fxquant.observers import switches

QCONFIGS = (fxquant.get_default_qat_qconfig(), fxquant.get_learnable_qat_qconfig(4))


@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("qconfig", QCONFIGS, ids=["default", "learned"])
@pytest.mark.parametrize("name", ["residual", "words"])
def test_averaged_copies(name: str, qconfig: Any, use_buffers: bool) -> None:
    torch.manual_seed(0)
    inputs = CASES[name].inputs()
    mapping = fxquant.get_default_qat_qconfig_mapping().set_global(qconfig)
    mapping.set_object_type(nn.Embedding, fxquant.default_embedding_qat_qconfig)
    mapping.optional_types = frozenset((nn.Embedding,))
    prepared = fxquant.prepare_qat_fx(CASES[name].build().train(), mapping, inputs)
    averaged = AveragedModel(prepared, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=use_buffers)
    for _ in range(3):
        train(prepared, inputs, 1)
        averaged.update_parameters(prepared)
    averaged.eval()
    with torch.no_grad():
        expected = averaged(*inputs)
        assert torch.equal(fxquant.convert_to_reference_fx(averaged.module)(*inputs), expected)


@pytest.mark.parametrize("name", list(CASES))
def test_shapes_of_the_state_stay(name: str) -> None:
    torch.manual_seed(0)
    inputs = CASES[name].inputs()
    prepared = fxquant.prepare_qat_fx(CASES[name].build().train(), fxquant.get_default_qat_qconfig_mapping(), inputs)
    before = {key: value.shape for key, value in prepared.state_dict().items()}
    train(prepared, inputs, 2)
    assert {key: value.shape for key, value in prepared.state_dict().items()} == before


@pytest.mark.parametrize("started", [False, True])
def test_observers_off_before_the_first_step(started: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 3, 8, 8)
    model = Residual().eval()
    observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping(), (x,))
    observed(x)
    start: Any = observed if started else None
    prepared = fxquant.prepare_qat_fx(model, fxquant.get_default_qat_qconfig_mapping(), (x,), start_from=start)
    fxquant.QATSchedule(prepared, observer_steps=0, batch_norm_steps=0)
    with torch.no_grad():
        first = prepared(x)
    scales = {key: value.clone() for key, value in prepared.state_dict().items() if key.endswith("scale")}
    train(prepared.train(), (x,), 3, 0.01)
    state = prepared.state_dict()
    assert all(torch.equal(state[key], value) for key, value in scales.items())
    assert torch.isfinite(first).all()
    if started:
        prepared.eval()
        with torch.no_grad():
            assert torch.equal(fxquant.convert_to_reference_fx(prepared)(x), prepared(x))


class Reads(TorchDispatchMode):
    """Counts how often the host asks for a number."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += "local_scalar_dense" in str(func)
        return func(*args, **(kwargs or {}))


def _reads(call: Callable[[], Any]) -> int:
    with Reads() as mode:
        call()
    return mode.count


def test_switches_are_read_again_only_when_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switches, "_NEAR", frozenset())
    fake = fxquant.FakeQuantize()
    answers: list[bool] = []
    writes: list[Callable[[], Any]] = [
        lambda: None,
        fake.disable_observer,
        lambda: fake.observer_enabled.__setitem__(0, 1),
        lambda: setattr(fake, "observer_enabled", torch.zeros(1, dtype=torch.uint8)),
        lambda: fake.load_state_dict(fxquant.FakeQuantize().state_dict()),
        lambda: torch.inference_mode()(fake.disable_observer)(),
    ]
    for write in writes:
        write()
        assert _reads(lambda: answers.append(switches.is_on(fake, "observer_enabled"))) == 1
        assert _reads(lambda: switches.is_on(fake, "observer_enabled")) == 0
    assert answers == [True, False, True, False, True, False]


def test_a_learned_step_gets_the_gradient_of_the_paper() -> None:
    """In float64 by equations 3 to 5, clipped values among the others, for a negative parameter too."""
    torch.manual_seed(0)
    x, gradient = torch.randn(8, 4, 5, 5), torch.randn(8, 4, 5, 5)
    for sign in (1.0, -1.0):
        fake = fxquant.LearnableFakeQuantize(quant_min=0, quant_max=15)
        fake.take(torch.tensor([0.2]), torch.tensor([6]))
        fake.scale.data.mul_(sign)
        given = x.clone().requires_grad_()
        fake(given).backward(gradient)
        step = fake.scale.detach().abs().double()
        levels = torch.round(x * (1.0 / step.float())).double() + 6
        inside = (levels >= 0) & (levels <= 15)
        slope = (levels.clamp(0, 15) - 6) - inside * x.double() / step
        expected = sign * (gradient.double() * slope).sum() / (100 * 9) ** 0.5
        assert 0 < (~inside).sum() < inside.sum()
        assert fake.scale.grad is not None
        torch.testing.assert_close(fake.scale.grad.double(), expected.reshape(1), rtol=1e-5, atol=1e-6)
        assert isinstance(given.grad, Tensor) and torch.equal(given.grad, gradient * inside)
