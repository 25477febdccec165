"""Modules that the graph calls and that are no children of the user's model: they become children of the root."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from torch import nn

from fxquant.capture.facts import OF_THE_MODEL, FactKind
from fxquant.capture.run_hooks import has_hooks
from fxquant.capture.trouble import StatementSpot
from fxquant.ir.walk_modules import OF_EVERY_MODULE, tensors_by_path

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer


UNREGISTERED = "_unregistered_"
"""How the names of modules begin that their model keeps where torch does not look."""


def register_unknown(tracer: ValueTracer, module: nn.Module, paths: dict[nn.Module, str]) -> None:
    """Register a module made in forward or kept in a plain container.

    Args:
        tracer: of the trace.
        module: not in ``paths``.
        paths: of the modules known, added to.
    """
    place = _path_around(module, paths)
    if place is not None and not tracer.is_float_leaf(module, place):
        tracer.recorder.record(FactKind.MODULE_IN_FORWARD, type(module).__name__, OF_THE_MODEL)
        paths[module] = place
        return
    name = f"{UNREGISTERED}{len(paths)}"
    made_here = id(module) not in tracer.lowering.contained_modules()
    kind = FactKind.MODULE_IN_FORWARD if made_here else FactKind.MODULE_IN_CONTAINER
    if made_here and next(module.parameters(), None) is not None:
        around = [spot for spot in tracer.recorder.spots() if not isinstance(spot, StatementSpot)]
        tracer.recorder.report(kind, type(module).__name__, spots=around)  # its weights are new at every call
    else:
        tracer.recorder.record(kind, type(module).__name__, f"registered as {name}")
        tracer.passing |= {id(child) for child in module.modules()} if made_here else set()
    register(tracer, name, module)
    paths.update({child: f"{name}.{inner}".rstrip(".") for inner, child in module.named_modules()})
    tracer.lowering.name_attributes(tensors_by_path(module, name))


def _path_around(module: nn.Module, paths: dict[nn.Module, str]) -> str | None:
    """Path of what a container is in the place of that holds modules of the model alone: ``self.layers[1:]``.

    None for all else. Such a container is traced into, and is nothing in the graph.
    """
    held = [child for child in module._modules.values() if child is not None]
    has_more = vars(module).keys() - OF_EVERY_MODULE or module._parameters or module._buffers or has_hooks(module)
    if has_more or not held or not all(child in paths for child in held):
        return None
    return paths[held[0]].rpartition(".")[0]


def free_name(root: nn.Module, name: str, used: Counter[str]) -> str:
    """``name``, or that with a number, that is no attribute of the root.

    Args:
        root: the model.
        name: wanted.
        used: how many names like it were looked at before.
    """
    while True:
        count = used[name]
        used[name] += 1
        found = f"{name}_{count}" if count else name
        if not hasattr(root, found):
            return found


def register(tracer: ValueTracer, name: str, module: nn.Module) -> None:
    """The dictionary of modules is replaced, not changed: ``nn.Sequential`` may be going through it."""
    vars(tracer.root)["_modules"] = {**tracer.root._modules, name: module}
    tracer.constants[name] = module
