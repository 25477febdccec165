"""Taking a tensor apart: several outputs, each a part of the input."""

from __future__ import annotations

import torch

from fxquant.ops.shape import moves

_PARTS = "input, indices_or_sections"
_NAMES = {"sections": "indices_or_sections", "indices": "indices_or_sections"}

ROWS = (
    moves("chunk", "input, chunks, dim=0", {"chunks": 2, "dim": 1}, {"chunks": 3, "dim": -1},
          functions=(torch.unsafe_chunk,), methods=("unsafe_chunk",)),
    moves("split", "input, split_size_or_sections, dim=0", {"split_size_or_sections": 2, "dim": 1},
          {"split_size_or_sections": [1, 3], "dim": 1}, {"split_size_or_sections": 4, "dim": -1},
          functions=(torch.split_with_sizes, torch.unsafe_split, torch.unsafe_split_with_sizes),
          methods=("split_with_sizes", "unsafe_split", "unsafe_split_with_sizes"),
          renamed={"tensor": "input", "split_size": "split_size_or_sections", "split_sizes": "split_size_or_sections"}),
    moves("tensor_split", f"{_PARTS}, dim=0", {"indices_or_sections": 3, "dim": 1},
          {"indices_or_sections": (1, 4), "dim": 2}, renamed=_NAMES),
    moves("hsplit", _PARTS, {"indices_or_sections": 2}, {"indices_or_sections": [1, 2]}, renamed=_NAMES),
    moves("vsplit", _PARTS, {"indices_or_sections": 2}, shapes=((4, 3, 6),), renamed=_NAMES),
    moves("dsplit", _PARTS, {"indices_or_sections": 2}, renamed=_NAMES),
    moves("unbind", "input, dim=0", {"dim": 1}, {"dim": -1}),
)  # fmt: skip
