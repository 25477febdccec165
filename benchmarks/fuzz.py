"""Quantize random networks and check that capture, lowering, conversion and files do what they promise.

``python benchmarks/fuzz.py --count 2000``; exits with 1 when a property fails, and prints the shortest network.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Iterable

import torch
from graph_checks import Failure, check_graph, minimise
from random_graphs import RandomNet
from rich.console import Console
from rich.progress import track
from tabulate import tabulate

from fxquant.inspect.agreement import UnitAgreement


def main(arguments: list[str] | None = None) -> int:
    """Run the fuzzer; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--count", type=int, default=2000, help="number of networks")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=5, help="how many failures to minimise and print")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    seeds = range(options.first_seed, options.first_seed + options.count)
    failures, rates = run(seeds)
    print_rates(rates)
    _print_failures(failures, options.show)
    print(f"{options.count - len(failures)} of {options.count} networks passed")
    return 1 if failures else 0


def run(seeds: Iterable[int]) -> tuple[list[Failure], Counter[tuple[str, str]]]:
    """Check every seed; returns the failures, and counts of elements by (operator, what was counted)."""
    failures: list[Failure] = []
    rates: Counter[tuple[str, str]] = Counter()
    for seed in track(list(seeds), "quantizing random networks", console=Console(stderr=True)):
        failure, rows = check_graph(seed)
        failures += [failure] if failure else []
        for row in rows:
            _count(row, rates)
    return failures, rates


def _count(row: UnitAgreement, rates: Counter[tuple[str, str]]) -> None:
    rates[row.op, "units"] += 1
    rates[row.op, "elements"] += row.count
    rates[row.op, "differing"] += row.differing
    rates[row.op, "violations"] += not row.agrees


def print_rates(rates: Counter[tuple[str, str]]) -> None:
    """A table of the kernels' differences from the reference, by operator."""
    body = []
    for op in sorted({name for name, _ in rates}):
        share = rates[op, "differing"] / max(rates[op, "elements"], 1)
        body.append((op, rates[op, "units"], rates[op, "elements"], f"{share:.3%}", rates[op, "violations"]))
    print(tabulate(body, ("operator", "units", "elements", "differ by a quantum", "violations")))


def _print_failures(failures: list[Failure], show: int) -> None:
    kinds = Counter((failure.what, failure.detail.strip().split("\n")[0][:90]) for failure in failures)
    print(tabulate([(count, *kind) for kind, count in kinds.most_common()], ("failures", "property", "detail")))
    first_of_kind = {failure.what + failure.detail[:60]: failure for failure in reversed(failures)}
    for failure in list(first_of_kind.values())[:show]:
        small = minimise(failure)
        print(f"\n{small.what}: {small.detail}\n{RandomNet(small.seed, small.count).describe()}")


if __name__ == "__main__":
    sys.exit(main())
