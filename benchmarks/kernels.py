"""Time torch's int8 convolution and linear kernels per engine, on the shapes of common networks.

The native backend's choice of an engine per layer comes from these figures, and the size from which a convolution does
the sum that follows it. One thread; the 20th percentile of many calls, microseconds, engines interleaved. Restrict the
kernel libraries to AVX2 to see a CPU without VNNI:

    ONEDNN_MAX_CPU_ISA=AVX2 FBGEMM_ENABLE_INSTRUCTIONS=AVX2 ATEN_CPU_CAPABILITY=avx2 python benchmarks/kernels.py
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from report import print_machine, print_table

from fxquant.backends.native.kernels.conv_add import ConvAdd
from fxquant.backends.native.kernels.elementwise import Binary
from fxquant.backends.native.kernels.weighted import Conv

ENGINES = ("fbgemm", "onednn", "qnnpack")
# input channels, output channels, kernel, stride, groups, height and width
SHAPES = (
    (3, 64, 7, 2, 1, 224),
    (64, 64, 3, 1, 1, 56),
    (128, 128, 3, 1, 1, 28),
    (512, 512, 3, 1, 1, 7),
    (256, 64, 1, 1, 1, 56),
    (1024, 256, 1, 1, 1, 14),
    (16, 96, 1, 1, 1, 112),
    (144, 24, 1, 1, 1, 56),
    (384, 64, 1, 1, 1, 14),
    (320, 1280, 1, 1, 1, 7),
    (96, 96, 3, 2, 96, 112),
    (144, 144, 3, 1, 144, 56),
    (384, 384, 3, 1, 384, 14),
    (960, 960, 3, 1, 960, 7),
    (480, 480, 5, 1, 480, 14),
    (64, 64, 3, 1, 16, 28),
    (128, 128, 3, 1, 8, 28),
)

# input channels, output channels, kernel, height and width
SUMS = (
    (64, 256, 1, 56),
    (128, 512, 1, 28),
    (256, 1024, 1, 14),
    (512, 2048, 1, 7),
    (64, 64, 3, 56),
    (128, 128, 3, 28),
    (144, 24, 1, 56),
    (384, 64, 1, 14),
)

# inputs, outputs
LINEARS = ((768, 2304), (768, 3072), (3072, 768), (512, 1000), (64, 64))
ROWS = (128, 1, 8, 64, 512)
"""Rows of the input, the one that the kernels see first before the others."""


def linear_calls(shape: tuple[int, int], engine: str) -> list[Callable[[], Any]]:
    """Ready-to-run calls of one ``quantized.linear`` packed for ``engine``, one for each of ``ROWS``."""
    inputs, outputs = shape
    weight = torch.randint(-60, 61, (outputs, inputs), dtype=torch.int8)
    scales = torch.full((outputs,), 0.01, dtype=torch.float64)
    w = torch._make_per_channel_quantized_tensor(weight, scales, torch.zeros(outputs, dtype=torch.int64), 0)
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = engine
    packed = torch.ops.quantized.linear_prepack(w, torch.randn(outputs))
    torch.backends.quantized.engine = before
    integers = [torch.randint(0, 256, (rows, inputs), dtype=torch.uint8) for rows in ROWS]
    given = [torch._make_per_tensor_quantized_tensor(item, 0.01, 100) for item in integers]
    torch.ops.quantized.linear(given[0], packed, 0.1, 128)
    return [lambda x=x: torch.ops.quantized.linear(x, packed, 0.1, 128) for x in given]


def sum_calls(shape: tuple[int, ...]) -> list[Callable[[], Any]]:
    """Ready-to-run calls of a convolution and a sum: two kernels of onednn's, and one that does both."""
    channels, outputs, size, side = shape
    integers = [torch.randint(0, 256, (1, count, side, side), dtype=torch.uint8) for count in (channels, outputs)]
    x, other = (
        torch._make_per_tensor_quantized_tensor(item, 0.01, 100).contiguous(memory_format=torch.channels_last)
        for item in integers
    )
    tensors: dict[str, Any] = {
        "weight": torch.randint(-60, 61, (outputs, channels, size, size), dtype=torch.int8),
        "weight_scale": torch.full((outputs,), 0.01),
        "weight_zero_point": torch.zeros(outputs, dtype=torch.int64),
        "bias": torch.randn(outputs),
    }
    geometry = {"stride": (1, 1), "padding": (size // 2, size // 2), "dilation": (1, 1), "groups": 1}
    output, inputs = (torch.tensor(0.1), torch.tensor(128)), (torch.tensor(0.01), torch.tensor(100))
    conv = Conv(dict(tensors), *output, "onednn", False, 2, geometry, ((0, 0), (0, 0)))
    both = ConvAdd(dict(tensors), *output, inputs, geometry, ((0, 0), (0, 0)))
    add = Binary("add", *output, relu=False)
    return [lambda: add(conv(x), other), lambda: both(x, other)]


def kernel_call(shape: tuple[int, ...], engine: str) -> Callable[[], Any]:
    """A ready-to-run call of ``quantized.conv2d`` packed for ``engine``."""
    channels, outputs, size, stride, groups, side = shape
    image = torch.randint(0, 256, (1, channels, side, side), dtype=torch.uint8)
    image = image.contiguous(memory_format=torch.channels_last)
    weight = torch.randint(-60, 61, (outputs, channels // groups, size, size), dtype=torch.int8)
    scales = torch.full((outputs,), 0.01, dtype=torch.float64)
    x = torch._make_per_tensor_quantized_tensor(image, 0.01, 100)
    w = torch._make_per_channel_quantized_tensor(weight, scales, torch.zeros(outputs, dtype=torch.int64), 0)
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = engine
    packed = torch.ops.quantized.conv2d_prepack(w, torch.randn(outputs), [stride] * 2, [size // 2] * 2, [1, 1], groups)
    torch.backends.quantized.engine = before
    return lambda: torch.ops.quantized.conv2d.new(x, packed, 0.1, 128)


def time_interleaved(calls: list[Callable[[], Any]], rounds: int) -> list[float]:
    """20th percentile of each call's time in microseconds, the calls taking turns."""
    times: list[list[float]] = [[] for _ in calls]
    for round_number in range(rounds + 3):
        for call, found in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            if round_number >= 3:
                found.append(1e6 * (time.perf_counter() - start))
    return [sorted(found)[len(found) // 5] for found in times]


def main() -> None:
    """Print one row a shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    engines = [name for name in ENGINES if name in torch.backends.quantized.supported_engines]
    print_machine()
    rows = []
    for shape in SHAPES:
        times = time_interleaved([kernel_call(shape, engine) for engine in engines], rounds)
        title = "{}→{} {}×{} stride {} groups {} on {}²".format(*shape[:3], shape[2], *shape[3:])
        rows.append([title, *times, engines[times.index(min(times))]])
    print_table("uint8 x int8 convolutions", ["convolution", *(f"{name} µs" for name in engines), "best"], rows)
    rows = []
    for pair in LINEARS:
        calls = [linear_calls(pair, engine) for engine in engines]
        for count, *same in zip(ROWS, *calls, strict=True):
            times = time_interleaved(same, rounds)
            rows.append([f"{pair[0]}→{pair[1]}", count, *times, engines[times.index(min(times))]])
    print_table("uint8 x int8 linear", ["linear", "rows", *(f"{name} µs" for name in engines), "best"], rows)
    rows = []
    for shape in SUMS:
        times = time_interleaved(sum_calls(shape), rounds)
        title = "{}→{} {}×{} on {}²".format(*shape[:3], shape[2], shape[3])
        rows.append([title, shape[1] * shape[3] ** 2, *times, ("two", "one")[times.index(min(times))]])
    print_table(
        "uint8 x int8 convolution, then a sum", ["convolution", "numbers", "two kernels µs", "one µs", "best"], rows
    )


if __name__ == "__main__":
    main()
