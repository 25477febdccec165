"""What a model in quantization-aware training calls where a range is shared by several values."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from fxquant.errors import CalibrationError
from fxquant.numerics import choose_qparams
from fxquant.observers.base import SYMMETRIC_SCHEMES
from fxquant.observers.fake_quantize import FakeQuantize
from fxquant.observers.switches import is_on


class AttachedFakeQuantize(nn.Module):
    """One range: rounds every value that has it, and learns it from those that bring new numbers.

    Averages are kept for each of those values, and the range covers them all: one average over the parts of a
    concatenation would fit none of them.

    Args:
        fake: the fake-quantize module of the range.
        quant_min, quant_max: smallest and largest integer that kernels store, which may be more than ``fake``'s.
        places: names of the values that bring new numbers.

    Attributes:
        observer: ``fake``, for the first place. others: copies of it for the other places, where it keeps averages.
        batches: number of batches seen, by place.
    """

    def __init__(self, fake: FakeQuantize, quant_min: int, quant_max: int, places: tuple[str, ...]) -> None:
        super().__init__()
        self.observer = fake
        averages = hasattr(fake.activation_post_process, "averaging_constant") and fake.follows
        self.others = nn.ModuleList([copy.deepcopy(fake) for _ in places[1:]] if averages else [])
        self.quant_min, self.quant_max, self.places = quant_min, quant_max, places
        self.batches: dict[str, int] = {}

    @property
    def has_seen_data(self) -> bool:
        """Whether there is a range to round to."""
        return self.observer.has_seen_data

    def forward(self, x: Tensor, node: str, module_path: str = "", source: str = "") -> Tensor:
        """Round ``x`` (any shape, floating) to the range, which moves first when ``node`` is one of the places.

        Raises:
            CalibrationError: ``x`` holds NaN or infinity; names the node and the batch, counted from 0.
        """
        fake = self.observer
        if node in self.places and fake.observes() and x.numel():
            try:
                self._observe(x, node)
            except CalibrationError as error:
                raise CalibrationError(
                    f"{error.message}, at node {node!r} in batch {self.batches.get(node, 0)}",
                    op=node,
                    module_path=module_path,
                    source=source,
                    remedy="look for a learning rate that is too high, and for such values in the data",
                ) from None
            self.batches[node] = self.batches.get(node, 0) + 1
        if not is_on(fake, "fake_quant_enabled") or not fake.has_seen_data:
            return x
        return fake.rounded(x, self.quant_min, self.quant_max)

    def _observe(self, x: Tensor, node: str) -> None:
        fake = self.observer
        number = self.places.index(node) if self.others else 0
        own: FakeQuantize = fake if number == 0 else self.others[number - 1]  # type: ignore[assignment]
        own.observe(x)
        if self.others:
            fake.take(*self._union())
        fake.scale_empty_range()

    def _union(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point of a range that covers the averages of all places seen so far."""
        found = [made.activation_post_process for made in (self.observer, *self.others)]
        seen = [observer for observer in found if torch.isfinite(observer.min_val).all()]
        low = torch.stack([observer.min_val for observer in seen]).amin(0)
        high = torch.stack([observer.max_val for observer in seen]).amax(0)
        fake = self.observer
        symmetric = fake.qscheme in SYMMETRIC_SCHEMES
        return choose_qparams(
            low.reshape(1), high.reshape(1), fake.quant_min, fake.quant_max, symmetric=symmetric, eps=fake.eps
        )

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """``(scale float32 [1], zero_point [1])`` that values are rounded with."""
        return self.observer.calculate_qparams()

    def start_at(self, scale: Tensor, zero_point: Tensor) -> None:
        """Begin with a range, of scale float32 [] and zero point int64 []."""
        for fake in (self.observer, *self.others):
            fake.start_at(scale, zero_point)
