"""How a backend quantizes one pattern of operators. Names, setters and dictionaries are torch.ao's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any

from torch import nn

from fxquant.errors import ConfigError
from fxquant.qconfig.dtype_config import DTypeConfig, check_keys

Pattern = Any
"""A module class, a function, a method name, or a tuple of them in execution order."""


class ObservationType(Enum):
    """Where the range of an operator's output comes from."""

    OUTPUT_USE_DIFFERENT_OBSERVER_AS_INPUT = 0
    """It has an observer of its own (convolution, softmax)."""

    OUTPUT_SHARE_OBSERVER_WITH_INPUT = 1
    """It shares the input's (cat, max pooling)."""

    INPUT_OUTPUT_NOT_OBSERVED = 2
    """Neither is observed (``x.size()``)."""

    @staticmethod
    def of(given: Any) -> ObservationType:
        """Accept ours or torch.ao's member of the same name.

        Raises:
            ConfigError: it is neither.
        """
        name = str(getattr(given, "name", ""))
        if name not in ObservationType.__members__:
            raise ConfigError(
                f"{given!r} is no observation type", remedy=f"use one of {', '.join(ObservationType.__members__)}"
            )
        return ObservationType[name]


# Dictionary key to attribute, for the entries that are kept as they are given.
_PLAIN_ENTRIES = {
    "root_module": "root_module",
    "qat_module": "qat_module",
    "reference_quantized_module_for_root": "reference_quantized_module",
    "fused_module": "fused_module",
    "fuser_method": "fuser_method",
    "root_node_getter": "_root_node_getter",
    "extra_inputs_getter": "_extra_inputs_getter",
    "num_tensor_args_to_observation_type": "_num_tensor_args_to_observation_type",
    "input_type_to_index": "_input_type_to_index",
    "every_spelling": "every_spelling",
}
_PATTERN_KEYS = ("pattern", "pattern_complex_format", "observation_type", "dtype_configs")


