"""What code outside of a model carries over from call to call, though the example leaves it as it was.

``PEAK = max(PEAK, float(x.max()))`` sets the global to what it is, for values that are not larger. So what the user's
own functions set is something else before a call, and it counts where the call sets it then.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable
from typing import Any

from torch import nn

from fxquant.capture.call_history import run_eagerly
from fxquant.capture.carried_outside import Key, carried_unseen
from fxquant.capture.copy_module import copy_module
from fxquant.capture.facts import Fact, FactKind
from fxquant.capture.outer_state import Held, OuterState
from fxquant.capture.stored_outside import Store, stores_in
from fxquant.capture.trouble import Trouble, spots_around
from fxquant.capture.variables import names_reached, own_files
from fxquant.ir.walk_modules import Inventory


def find_unseen_state(
    held: Inventory, example_inputs: Any, is_kept: Callable[[str, int], bool], modules_kept: bool
) -> list[Trouble]:
    """What no graph keeps.

    Args:
        held: the user's model, and what it holds.
        example_inputs: of the capture.
        is_kept: whether a line of a file is in a part that is kept whole.
        modules_kept: whether modules are, which may be for the sake of what they change.
    """
    kinds = held.classes
    stores = [store for file in own_files(kinds) for store in stores_in(file)]
    reached = names_reached(kinds) if stores else set()
    stores = [store for store in stores if store.function in reached]
    if not stores:
        return []
    copy = copy_module(held.model)
    outer = OuterState(Inventory(copy))
    watched: dict[Held, Store] = {}
    for item in (item for item in outer.held if not item.attribute):
        setting = [store for store in stores if store.sets(item)]
        if setting and not any(is_kept(store.file, store.line) for store in setting):
            watched[item] = setting[0]
    if not watched:
        return []
    try:
        seen = _changed_by_a_call(copy, example_inputs, outer) if modules_kept else set()
        unseen = [item for item in watched if item.key not in seen]
        carried = carried_unseen(copy, example_inputs, unseen, outer.restore)
    except Exception:  # it refuses to be called so
        return []
    finally:
        outer.restore()
    return [
        Trouble(_fact(item.name, store), spots_around("")) for item, store in watched.items() if item.key in carried
    ]


def _changed_by_a_call(copy: nn.Module, example_inputs: Any, outer: OuterState) -> set[Key]:
    run_eagerly(copy, example_inputs)
    return {item.key for item in outer.changed()}


def _fact(name: str, store: Store) -> Fact:
    code = linecache.getline(store.file, store.line).strip()
    return Fact(FactKind.GLOBAL_UPDATE, store.file, store.line, code, "", "", name)
