"""The command line: parsing and dispatch. What a command does is in a module of its own."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from fxquant.commands import bench, check, compare, demo, diff, explain, profile, quantize
from fxquant.errors import FxquantError
from fxquant.version import __version__

_COMMANDS = (check, quantize, diff, explain, compare, profile, bench, demo)

_EXAMPLES = """examples:
  fxquant check net.py:model --input 1,3,224,224
  fxquant quantize net.py:model --calibrate photos/ --image-size 224 -o net.fxq
  fxquant diff net.py:model net.fxq --html net.html --open
  fxquant explain net.fxq --slowest --input 1,3,224,224
  fxquant compare net.py:model net.fxq --data photos/ --image-size 224 --recommend

exit codes: 0 done, 1 an error with a remedy, 2 wrong arguments, 3 a limit that was asked for is not kept, 130 stopped;
of check: 1 the report has an error that fxquant does not handle, 2 there is no report
"""
_FAILED, _STOPPED = 1, 130
_TRACEBACK = "FXQUANT_TRACEBACK"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: words after the program's name; default: those of the process.

    Returns:
        The exit code: 0, 1 when the command failed with an error that has a remedy, 3 when a limit that was asked for
        is not kept, 130 when it was interrupted. argparse exits with 2 itself. ``check`` keeps 1 for what its report
        says, and fails with 2.
    """
    options = build_parser().parse_args(arguments)
    failed = int(getattr(options, "failed", _FAILED))
    try:
        return int(options.run(options))
    except FxquantError as error:
        print(f"fxquant: {_one_paragraph(error)}", file=sys.stderr)
        return failed
    except KeyboardInterrupt:
        return _STOPPED
    except BrokenPipeError:  # the reader, such as head, has seen enough; nothing is left to be flushed into it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _FAILED
    except Exception as error:
        if os.environ.get(_TRACEBACK):
            raise
        remedy = f"it may be the model's own; {_TRACEBACK}=1 in the environment shows where it comes from"
        print(f"fxquant: {type(error).__name__}: {' '.join(str(error).split())}. Remedy: {remedy}", file=sys.stderr)
        return failed


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command."""
    parser = argparse.ArgumentParser(
        prog="fxquant",
        description="Quantize PyTorch models to int8, and look inside.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fxquant {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add(commands)
    return parser


def _one_paragraph(error: FxquantError) -> str:
    facts = (("op", error.op), ("module", error.module_path), ("source", error.source))
    places = ", ".join(f"{name} {value}" for name, value in facts if value)
    remedy = f". Remedy: {error.remedy}" if error.remedy else ""
    return " ".join(f"{error.message}{f' ({places})' if places else ''}{remedy}".split())
