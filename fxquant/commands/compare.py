"""``fxquant compare``: where the error of a quantized model comes from, and what to leave float."""

from __future__ import annotations

import argparse
from typing import Any

from fxquant.backends.select import default_engine
from fxquant.commands.show import plain, remark, show_json
from fxquant.commands.subject import add_data, add_inputs, add_output, positive, read_batches, read_inputs, read_model
from fxquant.diagnose import compare, sensitivity
from fxquant.errors import FxquantError
from fxquant.inspect.compare import Comparison
from fxquant.inspect.float_mapping import leave_float
from fxquant.ir.stages import StageModule
from fxquant.qconfig import QConfigMapping, get_default_dynamic_qconfig_mapping, get_default_qconfig_mapping

_BELOW = 3
_EXCLUDED = "excluded by qconfig"

_EXAMPLES = """examples:
  fxquant compare net.py:model net.fxq --data photos/ --image-size 224       every value against float's
  fxquant compare net.py:model net.fxq --data test.npy --worst 5             the five worst
  fxquant compare net.py:model net.fxq --data test.npy --recommend           what to leave float, and what it gains
  fxquant compare net.py:model net.fxq --data test.npy --least 20            exit with 3 when an output is below 20 dB
"""


def add(commands: Any) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "compare",
        help="say where the error of a quantized model comes from",
        description="Run a float model and its quantized file side by side, and say for each value how large its\n"
        "error is: by itself, and with all before it.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="the float model: file.py:object or module:object")
    parser.add_argument("quantized", help="a file that fxquant quantize wrote")
    parser.add_argument(
        "--worst", type=positive, metavar="N", help="only the N values with the largest errors of their own"
    )
    parser.add_argument("--recommend", action="store_true", help="try which layers to leave float; takes longer")
    parser.add_argument("--least", type=float, metavar="DB", help=f"exit with {_BELOW} when the output is worse")
    add_data(parser, "--data", what="to run")
    add_inputs(parser)
    add_output(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Compare and print; returns the exit code."""
    model, quantized = read_model(arguments.model), read_model(arguments.quantized)
    if isinstance(model, StageModule) or not isinstance(quantized, StageModule):
        raise FxquantError("compare takes the float model first and the quantized file second", remedy="swap them")
    batches = read_batches(arguments)
    if batches is None:
        raise FxquantError("errors are measured on data, and there is none", remedy="add --data")
    example = read_inputs(arguments)
    found = compare(model, quantized, batches, example_inputs=example)
    rows = found.rows if arguments.worst is None else found.ranked[: arguments.worst]
    advice = None
    if arguments.recommend:
        engine = quantized.plan.engine or "auto"
        progress, mapping = not arguments.quiet, _mapping_of(quantized)
        advice = sensitivity(
            model, batches, qconfig_mapping=mapping, example_inputs=example, backend=engine, progress=progress
        )
    if arguments.json:
        show_json(
            {
                "batches": found.batches,
                "output_sqnr_db": found.output_sqnr_db,
                "rows": [plain(row) for row in rows],
                "sensitivity": advice,
            }
        )
    else:
        print(Comparison(tuple(rows), found.batches, found.output_sqnr_db))
        if advice is not None:
            print(f"\n{advice}")
    level = found.output_sqnr_db
    if arguments.least is not None and not level >= arguments.least:
        remark(f"the output has {level:.1f} dB, and {arguments.least:g} were asked for", False)
        return _BELOW
    return 0


def _mapping_of(quantized: StageModule) -> QConfigMapping:
    """The configuration that ``fxquant quantize`` made a file with: static or dynamic, less what was left float."""
    plan = quantized.plan
    dynamic = any(bool(unit.mode) for unit in plan.units)
    default = get_default_dynamic_qconfig_mapping if dynamic else get_default_qconfig_mapping
    excluded = [unit.name for unit in plan.units if unit.outcome == "float" and unit.reason.startswith(_EXCLUDED)]
    return leave_float(default(plan.engine or default_engine()), quantized, excluded)
