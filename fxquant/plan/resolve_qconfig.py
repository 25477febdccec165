"""Which configuration entry decides for a node, with torch.ao's precedence."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field, replace
from typing import Any

from torch import fx

from fxquant.errors import ConfigError
from fxquant.ir.meta import Origin, info, qualified_name, qualified_type
from fxquant.ops import catalogue
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
        matched_types: object types known to match something; those that match here are added.
    """

    mapping: QConfigMapping
    paths: tuple[str, ...]
    prefix: str = ""
    matched_types: set[Any] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._counts: dict[tuple[str, Any], int] = {}
        if not self.prefix:
            self._check_names()

    def resolve_graph(self, graph: fx.Graph) -> dict[str, Resolved]:
        """Resolve every call of a captured graph, by node name. Parts of one operation share its configuration."""
        found: dict[str, Resolved] = {}
        divided: dict[str, Resolved] = {}
        for node in graph.nodes:
            if node.op.startswith("call_"):
                whole, op = info(node).part_of or ("", info(node).op)
                found[node.name] = divided.get(whole) or self._resolve(self._placed(info(node).origin), op)
                if whole:
                    divided[whole] = found[node.name]
        return found

    def _placed(self, origin: Origin) -> Origin:
        path = f"{self.prefix}.{origin.module_path}".strip(".") if self.prefix else origin.module_path
        return replace(origin, module_path=path)

    def unmatched_types(self) -> tuple[str, ...]:
        """Object types that matched no node, as text."""
        known = self.matched_types | self.mapping.optional_types
        missing = [key for key in self.mapping.object_type_qconfigs if key not in known]
        return tuple(_title(key) for key in missing)

    def _resolve(self, origin: Origin, op: str) -> Resolved:
        result = Resolved(self.mapping.global_qconfig, "set_global")
        for key, qconfig in self.mapping.object_type_qconfigs.items():
            if matches_type(key, origin, op):
                self.matched_types.add(key)
                result = Resolved(qconfig, f"set_object_type({_title(key)})", named=True)
        for pattern, qconfig in self.mapping.module_name_regex_qconfigs.items():
            if re.match(pattern, origin.module_path):
                result = Resolved(qconfig, f"set_module_name_regex({pattern!r})")
                break
        for path in _enclosing(origin.module_path):
            if path in self.mapping.module_name_qconfigs:
                own = path == origin.module_path
                result = Resolved(self.mapping.module_name_qconfigs[path], f"set_module_name({path!r})", named=own)
                break
        return self._by_order(origin, op) or result

    def _by_order(self, origin: Origin, op: str) -> Resolved | None:
        owner = origin.module_path.rpartition(".")[0] if origin.from_torch_module else origin.module_path
        found = None
        for (path, key, index), qconfig in self.mapping.module_name_object_type_order_qconfigs.items():
            if path != owner or not matches_type(key, origin, op):
                continue
            position = self._counts.setdefault((path, key), 0)
            if position == index:
                entry = f"set_module_name_object_type_order({path!r}, {_title(key)}, {index})"
                found = Resolved(qconfig, entry, named=True)
        for path, key in {(p, k) for p, k, _ in self.mapping.module_name_object_type_order_qconfigs}:
            if path == owner and matches_type(key, origin, op):
                self._counts[(path, key)] = self._counts.get((path, key), 0) + 1
        return found

    def _check_names(self) -> None:
        """A module name or pattern that the user wrote and that matches nothing is an error."""
        for name in self.mapping.module_name_qconfigs:
            self._require(name in self.paths, "set_module_name", name)
        for pattern in self.mapping.module_name_regex_qconfigs:
            hit = any(re.match(pattern, path) for path in self.paths)
            self._require(hit, "set_module_name_regex", pattern)
        for name, _, _ in self.mapping.module_name_object_type_order_qconfigs:
            self._require(name in self.paths, "set_module_name_object_type_order", name)

    def _require(self, found: bool, setter: str, name: str) -> None:
        if not found:
            close = difflib.get_close_matches(name, self.paths, n=3, cutoff=0.4) or list(self.paths)[1:4]
            raise ConfigError(
                f"{setter}({name!r}) matches no module of the model", remedy=f"did you mean {' or '.join(close)}?"
            )


def _enclosing(path: str) -> list[str]:
    """The path, then each module around it, innermost first."""
    parts = path.split(".") if path else []
    return [".".join(parts[:count]) for count in range(len(parts), 0, -1)] + [""]


def matches_type(key: Any, origin: Origin, op: str) -> bool:
    """Whether an object type of the configuration means a node.

    Args:
        key: a module class, a function, or a method name.
        origin: where the node came from.
        op: its catalogue name.
    """
    if isinstance(key, type):
        return qualified_type(key) == origin.module_type
    if origin.from_torch_module:
        return False
    row = catalogue.by_method(key) if isinstance(key, str) else catalogue.by_function(key)
    if row is not None:
        return row.name == op
    return qualified_name(key) == origin.spelling


def _title(key: Any) -> str:
    return repr(key) if isinstance(key, str) else getattr(key, "__name__", repr(key))
