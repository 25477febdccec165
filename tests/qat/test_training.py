"""Autocast, gradient checkpointing, several processes, interrupted runs, files."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as multiprocessing
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from trained_networks import CASES, Residual, train

import fxquant

MAPPING = fxquant.get_default_qat_qconfig_mapping()


def _prepared(seed: int = 0, mapping: Any = MAPPING) -> tuple[Any, Tensor]:
    torch.manual_seed(seed)
    x = torch.randn(8, 3, 8, 8)
    return fxquant.prepare_qat_fx(Residual().train(), mapping, (x,)), x


@pytest.mark.parametrize("name", list(CASES))
def test_autocast(name: str) -> None:
    torch.manual_seed(0)
    case = CASES[name]
    inputs = case.inputs()
    prepared = fxquant.prepare_qat_fx(case.build().train(), MAPPING, inputs)
    before = {key: value.clone() for key, value in prepared.named_parameters()}
    with torch.autocast("cpu", torch.bfloat16):
        output = prepared(*inputs)
    output.float().square().mean().backward()
    with torch.no_grad():
        for parameter in prepared.parameters():
            parameter -= 0.1 * parameter.grad if parameter.grad is not None else 0
    assert all(parameter.dtype == torch.float32 for parameter in prepared.parameters())
    assert any(not torch.equal(value, before[key]) for key, value in prepared.named_parameters())
    prepared.eval()
    with torch.no_grad():
        assert torch.equal(fxquant.convert_to_reference_fx(prepared)(*inputs), prepared(*inputs))


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("qconfig", [fxquant.get_default_qat_qconfig(), fxquant.get_learnable_qat_qconfig(4)])
def test_checkpointing_observes_once(qconfig: Any, reentrant: bool) -> None:
    plain, x = _prepared(mapping=qconfig)
    for module in plain.modules():  # a recomputed forward would update statistics of batch norms twice, as in float
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    saving = copy.deepcopy(plain)
    x.requires_grad_(reentrant)
    for _ in range(3):
        for model in (plain, saving):
            output = checkpoint(model, x, use_reentrant=reentrant) if model is saving else model(x)
            output.square().sum().backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= 0.01 * parameter.grad
                    parameter.grad = None
    expected = plain.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in saving.state_dict().items())


class Checkpointed(nn.Module):
    """Checkpoints a part of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Linear(4, 8), nn.Sequential(nn.Linear(8, 8), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.body, self.stem(x), use_reentrant=False)  # type: ignore[no-any-return]


def test_models_that_checkpoint_themselves() -> None:
    x = torch.randn(5, 4)
    prepared = fxquant.prepare_qat_fx(Checkpointed().train(), MAPPING, (x,))
    assert train(prepared, (x,), 20)[-1] < train(prepared, (x,), 1)[0] + 1


QCONFIGS = (fxquant.get_default_qat_qconfig(), fxquant.get_learnable_qat_qconfig(4), fxquant.default_qat_qconfig)


@pytest.mark.parametrize("qconfig", QCONFIGS)
def test_an_interrupted_run_is_the_uninterrupted_one(qconfig: Any) -> None:
    def run(steps: range, saved: bytes | None) -> tuple[dict[str, Tensor], bytes]:
        prepared, _ = _prepared(mapping=qconfig)
        optimizer = torch.optim.AdamW(prepared.parameters(), 1e-2)
        schedule = fxquant.QATSchedule(prepared, observer_steps=6, batch_norm_steps=5)
        if saved is not None:
            state = torch.load(io.BytesIO(saved), weights_only=True)
            prepared.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            schedule.load_state_dict(state["schedule"])
        for step in steps:
            x = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(step))
            prepared(x).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        file = io.BytesIO()
        parts = {"model": prepared, "optimizer": optimizer, "schedule": schedule}
        torch.save({key: part.state_dict() for key, part in parts.items()}, file)
        return prepared.state_dict(), file.getvalue()

    whole, _ = run(range(8), None)
    for stop in (3, 6):
        _, saved = run(range(stop), None)
        resumed, _ = run(range(stop, 8), saved)
        assert resumed.keys() == whole.keys()
        assert all(torch.equal(resumed[key], value) for key, value in whole.items())


def test_half_trained_models_survive_files_and_copies() -> None:
    prepared, x = _prepared()
    train(prepared, (x,))
    file = io.BytesIO()
    torch.save(prepared, file)
    file.seek(0)
    loaded, copied = torch.load(file, weights_only=False), copy.deepcopy(prepared)
    for model in (prepared, loaded, copied):
        train(model, (x,))
    expected = prepared.state_dict()
    for model in (loaded, copied):
        assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
        with torch.no_grad():
            assert torch.equal(fxquant.convert_fx(model.eval())(x), fxquant.convert_fx(prepared.eval())(x))
    quantized = fxquant.convert_fx(prepared)
    assert not any("observer" in key for key in quantized.state_dict())


class Plain(nn.Module):
    """Without batch norm, whose statistics differ between processes in float too."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.GroupNorm(2, 6), nn.SiLU())
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return self.head(torch.cat([y[:, :3], y[:, 3:] * 2], 1).mean((2, 3)))


KINDS = {"averages": (Plain, False), "learned": (Plain, True), "same batches": (Residual, False)}


def _train_part(kind: str, rank: int, world: int) -> dict[str, Tensor]:
    """Train on the parts of batches that belong to a process; with batch norm, on the same batches in all of them."""
    build, learned = KINDS[kind]
    torch.manual_seed(0)
    qconfig = fxquant.get_learnable_qat_qconfig(4) if learned else fxquant.get_default_qat_qconfig()
    prepared = fxquant.prepare_qat_fx(build().train(), qconfig, (torch.zeros(2, 3, 8, 8),))
    trained: nn.Module = prepared if world == 1 else nn.parallel.DistributedDataParallel(prepared)
    optimizer = torch.optim.SGD(prepared.parameters(), 0.1)
    for step in range(4):
        batch = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        part = batch if build is Residual else batch.chunk(world)[rank]
        trained(part).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return prepared.state_dict()


def _process(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=world)
    torch.save({kind: _train_part(kind, rank, world) for kind in KINDS}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_two_processes_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    multiprocessing.spawn(_process, (2, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for kind in KINDS:
        alone = _train_part(kind, 0, 1)
        assert alone.keys() == first[kind].keys()
        for key, value in alone.items():
            assert torch.equal(first[kind][key], second[kind][key]), f"{kind}: {key}"
            assert torch.allclose(first[kind][key], value, atol=1e-5, rtol=1e-4), f"{kind}: {key}"
