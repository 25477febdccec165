"""What a command works on: models, inputs and data, from the words on its line."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import inspect
import itertools
import operator
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fxquant.api import prepare_fx
from fxquant.check.require_module import require_module
from fxquant.commands.read_data import as_tensor, read_data
from fxquant.errors import FxquantError
from fxquant.ir.stages import StageModule
from fxquant.qconfig import get_default_qconfig_mapping
from fxquant.storage import load
from fxquant.storage.container import is_model_file

_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "int64": torch.int64,
    "int32": torch.int32,
    "bool": torch.bool,
}
_SEED = 0
_NEEDS_ARGUMENTS = (
    "it is called without arguments: name a function without any that gives what is wanted, "
    "`def make(): return Model(10)`"
)


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that ``read_inputs`` reads."""
    group = parser.add_argument_group("inputs of one call")
    group.add_argument(
        "--input",
        action="append",
        metavar="SHAPE",
        help="shape of a random input, as 1,3,224,224 or 1,128:int64; once for each positional input",
    )
    group.add_argument("--inputs", metavar="OBJECT", help="file.py:function or module:function that returns the inputs")


def add_data(parser: argparse.ArgumentParser, *names: str, what: str) -> None:
    """Add the arguments that ``read_batches`` reads.

    Args:
        names: how the data is given.
        what: it is for.
    """
    group = parser.add_argument_group("data")
    group.add_argument(
        *names,
        dest="data",
        metavar="DATA",
        help=f"{what}: a folder of images, a .npy, .npz or .pt file, or file.py:function that gives batches",
    )
    group.add_argument("--batch-size", type=positive, default=8, metavar="N", help="of arrays and images (default: 8)")
    group.add_argument("--batches", type=positive, metavar="N", help="how many batches to use (default: all)")
    group.add_argument("--image-size", type=positive, metavar="N", help="of images (default: the last of --input)")
    imagenet = {"mean": "0.485,0.456,0.406", "std": "0.229,0.224,0.225"}
    for name, values in imagenet.items():
        group.add_argument(
            f"--{name}",
            type=_numbers,
            default=_numbers(values),
            metavar="R,G,B",
            help=f"of images, one number for grey ones (default: {values})",
        )


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add what every command has: ``--json`` and ``--quiet``."""
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bars and no remarks")


def read_model(text: str) -> nn.Module:
    """The model that a word on the command line stands for.

    Args:
        text: ``module:object`` or ``file.py:object`` of a model or of a function that makes one, or a file that
            ``fxquant quantize`` wrote.

    Raises:
        FxquantError: there is no such thing, or it is no model.
    """
    path = Path(text)
    if is_model_file(path):
        _find_modules_in(Path.cwd())
        return load(path)
    if ":" not in text:
        known = "a file that fxquant quantize wrote" if path.exists() else "an existing file"
        raise FxquantError(f"{text} is neither module:object, file.py:object nor {known}", remedy=f"as in {text}:model")
    found = read_object(text)
    made = found if isinstance(found, nn.Module) else _called(found, text)
    if isinstance(made, torch.export.ExportedProgram):
        require_module(made)
    if not isinstance(made, nn.Module):
        raise FxquantError(f"{text} is a {type(made).__name__}, and no model", remedy="name an nn.Module")
    return made if isinstance(made, StageModule) else made.eval()


def read_object(text: str) -> Any:
    """What ``module:name`` or ``file.py:name`` names, dots for attributes.

    Raises:
        FxquantError: it cannot be imported, or has no such name.
    """
    place, _, name = text.rpartition(":")
    if not place or not name:
        raise FxquantError(f"{text} names no object", remedy="give module:object or file.py:object")
    space = _import(place, text)
    try:
        return operator.attrgetter(name)(space)
    except AttributeError:
        names = ", ".join(item for item in vars(space) if not item.startswith("_"))
        raise FxquantError(f"{place} has no {name}", remedy=f"it has {names}") from None


def read_inputs(arguments: argparse.Namespace, batches: Iterable[Any] | None = None) -> Any:
    """Inputs of one call: from ``--input``, ``--inputs``, or else the first batch.

    Args:
        arguments: parsed, with those of ``add_inputs``.
        batches: to take the inputs from where none are given.

    Returns:
        A tuple, a dictionary or one tensor; None where nothing is given.

    Raises:
        FxquantError: both ways are used at once, or a shape is none.
    """
    if arguments.input and arguments.inputs:
        raise FxquantError("--input and --inputs say two things", remedy="use one of them")
    if arguments.inputs:
        return _called(read_object(arguments.inputs), arguments.inputs)
    if arguments.input:
        generator = torch.Generator().manual_seed(_SEED)
        return tuple(_random(text, generator) for text in arguments.input)
    return next(iter(batches), None) if batches is not None else None


def require_inputs(arguments: argparse.Namespace) -> Any:
    """As ``read_inputs``, where a command cannot do without.

    Raises:
        FxquantError: none are given.
    """
    found = read_inputs(arguments)
    if found is None and arguments.inputs:
        raise FxquantError(f"{arguments.inputs} gives None", remedy="let it return a tuple of the model's inputs")
    if found is None:
        raise FxquantError("the inputs of a call are not known", remedy="add --input 1,3,224,224 or --inputs OBJECT")
    return found


def read_batches(arguments: argparse.Namespace) -> list[Any] | None:
    """The batches of the data, None where none are given.

    Raises:
        FxquantError: the data cannot be read.
    """
    if arguments.data is None:
        return None
    if ":" in arguments.data and not Path(arguments.data).exists():
        batches = _batches_of(read_object(arguments.data), arguments.data, arguments.batches)
    else:
        batches = read_data(Path(arguments.data), arguments)[: arguments.batches]
    if not batches:
        raise FxquantError(f"{arguments.data} holds no batch", remedy="give a folder, file or function with data")
    return batches


def _batches_of(found: Any, text: str, count: int | None) -> list[Any]:
    """What an object or function of the user's gives, arrays as tensors; no more than ``count`` are asked for."""
    given = _called(found, text)
    if isinstance(given, (Tensor, numpy.ndarray, Mapping)):
        given = [given]
    if not isinstance(given, Iterable) or isinstance(given, str):
        raise FxquantError(f"{text} gives a {type(given).__name__}", remedy="give a list of batches, or yield them")
    try:
        batches = list(itertools.islice(given, count))
    except Exception as error:
        raise FxquantError(
            f"{text} raised {type(error).__name__}: {error}", remedy="check the data it reads"
        ) from error
    return [pytree.tree_map_only(numpy.ndarray, as_tensor, batch) for batch in batches]


