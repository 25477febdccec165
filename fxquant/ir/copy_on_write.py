"""Tensors that have their memory in common until something writes into one of them, which torch copies then.

Kernels only read what they are given to read, and leave such tensors as they are. Asking a tensor for its memory, as
NumPy does, counts as writing. Source: c10/core/impl/COW.h of torch 2.13.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_C: Any = torch._C


def copied_on_write(tensor: Tensor) -> Tensor:
    """A tensor with the values of another one, in the same memory until one of them is written into."""
    return torch._lazy_clone(tensor)


is_copied_on_write: Callable[[Tensor], bool] = _C._is_cow_tensor
"""Whether a tensor has its memory in common with others, or had, and was not written into since."""

address_of: Callable[[Tensor], int] = _C._data_address
"""Where the memory begins that a tensor lies in; to ask for that memory itself counts as writing into it."""
