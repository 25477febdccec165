"""Try random int8 convolutions of torch's engines against exact sums, and list those that are wrong.

fxquant takes onednn's kernels on CPUs with AVX-512 only for the geometries of ``onednn_is_right``, where this finds
none. Without ``--trusted`` others are tried too: some never return, some end the process, so set ``--seconds`` low.
fbgemm's kernels for one channel a group saturate, which plans know: they are left out with ``--engine fbgemm``.

    python benchmarks/onednn_convolutions.py --trusted --seconds 60
    python benchmarks/onednn_convolutions.py --seconds 20
"""

from __future__ import annotations

import argparse
import random
import time
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from report import print_machine, print_table

from fxquant.backends.native.engine import packing_for
from fxquant.backends.native.onednn_convolutions import onednn_is_right

CHANNELS = (
    1, 2, 3, 4, 6, 8, 10, 12, 15, 16, 17, 20, 24, 28, 31, 32, 33, 40, 48, 56, 64, 65, 80, 96, 128, 160, 192, 256
)  # fmt: skip
GROUPS = (1, 1, 1, 2, 3, 4, 8, 16, 48)
OUTPUTS = (1, 1, 4, 8, 16, 24, 32, 48, 64)
WIDTHS = (1, 2, 3, 3, 4, 5, 6, 7, 8, 9, 11, 12, 16)
SIDES = (7, 8, 14, 20, 28, 33, 56)
MOST_PRODUCTS = 3e8


def draw(generator: random.Random) -> dict[str, Any]:
    """One geometry."""
    rank, pick = generator.choice((1, 2, 2, 3)), generator.choice
    square = (pick(WIDTHS),) * rank
    return {
        "channels": pick(CHANNELS),
        "groups": pick(GROUPS),
        "outputs": pick(OUTPUTS),
        "kernel": square if pick((True, False)) else tuple(pick(WIDTHS) for _ in range(rank)),
        "sides": tuple(pick(SIDES) for _ in range(rank)),
        "stride": pick((1, 1, 1, 2, 3)),
        "dilation": pick((1, 1, 1, 2)),
        "batch": pick((1, 2, 3)),
    }


def quanta(case: dict[str, Any], engine: str) -> int:
    """By how much the kernel leaves the exact sums, rounded once."""
    groups, kernel, rank = case["groups"], case["kernel"], len(case["kernel"])
    outputs, dilation = case["outputs"] * groups, [case["dilation"]] * rank
    stride, padding = [case["stride"]] * rank, [(size - 1) * case["dilation"] // 2 for size in kernel]
    x = torch.randint(0, 256, (case["batch"], case["channels"] * groups, *case["sides"]), dtype=torch.uint8)
    weight = torch.randint(-127, 128, (outputs, case["channels"], *kernel), dtype=torch.int8)
    exact = (F.conv1d, F.conv2d, F.conv3d)[rank - 1](
        x.double() - 128, weight.double(), None, stride, padding, dilation, groups
    )
    scale = max(float(exact.abs().max()) / 127, 1e-3)
    given = torch._make_per_tensor_quantized_tensor(x, 1.0, 128)
    ones = torch.ones(outputs, dtype=torch.float64)
    packed_weight = torch._make_per_channel_quantized_tensor(weight, ones, ones.long() * 0, 0)
    with packing_for(engine):
        prepack = getattr(torch.ops.quantized, f"conv{rank}d_prepack")
        packed = prepack(packed_weight, None, stride, padding, dilation, groups)
    found = getattr(torch.ops.quantized, f"conv{rank}d")(given, packed, scale, 128).int_repr()
    expected = (exact / scale).round().add(128).clamp(0, 255)
    return int((found.double() - expected).abs().max())


def is_trusted(case: dict[str, Any]) -> bool:
    """Whether fxquant would take onednn for it."""
    shape = (case["outputs"] * case["groups"], case["channels"], *case["kernel"])
    return onednn_is_right(shape, [case["dilation"]] * len(case["kernel"]), case["groups"])


def _fits(case: dict[str, Any]) -> bool:
    size = case["channels"] * case["outputs"] * case["groups"] * case["batch"]
    for width, side in zip(case["kernel"], case["sides"], strict=True):
        size *= width * side
        reach = (width - 1) * case["dilation"]
        if reach + 1 > side + 2 * (reach // 2):
            return False
    return size < MOST_PRODUCTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="onednn")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trusted", action="store_true", help="only geometries that fxquant takes onednn for")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(given.seed)
    print_machine()
    generator, wrong, tried = random.Random(given.seed), list[dict[str, Any]](), 0
    end = time.monotonic() + given.seconds
    while time.monotonic() < end:
        case = draw(generator)
        saturates = given.engine == "fbgemm" and case["channels"] == 1 and case["groups"] > 1
        if saturates or not _fits(case) or (given.trusted and not is_trusted(case)):
            continue
        tried += 1
        found = quanta(case, given.engine)
        if found > 1:
            wrong.append({**case, "quanta": found, "trusted": is_trusted(case)})
    title = f"{len(wrong)} of {tried} convolutions of {given.engine} leave the exact sums by more than a quantum"
    columns = list(wrong[0]) if wrong else ["none"]
    print_table(title, columns, [list(map(str, row.values())) for row in wrong])


if __name__ == "__main__":
    main()
