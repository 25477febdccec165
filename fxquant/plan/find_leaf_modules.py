"""Which modules of a model a custom config speaks of."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from fxquant.errors import ConfigError
from fxquant.ir.stages import CapturedModel
from fxquant.qconfig.custom import PrepareCustomConfig, StandaloneModuleConfigEntry

Called = Mapping[str, tuple[type[nn.Module], int]]
"""Class of each module that a graph calls, and how often, by path."""


def standalone_entries(model: nn.Module, custom: PrepareCustomConfig) -> dict[str, StandaloneModuleConfigEntry]:
    """The standalone modules of a model, by path; a name goes before a class, and a module before those inside it.

    Raises:
        ConfigError: a name is no module's, or that of a module inside another standalone module.
    """
    entries: dict[str, StandaloneModuleConfigEntry] = {}
    paths = {id(module): path for path, module in reversed(list(model.named_modules(remove_duplicate=False)))}
    for path, module in model.named_modules():
        if path and type(module) in custom.standalone_module_classes:
            entries[path] = custom.standalone_module_classes[type(module)]
    known = dict(model.named_modules(remove_duplicate=False))
    for name, entry in custom.standalone_module_names.items():
        if not name or name not in known:
            raise ConfigError(
                f"set_standalone_module_name({name!r}) matches no module of the model",
                remedy=f"the model has {', '.join(list(known)[1:9])}",
            )
        entries[paths[id(known[name])]] = entry
    inside = {path: other for path in entries for other in entries if path.startswith(f"{other}.")}
    for path, other in inside.items():
        if is_named(entries[path], custom):
            raise ConfigError(
                f"set_standalone_module_name({path!r}) is inside standalone module {other}, which has its own config",
                remedy=f"name {path.removeprefix(other)[1:]!r} in the prepare_custom_config of {other}",
            )
    return {path: entry for path, entry in entries.items() if path not in inside}


def is_named(entry: StandaloneModuleConfigEntry, custom: PrepareCustomConfig) -> bool:
    """Whether an entry is for a module that the user named, rather than for a class."""
    return any(entry is named for named in custom.standalone_module_names.values())


def custom_paths(model: nn.Module, custom: PrepareCustomConfig) -> tuple[str, ...]:
    """Paths of modules of exactly the classes that have an observed class."""
    return tuple(path for path, module in model.named_modules() if path and type(module) in custom.observed_classes)


def unmatched_notes(model: nn.Module, called: Called, custom: PrepareCustomConfig) -> tuple[str, ...]:
    """A sentence for each class of the config that means no module."""
    kinds = {type(module) for module in model.modules()}
    called_kinds = {kind for kind, _ in called.values()}
    notes = [
        f"set_standalone_module_class({kind.__name__}) matched nothing"
        for kind in custom.standalone_module_classes
        if kind not in kinds
    ]
    notes += [
        f"set_float_to_observed_mapping({kind.__name__}) matched nothing"
        for kind in (*custom.observed_classes, *custom.static_recurrent)
        if kind not in called_kinds
    ]
    return tuple(notes)


def called_modules(captured: CapturedModel) -> Called:
    """Class of each module that the graph calls, and how often, by path."""
    found: dict[str, tuple[type[nn.Module], int]] = {}
    for node in captured.graph.find_nodes(op="call_module"):
        path = str(node.target)
        found[path] = (type(captured.get_submodule(path)), found.get(path, (nn.Module, 0))[1] + 1)
    return found
