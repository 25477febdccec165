"""QConfigMapping: which operators get which QConfig. Names and precedence are torch.ao's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fxquant.errors import ConfigError
from fxquant.qconfig.qconfig import QConfig, check_engine, get_default_qconfig

ObjectType = type | Callable[..., Any] | str


class QConfigMapping:
    """Assigns QConfigs; ``None`` means: keep in float.

    Entries, increasing priority: ``set_global`` < ``set_object_type`` < ``set_module_name_regex`` (the first
    registered match wins) < ``set_module_name`` (the innermost named module wins) <
    ``set_module_name_object_type_order``. All setters return the mapping, so calls chain.

    An object type is a module class (matched exactly), or a function or tensor method name; those match every
    spelling of the operator outside torch.nn modules.
    """

    def __init__(self) -> None:
        self.global_qconfig: Any = None
        self.object_type_qconfigs: dict[ObjectType, Any] = {}
        self.module_name_regex_qconfigs: dict[str, Any] = {}
        self.module_name_qconfigs: dict[str, Any] = {}
        self.module_name_object_type_order_qconfigs: dict[tuple[str, ObjectType, int], Any] = {}
        self.backend: str | None = None

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
        """Set for the ``index``-th (from 0) operator of a type called in the module at this path."""
        self.module_name_object_type_order_qconfigs[(module_name, object_type, index)] = qconfig
        return self

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__}(", f" global: {self.global_qconfig}"]
        for title in ("object_type", "module_name_regex", "module_name", "module_name_object_type_order"):
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


def as_mapping(given: Any) -> QConfigMapping:
    """Accept a QConfigMapping, ours or torch.ao's, or a bare QConfig meant for everything.

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(given, QConfigMapping):
        return given
    names = (
        "global_qconfig",
        "object_type_qconfigs",
        "module_name_regex_qconfigs",
        "module_name_qconfigs",
        "module_name_object_type_order_qconfigs",
    )
    if all(hasattr(given, name) for name in names):
        mapping = QConfigMapping()
        for name in names:
            value = getattr(given, name)
            setattr(mapping, name, value if name == "global_qconfig" else dict(value))
        return mapping
    if hasattr(given, "activation") and hasattr(given, "weight"):
        return QConfigMapping().set_global(given)
    raise ConfigError(
        f"qconfig_mapping is a {type(given).__name__}",
        remedy="pass get_default_qconfig_mapping('x86') or a QConfigMapping",
    )
