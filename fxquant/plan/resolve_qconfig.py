"""Which configuration entry decides for a node, with torch.ao's precedence."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import fx

from fxquant.errors import ConfigError
from fxquant.plan.match_calls import OTHER_SPELLING, Call, as_call, closeness, count_calls
from fxquant.qconfig.mapping import QConfigMapping


@dataclass(frozen=True)
class Resolved:
    """The outcome for one node: its QConfig, None to stay float, and the entry that said so.

    Attributes:
        named: whether the entry names this operator, by its type or the path of its own module.
    """

    qconfig: Any
    entry: str
    named: bool = False


@dataclass
class Resolver:
    """Looks entries up, and remembers which of them matched anything.

    Args:
        mapping: the user's configuration.
        paths: every module path of the user's model.
        prefix: path of the graph's root in the model that the mapping speaks of, when that is a larger one; its names
            were checked there.
        matched: object types, and (path, type, index) of entries by order, known to match something; those that match
            here are added.
    """

    mapping: QConfigMapping
    paths: tuple[str, ...]
    prefix: str = ""
    matched: set[Any] = field(default_factory=set)

    def __post_init__(self) -> None:
        if not self.prefix:
            self._check_names()

    def resolve_graph(self, graph: fx.Graph) -> dict[str, Resolved]:
        """Resolve every call of a captured graph, by node name. Parts of one operation share its configuration."""
        calls = {node.name: self._placed(call) for node in graph.nodes if (call := as_call(node)) is not None}
        orders = self.mapping.module_name_object_type_order_qconfigs
        counted = {(path, key): count_calls(calls.values(), path, key) for path, key, _ in orders}
        by_call: dict[str, Resolved] = {}
        for call in calls.values():
            if call.name not in by_call:
                by_call[call.name] = self._by_order(call, counted) or self._resolve(call)
        return {name: by_call[call.name] for name, call in calls.items()}

    def _placed(self, call: Call) -> Call:
        path = f"{self.prefix}.{call.origin.module_path}".strip(".") if self.prefix else call.origin.module_path
        return replace(call, origin=replace(call.origin, module_path=path))

    def unmatched(self) -> tuple[str, ...]:
        """Entries by object type, and by order in a module, that matched no operation, as text."""
        known = self.matched | self.mapping.optional_types
        types = [_type_title(key) for key in self.mapping.object_type_qconfigs if key not in known]
        orders = self.mapping.module_name_object_type_order_qconfigs
        return (*types, *(_order_title(*entry) for entry in orders if entry not in known))

    def _resolve(self, call: Call) -> Resolved:
        origin = call.origin
        result = self._by_type(call) or Resolved(self.mapping.global_qconfig, "set_global")
        for pattern, qconfig in self.mapping.module_name_regex_qconfigs.items():
            if re.match(pattern, origin.module_path):
                result = Resolved(qconfig, f"set_module_name_regex({pattern!r})")
                break
        for path in _enclosing(origin.module_path):
            if path in self.mapping.module_name_qconfigs:
                own = path == origin.module_path
                result = Resolved(self.mapping.module_name_qconfigs[path], f"set_module_name({path!r})", named=own)
                break
        return result

    def _by_type(self, call: Call) -> Resolved | None:
        """The entry that means the operation most closely; of two as close, the later."""
        result, best = None, OTHER_SPELLING
        for key, qconfig in self.mapping.object_type_qconfigs.items():
            how = closeness(key, call.origin, call.op)
            if how:
                self.matched.add(key)
            if how >= best:
                result, best = Resolved(qconfig, _type_title(key), named=True), how
        return result

    def _by_order(self, call: Call, counted: Mapping[tuple[str, Any], Mapping[str, int]]) -> Resolved | None:
        found = None
        for (path, key, index), qconfig in self.mapping.module_name_object_type_order_qconfigs.items():
            if counted[path, key].get(call.name) == index:
                self.matched.add((path, key, index))
                found = Resolved(qconfig, _order_title(path, key, index), named=True)
        return found

    def _check_names(self) -> None:
        """A module name or pattern that the user wrote and that matches nothing is an error."""
        for name in self.mapping.module_name_qconfigs:
            self._require(name in self.paths, "set_module_name", name)
        for pattern in self.mapping.module_name_regex_qconfigs:
            hit = any(_matches(pattern, path) for path in self.paths)
            self._require(hit, "set_module_name_regex", pattern)
        for name, _, _ in self.mapping.module_name_object_type_order_qconfigs:
            self._require(name in self.paths, "set_module_name_object_type_order", name)

    def _require(self, found: bool, setter: str, name: str) -> None:
        if not found:
            close = difflib.get_close_matches(name, self.paths, n=3, cutoff=0.4) or list(self.paths)[1:4]
            raise ConfigError(
                f"{setter}({name!r}) matches no module of the model", remedy=f"did you mean {' or '.join(close)}?"
            )


def _matches(pattern: str, path: str) -> bool:
    try:
        return re.match(pattern, path) is not None
    except re.error as error:
        raise ConfigError(
            f"set_module_name_regex({pattern!r}): {error}", remedy="write a regular expression of Python's re"
        ) from error


def _enclosing(path: str) -> list[str]:
    """The path, then each module around it, innermost first."""
    parts = path.split(".") if path else []
    return [".".join(parts[:count]) for count in range(len(parts), 0, -1)] + [""]


def _type_title(key: Any) -> str:
    return f"set_object_type({_title(key)})"


def _order_title(path: str, key: Any, index: int) -> str:
    return f"set_module_name_object_type_order({path!r}, {_title(key)}, {index})"


def _title(key: Any) -> str:
    return repr(key) if isinstance(key, str) else getattr(key, "__name__", repr(key))
