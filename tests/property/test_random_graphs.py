"""Random networks: no crash, exact capture, agreement with the reference, determinism, files."""

from __future__ import annotations

import pytest
import torch
from graph_checks import check_graph
from random_graphs import RandomNet


@pytest.mark.parametrize("seed", range(100))
def test_random_graph(seed: int) -> None:
    """Every property of ``graph_checks`` holds for this network."""
    failure, _ = check_graph(seed)
    assert failure is None, f"{failure.what}: {failure.detail}\n{RandomNet(seed).describe()}"


def test_units_are_compared() -> None:
    """The configuration that a network draws may leave it float; of a handful, most compute on integers."""
    assert sum(bool(check_graph(seed)[1]) for seed in range(6)) >= 4


def test_a_seed_always_gives_the_same_network() -> None:
    """Steps, weights and results follow from the seed."""
    first, second = RandomNet(5), RandomNet(5)
    assert first.describe() == second.describe()
    with torch.no_grad():
        for one, other in zip(first(first.example()), second(second.example()), strict=True):
            assert torch.equal(one, other)


def test_a_shorter_network_is_the_beginning_of_the_longer() -> None:
    """What minimising a failure relies on."""
    steps = [str(step) for step in RandomNet(7).steps]
    assert [str(step) for step in RandomNet(7, 4).steps] == steps[:4]


def test_networks_differ_and_are_of_the_promised_size() -> None:
    """Between 5 and 60 steps, and no two of the first twenty alike."""
    nets = [RandomNet(seed) for seed in range(20)]
    assert all(5 <= len(net.steps) <= 60 for net in nets)
    assert len({net.describe().split("\n", 1)[1] for net in nets}) == len(nets)
