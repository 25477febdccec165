"""``fxquant check``: whether a model can become a graph, and what is in the way."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import nn

from fxquant.check import check_traceable
from fxquant.commands.subject import add_inputs, add_output, read_model, require_inputs

_EXAMPLES = """examples:
  fxquant check torchvision.models:resnet18 --input 1,3,224,224
  fxquant check models/net.py:build --input 2,16:int64 --json
  fxquant check models/net.py:Net --inputs models/data.py:example --train

exit code: 0 when the model can be quantized, 1 when an error is left that fxquant does not handle, 2 for wrong usage
"""


def add(subparsers: Any) -> None:
    """Declare the command.

    Args:
        subparsers: what ``ArgumentParser.add_subparsers`` returned.
    """
    parser = subparsers.add_parser(
        "check",
        help="tell whether a model can become a graph, and what is in the way",
        description="Run a model, capture it, compare the graph with it on other inputs, and report everything that a\n"
        "graph would get wrong: with its line, how it is handled, and what to write instead.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model", help="file.py:object or module:object; a model, its class, or a function that makes it"
    )
    add_inputs(parser)
    parser.add_argument("--train", action="store_true", help="check the model in training mode, as for QAT")
    add_output(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check and print.

    Returns:
        0, or 1 when an error is unhandled.
    """
    torch.manual_seed(0)
    model = read_model(arguments.model)
    if isinstance(model, nn.Module) and not isinstance(model, torch.jit.ScriptModule):
        model.train(arguments.train)
    report = check_traceable(model, require_inputs(arguments))
    print(report.to_json() if arguments.json else report)
    return report.exit_code
