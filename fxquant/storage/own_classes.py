"""fxquant's and torch's classes that files may name."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections import OrderedDict
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from fxquant.ir import stages

_PACKAGES = ("ir", "numerics", "observers", "backends", "capture.facts", "capture.guard", "plan.demote_unit")
_STAGES = (
    stages.CapturedModel, stages.FusedModel, stages.ObservedModel, stages.ReferenceModel, stages.QuantizedModel,
)  # fmt: skip
_OWN_MODULES = "fxquant."
_TORCH_MODULES = "torch.nn.modules."
_TORCH_CLASSES = {
    "torch.nn.utils.rnn.PackedSequence": PackedSequence,
    "torch.nn.modules.module.Module": nn.Module,
    "collections.OrderedDict": OrderedDict,
}


def class_name(kind: type) -> str | None:
    """The name that files know a class by; None for all they may not name."""
    name = f"{kind.__module__}.{kind.__qualname__}"
    return name if _find(name) is kind else None


def class_of(name: str, base: type) -> Any:
    """The class of a name.

    Args:
        name: full, base: what it must be derived from.

    Raises:
        ValueError: files may not name it, or it is something else.
    """
    found = _find(name)
    if found is None or not issubclass(found, base):
        raise ValueError(f"{name} is no {base.__name__} that files may name")
    return found


def data_class_of(name: str) -> Any:
    """The dataclass of a name.

    Raises:
        ValueError: files may not name it, or it is none.
    """
    found = class_of(name, object)
    if not dataclasses.is_dataclass(found):
        raise ValueError(f"{name} is no dataclass")
    return found


def is_data(kind: type) -> bool:
    """Whether ``kind`` is a dataclass of fxquant's."""
    return dataclasses.is_dataclass(kind) and class_name(kind) is not None


def stage_class(name: str) -> type[stages.StageModule]:
    """The class of a stage.

    Raises:
        ValueError: there is no such stage.
    """
    for kind in _STAGES:
        if kind.stage == name:
            return kind
    raise ValueError(f"there is no stage {name!r}")


def _find(name: str) -> Any:
    if name in _TORCH_CLASSES:
        return _TORCH_CLASSES[name]
    if name.startswith(_OWN_MODULES):
        return _own().get(name)
    module, _, path = name.rpartition(".")
    if name.startswith(_TORCH_MODULES) and module in _torch_modules():
        found = getattr(importlib.import_module(module), path, None)
        return found if isinstance(found, type) and issubclass(found, nn.Module) else None
    if module == "torch.return_types":
        return getattr(torch.return_types, path, None) if not path.startswith("_") else None
    return None


@cache
def _torch_modules() -> frozenset[str]:
    return frozenset(f"{_TORCH_MODULES}{item.name}" for item in pkgutil.iter_modules(nn.modules.__path__))


@cache
def _own() -> dict[str, type]:
    """Every module, dataclass and enumeration in the packages that models are made of."""
    found: dict[str, type] = {}
    names = [item.name for item in pkgutil.walk_packages([str(Path(__file__).parents[1])], _OWN_MODULES)]
    for name in names:
        if not any(f"{name}.".startswith(f"{_OWN_MODULES}{package}.") for package in _PACKAGES):
            continue
        for kind in vars(importlib.import_module(name)).values():
            if isinstance(kind, type) and kind.__module__ == name and _is_part_of_models(kind):
                found[f"{name}.{kind.__qualname__}"] = kind
    return found


def _is_part_of_models(kind: type) -> bool:
    is_stage = issubclass(kind, stages.StageModule)
    return not is_stage and (issubclass(kind, (nn.Module, Enum)) or dataclasses.is_dataclass(kind))
