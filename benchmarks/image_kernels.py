"""Time fxquant's kernels for images against torch's int8 kernels, and against float between dequantize and quantize.

One thread; the 20th percentile of many calls, microseconds, candidates taking turns. Kernels are chosen by this table:

    python benchmarks/image_kernels.py
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from kernels import time_interleaved
from report import print_machine, print_table
from torch import Tensor

from fxquant.backends.native.kernels import averaging, movement

SCALE, ZERO_POINT = 0.1, 3
SHAPES = ((1, 64, 56, 56), (1, 256, 28, 28), (1, 16, 8, 8))
LAYOUTS = {"channels last": torch.channels_last, "contiguous": torch.contiguous_format}


def _image(shape: tuple[int, ...], layout: torch.memory_format) -> Tensor:
    integers = torch.randint(0, 256, shape, dtype=torch.uint8).contiguous(memory_format=layout)
    return torch._make_per_tensor_quantized_tensor(integers, SCALE, ZERO_POINT)


def _in_float(function: Callable[..., Tensor], x: Tensor, **kwargs: Any) -> Tensor:
    return torch.quantize_per_tensor(function(x.dequantize(), **kwargs), SCALE, ZERO_POINT, torch.quint8)


def _cases(x: Tensor) -> Iterator[tuple[str, Callable[[], Any], Callable[..., Tensor], dict[str, Any]]]:
    """Title, our call, torch's function and its arguments."""
    pools: tuple[dict[str, Any], ...] = ({"kernel_size": 2}, {"kernel_size": 3, "stride": 1, "padding": 1})
    for window in pools:
        ours = partial(averaging.average_pool, x, 2, **window)
        yield f"avg_pool2d {window['kernel_size']}×{window['kernel_size']}", ours, F.avg_pool2d, window
    twice: dict[str, Any] = {"scale_factor": 2.0, "mode": "bilinear"}
    yield "interpolate bilinear", partial(movement.resize, x, **twice), F.interpolate, twice
    yield "pixel_shuffle", lambda: movement.pixel_shuffle(x, 2), F.pixel_shuffle, {"upscale_factor": 2}
    yield "unfold", lambda: movement.unfold(x, 3, padding=1), F.unfold, {"kernel_size": 3, "padding": 1}


def _time(ours: Callable[[], Any], function: Callable[..., Tensor], x: Tensor, kwargs: Any, rounds: int) -> list[Any]:
    calls = [ours, lambda: _in_float(function, x, **kwargs)]
    try:
        function(x, **kwargs)
    except (RuntimeError, NotImplementedError):
        return [*time_interleaved(calls, rounds), "–"]
    return time_interleaved([*calls, lambda: function(x, **kwargs)], rounds)


def main() -> None:
    """Print one row a kernel, shape and layout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print_machine()
    rows = []
    for shape in SHAPES:
        for title, layout in LAYOUTS.items():
            x = _image(shape, layout)
            for name, ours, function, kwargs in _cases(x):
                rows.append([name, "×".join(map(str, shape)), title, *_time(ours, function, x, kwargs, rounds)])
    print_table("uint8 images", ["kernel", "shape", "layout", "fxquant µs", "through float µs", "torch int8 µs"], rows)


if __name__ == "__main__":
    main()
