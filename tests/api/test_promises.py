"""What the API promises besides numbers: files, copies, threads, dtypes, devices, state."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant.numerics.sqnr import sqnr_db

ENGINES = [
    name for name in ("x86", "fbgemm", "onednn", "qnnpack") if name in torch.backends.quantized.supported_engines
]


class Net(nn.Module):
    """A small residual network with a functional, a shared module and a view."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.relu(self.body(x))
        y = self.body(y)
        y += x
        return self.head(F.adaptive_avg_pool2d(self.relu(y), 1).flatten(-3))


def _net() -> nn.Module:
    torch.manual_seed(1)
    net = Net().train()
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(8, 3, 12, 12))
    return net.eval()


def _observed(engine: str = "x86", context: Any = torch.no_grad) -> tuple[nn.Module, Any]:
    net = _net()
    observed = fxquant.prepare_fx(net, fxquant.get_default_qconfig_mapping(engine), (torch.randn(2, 3, 12, 12),))
    torch.manual_seed(2)
    with context():
        for _ in range(3):
            observed(torch.randn(4, 3, 12, 12))
    return net, observed


@pytest.mark.parametrize("engine", ENGINES)
def test_int8_is_close_to_float_on_every_engine(engine: str) -> None:
    net, observed = _observed(engine)
    quantized = fxquant.convert_fx(observed)
    x = torch.randn(16, 3, 12, 12)
    assert sqnr_db(net(x).detach(), quantized(x)) > 28


def test_user_model_and_inputs_are_unchanged() -> None:
    net = _net()
    before, x = copy.deepcopy(net.state_dict()), torch.randn(2, 3, 12, 12)
    names, kept = [name for name, _ in net.named_modules()], x.clone()
    fxquant.quantize(net, [x], progress=False)
    assert [name for name, _ in net.named_modules()] == names
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert torch.equal(x, kept)
    assert not any("fxquant" in type(module).__module__ for module in net.modules())


def test_prepared_parameters_keep_their_names() -> None:
    net, observed = _observed()
    assert set(dict(net.named_parameters())) <= set(dict(observed.named_parameters()))


def test_converting_twice_gives_the_same_model() -> None:
    _, observed = _observed()
    first, second = fxquant.convert_fx(observed), fxquant.convert_fx(observed)
    assert first.plan == second.plan
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key
    x = torch.randn(2, 3, 12, 12)
    assert torch.equal(first(x), second(x))


@pytest.mark.parametrize("stage", ["observed", "reference", "quantized"])
def test_every_stage_copies_pickles_and_prints(stage: str) -> None:
    _, observed = _observed()
    model = {
        "observed": lambda: observed,
        "reference": lambda: fxquant.convert_to_reference_fx(observed),
        "quantized": lambda: fxquant.convert_fx(observed),
    }[stage]()
    x = torch.randn(2, 3, 12, 12)
    expected = model(x)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(twin).__mro__[1] is type(model).__mro__[1]
        assert torch.equal(twin(x), expected)
        assert twin.plan == model.plan
        assert [node.name for node in twin.graph.nodes] == [node.name for node in model.graph.nodes]
    assert "forward" in model.code and str(model)


class Formats(nn.Module):
    """Chooses memory formats, in ways that have nodes; one of them in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.to(memory_format=torch.channels_last)).contiguous(memory_format=torch.contiguous_format)
        if self.training:
            x = x + torch.empty_like(x, memory_format=torch.channels_last).zero_()
        return self.last(x.clone(memory_format=torch.channels_last)).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_models_that_choose_memory_formats_pickle(protocol: int) -> None:
    """``torch.save`` uses protocol 2, in which torch's memory formats do not pickle."""
    net, x = Formats().eval(), torch.randn(2, 3, 4, 4)
    observed = fxquant.prepare_fx(net, fxquant.get_default_qconfig_mapping("x86"), (x,))
    observed(x)
    trained = fxquant.prepare_qat_fx(Formats(), fxquant.get_default_qat_qconfig_mapping("x86"), (x,))
    trained(x)
    for model in (observed, fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed), trained):
        twin = pickle.loads(pickle.dumps(model, protocol))
        assert torch.equal(twin(x), model(x)) and twin(x).stride() == model(x).stride()


def test_loading_in_a_fresh_process(tmp_path: Path) -> None:
    _, observed = _observed()
    quantized, x = fxquant.convert_fx(observed), torch.randn(2, 3, 12, 12)
    torch.save({"observed": observed, "quantized": quantized, "x": x, "y": quantized(x)}, tmp_path / "all.pt")
    script = (
        "import torch, sys, warnings\n"
        "warnings.simplefilter('error')\n"
        "d = torch.load(sys.argv[1], weights_only=False)\n"
        "import fxquant\n"
        "assert torch.equal(d['quantized'](d['x']), d['y'])\n"
        "assert torch.equal(fxquant.convert_fx(d['observed'])(d['x']), d['y'])\n"
        "print(len(fxquant.explain(d['quantized']).rows))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "all.pt")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(fxquant.explain(quantized).rows)


def test_state_dict_is_plain_tensors_and_repacks(tmp_path: Path) -> None:
    net, observed = _observed()
    first, x = fxquant.convert_fx(observed), torch.randn(2, 3, 12, 12)
    torch.save(first.state_dict(), tmp_path / "s.pt")
    state = torch.load(tmp_path / "s.pt", weights_only=True)
    assert all(isinstance(value, Tensor) and not value.is_quantized for value in state.values())
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.3)
    other = fxquant.quantize(net, [torch.randn(4, 3, 12, 12)], progress=False)
    assert not torch.equal(other(x), first(x))
    other.load_state_dict(state)
    assert torch.equal(other(x), first(x))