def read_stage(text: str, arguments: argparse.Namespace) -> StageModule:
    """A model that fxquant planned: from a file, or planned now for the inputs of a call.

    Raises:
        FxquantError: it is a float model, and the inputs of a call are not given.
    """
    model = read_model(text)
    if isinstance(model, StageModule):
        return model
    return prepare_fx(model, get_default_qconfig_mapping(), require_inputs(arguments))


def positive(text: str) -> int:
    """A whole number above 0.

    Raises:
        argparse.ArgumentTypeError: ``text`` is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive whole number")
    return int(text)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers") from None


def _random(text: str, generator: torch.Generator) -> Tensor:
    """Normal floats, integers and truth values of 0 and 1."""
    shape, _, name = text.partition(":")
    dtype = _DTYPES.get(name or "float32")
    try:
        sizes = [int(size) for size in shape.split(",")]
    except ValueError:
        sizes = [-1]
    if dtype is None or min(sizes) < 0:
        raise FxquantError(
            f"--input {text} is no shape", remedy=f"as in 1,3,224,224 or 1,9:int64; {', '.join(_DTYPES)}"
        )
    if dtype.is_floating_point:
        return torch.randn(sizes, generator=generator).to(dtype)
    return torch.randint(0, 2, sizes, generator=generator).to(dtype)


def _called(found: Callable[[], Any] | Any, text: str) -> Any:
    if not callable(found) or isinstance(found, torch.export.ExportedProgram):
        return found
    try:
        return found()
    except (Exception, SystemExit) as error:
        remedy = _where_raised(error) if _takes_nothing(found) else _NEEDS_ARGUMENTS
        raise FxquantError(f"{text} raised {type(error).__name__}: {error}", remedy=remedy) from error


def _takes_nothing(function: Callable[..., Any]) -> bool:
    """Whether a function, or a class, can be called without arguments."""
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError):
        return False
    return True


def _where_raised(error: BaseException) -> str:
    """A remedy that names the line an error comes from."""
    if isinstance(error, SyntaxError):
        return f"correct {error.filename}:{error.lineno}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"see {last.filename}:{last.lineno}, which raised it"


def _import(place: str, text: str) -> Any:
    try:
        return _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    except FxquantError:
        raise
    except (Exception, SystemExit) as error:
        remedy = f"check {text}, and PYTHONPATH" if isinstance(error, ImportError) else _where_raised(error)
        raise FxquantError(f"{place} cannot be imported: {type(error).__name__}: {error}", remedy=remedy) from error


def _import_module(name: str) -> Any:
    _find_modules_in(Path.cwd())
    return importlib.import_module(name)


def _import_file(path: Path) -> Any:
    """Import a file under its own name, as ``python path`` would find what is beside it."""
    if not path.is_file():
        raise FxquantError(f"there is no file {path}", remedy="give the path of a Python file")
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path.resolve()):
        return known
    _find_modules_in(path.resolve().parent)
    spec = importlib.util.spec_from_file_location(path.stem, path.resolve())
    assert spec is not None and spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
    return module


def _find_modules_in(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
