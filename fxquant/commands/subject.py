"""What a command works on: the user's model and example inputs, named on the command line."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import inspect
import os
import sys
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.errors import ConfigError

_LARGEST_INTEGER = 9  # of made-up inputs: what most embeddings have
_FORMS = "package.module:name or path/to/file.py:name"


def add_subject(parser: argparse.ArgumentParser) -> None:
    """Declare the model and its inputs."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help=f"{_FORMS}: a model, a model class, or a function that builds one, called without arguments",
    )
    parser.add_argument(
        "--input",
        action="append",
        metavar="SHAPE[:DTYPE]",
        help="an example input of random numbers, 1,3,224,224 or 2,16:int64 (integers from 0 to "
        f"{_LARGEST_INTEGER}); once for each positional input",
    )
    parser.add_argument(
        "--inputs",
        metavar="FILE.py:NAME",
        help="example inputs, or a function that makes them: a tuple of positional ones, a dict of keyword ones, or "
        "one tensor",
    )


def read_model(text: str) -> Any:
    """The model that ``text`` names.

    Raises:
        ConfigError: it names nothing, or something that needs arguments.
    """
    found = read_object(text)
    if isinstance(found, nn.Module) or not callable(found) or not (inspect.isclass(found) or inspect.isfunction(found)):
        return found
    return _called(found, text, "write a function without arguments that builds the model, and name that")


def read_inputs(arguments: argparse.Namespace) -> Any:
    """The example inputs.

    Raises:
        ConfigError: none are given, given twice, or cannot be read.
    """
    if bool(arguments.input) == bool(arguments.inputs):
        problem = "give --input or --inputs, not both" if arguments.input else "no example inputs are given"
        raise ConfigError(problem, remedy="--input 1,3,224,224, or --inputs file.py:function")
    if arguments.input:
        return tuple(read_tensor(text) for text in arguments.input)
    found = read_object(arguments.inputs)
    return _called(found, arguments.inputs, "make it take none") if callable(found) else found


def read_tensor(text: str) -> Tensor:
    """Random numbers of the shape and dtype that ``text`` names: ``1,3,224,224`` or ``2,16:int64``.

    Raises:
        ConfigError: it names none.
    """
    sizes, _, name = text.partition(":")
    dtype = getattr(torch, name or "float32", None)
    try:
        shape = [int(size) for size in sizes.strip("()[] ").split(",") if size.strip()]
    except ValueError:
        shape = [-1]
    if not isinstance(dtype, torch.dtype) or any(size < 0 for size in shape):
        raise ConfigError(f"{text!r} is no shape", remedy="such as 1,3,224,224 or 2,16:int64")
    if dtype == torch.bool:
        return torch.rand(shape) < 0.5
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(shape, dtype=dtype)
    return torch.randint(0, _LARGEST_INTEGER + 1, shape, dtype=dtype)


def read_object(text: str) -> Any:
    """What ``package.module:name`` or ``path/to/file.py:name`` names.

    Raises:
        ConfigError: there is no such file, module or name, or importing it fails.
    """
    place, _, name = text.rpartition(":")
    if not place or not name:
        raise ConfigError(f"{text!r} names nothing", remedy=f"name it as {_FORMS}")
    found: Any = _imported(place)
    for part in name.split("."):
        if not hasattr(found, part):
            known = ", ".join(key for key in vars(found) if not key.startswith("_"))[:200] if vars(found) else ""
            raise ConfigError(f"{place} has no {part!r}", remedy=f"one of: {known}")
        found = getattr(found, part)
    return found


def _imported(place: str) -> ModuleType:
    try:
        if not place.endswith(".py"):
            if os.getcwd() not in sys.path:
                sys.path.insert(0, os.getcwd())
            return importlib.import_module(place)
        return _imported_file(os.path.abspath(place))
    except Exception as error:
        raise ConfigError(
            f"{place} cannot be imported: {type(error).__name__}: {error}", remedy=f"name it as {_FORMS}"
        ) from error


def _imported_file(path: str) -> ModuleType:
    """The module in a file; imports in it find the files beside it."""
    folder, file = os.path.split(path)
    name = file.removesuffix(".py")
    known = sys.modules.get(name)
    if known is not None and os.path.abspath(getattr(known, "__file__", None) or "") == path:
        return known
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(name if known is None else f"{name}_file", path)
    if spec is None or spec.loader is None:
        raise ImportError("it is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where classes are looked for by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module


def _called(function: Any, text: str, remedy: str) -> Any:
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise ConfigError(f"{text} cannot be called without arguments: {error}", remedy=remedy) from error
    return function()
