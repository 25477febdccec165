"""Seconds to capture against depth, beside the forward pass of eager, plain torch.fx and torch.export.

Four families of small networks, so that what is measured is the tool and not the kernels: ``conv``, blocks of
convolution, batch norm and ReLU; ``norm``, blocks of ``x + layer_norm(relu(linear(x)))``; ``padded``, convolutions that
pad odd sizes, so that a branch on a size is in each; ``encoder``, torch.nn's transformer layers. Capture is asked to
take no longer than two forward passes and a second, and to grow with the number of nodes.

    python benchmarks/capture_time.py --families conv,norm --depths 50,100,200
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from report import print_machine, print_table, write_json
from torch import Tensor, fx, nn

from fxquant import pipeline

ROUNDS = 3


class Conv(nn.Module):
    """Convolution, batch norm and ReLU on [N, 8, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, 8, H, W] to the same shape."""
        return torch.relu(self.norm(self.conv(x)))


class Padded(Conv):
    """The same with odd sizes padded."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, 8, H, W] to sizes that are multiples of 2."""
        if x.shape[-1] % 2:
            x = F.pad(x, (0, 1))
        return super().forward(x)


class Norm(nn.Module):
    """``x + layer_norm(relu(linear(x)))`` on [N, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, 8] to the same shape."""
        y: Tensor = x + self.norm(F.relu(self.linear(x)))
        return y


def _encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)


FAMILIES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv": (Conv, (2, 8, 16, 16)),
    "norm": (Norm, (4, 8)),
    "padded": (Padded, (2, 8, 16, 16)),
    "encoder": (_encoder, (2, 10, 32)),
}


def seconds(call: Callable[[], Any]) -> float:
    """Median seconds of a call, after one that is not counted."""
    call()
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return median(taken)


def measure(family: str, depth: int, others: bool) -> dict[str, Any]:
    """One row of the table."""
    make, shape = FAMILIES[family]
    model, x = nn.Sequential(*(make() for _ in range(depth))).eval(), torch.randn(shape)
    with torch.no_grad():
        eager = seconds(lambda: model(x))
    taken = seconds(lambda: pipeline.capture(model, (x,)))
    nodes = len(pipeline.capture(model, (x,)).graph.nodes)
    row = {"family": family, "depth": depth, "nodes": nodes, "eager s": eager, "capture s": taken}
    row |= {"allowed s": 2 * eager + 1, "ms per node": 1000 * taken / nodes}
    if others:
        row["plain fx s"] = _seconds_or_none(lambda: fx.symbolic_trace(model))
        row["torch.export s"] = _seconds_or_none(lambda: torch.export.export(model, (x,), strict=False))
    return row


def _seconds_or_none(call: Callable[[], Any]) -> float | None:
    try:
        return seconds(call)
    except Exception:  # whatever it says of the model
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--depths", default="50,100,200")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--others", action="store_true", help="also plain torch.fx and torch.export")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print_machine()
    rows = [
        measure(family, int(depth), given.others)
        for family in given.families.split(",")
        for depth in given.depths.split(",")
    ]
    title = "Seconds of one thread to capture, and what two forward passes and a second are"
    print_table(title, list(rows[0]), [list(row.values()) for row in rows])
    write_json(given.json, {"rows": rows})


if __name__ == "__main__":
    main()
