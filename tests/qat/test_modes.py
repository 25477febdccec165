"""Training and evaluation mode, the random state, statistics of batch norms, and what is refused."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from trained_networks import CASES, Functionals, Residual, train

import fxquant
from fxquant.errors import ConfigError, NotYetError
from fxquant.numerics.sqnr import sqnr_db

MAPPING = fxquant.get_default_qat_qconfig_mapping()


def _float_part(prepared: nn.Module) -> None:
    prepared.apply(fxquant.disable_fake_quant)


@pytest.mark.parametrize("name", list(CASES))
def test_preparing_changes_nothing(name: str) -> None:
    case = CASES[name]
    model, inputs = case.build().train(), case.inputs()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    prepared = fxquant.prepare_qat_fx(model, MAPPING, inputs)
    assert torch.equal(torch.get_rng_state(), torch_state) and random.getstate() == python_state
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    saved = prepared.state_dict()
    if name == "functionals":
        del before["norm.num_batches_tracked"]  # nobody reads it
    assert {key for key in saved if not key.startswith("int8_")} == set(before)
    assert all(torch.equal(saved[key], value) for key, value in before.items())
    assert model.training and prepared.training


@pytest.mark.parametrize("name", list(CASES))
def test_without_rounding_it_is_the_float_model(name: str) -> None:
    torch.manual_seed(1)
    case = CASES[name]
    model, inputs = case.build(), case.inputs()
    prepared = fxquant.prepare_qat_fx(model.train(), MAPPING, inputs)
    _float_part(prepared)
    for mode in (True, False, True):
        model.train(mode)
        prepared.train(mode)
        torch.manual_seed(2)
        expected = model(*inputs)
        torch.manual_seed(2)
        torch.testing.assert_close(prepared(*inputs), expected, atol=2e-5, rtol=2e-4)
    state = prepared.state_dict()
    for key, value in model.state_dict().items():
        if key not in state:
            assert key == "norm.num_batches_tracked" and name == "functionals"  # nobody reads it
            continue
        torch.testing.assert_close(state[key], value, atol=1e-5, rtol=1e-4)


def test_functional_dropout_and_batch_norm_follow_the_mode() -> None:
    torch.manual_seed(0)
    inputs = CASES["functionals"].inputs()
    prepared = fxquant.prepare_qat_fx(Functionals().eval(), MAPPING, inputs)
    assert not prepared.training
    with torch.no_grad():
        first, second = prepared(*inputs), prepared(*inputs)
        assert torch.equal(first, second)
        prepared.train()
        mean = prepared.state_dict()["norm.running_mean"].clone()
        assert not torch.equal(prepared(*inputs), prepared(*inputs))
        assert not torch.equal(prepared.state_dict()["norm.running_mean"], mean)
        prepared.eval()
        mean = prepared.state_dict()["norm.running_mean"].clone()
        assert torch.equal(prepared(*inputs), prepared(*inputs))
        assert torch.equal(prepared.state_dict()["norm.running_mean"], mean)


class Dropped(nn.Module):
    """Scaled dot products with dropout, a branch that only training has, noise, rrelu."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.act = nn.Linear(8, 24), nn.Linear(8, 8), nn.RReLU()
        self.auxiliary = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.first(x).chunk(3, -1)
        x = F.scaled_dot_product_attention(q, k, v, dropout_p=0.3 if self.training else 0.0)
        branch = self.second(self.act(x))
        if self.training:
            keep = torch.bernoulli(torch.full((x.size(0), 1, 1), 0.5))
            branch = branch * keep / 0.5
        return x + branch


def test_operations_that_only_training_has() -> None:
    torch.manual_seed(0)
    model, x = Dropped().train(), torch.randn(4, 5, 8)
    prepared = fxquant.prepare_qat_fx(model, MAPPING, (x,))
    _float_part(prepared)
    for mode in (True, False):
        model.train(mode)
        prepared.train(mode)
        torch.manual_seed(3)
        expected = model(x)
        torch.manual_seed(3)
        if mode:  # the divided attention draws its own random numbers
            assert not torch.equal(prepared(x), prepared(x))
        else:
            torch.testing.assert_close(prepared(x), expected, atol=1e-5, rtol=1e-4)
    prepared.apply(fxquant.enable_fake_quant)
    train(prepared.train(), (x,))
    prepared.eval()
    with torch.no_grad():
        assert torch.equal(fxquant.convert_to_reference_fx(prepared)(x), prepared(x))


