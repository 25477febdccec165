"""The command line: parsing and dispatch. What a command does is in a module of its own."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from fxquant.commands import check
from fxquant.demo import TASKS
from fxquant.demo.run import run_demo
from fxquant.errors import FxquantError
from fxquant.qconfig.qconfig import ENGINES

_DEMO_EXAMPLES = """examples:
  fxquant demo                                    train a small network on handwritten digits and quantize it
  fxquant demo --model efficientnet_lite0         EfficientNet-Lite0 with ImageNet weights
  fxquant demo --backend qnnpack --no-diff        another engine, without the graph diff
  fxquant demo --batches 4 --quiet                the table only, calibrated with four batches
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: words after the program's name; default: those of the process.

    Returns:
        The exit code: 0, or 1 when the command failed with an error that has a remedy. argparse exits with 2 itself.
    """
    options = build_parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except FxquantError as error:
        print(f"fxquant: {_one_paragraph(error)}", file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command."""
    parser = argparse.ArgumentParser(prog="fxquant", description="Quantize PyTorch models to int8, and look inside.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    demo = commands.add_parser(
        "demo",
        help="quantize a real trained network and compare it with float",
        description="Quantize a real trained network on real data; print accuracy, size and latency of float and int8\n"
        "side by side, how many operators run int8, and the graph diff. Nothing is downloaded.",
        epilog=_DEMO_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_argument("--model", choices=sorted(TASKS), default="digits", help="the network (default: %(default)s)")
    demo.add_argument(
        "--backend", choices=("auto", *ENGINES), default="auto", help="engine of the kernels (default: %(default)s)"
    )
    demo.add_argument("--batches", type=_positive, metavar="N", help="calibration batches (default: all there are)")
    demo.add_argument("--quiet", action="store_true", help="print the table only")
    demo.add_argument("--no-diff", action="store_true", help="leave the graph diff out")
    demo.set_defaults(run=_demo)
    check.add(commands)
    return parser


def _demo(options: argparse.Namespace) -> int:
    run_demo(
        options.model,
        backend=options.backend,
        batches=options.batches,
        quiet=options.quiet,
        show_diff=not (options.no_diff or options.quiet),
    )
    return 0


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive whole number")
    return number


def _one_paragraph(error: FxquantError) -> str:
    facts = (("op", error.op), ("module", error.module_path), ("source", error.source))
    places = ", ".join(f"{name} {value}" for name, value in facts if value)
    remedy = f". Remedy: {error.remedy}" if error.remedy else ""
    return " ".join(f"{error.message}{f' ({places})' if places else ''}{remedy}".split())
