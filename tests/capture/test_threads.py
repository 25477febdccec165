"""Capturing replaces functions of torch for a while: other threads may capture, or run models, meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant

X = torch.randn(2, 8, 8, 8)


class Block(nn.Module):
    """What is captured."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)) + x)


class Other(nn.Module):
    """What runs meanwhile: factories, a branch on values, state."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.calls = nn.Conv2d(8, 8, 3, padding=1), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        y = torch.zeros(x.shape[0], 8, 8, 8) + self.conv(x)
        if y.sum() > 1e9:
            y = y * 0
        return F.dropout(y.relu(), 0.5, self.training)


def _in_threads(work: Callable[[], None], count: int) -> tuple[list[threading.Thread], list[BaseException]]:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads, errors


@pytest.mark.parametrize("plain", [False, True], ids=["with values", "plain"])
def test_what_other_threads_run_is_not_captured(plain: bool) -> None:
    model, other = nn.Sequential(*(Block() for _ in range(12))).eval(), Other().eval()
    example = None if plain else (X,)
    alone = [node.name for node in fxquant.fuse_fx(model, example_inputs=example).graph.nodes]
    with torch.no_grad():
        expected = other(X)
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            with torch.no_grad():
                assert torch.equal(other(X), expected)
            Other()(X)

    threads, errors = _in_threads(serve, 2)
    try:
        for _ in range(3):
            fused = fxquant.fuse_fx(model, example_inputs=example)
            assert [node.name for node in fused.graph.nodes] == alone and not fused.state.capture_notes
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not errors, errors


def test_models_may_be_quantized_at_once() -> None:
    zeros, apply = torch.zeros, torch.autograd.Function.apply

    def quantize() -> None:
        for _ in range(2):
            assert fxquant.explain(fxquant.quantize(Block().eval(), [X], progress=False)).counts["int8"] >= 1

    threads, errors = _in_threads(quantize, 4)
    for thread in threads:
        thread.join()
    assert not errors, errors
    assert torch.zeros is zeros and torch.autograd.Function.apply == apply
