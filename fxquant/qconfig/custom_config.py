"""What the custom configs share, and those of ``fuse_fx`` and ``convert_fx``. Names are torch.ao's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from torch import nn

from fxquant.errors import ConfigError
from fxquant.qconfig.check_entries import require_list
from fxquant.qconfig.dtype_config import check_keys
from fxquant.qconfig.quant_type import QuantType, require_static

# Dictionary key to attribute, for lists that are kept as they are given.
LISTS = {
    "non_traceable_module_name": "non_traceable_module_names",
    "non_traceable_module_class": "non_traceable_module_classes",
    "input_quantized_idxs": "input_quantized_indexes",
    "output_quantized_idxs": "output_quantized_indexes",
    "preserved_attributes": "preserved_attributes",
}
STANDALONE = ("standalone_module_name", "standalone_module_class")
FLOAT_TO_OBSERVED = "float_to_observed_custom_module_class"
OBSERVED_TO_QUANTIZED = "observed_to_quantized_custom_module_class"

ClassMapping = dict[QuantType, dict[type[nn.Module], type[nn.Module]]]


class CustomConfig:
    """Shared by the three configs: attributes to carry over to the result, and acceptance of torch.ao's objects."""

    def __init__(self) -> None:
        self.preserved_attributes: list[str] = []

    def set_preserved_attributes(self, attributes: Sequence[str]) -> Self:
        """Name attributes of the model to keep on the result, even if ``forward`` does not use them."""
        self.preserved_attributes = require_list("set_preserved_attributes", attributes, "names")
        return self

    @classmethod
    def of(cls, given: Any) -> Self:
        """Accept None for an empty config, ours, torch.ao's, or the dictionary of either.

        Raises:
            ConfigError: it is none of them.
        """
        if given is None:
            return cls()
        if isinstance(given, cls):
            return given
        if isinstance(given, Mapping):
            return cls.from_dict(given)
        if not all(hasattr(given, name) for name in vars(cls())):
            raise ConfigError(f"expected a {cls.__name__}, got {type(given).__name__}", remedy=f"pass a {cls.__name__}")
        return cls.from_dict(_entries_of(given))

    @classmethod
    def from_dict(cls, custom_config_dict: Mapping[str, Any]) -> Self:
        """Make a config from ``to_dict``'s result.

        Raises:
            ConfigError: an unknown key, or an entry that does not fit its setter.
        """
        check_keys(f"a {cls.__name__}", custom_config_dict, ("preserved_attributes",))
        return cls().set_preserved_attributes(custom_config_dict.get("preserved_attributes", ()))

    def to_dict(self) -> dict[str, Any]:
        """The entries that are set."""
        return {"preserved_attributes": self.preserved_attributes} if self.preserved_attributes else {}


class ConvertCustomConfig(CustomConfig):
    """Options of ``convert_fx``."""

    def __init__(self) -> None:
        super().__init__()
        self.observed_to_quantized_mapping: ClassMapping = {}

    def set_observed_to_quantized_mapping(
        self, observed_class: type[nn.Module], quantized_class: type[nn.Module], quant_type: Any = QuantType.STATIC
    ) -> ConvertCustomConfig:
        """Replace custom modules of exactly ``observed_class`` by ``quantized_class.from_observed(module)`` at convert.

        The module it is given has the observer of its output as ``activation_post_process``. Quantized modules take and
        return torch's quantized tensors.

        Raises:
            ConfigError: the class has no ``from_observed``, or ``quant_type`` is not STATIC.
        """
        kind = require_static(quant_type, "set_observed_to_quantized_mapping")
        require_constructor(quantized_class, "from_observed")
        self.observed_to_quantized_mapping.setdefault(kind, {})[observed_class] = quantized_class
        return self

    @property
    def quantized_classes(self) -> dict[type[nn.Module], type[nn.Module]]:
        """Observed class to quantized class."""
        return self.observed_to_quantized_mapping.get(QuantType.STATIC, {})

    @classmethod
    def from_dict(cls, custom_config_dict: Mapping[str, Any]) -> ConvertCustomConfig:
        """Make a config from ``to_dict``'s result, or from torch.ao's dictionary.

        Raises:
            ConfigError: an unknown key, or an entry that does not fit its setter.
        """
        check_keys("a ConvertCustomConfig", custom_config_dict, (OBSERVED_TO_QUANTIZED, "preserved_attributes"))
        config = cls().set_preserved_attributes(custom_config_dict.get("preserved_attributes", ()))
        for kind, classes in custom_config_dict.get(OBSERVED_TO_QUANTIZED, {}).items():
            for observed_class, quantized_class in classes.items():
                config.set_observed_to_quantized_mapping(observed_class, quantized_class, kind)
        return config

    def to_dict(self) -> dict[str, Any]:
        """The entries that are set."""
        mapping = by_kind(self.observed_to_quantized_mapping)
        return super().to_dict() | ({OBSERVED_TO_QUANTIZED: mapping} if mapping else {})


class FuseCustomConfig(CustomConfig):
    """Options of ``fuse_fx``."""


def by_kind(mapping: ClassMapping) -> dict[str, dict[type[nn.Module], type[nn.Module]]]:
    return {kind.name.lower(): dict(classes) for kind, classes in mapping.items()}


def require_constructor(given: Any, name: str) -> None:
    if not callable(getattr(given, name, None)):
        raise ConfigError(
            f"{getattr(given, '__name__', given)} has no {name}", remedy=f"give the class a classmethod {name}(module)"
        )


def _entries_of(given: Any) -> dict[str, Any]:
    """The dictionary of a config of torch.ao, read from its attributes: its own ``to_dict`` wants its own mappings."""
    entries: dict[str, Any] = {}
    for key in STANDALONE:
        names = ("qconfig_mapping", "example_inputs", "prepare_custom_config", "backend_config")
        found = getattr(given, f"{key}s" if key.endswith("name") else f"{key}es", {})
        entries[key] = [(target, *(getattr(entry, name) for name in names)) for target, entry in found.items()]
    for key, attribute in (
        (FLOAT_TO_OBSERVED, "float_to_observed_mapping"),
        (OBSERVED_TO_QUANTIZED, "observed_to_quantized_mapping"),
    ):
        entries[key] = {kind.name: classes for kind, classes in getattr(given, attribute, {}).items()}
    entries |= {key: getattr(given, attribute, []) for key, attribute in LISTS.items()}
    return {key: value for key, value in entries.items() if value}
