"""Histogram observers asked together answer what each answers alone."""

from __future__ import annotations

import torch

from fxquant.observers import HistogramObserver
from fxquant.observers.histogram import histogram_qparams

FACTORIES = (
    HistogramObserver.with_args(),
    HistogramObserver.with_args(bins=64),
    HistogramObserver.with_args(quant_min=0, quant_max=127),
    HistogramObserver.with_args(dtype=torch.int8, qscheme=torch.per_tensor_symmetric),
    HistogramObserver.with_args(eps=0.25),
)


def test_asked_together_they_answer_as_they_do_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    observers = []
    for index in range(40):
        observer = FACTORIES[index % len(FACTORIES)]()
        for _ in range(2):
            data = torch.randn(50, generator=generator) * (1 + index)
            observer(data.relu() if index % 3 == 0 else data)
        observers.append(observer)
    for observer, (scale, zero_point) in zip(observers, histogram_qparams(observers), strict=True):
        alone = observer.calculate_qparams()
        assert torch.equal(scale, alone[0]) and torch.equal(zero_point, alone[1])
        assert scale.shape == zero_point.shape == (1,)
        assert (scale.dtype, zero_point.dtype) == (torch.float32, torch.int64)
    assert histogram_qparams([]) == []
