"""``fxquant demo``: quantize a real trained network and compare it with float."""

from __future__ import annotations

import argparse
import contextlib
import io
from typing import Any

from fxquant.commands.show import show_json
from fxquant.commands.subject import positive
from fxquant.demo import TASKS
from fxquant.demo.run import run_demo
from fxquant.qconfig.qconfig import ENGINES

_EXAMPLES = """examples:
  fxquant demo                                    train a small network on handwritten digits and quantize it
  fxquant demo --model efficientnet_lite0         EfficientNet-Lite0 with ImageNet weights
  fxquant demo --backend qnnpack --no-diff        another engine, without the graph diff
  fxquant demo --batches 4 --quiet                the table only, calibrated with four batches
"""


def add(commands: Any) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "demo",
        help="quantize a real trained network and compare it with float",
        description="Quantize a real trained network on real data; print accuracy, size and latency of float and int8\n"
        "side by side, how many operators run int8, and the graph diff. Nothing is downloaded.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", choices=sorted(TASKS), default="digits", help="the network (default: %(default)s)")
    parser.add_argument(
        "--backend", choices=("auto", *ENGINES), default="auto", help="engine of the kernels (default: %(default)s)"
    )
    parser.add_argument("--batches", type=positive, metavar="N", help="calibration batches (default: all there are)")
    parser.add_argument("--quiet", action="store_true", help="print the table only")
    parser.add_argument("--no-diff", action="store_true", help="leave the graph diff out")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; returns the exit code."""
    quiet = arguments.quiet or arguments.json
    with contextlib.redirect_stdout(io.StringIO()) if arguments.json else contextlib.nullcontext():
        report = run_demo(
            arguments.model,
            backend=arguments.backend,
            batches=arguments.batches,
            quiet=quiet,
            show_diff=not (arguments.no_diff or quiet),
        )
    if arguments.json:
        explained = report.explanation
        show_json(
            {
                "metrics": {name: {"float": one, "int8": other} for name, (one, other) in report.metrics.items()},
                "bytes": {"float": report.bytes[0], "int8": report.bytes[1]},
                "latency_ms": {"float": report.latency_ms[0], "int8": report.latency_ms[1]},
                "operators": explained.counts,
                "int8_mac_share": explained.int8_mac_share,
                "notes": explained.notes,
            }
        )
    return 0
