"""QConfigMapping: which operators get which QConfig. Names and precedence are torch.ao's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import nn

from fxquant.errors import ConfigError
from fxquant.qconfig.check_entries import check_entries
from fxquant.qconfig.defaults import float_qparams_weight_only_qconfig, per_channel_dynamic_qconfig
from fxquant.qconfig.qat_defaults import get_default_qat_qconfig
from fxquant.qconfig.qconfig import QConfig, check_engine, get_default_qconfig

ObjectType = type | Callable[..., Any] | str

_STYLES = ("object_type", "module_name_regex", "module_name", "module_name_object_type_order")


class QConfigMapping:
    """Assigns QConfigs; ``None`` means: keep in float.

    Entries, increasing priority: ``set_global`` < ``set_object_type`` < ``set_module_name_regex`` (the first
    registered match wins) < ``set_module_name`` (the innermost named module wins) <
    ``set_module_name_object_type_order``. All setters return the mapping, so calls chain.

    An object type is a module class (matched exactly), or a function or tensor method name; those match every
    spelling of the operator outside torch.nn modules. Of several object types, the class of the module around an
    operator wins, then its own spelling, then another one; of two alike, the later.
    """

    def __init__(self) -> None:
        self.global_qconfig: Any = None
        self.object_type_qconfigs: dict[ObjectType, Any] = {}
        self.module_name_regex_qconfigs: dict[str, Any] = {}
        self.module_name_qconfigs: dict[str, Any] = {}
        self.module_name_object_type_order_qconfigs: dict[tuple[str, ObjectType, int], Any] = {}
        self.backend: str | None = None
        self.optional_types: frozenset[ObjectType] = frozenset()
        """Object types of a ready-made mapping: nothing is wrong with a model that has none of them."""

    def set_global(self, global_qconfig: QConfig | None) -> QConfigMapping:
        """Set the default for everything."""
        self.global_qconfig = global_qconfig
        return self

    def set_object_type(self, object_type: ObjectType, qconfig: QConfig | None) -> QConfigMapping:
        """Set by module class, function, or method name."""
        self.object_type_qconfigs[object_type] = qconfig
        return self

    def set_module_name_regex(self, module_name_regex: str, qconfig: QConfig | None) -> QConfigMapping:
        """Set for modules whose path matches (``re.match``)."""
        self.module_name_regex_qconfigs[module_name_regex] = qconfig
        return self

    def set_module_name(self, module_name: str, qconfig: QConfig | None) -> QConfigMapping:
        """Set for the module at this path and everything inside."""
        self.module_name_qconfigs[module_name] = qconfig
        return self

    def set_module_name_object_type_order(
        self, module_name: str, object_type: ObjectType, index: int, qconfig: QConfig | None
    ) -> QConfigMapping:
        """Set for the ``index``-th (from 0) operator of a type called in the module at this path.

        A function or method counts the calls that are spelled so, or every spelling where none is.
        """
        self.module_name_object_type_order_qconfigs[(module_name, object_type, index)] = qconfig
        return self

    def to_dict(self) -> dict[str, Any]:
        """The mapping as torch.ao's dictionary: ``""`` for the global QConfig, and a list of tuples per setter.

        ``backend`` is added when the mapping was made for one.
        """
        entries = {
            style: [
                (*(key if isinstance(key, tuple) else (key,)), qconfig)
                for key, qconfig in getattr(self, f"{style}_qconfigs").items()
            ]
            for style in _STYLES
        }
        return {"": self.global_qconfig, **entries, **({"backend": self.backend} if self.backend else {})}

    @classmethod
    def from_dict(cls, qconfig_dict: Mapping[str, Any]) -> QConfigMapping:
        """Make a mapping from torch.ao's dictionary.

        Args:
            qconfig_dict: any of ``""``, ``object_type``, ``module_name_regex``, ``module_name``,
                ``module_name_object_type_order``, ``backend``; the lists hold the arguments of the setters.

        Raises:
            ConfigError: another key, or an entry that does not fit its setter.
        """
        mapping = cls()
        for key, given in qconfig_dict.items():
            if key == "":
                mapping.set_global(given)
            elif key == "backend":
                mapping.backend = None if given is None else check_engine(given)
            elif key in _STYLES:
                mapping._set_all(key, given)
            else:
                known = ", ".join(repr(style) for style in ("", *_STYLES, "backend"))
                raise ConfigError(f"a qconfig dictionary has no key {key!r}", remedy=f"use {known}")
        return mapping

    def _set_all(self, style: str, entries: Any) -> None:
        setter = getattr(self, f"set_{style}")
        size = 4 if style == "module_name_object_type_order" else 2
        for entry in entries:
            if not isinstance(entry, (tuple, list)) or len(entry) != size:
                raise ConfigError(
                    f"{style!r} of a qconfig dictionary holds {entry!r}",
                    remedy=f"give a list of tuples of {size}: the arguments of set_{style}",
                )
            setter(*entry)

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__}(", f" global: {self.global_qconfig}"]
        for title in _STYLES:
            entries = getattr(self, f"{title}_qconfigs")
            lines += [f" {title} {key!r}: {value}" for key, value in entries.items()]
        return "\n".join(lines) + "\n)"


def get_default_qconfig_mapping(backend: str = "x86", version: int = 0) -> QConfigMapping:
    """The recommended mapping for static post-training quantization on ``backend``.

    Fixed ranges (sigmoid, tanh) and weights' limits are facts of the operators and kernels, not entries here.

    Raises:
        ConfigError: unknown backend.
    """
    mapping = QConfigMapping().set_global(get_default_qconfig(backend, version))
    mapping.backend = check_engine(backend)
    return mapping


def get_default_qat_qconfig_mapping(backend: str = "x86", version: int = 1) -> QConfigMapping:
    """The recommended mapping for quantization-aware training on ``backend``; see ``get_default_qat_qconfig``.

    Raises:
        ConfigError: unknown backend.
    """
    mapping = QConfigMapping().set_global(get_default_qat_qconfig(backend, version))
    mapping.backend = check_engine(backend)
    return mapping


def get_default_qat_qconfig_dict(backend: str = "x86", version: int = 1) -> dict[str, Any]:
    """``get_default_qat_qconfig_mapping`` as a dictionary; see ``QConfigMapping.to_dict``.

    Raises:
        ConfigError: unknown backend.
    """
    return get_default_qat_qconfig_mapping(backend, version).to_dict()


def get_default_dynamic_qconfig_mapping(backend: str = "x86") -> QConfigMapping:
    """The recommended mapping for dynamic quantization on ``backend``: int8 weights, embeddings included.

    Raises:
        ConfigError: unknown backend.
    """
    mapping = QConfigMapping().set_global(per_channel_dynamic_qconfig)
    mapping.optional_types = frozenset((nn.Embedding, nn.EmbeddingBag, F.embedding, F.embedding_bag))
    for kind in mapping.optional_types:
        mapping.set_object_type(kind, float_qparams_weight_only_qconfig)
    mapping.backend = check_engine(backend)
    return mapping


def get_default_qconfig_dict(backend: str = "x86", version: int = 0) -> dict[str, Any]:
    """``get_default_qconfig_mapping`` as a dictionary; see ``QConfigMapping.to_dict``.

    Raises:
        ConfigError: unknown backend.
    """
    return get_default_qconfig_mapping(backend, version).to_dict()


def as_mapping(given: Any) -> QConfigMapping:
    """Accept a QConfigMapping, ours or torch.ao's, its dictionary, or a bare QConfig meant for everything.

    Raises:
        ConfigError: it is none of them, or an entry is not what its setter takes.
    """
    mapping = _as_mapping(given)
    check_entries({f"set_{style}": getattr(mapping, f"{style}_qconfigs") for style in _STYLES}, mapping.global_qconfig)
    return mapping


def _as_mapping(given: Any) -> QConfigMapping:
    if isinstance(given, QConfigMapping):
        return given
    if isinstance(given, Mapping):
        return QConfigMapping.from_dict(given)
    names = ("global_qconfig", *(f"{style}_qconfigs" for style in _STYLES))
    if all(hasattr(given, name) for name in names):
        mapping = QConfigMapping()
        for name in names:
            value = getattr(given, name)
            setattr(mapping, name, value if name == "global_qconfig" else dict(value))
        return mapping
    if hasattr(given, "activation") and hasattr(given, "weight") and not isinstance(given, type):
        return QConfigMapping().set_global(given)
    raise ConfigError(
        f"qconfig_mapping is a {type(given).__name__}",
        remedy="pass get_default_qconfig_mapping('x86') or a QConfigMapping",
    )
