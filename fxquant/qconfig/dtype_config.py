"""Which dtypes, and within what limits, a backend takes for one operator. Names are torch.ao's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch

from fxquant.errors import ConfigError


@dataclass(frozen=True)
class DTypeWithConstraints:
    """A dtype and what its quantization parameters must satisfy; None for no demand.

    Attributes:
        dtype: a plain dtype (``torch.uint8``) or its quantized spelling (``torch.quint8``): both mean the same here.
        quant_min_lower_bound, quant_max_upper_bound: the observer's integers must lie within.
        scale_min_lower_bound: the observer's smallest scale (its ``eps``) must be at least this.
        scale_max_upper_bound: cannot be honoured: the largest scale is known only after calibration.
        scale_exact_match, zero_point_exact_match: for operators of fixed range.
    """

    dtype: torch.dtype | None = None
    quant_min_lower_bound: float | None = None
    quant_max_upper_bound: float | None = None
    scale_min_lower_bound: float | None = None
    scale_max_upper_bound: float | None = None
    scale_exact_match: float | None = None
    zero_point_exact_match: int | None = None

    @staticmethod
    def of(given: Any) -> DTypeWithConstraints:
        """Accept None, a dtype, ours, or an object with the same attributes.

        Raises:
            ConfigError: it is none of them.
        """
        if isinstance(given, DTypeWithConstraints):
            return given
        if given is None or isinstance(given, torch.dtype):
            return DTypeWithConstraints(given)
        names = [field.name for field in fields(DTypeWithConstraints)]
        if all(hasattr(given, name) for name in names):
            return DTypeWithConstraints(**{name: getattr(given, name) for name in names})
        raise ConfigError(
            f"a dtype of a DTypeConfig is a {type(given).__name__}",
            remedy="pass a torch.dtype or a DTypeWithConstraints",
        )


_SLOTS = ("input", "output", "weight")


class DTypeConfig:
    """Dtypes of one way to run an operator: quantize arguments with these, and it computes.

    Args:
        input_dtype, output_dtype, weight_dtype: a torch.dtype, a DTypeWithConstraints, or None for any.
        bias_dtype: a torch.dtype, or None for any.
        is_dynamic: whether input ranges are taken at run time.
    """

    def __init__(
        self,
        input_dtype: Any = None,
        output_dtype: Any = None,
        weight_dtype: Any = None,
        bias_dtype: torch.dtype | None = None,
        is_dynamic: bool | None = None,
    ) -> None:
        self.input_dtype_with_constraints = DTypeWithConstraints.of(input_dtype)
        self.output_dtype_with_constraints = DTypeWithConstraints.of(output_dtype)
        self.weight_dtype_with_constraints = DTypeWithConstraints.of(weight_dtype)
        self.bias_dtype = bias_dtype
        self.is_dynamic = is_dynamic

    @property
    def input_dtype(self) -> torch.dtype | None:
        """Dtype of the inputs."""
        return self.input_dtype_with_constraints.dtype

    @property
    def output_dtype(self) -> torch.dtype | None:
        """Dtype of the output."""
        return self.output_dtype_with_constraints.dtype

    @property
    def weight_dtype(self) -> torch.dtype | None:
        """Dtype of the weight."""
        return self.weight_dtype_with_constraints.dtype

    @staticmethod
    def of(given: Any) -> DTypeConfig:
        """Accept ours, torch.ao's, or the dictionary of either.

        Raises:
            ConfigError: it is none of them.
        """
        if isinstance(given, DTypeConfig):
            return given
        if isinstance(given, Mapping):
            return DTypeConfig.from_dict(given)
        names = (*(f"{slot}_dtype_with_constraints" for slot in _SLOTS), "bias_dtype", "is_dynamic")
        if not all(hasattr(given, name) for name in names):
            raise ConfigError(f"a dtype config is a {type(given).__name__}", remedy="pass a DTypeConfig")
        return DTypeConfig(*(getattr(given, name) for name in names))

    @classmethod
    def from_dict(cls, dtype_config_dict: Mapping[str, Any]) -> DTypeConfig:
        """Make a config from ``to_dict``'s result.

        Raises:
            ConfigError: an unknown key, or a value of the wrong type.
        """
        known = (*(f"{slot}_dtype" for slot in _SLOTS), "bias_dtype", "is_dynamic")
        check_keys("a DTypeConfig", dtype_config_dict, known)
        return cls(**dtype_config_dict)

    def to_dict(self) -> dict[str, Any]:
        """The entries that are set."""
        entries: dict[str, Any] = {
            f"{slot}_dtype": getattr(self, f"{slot}_dtype_with_constraints")
            for slot in _SLOTS
            if getattr(self, f"{slot}_dtype") is not None
        }
        others = {"bias_dtype": self.bias_dtype, "is_dynamic": self.is_dynamic}
        return entries | {key: value for key, value in others.items() if value is not None}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DTypeConfig) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(tuple(vars(self).values()))

    def __repr__(self) -> str:
        return f"DTypeConfig({', '.join(f'{key}={value}' for key, value in self.to_dict().items())})"


def check_keys(title: str, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Refuse a dictionary with keys that mean nothing.

    Raises:
        ConfigError: naming the first such key.
    """
    unknown = [key for key in given if key not in known]
    if unknown:
        raise ConfigError(f"the dictionary of {title} has no key {unknown[0]!r}", remedy=f"use {', '.join(known)}")
