"""Other spellings: sizes of new modules, formats, sets of the file, the environment, NumPy's numbers."""

from __future__ import annotations

import logging
import os
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from case import Case, rows
from other_effects import Layer
from torch import Tensor, nn

LOG = logging.getLogger(__name__)
SIZES: set[int] = set()
TABLE: dict[int, int] = {}


def tokens() -> tuple[Tensor]:
    """A batch of sequences."""
    return (torch.randn(2, 5, 6),)


class NormOfSize(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            return nn.LayerNorm(y.shape[1:])(y)  # finding: module-in-forward

    class after(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            return F.layer_norm(y, y.shape[1:])

    inputs = staticmethod(rows)
    outcome = "region"


class DroppedAttention(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            return F.scaled_dot_product_attention(y, y, y, dropout_p=0.1)  # finding: always-dropout

    inputs = staticmethod(tokens)
    applied = True
    same = False


class FormattedMean(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            LOG.debug(f"mean {y.mean():.4f}")  # finding: tensor-number
            return y

    inputs = staticmethod(rows)


class SizesInSet(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            SIZES.add(x.size(-1))  # finding: global-update
            return self.first(x)

    inputs = staticmethod(rows)
    outcome = "region"


class SizesInTable(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            TABLE[x.shape[0]] = 1  # finding: global-update
            return self.first(x)

    inputs = staticmethod(rows)
    outcome = "region"


class Environment(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            os.environ["FXQUANT_TEST_LAST"] = "1"  # finding: global-update
            return self.first(x)

    inputs = staticmethod(rows)


class NumpyNumber(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            return np.sqrt(2.0) * self.first(x)  # finding: tensor-numpy

    inputs = staticmethod(rows)


class StatisticsOfBatch(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(6))
            self.register_buffer("var", torch.ones(6))

        def forward(self, x: Tensor) -> Any:
            return F.batch_norm(self.first(x), self.mean, self.var, training=True)  # finding: buffer-update

    inputs = staticmethod(rows)


class KeptOnChild(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            self.first.seen = x  # finding: attribute-update
            return self.first(x)

    inputs = staticmethod(rows)
