"""``fxquant bench``: the latency of models side by side."""

from __future__ import annotations

import argparse
import os
from typing import Any

import torch
from tabulate import tabulate

from fxquant.capture.inputs import split_inputs
from fxquant.commands.show import show_json
from fxquant.commands.subject import add_inputs, add_output, positive, read_model, require_inputs
from fxquant.demo.measure import median_latency_ms, state_bytes

_EXAMPLES = """examples:
  fxquant bench net.py:model net.fxq --input 1,3,224,224              float beside int8, on one thread
  fxquant bench net.py:model net.fxq --input 8,3,224,224 --threads 2
  fxquant bench x86.fxq onednn.fxq --input 1,3,224,224 --seconds 10 --json
"""


def add(commands: Any) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "bench",
        help="compare the latency of models",
        description="Time one call of each model. They take turns, so that all see the same machine; the table shows\n"
        "medians, and each model's against the first one's.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", nargs="+", help="file.py:object, module:object, or files that fxquant quantize wrote")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S", help="how long to measure (default: 3)")
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="of torch (default: 1)")
    add_inputs(parser)
    add_output(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; returns the exit code."""
    models = tuple(read_model(text) for text in arguments.models)
    args, kwargs = split_inputs(require_inputs(arguments))
    times = median_latency_ms(models, args, kwargs, seconds=arguments.seconds, threads=arguments.threads)
    sizes = [state_bytes(model) for model in models]
    names = [os.path.basename(text) for text in arguments.models]
    if arguments.json:
        rows = zip(arguments.models, times, sizes, strict=True)
        found = [{"model": name, "latency_ms": ms, "bytes": size} for name, ms, size in rows]
        show_json({"models": found, "threads": arguments.threads, "torch": torch.__version__})
        return 0
    body = [
        (name, f"{ms:.3f} ms", f"{ms / times[0]:.2f} x", f"{size / 1e6:.3f} MB")
        for name, ms, size in zip(names, times, sizes, strict=True)
    ]
    headers = ("model", "latency", "", "state_dict")
    print(tabulate(body, headers, colalign=("left", "right", "right", "right"), disable_numparse=True))
    return 0
