"""Which backend a name means, and which one suits this machine."""

from __future__ import annotations

from typing import Any

import torch

from fxquant.backends.native.backend import NativeBackend
from fxquant.backends.native.engine import available_engines
from fxquant.errors import BackendError, ConfigError
from fxquant.ir.quant_plan import QuantPlan
from fxquant.plan.backend_limits import BackendLimits
from fxquant.plan.read_backend_config import read_backend_config
from fxquant.qconfig.backend_config import BackendConfig
from fxquant.qconfig.qconfig import ENGINES, check_engine


def default_engine() -> str:
    """``x86`` where it exists, else the first engine of this build of torch.

    Raises:
        BackendError: this build of torch has no quantized engine.
    """
    for name in ("x86", "qnnpack", *ENGINES):
        if name in available_engines():
            return name
    raise BackendError("this build of torch has no quantized engine", remedy="use convert_to_reference_fx")


def select_backend(backend_config: Any, mapping_engine: str | None) -> NativeBackend:
    """The backend for ``prepare_fx``: what was asked for, else the mapping's engine, else torch's current one.

    Args:
        backend_config: None, an engine's name, a NativeBackend, or a BackendConfig, whose name counts when it is an
            engine's.
        mapping_engine: engine that ``get_default_qconfig_mapping`` was asked for, None for other mappings.

    Raises:
        ConfigError: something else.
    """
    if isinstance(backend_config, NativeBackend):
        return backend_config
    if isinstance(backend_config, str):
        return NativeBackend(default_engine() if backend_config == "auto" else check_engine(backend_config))
    if backend_config is not None:
        name = BackendConfig.of(backend_config).name
        if name in ENGINES:
            return NativeBackend(name)
    if mapping_engine is not None:
        return NativeBackend(mapping_engine)
    current = torch.backends.quantized.engine
    return NativeBackend(current if current in ENGINES else default_engine())


def read_limits(backend_config: Any) -> BackendLimits | None:
    """What a BackendConfig allows; None where ``backend_config`` only names an engine.

    Raises:
        ConfigError: an entry that cannot be honoured.
    """
    if backend_config is None or isinstance(backend_config, (str, NativeBackend)):
        return None
    return read_backend_config(backend_config)


def require_same_backend(plan: QuantPlan, backend_config: Any) -> None:
    """Raise when a conversion asks for another backend than the model was planned for.

    Raises:
        ConfigError: naming both.
    """
    if backend_config is None:
        return
    limits = read_limits(backend_config)
    asked = limits.title if limits is not None else f"engine {select_backend(backend_config, None).engine}"
    planned = (f"backend_config {plan.backend_config!r}", f"engine {plan.engine}")
    if asked not in planned:
        raise ConfigError(
            f"the model was prepared for {planned[plan.backend_config is None]}, and convert asks for {asked}",
            remedy="pass the same backend_config to prepare_fx: kernels decide about ranges and weights",
        )
