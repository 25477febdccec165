"""Latency at batch 1: float eager, torch.ao (x86 and onednn) and fxquant, side by side in one run.

The sides take turns (A B C D, A B C D, ...), so that a change of the machine's speed meets all of them. Each
turn is one untimed run, which brings the weights back into the caches, and a few timed ones, whose median
counts.
A ratio is the median over the rounds of the ratio within a round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from networks import NETWORKS, calibration_batches
from networks import test_batches as unseen_batches
from report import print_machine, print_table, write_json
from sides import Fxquant, available_sides, quantize
from torch import Tensor, nn

FLOAT_SIDES = ("float", "float channels_last")
SLOW_MS = 150.0


@dataclass
class Contender:
    """One model whose time is taken.

    Attributes:
        name: shown in the table.
        model: what is called.
        example: its argument, [batch, 3, 224, 224] float32.
        every: it takes part in one round of `every`; slow models in fewer.
        rounds_ms: round number to milliseconds.
    """

    name: str
    model: nn.Module
    example: Tensor
    every: int = 1
    rounds_ms: dict[int, float] = field(default_factory=dict)

    def run_ms(self) -> float:
        """Milliseconds of one call."""
        start = time.perf_counter()
        self.model(self.example)
        return 1e3 * (time.perf_counter() - start)

    def warm_up(self) -> None:
        """Call it a few times, and make it sit out rounds if it is slow."""
        best_ms = min(self.run_ms() for _ in range(3))
        self.every = max(1, round(best_ms / SLOW_MS))

    def take_turn(self, round_number: int, runs: int) -> None:
        """Measure one round: one untimed run (none for a slow model), then the median of `runs`."""
        if round_number % self.every:
            return
        if self.every == 1:
            self.run_ms()
        timed = runs if self.every == 1 else 1
        self.rounds_ms[round_number] = statistics.median(self.run_ms() for _ in range(timed))

    @property
    def median_ms(self) -> float:
        """Median over the rounds, milliseconds."""
        return statistics.median(self.rounds_ms.values())


def paired_ratio(above: Contender | None, below: Contender | None) -> float | None:
    """Median over the rounds in which both ran of `above`'s time divided by `below`'s."""
    if above is None or below is None:
        return None
    shared = above.rounds_ms.keys() & below.rounds_ms.keys()
    return statistics.median(above.rounds_ms[turn] / below.rounds_ms[turn] for turn in shared)


def contenders(network: str, only: Sequence[str], batch: int) -> list[Contender]:
    """Build the float model in two memory formats and every available side's int8 model of it."""
    model = NETWORKS[network](0)
    example = unseen_batches(network)[0][:batch]
    channels_last = NETWORKS[network](0).to(memory_format=torch.channels_last)
    found = [
        Contender(FLOAT_SIDES[0], model, example),
        Contender(FLOAT_SIDES[1], channels_last, example.contiguous(memory_format=torch.channels_last)),
    ]
    for side in available_sides(only):
        found.append(Contender(side.name, quantize(side, model, calibration_batches(network)), example))
    return found


def measure(entrants: Sequence[Contender], rounds: int, runs: int) -> None:
    """Let the entrants take turns for `rounds` rounds."""
    with torch.inference_mode():
        for entrant in entrants:
            entrant.warm_up()
        for round_number in range(rounds):
            for entrant in entrants:
                entrant.take_turn(round_number, runs)


def summarize(entrants: Sequence[Contender]) -> dict[str, float | str | None]:
    """The medians in milliseconds and the ratios of one network."""
    fastest_float = min((entry for entry in entrants if entry.name in FLOAT_SIDES), key=lambda e: e.median_ms)
    rivals = [entry for entry in entrants if entry.name.startswith("torch.ao")]
    best_rival = min(rivals, key=lambda entry: entry.median_ms, default=None)
    ours = next((entry for entry in entrants if entry.name == Fxquant().name), None)
    return {
        **{entry.name: entry.median_ms for entry in entrants},
        "faster float": fastest_float.name,
        "faster torch.ao": best_rival.name if best_rival else None,
        "torch.ao / float": paired_ratio(best_rival, fastest_float),
        "fxquant / float": paired_ratio(ours, fastest_float),
        "fxquant / torch.ao": paired_ratio(ours, best_rival),
    }


def print_figures(figures: Mapping[str, Mapping[str, float | str | None]], title: str) -> None:
    """Print the table; which float format and which engine were the faster ones is in the JSON only."""
    keys = dict.fromkeys(key for row in figures.values() for key in row if not key.startswith("faster"))
    headers = [key.replace("torch.ao ", "torch.ao\n").replace("float ", "float\n") for key in keys]
    rows = [[network, *(row.get(key) for key in keys)] for network, row in figures.items()]
    print_table(title, ["network", *headers], rows)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--sides", nargs="+", default=[], help="such as 'torch.ao x86' fxquant (default: all)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument(
        "--runs", type=int, default=20, help="timed runs per round and side; the first ones warm the caches"
    )
    parser.add_argument("--json", type=Path, metavar="PATH")
    return parser.parse_args()


def main() -> None:
    """Measure every network and print the table."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    print_machine()
    figures: dict[str, dict[str, float | str | None]] = {}
    for network in arguments.networks:
        entrants = contenders(network, arguments.sides, arguments.batch)
        measure(entrants, arguments.rounds, arguments.runs)
        figures[network] = summarize(entrants)
        print(f"measured {network}", flush=True)
    print_figures(figures, f"Median ms and ratios, batch {arguments.batch}, {arguments.threads} thread(s)")
    write_json(arguments.json, {"latency_ms": figures})


if __name__ == "__main__":
    main()
