"""torch's quantized engines: which exist, and packing for one without changing the user's setting."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fxquant.errors import BackendError

_lock = threading.Lock()


def available_engines() -> tuple[str, ...]:
    """Engines this build of torch has."""
    return tuple(torch.backends.quantized.supported_engines)


def has_avx512() -> bool:
    """Whether this CPU has AVX-512."""
    return bool(torch.cpu._is_avx512_supported())


def require_engine(name: str) -> None:
    """Raise unless ``name`` can run here.

    Raises:
        BackendError: this build of torch lacks it.
    """
    if name not in available_engines():
        raise BackendError(
            f"engine {name!r} is not in this build of torch",
            remedy=f"use one of {', '.join(available_engines())}, or convert_to_reference_fx",
        )


@contextmanager
def packing_for(engine: str) -> Iterator[None]:
    """Pack weights for ``engine``; the global setting is restored before the block ends."""
    with _lock:
        previous = torch.backends.quantized.engine
        torch.backends.quantized.engine = engine
        try:
            yield
        finally:
            torch.backends.quantized.engine = previous


def silence_creation_warning() -> None:
    """Use up torch's once-a-process warning about quantized tensors, so that users do not see it because of us."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.quantize_per_tensor(torch.zeros(1), 1.0, 0, torch.quint8)