class Auxiliary(nn.Module):
    """Returns more in training."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.helper = nn.Conv2d(3, 4, 3), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = F.relu(self.body(x)).mean((2, 3))
        if self.training:
            return self.head(x), self.helper(x)
        return self.head(x)


class GroupsByMode(nn.Module):
    """Other sizes are asked of ``view`` and of ``expand`` in training than in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        groups = 2 if self.training else 1
        y = self.linear(x).view(x.shape[0], groups, -1).sum(1)[:, :4]
        return y[:, None].expand(x.shape[0], groups, 4).sum(1)


class CountsBatches(nn.Module):
    """Batch norm with a cumulative average, whose momentum follows from a counter that training moves first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("var", torch.ones(4))
        self.register_buffer("batches", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        y, momentum = self.conv(x), 0.0
        if self.training:
            self.batches.add_(1)  # type: ignore[operator]
            momentum = 1.0 / (self.batches.item() + 1)  # type: ignore[operator]
        return F.batch_norm(y, self.mean, self.var, None, None, self.training, momentum)  # type: ignore[arg-type]


def test_what_training_writes_is_written_before_it_is_read() -> None:
    model, x = CountsBatches().train(), torch.randn(4, 3, 5, 5)
    prepared = fxquant.prepare_qat_fx(model, MAPPING, (x,))
    _float_part(prepared)
    for _ in range(3):
        torch.testing.assert_close(prepared(x), model(x), atol=2e-5, rtol=2e-4)
    for name in ("mean", "var", "batches"):
        torch.testing.assert_close(prepared.get_buffer(name), model.get_buffer(name), atol=1e-5, rtol=1e-4)


def test_sizes_that_differ_in_training() -> None:
    model, x = GroupsByMode().train(), torch.randn(2, 4, 8)
    prepared = fxquant.prepare_qat_fx(model, MAPPING, (x,))
    _float_part(prepared)
    for mode in (True, False, True):
        model.train(mode)
        prepared.train(mode)
        torch.testing.assert_close(prepared(x), model(x), atol=2e-5, rtol=2e-4)


def test_outputs_that_only_training_has() -> None:
    x = torch.randn(4, 3, 6, 6)
    prepared = fxquant.prepare_qat_fx(Auxiliary().train(), MAPPING, (x,))
    main, helper = prepared(x)
    (main.sum() + helper.sum()).backward()
    assert all(parameter.grad is not None for parameter in prepared.parameters())
    prepared.eval()
    with torch.no_grad():
        assert torch.equal(fxquant.convert_to_reference_fx(prepared)(x), prepared(x))


def test_evaluation_moves_no_range_and_the_first_batch_sets_it() -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 3, 8, 8)
    prepared = fxquant.prepare_qat_fx(Residual().eval(), MAPPING, (x,))
    with torch.no_grad():
        first = prepared(x)
        prepared(10 * x)
        assert torch.equal(prepared(x), first)
        quantized = fxquant.convert_fx(prepared)
        assert (quantized(x) - first).abs().max() < 0.2


def test_frozen_batch_norms_stay_frozen_through_train_and_files() -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 3, 8, 8)
    prepared = fxquant.prepare_qat_fx(Residual().train(), MAPPING, (x,))
    train(prepared, (x,))
    prepared.apply(fxquant.freeze_bn_stats)
    mean = prepared.state_dict()["stem.1.running_mean"].clone()
    train(prepared.train(), (x,))
    assert torch.equal(prepared.state_dict()["stem.1.running_mean"], mean)
    other = fxquant.prepare_qat_fx(Residual().train(), MAPPING, (x,))
    other.load_state_dict(prepared.state_dict())
    other.train()(x)
    assert torch.equal(other.state_dict()["stem.1.running_mean"], mean)
    other.apply(fxquant.update_bn_stats)
    other(x)
    assert not torch.equal(other.state_dict()["stem.1.running_mean"], mean)


def test_batch_norms_that_the_user_froze_stay_frozen() -> None:
    x = torch.randn(8, 3, 8, 8)
    model = Residual().train()
    model.stem[1].eval()
    prepared = fxquant.prepare_qat_fx(model, MAPPING, (x,))
    mean = prepared.state_dict()["stem.1.running_mean"].clone()
    prepared(x)
    assert torch.equal(prepared.state_dict()["stem.1.running_mean"], mean)
    assert not torch.equal(prepared.state_dict()["body.1.running_mean"], torch.zeros(6))


def test_schedule() -> None:
    x = torch.randn(8, 3, 8, 8)
    prepared = fxquant.prepare_qat_fx(Residual().train(), MAPPING, (x,))
    schedule = fxquant.QATSchedule(prepared, steps_per_epoch=2)
    switches = []
    for _ in range(9):
        prepared(x)
        schedule.step()
        fakes = [module for module in prepared.modules() if isinstance(module, fxquant.FakeQuantize)]
        frozen = [module.batch_norm_frozen for module in prepared.modules() if hasattr(module, "batch_norm_frozen")]
        switches.append((all(not fake.observer_enabled for fake in fakes), all(frozen)))
    assert switches == [(step >= 8, step >= 6) for step in range(1, 10)]
    with pytest.raises(ConfigError, match="how long an epoch is"):
        fxquant.QATSchedule(prepared)


def test_starts_from_a_calibrated_model() -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 3, 8, 8)
    model = Residual().eval()
    observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping(), (x,))
    observed(x)
    for qconfig in (fxquant.get_default_qat_qconfig(), fxquant.get_learnable_qat_qconfig()):
        prepared = fxquant.prepare_qat_fx(model, qconfig, (x,), start_from=observed)
        with torch.no_grad():
            started, calibrated = prepared(x), fxquant.convert_to_reference_fx(observed)(x)
        assert sqnr_db(calibrated, started) > 25
        found, wanted = (fxquant.convert_to_reference_fx(part).state_dict() for part in (prepared, observed))
        scales = [key for key in wanted if key.startswith("int8_ranges") and key.endswith("scale")]
        assert scales and all(torch.equal(found[key], wanted[key]) for key in scales)


@pytest.mark.parametrize("layer", [nn.LSTM(4, 4), nn.GRUCell(4, 4)])
def test_recurrent_layers_are_refused_unless_float(layer: nn.Module) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.out = layer, nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x)
            return self.out(y[0] if isinstance(y, tuple) else y)

    x = torch.randn(3, 4)
    with pytest.raises(NotYetError, match="recurrent layers cannot be trained quantized yet: layer") as caught:
        fxquant.prepare_qat_fx(Recurrent(), MAPPING, (x,))
    assert "set_module_name('layer', None)" in str(caught.value)
    mapping = fxquant.get_default_qat_qconfig_mapping().set_module_name("layer", None)
    prepared = fxquant.prepare_qat_fx(Recurrent(), mapping, (x,))
    train(prepared, (x,))
    with torch.no_grad():
        assert torch.isfinite(fxquant.convert_fx(prepared.eval())(x)).all()


class DropsUnread(nn.Module):
    """What it drops first is read by nobody; what it drops next follows from it all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.first, self.last = nn.Linear(4, 4), nn.Dropout(0.5), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        self.first(x)
        F.dropout(x, 0.5, self.training)
        y: Tensor = self.last(self.linear(x))
        return y


@pytest.mark.parametrize("mode", [True, False])
def test_dropout_that_nobody_reads_is_drawn(mode: bool) -> None:
    model, x = DropsUnread().train(mode), torch.randn(16, 4)
    prepared = fxquant.prepare_qat_fx(model, MAPPING, (x,)).train()
    results = []
    for each in (model.train(), prepared):
        torch.manual_seed(0)
        results.append(each(x) == 0)
    assert torch.equal(*results) and 0.2 < results[0].float().mean() < 0.8
    assert not any("dropout" in str(node.target) for node in fxquant.convert_fx(prepared.eval()).graph.nodes)
