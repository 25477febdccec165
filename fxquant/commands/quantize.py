"""``fxquant quantize``: from a model to a file with its int8 form."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from torch import nn

from fxquant.api import prepare_fx, quantize
from fxquant.backends.select import default_engine
from fxquant.calibration import BatchResolver
from fxquant.capture.inputs import split_inputs
from fxquant.commands.before_after import measure
from fxquant.commands.show import remark, require_writable, show_json
from fxquant.commands.subject import add_data, add_inputs, add_output, read_batches, read_inputs, read_model
from fxquant.errors import FxquantError
from fxquant.inspect.float_mapping import leave_float
from fxquant.ir.stages import StageModule
from fxquant.qconfig import QConfigMapping, get_default_dynamic_qconfig_mapping, get_default_qconfig_mapping
from fxquant.qconfig.qconfig import ENGINES
from fxquant.storage import save

_EXAMPLES = """examples:
  fxquant quantize net.py:model --calibrate photos/ --image-size 224 -o net.fxq
  fxquant quantize package.models:build --calibrate batches.npy -o model.fxq --json
  fxquant quantize net.py:model --calibrate net.py:batches --float head --backend onednn -o net.fxq
  fxquant quantize net.py:encoder --dynamic --input 1,128:int64 -o encoder.fxq
"""


def add(commands: Any) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "quantize",
        help="quantize a model and write it to one file",
        description="Quantize a float model, write one file that fxquant.load and the other commands read without the\n"
        "model's source, and print float and int8 side by side.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="file.py:object or module:object: a model, or a function that makes one")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="the file to write")
    add_data(parser, "--calibrate", what="to find the ranges of activations with")
    add_inputs(parser)
    parser.add_argument("--backend", choices=("auto", *ENGINES), default="auto", help="engine of the kernels")
    parser.add_argument(
        "--float", action="append", default=[], metavar="NAME", help="a module or operator to leave float"
    )
    parser.add_argument("--dynamic", action="store_true", help="quantize activations when they arrive; needs no data")
    parser.add_argument("--no-verify", action="store_true", help="do not check the kernels on the example")
    add_output(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Quantize, write, print; returns the exit code."""
    require_writable(arguments.output)
    model = read_model(arguments.model)
    if isinstance(model, StageModule):
        raise FxquantError(f"{arguments.model} is quantized already", remedy="name the float model")
    batches = read_batches(arguments)
    example = read_inputs(arguments)
    if batches is None and not arguments.dynamic:
        raise FxquantError(
            "the ranges of activations are found on data, and there is none",
            remedy="add --calibrate with a folder of images, a .npy or .pt file or file.py:function, or --dynamic",
        )
    quantized = quantize(
        model,
        None if arguments.dynamic else batches,
        example_inputs=example if example is not None or not arguments.dynamic else next(iter(batches or ()), None),
        qconfig_mapping=_mapping(arguments, model, example if example is not None else next(iter(batches or ()), None)),
        backend=arguments.backend,
        progress=not arguments.quiet,
        verify=not arguments.no_verify,
        dynamic=arguments.dynamic,
    )
    save(quantized, arguments.output)
    resolve = BatchResolver(model, example)
    resolved = [resolve(batch) for batch in batches or ()]
    first = split_inputs(example) if example is not None else resolved[0]
    found = measure(model, quantized, first, resolved, Path(arguments.output).stat().st_size)
    if arguments.json:
        show_json({"file": arguments.output, **found.as_json()})
        return 0
    print(found)
    for note in () if arguments.quiet else found.explanation.notes:
        print(f"note: {note}")
    remark(f"wrote {arguments.output}", arguments.quiet)
    return 0


def _mapping(arguments: argparse.Namespace, model: nn.Module, example: Any) -> QConfigMapping:
    """The default, with modules and operators left float. Operators have names once the model is captured."""
    engine = default_engine() if arguments.backend == "auto" else arguments.backend
    default = get_default_dynamic_qconfig_mapping if arguments.dynamic else get_default_qconfig_mapping
    mapping = default(engine)
    modules = {name for name, _ in model.named_modules()}
    for name in modules.intersection(arguments.float):
        mapping.set_module_name(name, None)
    operators = set(arguments.float) - modules
    if not operators:
        return mapping
    planned = prepare_fx(model, mapping, BatchResolver(model)(example)[0] or example, backend_config=engine)
    units = {unit.name: set(unit.nodes) for unit in planned.plan.units}
    unknown = operators - set().union(*units.values())
    if unknown:
        raise FxquantError(
            f"{', '.join(sorted(unknown))} is neither a module nor an operator of the model",
            remedy=f"fxquant explain {arguments.model} lists all",
        )
    return leave_float(mapping, planned, [name for name, nodes in units.items() if nodes & operators])
