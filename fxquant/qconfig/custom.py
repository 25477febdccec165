"""Custom configs of the three calls; entries that this version does not implement say so."""

from __future__ import annotations

from typing import Any, NoReturn, Self

from torch import nn

from fxquant.errors import NotYetError


def _not_yet(kind: str, entry: str) -> NoReturn:
    raise NotYetError(f"{kind}.{entry} is not implemented yet", remedy="leave it out; see the README's limits")


class _Preserving:
    """Shared by the three configs: attributes to carry over to the result."""

    def __init__(self) -> None:
        self.preserved_attributes: list[str] = []

    def set_preserved_attributes(self, attributes: list[str]) -> Self:
        """Name attributes of the user's model to keep on the result."""
        self.preserved_attributes = list(attributes)
        return self


class PrepareCustomConfig(_Preserving):
    """Options of ``prepare_fx``."""

    def __init__(self) -> None:
        super().__init__()
        self.non_traceable_module_names: list[str] = []
        self.non_traceable_module_classes: list[type[nn.Module]] = []

    def set_non_traceable_module_names(self, module_names: list[str]) -> PrepareCustomConfig:
        """Module paths to keep as float leaves."""
        self.non_traceable_module_names = list(module_names)
        return self

    def set_non_traceable_module_classes(self, module_classes: list[type[nn.Module]]) -> PrepareCustomConfig:
        """Module classes to keep as float leaves."""
        self.non_traceable_module_classes = list(module_classes)
        return self

    def set_standalone_module_name(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not implemented yet."""
        _not_yet("PrepareCustomConfig", "set_standalone_module_name")

    def set_standalone_module_class(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not implemented yet."""
        _not_yet("PrepareCustomConfig", "set_standalone_module_class")

    def set_float_to_observed_mapping(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not implemented yet."""
        _not_yet("PrepareCustomConfig", "set_float_to_observed_mapping")

    def set_input_quantized_indexes(self, indexes: list[int]) -> NoReturn:
        """Not implemented yet."""
        _not_yet("PrepareCustomConfig", "set_input_quantized_indexes")

    def set_output_quantized_indexes(self, indexes: list[int]) -> NoReturn:
        """Not implemented yet."""
        _not_yet("PrepareCustomConfig", "set_output_quantized_indexes")


class ConvertCustomConfig(_Preserving):
    """Options of ``convert_fx``."""

    def set_observed_to_quantized_mapping(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not implemented yet."""
        _not_yet("ConvertCustomConfig", "set_observed_to_quantized_mapping")


class FuseCustomConfig(_Preserving):
    """Options of ``fuse_fx``."""
