"""``fxquant check``: whether a model can become a graph, and what is in the way."""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
from typing import Any

import torch
from torch import nn

from fxquant.check import check_traceable
from fxquant.commands.subject import add_inputs, add_output, read_model, require_inputs
from fxquant.errors import CaptureError

_EXAMPLES = """examples:
  fxquant check torchvision.models:resnet18 --input 1,3,224,224
  fxquant check models/net.py:build --input 2,16:int64 --json
  fxquant check models/net.py:Net --inputs models/data.py:example --train

exit code: 0 when the model can be quantized, 1 when the report has an error that fxquant does not handle, 2 when there
is no report: for wrong usage, and for a model that does not run on the inputs
"""
_NO_REPORT = 2
_WANTS_INTEGERS = re.compile(r"\b(long|longtensor|int64)\b", re.IGNORECASE)


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
    parser.set_defaults(run=run, failed=_NO_REPORT)


def run(arguments: argparse.Namespace) -> int:
    """Check and print.

    Returns:
        0, or 1 when an error is unhandled.

    Raises:
        FxquantError: there is nothing to report on.
    """
    torch.manual_seed(0)
    model = read_model(arguments.model)
    if isinstance(model, nn.Module) and not isinstance(model, torch.jit.ScriptModule):
        model.train(arguments.train)
    inputs = require_inputs(arguments)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what the model prints is no part of the report
            report = check_traceable(model, inputs)
    except CaptureError as error:
        raise _with_dtype(error, arguments) from error
    print(report.to_json() if arguments.json else report)
    return report.exit_code


def _with_dtype(error: CaptureError, arguments: argparse.Namespace) -> CaptureError:
    """The error, with how to give whole numbers where the model wants them and a shape says nothing."""
    floats = [text for text in arguments.input or () if ":" not in text]
    if not floats or not _WANTS_INTEGERS.search(error.message):
        return error
    remedy = f"--input {floats[0]} gives floats; for whole numbers, such as ids, --input {floats[0]}:int64"
    return CaptureError(error.message, module_path=error.module_path, source=error.source, remedy=remedy)