def test_jit_trace(tmp_path: Path) -> None:
    _, observed = _observed()
    quantized, x = fxquant.convert_fx(observed), torch.randn(2, 3, 12, 12)
    for model in (quantized, pickle.loads(pickle.dumps(quantized))):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit.trace itself is deprecated
            traced = torch.jit.trace(model, x)
            traced.save(str(tmp_path / "t.pt"))
            loaded = torch.jit.load(str(tmp_path / "t.pt"))
        other = torch.randn(3, 3, 12, 12)
        assert torch.equal(loaded(other), quantized(other))


def test_other_batches_sizes_empty_and_unbatched() -> None:
    net, observed = _observed()
    quantized = fxquant.convert_fx(observed)
    for shape in ((1, 3, 12, 12), (7, 3, 16, 9), (0, 3, 12, 12)):
        x = torch.randn(shape)
        assert quantized(x).shape == net(x).shape
    x = torch.randn(3, 12, 12)
    assert torch.equal(quantized(x), quantized(x.unsqueeze(0)).squeeze(0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_models_take_and_return_their_dtype(dtype: torch.dtype) -> None:
    net = _net().to(dtype)
    x = torch.randn(8, 3, 12, 12).to(dtype)
    quantized = fxquant.quantize(net, [x], progress=False)
    assert quantized(x).dtype == dtype
    assert next(net.parameters()).dtype == dtype
    assert sqnr_db(net.float()(x.float()).detach(), quantized(x).float()) > 25


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_calibration_under_any_grad_mode(context: Any) -> None:
    x = torch.randn(2, 3, 12, 12)
    expected = fxquant.convert_fx(_observed()[1])(x)
    _, observed = _observed(context=context)
    pickle.dumps(observed)
    assert torch.equal(fxquant.convert_fx(observed)(x), expected)


def test_whole_flow_under_inference_mode() -> None:
    x = torch.randn(4, 3, 12, 12)
    with torch.inference_mode():
        quantized = fxquant.quantize(_net(), [x], progress=False)
        expected = quantized(x).clone()
    assert torch.equal(pickle.loads(pickle.dumps(quantized))(x), expected)


def test_engine_setting_is_restored_and_not_read_in_forward() -> None:
    _, observed = _observed("onednn")
    before = torch.backends.quantized.engine
    quantized, x = fxquant.convert_fx(observed), torch.randn(2, 3, 12, 12)
    assert torch.backends.quantized.engine == before
    expected = quantized(x)
    try:
        for engine in ENGINES:
            torch.backends.quantized.engine = engine
            assert torch.equal(quantized(x), expected), engine
    finally:
        torch.backends.quantized.engine = before


def test_concurrent_calls_agree() -> None:
    quantized, x = fxquant.convert_fx(_observed()[1]), torch.randn(4, 3, 12, 12)
    expected, results = quantized(x), []
    threads = [threading.Thread(target=lambda: results.extend(quantized(x) for _ in range(10))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 40 and all(torch.equal(result, expected) for result in results)


def test_moving_a_quantized_model_is_refused() -> None:
    quantized = fxquant.convert_fx(_observed()[1])
    for move in (lambda: quantized.half(), lambda: quantized.to("meta"), lambda: nn.Sequential(quantized).bfloat16()):
        with pytest.raises(fxquant.FxquantError, match="cannot become"):
            move()
    assert quantized.cpu() is quantized and quantized.float() is quantized


def test_training_mode_is_refused_with_a_remedy() -> None:
    with pytest.raises(fxquant.FxquantError, match=r"eval\(\)"):
        fxquant.prepare_fx(_net().train(), fxquant.get_default_qconfig_mapping(), (torch.randn(1, 3, 12, 12),))


def test_no_warning_reaches_the_user() -> None:
    script = (
        "import warnings; warnings.simplefilter('error')\n"
        "import torch, fxquant\n"
        "from torch import nn\n"
        "m = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval()\n"
        "q = fxquant.quantize(m, [torch.randn(2, 3, 9, 9)])\n"
        "q(torch.randn(2, 3, 9, 9)); str(q)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr


def test_near_zero_weights_with_large_bias() -> None:
    for engine in ENGINES:
        net = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1)).eval()
        with torch.no_grad():
            net[0].weight[:3].mul_(1e-7)
            net[0].bias[:3] = torch.tensor([10.0, 30.0, 5.0])
        x = torch.randn(4, 4, 8, 8)
        quantized = fxquant.quantize(net, [x], backend=engine, progress=False)
        assert sqnr_db(net(x).detach(), quantized(x)) > 30, engine


def test_keys_after_convert_name_what_they_were_made_from() -> None:
    net, observed = _observed()
    quantized = fxquant.convert_fx(observed)
    origins = quantized.state.key_origins
    assert origins and set(origins) <= set(quantized.state_dict())
    names = dict(net.named_parameters()) | dict(net.named_buffers())
    assert all(origin in names for made_from in origins.values() for origin in made_from)
    stem = next(value for key, value in origins.items() if "stem" in key and key.endswith(".weight"))
    assert "stem.0.weight" in stem and "stem.1.running_mean" in stem
