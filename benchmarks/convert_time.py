"""Seconds to prepare, calibrate and convert against depth: fxquant beside torch.ao's histogram mapping.

Two families of networks: `norm`, blocks of `x + layer_norm(relu(linear(x)))` of width 8, whose cost is all in
the tool and not in the kernels; and `conv`, blocks of convolution, batch norm and ReLU. torch.ao's convert
searches its histograms in a Python loop, so it is asked only up to `--ao-max-depth` blocks. How long the loop
runs depends on the data: after little of it the histograms are sparse and the search is long. Both cases are
measured.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from report import print_machine, print_table, write_json
from sides import Fxquant, Side, TorchAo, available_sides, calibrate
from torch import Tensor, nn

WIDTH = 8
CALIBRATIONS: dict[str, tuple[int, int]] = {"ample": (4, 64), "sparse": (1, 4)}
"""Amounts of calibration data by name: number of batches, rows of each."""


class NormBlocks(nn.Module):
    """`depth` blocks of `x + layer_norm(relu(linear(x)))` on [N, 8] float32."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, 8] to [N, 8] float32."""
        for linear, norm in zip(self.linears, self.norms, strict=True):
            x = x + norm(F.relu(linear(x)))
        return x


def norm_network(depth: int) -> tuple[nn.Module, tuple[int, ...]]:
    """The `norm` family: a network in eval mode and the shape of one row of its input, [8]."""
    return NormBlocks(depth).eval(), (WIDTH,)


def conv_network(depth: int) -> tuple[nn.Module, tuple[int, ...]]:
    """The `conv` family: a network in eval mode and the shape of one row of its input, [8, 8, 8].

    The batch-norm statistics are those of random inputs: with the initial ones the signal would shrink to
    denormal numbers within fifty blocks.
    """
    blocks: list[nn.Module] = []
    for _ in range(depth):
        conv = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)
        blocks += [conv, nn.BatchNorm2d(WIDTH, momentum=None), nn.ReLU()]
    network = nn.Sequential(*blocks).train()
    with torch.no_grad():
        network(torch.randn(64, WIDTH, 8, 8))
    return network.eval(), (WIDTH, 8, 8)


FAMILIES: dict[str, Callable[[int], tuple[nn.Module, tuple[int, ...]]]] = {
    "norm": norm_network,
    "conv": conv_network,
}


@dataclass(frozen=True)
class Timing:
    """Seconds of one side on one network.

    Attributes:
        family: a key of `FAMILIES`.
        calibration: a key of `CALIBRATIONS`.
        depth: number of blocks.
        side: name of the side.
        prepare_s: of prepare_fx.
        calibrate_s: of one batch, the mean over the batches.
        convert_s: of convert_fx.
    """

    family: str
    calibration: str
    depth: int
    side: str
    prepare_s: float
    calibrate_s: float
    convert_s: float

    @property
    def case(self) -> tuple[str, str]:
        """What the figures of several depths and sides have in common: family and calibration."""
        return self.family, self.calibration

    @property
    def total_s(self) -> float:
        """Seconds of prepare and convert together."""
        return self.prepare_s + self.convert_s


def time_side(side: Side, family: str, calibration: str, depth: int) -> Timing:
    """Prepare, calibrate and convert one network and take the time of each step."""
    torch.manual_seed(0)
    model, row_shape = FAMILIES[family](depth)
    count, rows = CALIBRATIONS[calibration]
    batches = [torch.randn(rows, *row_shape) for _ in range(count)]
    start = time.perf_counter()
    observed = side.prepare(model, (batches[0],))
    prepared = time.perf_counter()
    calibrate(observed, batches)
    calibrated = time.perf_counter()
    side.convert(observed)
    end = time.perf_counter()
    calibrate_s = (calibrated - prepared) / len(batches)
    return Timing(family, calibration, depth, side.name, prepared - start, calibrate_s, end - calibrated)


def total_ratio(timings: list[Timing], case: tuple[str, str], depth: int) -> float | None:
    """fxquant's prepare+convert seconds divided by torch.ao's at one depth; None if one is unmeasured."""
    totals = {entry.side: entry.total_s for entry in timings if (entry.case, entry.depth) == (case, depth)}
    ours, rival = totals.get(Fxquant().name), totals.get(TorchAo().name)
    return None if ours is None or rival is None else ours / rival


def linearity(timings: list[Timing], case: tuple[str, str], side: str) -> float | None:
    """prepare+convert seconds per block at the largest depth over those at the smallest; 1 is linear."""
    per_block = {
        entry.depth: entry.total_s / entry.depth for entry in timings if (entry.case, entry.side) == (case, side)
    }
    if len(per_block) < 2:
        return None
    return per_block[max(per_block)] / per_block[min(per_block)]


def print_tables(timings: list[Timing]) -> None:
    """Print all timings, then the linearity of each side."""
    rows = [
        [
            *(*entry.case, entry.depth, entry.side, entry.prepare_s, entry.calibrate_s, entry.convert_s),
            entry.total_s,
            total_ratio(timings, entry.case, entry.depth) if entry.side == Fxquant().name else None,
        ]
        for entry in timings
    ]
    headers = [
        "family",
        "calibration",
        "depth",
        "side",
        "prepare",
        "calibrate\n/batch",
        "convert",
        "prepare\n+convert",
        "ratio",
    ]
    print_table("Seconds; ratio: fxquant's prepare+convert divided by torch.ao's", headers, rows)
    pairs = dict.fromkeys((entry.case, entry.side) for entry in timings)
    growth = [[*case, side, linearity(timings, case, side)] for case, side in pairs]
    title = "Seconds per block at the largest measured depth divided by those at the smallest (1 is linear)"
    print_table(title, ["family", "calibration", "side", "growth"], growth)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", nargs="+", type=int, default=[25, 50, 100, 200])
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--calibrations", nargs="+", choices=CALIBRATIONS, default=list(CALIBRATIONS))
    parser.add_argument("--sides", nargs="+", default=[TorchAo().name, Fxquant().name])
    parser.add_argument("--ao-max-depth", type=int, default=50, help="torch.ao takes minutes beyond (default: 50)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="PATH")
    return parser.parse_args()


def main() -> None:
    """Time every side, family and depth."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    print_machine()
    sides = available_sides(arguments.sides)
    for side in sides:
        time_side(side, "conv", "ample", 1)
    timings: list[Timing] = []
    for family, calibration, depth in product(arguments.families, arguments.calibrations, arguments.depths):
        for side in sides:
            if isinstance(side, TorchAo) and depth > arguments.ao_max_depth:
                continue
            timings.append(time_side(side, family, calibration, depth))
    print_tables(timings)
    write_json(arguments.json, {"timings": [asdict(entry) for entry in timings]})


if __name__ == "__main__":
    main()
