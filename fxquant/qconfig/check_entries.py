"""Whether the entries of a configuration are what its setters take; a wrong one is refused before planning."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from fxquant.errors import ConfigError


def check_entries(entries: Mapping[str, Mapping[Any, Any]], global_qconfig: Any) -> None:
    """Refuse names that are no text, types that are no types, and values that are no QConfigs.

    Args:
        entries: of a mapping, by setter: what it was called with, except the QConfig, to the QConfig.
        global_qconfig: that of ``set_global``.

    Raises:
        ConfigError: naming the setter and what it was given.
    """
    _check_qconfig("set_global", global_qconfig)
    for setter, given in entries.items():
        for key, qconfig in given.items():
            for name in _names_in(setter, key):
                if not isinstance(name, str):
                    raise ConfigError(f"{setter}({key!r}): a name is text", remedy="pass the path of a module")
            for kind in _types_in(setter, key):
                _check_type(setter, kind)
            _check_qconfig(f"{setter}({key!r})", qconfig)


def require_list(setter: str, given: Any, what: str) -> list[Any]:
    """``given`` as a list.

    Raises:
        ConfigError: it is text or no sequence, or, with ``what`` "classes", holds something else.
    """
    if isinstance(given, (str, type)) or not isinstance(given, Iterable):
        raise ConfigError(f"{setter} takes a list of {what}, not {given!r}", remedy=f"write [{_shown(given)}]")
    found = list(given)
    wrong = [item for item in found if what == "classes" and not isinstance(item, type)]
    if wrong:
        raise ConfigError(f"{setter} is given {_shown(wrong[0])}, which is no class", remedy="pass classes of modules")
    return found


def _names_in(setter: str, key: Any) -> Iterator[Any]:
    if setter == "set_module_name_object_type_order":
        yield key[0]
    elif setter.startswith("set_module_name"):
        yield key


def _types_in(setter: str, key: Any) -> Iterator[Any]:
    if setter == "set_module_name_object_type_order":
        yield key[1]
    elif setter == "set_object_type":
        yield key


def _check_type(setter: str, kind: Any) -> None:
    if isinstance(kind, nn.Module):
        raise ConfigError(
            f"{setter} is given a {type(kind).__name__}, a module and not a type",
            remedy=f"pass {type(kind).__name__} for all of them, or set_module_name for this one",
        )
    if not isinstance(kind, str) and not callable(kind):
        raise ConfigError(
            f"{setter} is given {kind!r}", remedy="pass a module class, a function, or the name of a tensor method"
        )


def _check_qconfig(entry: str, qconfig: Any) -> None:
    if qconfig is None:
        return
    for slot in ("activation", "weight"):
        if isinstance(qconfig, type) or not hasattr(qconfig, slot):
            raise ConfigError(
                f"{entry} is given {_shown(qconfig)}, which is no QConfig",
                remedy="pass a QConfig such as get_default_qconfig(), or None to keep operators float",
            )
        if not callable(getattr(qconfig, slot)):
            raise ConfigError(
                f"{entry}: the {slot} of its QConfig is {getattr(qconfig, slot)!r}, which builds no observer",
                remedy="pass an observer class, or Observer.with_args(...); for no quantization, None for the QConfig",
            )


def _shown(given: Any) -> str:
    """A value in a message: short, whatever it is."""
    if isinstance(given, (str, int, float)):
        return repr(given)
    return given.__name__ if isinstance(given, type) else f"a {type(given).__name__}"
