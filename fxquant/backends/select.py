"""Which backend a name means, and which one suits this machine."""

from __future__ import annotations

from typing import Any

import torch

from fxquant.backends.native.backend import NativeBackend
from fxquant.backends.native.engine import available_engines
from fxquant.errors import BackendError, NotYetError
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
        backend_config: None, an engine's name, or a NativeBackend.
        mapping_engine: engine that ``get_default_qconfig_mapping`` was asked for, None for other mappings.

    Raises:
        NotYetError: a BackendConfig object.
    """
    if isinstance(backend_config, NativeBackend):
        return backend_config
    if isinstance(backend_config, str):
        return NativeBackend(default_engine() if backend_config == "auto" else check_engine(backend_config))
    if backend_config is not None:
        raise NotYetError(
            f"backend_config of type {type(backend_config).__name__} is not implemented yet",
            remedy=f"pass one of {', '.join(ENGINES)}, or None",
        )
    if mapping_engine is not None:
        return NativeBackend(mapping_engine)
    current = torch.backends.quantized.engine
    return NativeBackend(current if current in ENGINES else default_engine())