class BackendPatternConfig:
    """How a backend quantizes one pattern.

    Args:
        pattern: a module class, a function, a method name, or a tuple of them in execution order.
    """

    def __init__(self, pattern: Pattern = None) -> None:
        self.pattern = pattern
        self.observation_type = ObservationType.OUTPUT_USE_DIFFERENT_OBSERVER_AS_INPUT
        self.dtype_configs: list[DTypeConfig] = []
        self.root_module: type[nn.Module] | None = None
        self.qat_module: type[nn.Module] | None = None
        self.reference_quantized_module: type[nn.Module] | None = None
        self.fused_module: type[nn.Module] | None = None
        self.fuser_method: Callable[..., Any] | None = None
        self.every_spelling: bool | None = None
        self._root_node_getter: Callable[..., Any] | None = None
        self._extra_inputs_getter: Callable[..., Any] | None = None
        self._num_tensor_args_to_observation_type: dict[int, Any] = {}
        self._input_type_to_index: dict[str, int] = {}
        self._pattern_complex_format: Pattern = None

    def set_pattern(self, pattern: Pattern) -> BackendPatternConfig:
        """Set the pattern.

        Raises:
            ConfigError: a complex pattern is set already.
        """
        if self._pattern_complex_format is not None:
            raise ConfigError("a pattern config has one pattern", remedy="set pattern or pattern_complex_format")
        self.pattern = pattern
        return self

    def set_observation_type(self, observation_type: Any) -> BackendPatternConfig:
        """Set where the output's range comes from."""
        self.observation_type = ObservationType.of(observation_type)
        return self

    def add_dtype_config(self, dtype_config: Any) -> BackendPatternConfig:
        """Add a combination of dtypes that the backend takes."""
        self.dtype_configs.append(DTypeConfig.of(dtype_config))
        return self

    def set_dtype_configs(self, dtype_configs: Sequence[Any]) -> BackendPatternConfig:
        """Replace all combinations of dtypes."""
        self.dtype_configs = [DTypeConfig.of(item) for item in dtype_configs]
        return self

    def set_root_module(self, root_module: type[nn.Module]) -> BackendPatternConfig:
        """Set the module class that ``reference_quantized_module`` replaces."""
        self.root_module = root_module
        return self

    def set_qat_module(self, qat_module: type[nn.Module]) -> BackendPatternConfig:
        """Set the class of quantization-aware training."""
        self.qat_module = qat_module
        return self

    def set_reference_quantized_module(self, reference_quantized_module: type[nn.Module]) -> BackendPatternConfig:
        """Set the class that stands for the root module in a reference model."""
        self.reference_quantized_module = reference_quantized_module
        return self

    def set_fused_module(self, fused_module: type[nn.Module]) -> BackendPatternConfig:
        """Set the class that ``fuser_method`` makes."""
        self.fused_module = fused_module
        return self

    def set_fuser_method(self, fuser_method: Callable[..., Any]) -> BackendPatternConfig:
        """Set the function that fuses the modules of a tuple pattern."""
        self.fuser_method = fuser_method
        return self

    def set_every_spelling(self, every_spelling: bool = True) -> BackendPatternConfig:
        """Let the pattern stand for its operators however they are spelled, modules and functions alike.

        Where it shares the input's range like the operator itself does, single calls may still have one of their own
        (an average over a whole map). torch.ao has no such entry.
        """
        self.every_spelling = every_spelling
        return self

    def _set_root_node_getter(self, root_node_getter: Callable[..., Any]) -> BackendPatternConfig:
        self._root_node_getter = root_node_getter
        return self

    def _set_extra_inputs_getter(self, extra_inputs_getter: Callable[..., Any]) -> BackendPatternConfig:
        self._extra_inputs_getter = extra_inputs_getter
        return self

    def _set_num_tensor_args_to_observation_type(self, mapping: dict[int, Any]) -> BackendPatternConfig:
        self._num_tensor_args_to_observation_type = mapping
        return self

    def _set_input_type_to_index(self, mapping: dict[str, int]) -> BackendPatternConfig:
        self._input_type_to_index = mapping
        return self

    def _set_pattern_complex_format(self, pattern: Pattern) -> BackendPatternConfig:
        if self.pattern is not None:
            raise ConfigError("a pattern config has one pattern", remedy="set pattern or pattern_complex_format")
        self._pattern_complex_format = pattern
        return self

    @staticmethod
    def of(given: Any) -> BackendPatternConfig:
        """Accept ours, torch.ao's, or the dictionary of either.

        Raises:
            ConfigError: it is none of them.
        """
        if isinstance(given, BackendPatternConfig):
            return given
        if isinstance(given, Mapping):
            return BackendPatternConfig.from_dict(given)
        to_dict = getattr(given, "to_dict", None)
        if to_dict is None or not hasattr(given, "dtype_configs"):
            raise ConfigError(f"a pattern config is a {type(given).__name__}", remedy="pass a BackendPatternConfig")
        return BackendPatternConfig.from_dict(to_dict())

    @classmethod
    def from_dict(cls, backend_pattern_config_dict: Mapping[str, Any]) -> BackendPatternConfig:
        """Make a config from ``to_dict``'s result.

        Raises:
            ConfigError: an unknown key, or a value of the wrong type.
        """
        given = backend_pattern_config_dict
        check_keys("a BackendPatternConfig", given, (*_PATTERN_KEYS, *_PLAIN_ENTRIES))
        config = cls(given.get("pattern"))
        if "pattern_complex_format" in given:
            config._set_pattern_complex_format(given["pattern_complex_format"])
        if "observation_type" in given:
            config.set_observation_type(given["observation_type"])
        config.set_dtype_configs(given.get("dtype_configs", ()))
        for key, attribute in _PLAIN_ENTRIES.items():
            if given.get(key) is not None:
                setattr(config, attribute, given[key])
        return config

    def to_dict(self) -> dict[str, Any]:
        """The entries that are set; dtype configs as dictionaries."""
        entries: dict[str, Any] = {
            "observation_type": self.observation_type,
            "dtype_configs": [item.to_dict() for item in self.dtype_configs],
        }
        patterns = {"pattern": self.pattern, "pattern_complex_format": self._pattern_complex_format}
        entries |= {key: value for key, value in patterns.items() if value is not None}
        others = {key: getattr(self, attribute) for key, attribute in _PLAIN_ENTRIES.items()}
        return entries | {key: value for key, value in others.items() if value is not None and value != {}}

    def __repr__(self) -> str:
        return f"BackendPatternConfig({self.to_dict()})"
