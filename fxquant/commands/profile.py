"""``fxquant profile``: where the time of a quantized model goes."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from fxquant.commands.show import plain, show_json
from fxquant.commands.subject import add_inputs, add_output, positive, read_model, require_inputs
from fxquant.diagnose import profile

_EXAMPLES = """examples:
  fxquant profile net.fxq --input 1,3,224,224                         every node, the slowest first
  fxquant profile net.fxq --input 1,3,224,224 --threads 1 --json
  fxquant profile net.fxq --float net.py:model --inputs net.py:example    beside the float model itself
"""


def add(commands: Any) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "profile",
        help="say where the time of a quantized model goes",
        description="Time every node of a quantized file beside the float operators it stands for, and say what keeps\n"
        "it from being faster.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("quantized", help="a file that fxquant quantize wrote")
    parser.add_argument("--float", metavar="MODEL", help="the float model (default: its operators with random weights)")
    parser.add_argument("--seconds", type=float, default=2.0, metavar="S", help="how long to measure (default: 2)")
    parser.add_argument("--threads", type=positive, metavar="N", help="of torch (default: torch's)")
    add_inputs(parser)
    add_output(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; returns the exit code."""
    quantized: Any = read_model(arguments.quantized)
    model = None if arguments.float is None else read_model(arguments.float)
    inputs = require_inputs(arguments)
    threads = torch.get_num_threads()
    torch.set_num_threads(arguments.threads or threads)
    try:
        found = profile(quantized, inputs, float_model=model, seconds=arguments.seconds)
    finally:
        torch.set_num_threads(threads)
    if arguments.json:
        show_json({**plain(found), "nodes_ms": found.nodes_ms})
    else:
        print(found)
    return 0
