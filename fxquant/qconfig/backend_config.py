"""BackendConfig: which operators a backend quantizes, and how. Names, setters and dictionaries are torch.ao's.

It only holds what the user states; ``plan/backend_limits.py`` says what of it can be honoured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fxquant.errors import ConfigError
from fxquant.qconfig.backend_pattern_config import BackendPatternConfig
from fxquant.qconfig.dtype_config import check_keys


class BackendConfig:
    """What a backend quantizes: a name, and one config per pattern. Operators that it does not list stay float.

    Args:
        name: shown in reasons. The name of an engine (x86, fbgemm, onednn, qnnpack) also chooses it.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.every_group = False
        self._configs: dict[Any, BackendPatternConfig] = {}

    @property
    def configs(self) -> list[BackendPatternConfig]:
        """All pattern configs, in the order they were set."""
        return list(self._configs.values())

    def set_name(self, name: str) -> BackendConfig:
        """Set the name."""
        self.name = name
        return self

    def set_every_group(self, every_group: bool = True) -> BackendConfig:
        """Let fxquant's fusion rules group listed operators as they like, not only as listed. Not in torch.ao."""
        self.every_group = every_group
        return self

    def set_backend_pattern_config(self, config: Any) -> BackendConfig:
        """Add a pattern config; it replaces an earlier one of the same pattern.

        Raises:
            ConfigError: it has no pattern.
        """
        config = BackendPatternConfig.of(config)
        if config.pattern is None and config._pattern_complex_format is None:
            raise ConfigError("a BackendPatternConfig has no pattern", remedy="pass one, or call set_pattern")
        self._configs[(config.pattern, config._pattern_complex_format)] = config
        return self

    def set_backend_pattern_configs(self, configs: Sequence[Any]) -> BackendConfig:
        """Add several pattern configs."""
        for config in configs:
            self.set_backend_pattern_config(config)
        return self

    @staticmethod
    def of(given: Any) -> BackendConfig:
        """Accept ours, torch.ao's, or the dictionary of either.

        Raises:
            ConfigError: it is none of them.
        """
        if isinstance(given, BackendConfig):
            return given
        if isinstance(given, Mapping):
            return BackendConfig.from_dict(given)
        if not hasattr(given, "name") or not hasattr(given, "configs"):
            raise ConfigError(
                f"backend_config is a {type(given).__name__}",
                remedy="pass a BackendConfig, an engine's name (x86, fbgemm, onednn, qnnpack), or None",
            )
        return BackendConfig(given.name).set_backend_pattern_configs(given.configs)

    @classmethod
    def from_dict(cls, backend_config_dict: Mapping[str, Any]) -> BackendConfig:
        """Make a config from ``to_dict``'s result.

        Raises:
            ConfigError: an unknown key, or a value of the wrong type.
        """
        given = backend_config_dict
        check_keys("a BackendConfig", given, ("name", "configs", "every_group"))
        config = cls(given.get("name", "")).set_every_group(given.get("every_group", False))
        return config.set_backend_pattern_configs(given.get("configs", ()))

    def to_dict(self) -> dict[str, Any]:
        """``{"name": ..., "configs": [...]}``, and ``every_group`` when it is set."""
        entries = {"name": self.name, "configs": [config.to_dict() for config in self.configs]}
        return entries | ({"every_group": True} if self.every_group else {})

    def __repr__(self) -> str:
        return f"BackendConfig({self.name!r}, {len(self._configs)} patterns)"
