"""What each observer records, and the answers torch.ao gives to the same data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fxquant.errors import CalibrationError, ConfigError
from fxquant.numerics import fake_quantize
from fxquant.observers import (
    FixedQParamsObserver,
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    PerChannelMinMaxObserver,
    PlaceholderObserver,
    RangeObserver,
)

QUINT8 = getattr(torch, "quint8", torch.uint8)
QINT8 = getattr(torch, "qint8", torch.int8)


def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, 4, 5, generator=generator) * (i + 1) + i for i in range(4)]


def per_tensor(**keywords: Any) -> list[tuple[str, dict[str, Any]]]:
    return [
        ("MinMaxObserver", keywords),
        ("MovingAverageMinMaxObserver", keywords),
        ("MovingAverageMinMaxObserver", {"averaging_constant": 0.3, **keywords}),
    ]


def per_channel(**keywords: Any) -> list[tuple[str, dict[str, Any]]]:
    return [
        ("PerChannelMinMaxObserver", keywords),
        ("PerChannelMinMaxObserver", {"ch_axis": 1, **keywords}),
        ("MovingAveragePerChannelMinMaxObserver", {"ch_axis": -1, **keywords}),
    ]


PARITY = [
    *per_tensor(),
    *per_tensor(dtype=QINT8, qscheme=torch.per_tensor_symmetric),
    *per_tensor(dtype=QUINT8, qscheme=torch.per_tensor_symmetric),
    *per_tensor(reduce_range=True),
    *per_tensor(dtype=QINT8, reduce_range=True),
    *per_tensor(quant_min=0, quant_max=127),
    *per_tensor(dtype=torch.int8, quant_min=-127, quant_max=127, eps=2**-12),
    *per_tensor(dtype=QINT8, quant_min=-128, quant_max=127, reduce_range=True),
    *per_channel(),
    *per_channel(dtype=QINT8, qscheme=torch.per_channel_symmetric),
    *per_channel(qscheme=torch.per_channel_affine_float_qparams),
]
OURS: dict[str, type[RangeObserver]] = {
    kind.__name__: kind
    for kind in (
        MinMaxObserver,
        MovingAverageMinMaxObserver,
        PerChannelMinMaxObserver,
        MovingAveragePerChannelMinMaxObserver,
    )
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "keywords"), PARITY)
def test_same_as_torch_ao(name: str, keywords: dict[str, Any]) -> None:
    theirs = getattr(pytest.importorskip("torch.ao.quantization.observer"), name)(**keywords)
    ours = OURS[name](**keywords)
    for batch in batches():
        theirs(batch)
        assert ours(batch) is batch
    assert torch.equal(ours.min_val, theirs.min_val) and torch.equal(ours.max_val, theirs.max_val)
    assert (ours.quant_min, ours.quant_max) == (theirs.quant_min, theirs.quant_max)
    (scale, zero_point), (their_scale, their_zero_point) = (
        ours.calculate_qparams(),
        theirs.calculate_qparams(),
    )
    assert torch.equal(scale, their_scale)
    assert torch.equal(zero_point, their_zero_point.to(zero_point.dtype))
    assert ours.state_dict().keys() == theirs.state_dict().keys()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["normal", "relu", "heavy", "outlier"])
def test_histogram_is_no_worse_than_torch_ao(name: str) -> None:
    theirs = pytest.importorskip("torch.ao.quantization.observer").HistogramObserver()
    ours = HistogramObserver()
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(1))
    x = {"normal": x, "relu": x.relu(), "heavy": x**3, "outlier": torch.cat((x, torch.tensor([60.0])))}[name]
    for chunk in x.chunk(4):
        ours(chunk)
        theirs(chunk)
    assert ours.state_dict().keys() == theirs.state_dict().keys()

    def error(scale: Tensor, zero_point: Tensor) -> float:
        return float((fake_quantize(x, scale, zero_point, 0, 255, torch.uint8) - x).double().square().mean())

    assert error(*ours.calculate_qparams()) <= 1.01 * error(*theirs.calculate_qparams())


@pytest.mark.parametrize("scheme", [torch.per_tensor_affine, torch.per_tensor_symmetric])
def test_histogram_range_follows_its_own_number_of_levels(scheme: torch.qscheme) -> None:
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(1))
    widths = []
    for quant_max in (255, 15):
        observer = HistogramObserver(qscheme=scheme, quant_min=0, quant_max=quant_max)
        observer(x)
        scale, zero_point = observer.calculate_qparams()
        assert scale.shape == zero_point.shape == (1,)
        widths.append(float(scale) * quant_max)
    assert widths[1] < 0.85 * widths[0] < 0.85 * 2 * float(x.abs().max())


def test_min_max_keeps_the_extremes_and_moving_average_averages() -> None:
    minmax, average = MinMaxObserver(), MovingAverageMinMaxObserver(averaging_constant=0.25)
    for low, high in ((-1.0, 2.0), (-5.0, 1.0)):
        x = torch.tensor([low, high])
        minmax(x)
        average(x)
    assert (float(minmax.min_val), float(minmax.max_val)) == (-5.0, 2.0)
    assert (float(average.min_val), float(average.max_val)) == (-2.0, 1.75)


def test_per_channel_handles_vectors_and_refuses_what_does_not_fit() -> None:
    observer = PerChannelMinMaxObserver()
    observer(torch.tensor([1.0, -2.0, 3.0]))
    assert observer.min_val.tolist() == [1.0, -2.0, 3.0]
    with pytest.raises(CalibrationError, match="4 channels"):
        observer(torch.ones(4, 2))
    with pytest.raises(CalibrationError, match="no channel axis 1"):
        PerChannelMinMaxObserver(ch_axis=1)(torch.ones(4))


def test_fixed_parameters_do_not_change() -> None:
    observer = FixedQParamsObserver(scale=1 / 256, zero_point=0, dtype=QUINT8)
    x = torch.full((2,), 100.0)
    assert observer(x) is x
    scale, zero_point = observer.calculate_qparams()
    assert scale.tolist() == [1 / 256] and zero_point.tolist() == [0] and zero_point.dtype == torch.int64
    assert (observer.dtype, observer.quant_min, observer.quant_max) == (torch.uint8, 0, 255)


def test_placeholder_records_nothing() -> None:
    observer = PlaceholderObserver(dtype=torch.float16)
    x = torch.tensor([float("nan")])
    assert observer(x) is x and observer.dtype == torch.float16 and not observer.is_dynamic
    with pytest.raises(CalibrationError, match="records nothing"):
        observer.calculate_qparams()
    assert PlaceholderObserver(dtype=QUINT8, compute_dtype=QUINT8).is_dynamic


def test_quantized_dtypes_become_plain_ones() -> None:
    assert MinMaxObserver(dtype=QUINT8).dtype == torch.uint8
    assert MinMaxObserver(dtype=QINT8).dtype == torch.int8
    four_bits = PerChannelMinMaxObserver(dtype=getattr(torch, "quint4x2", torch.uint8), quant_max=15)
    assert (four_bits.dtype, four_bits.quant_min, four_bits.quant_max) == (torch.uint8, 0, 15)


REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: MinMaxObserver(qscheme=torch.per_channel_affine), "per_channel_affine"),
    (lambda: PerChannelMinMaxObserver(qscheme=torch.per_tensor_affine), "per_tensor_affine"),
    (lambda: MinMaxObserver(dtype=torch.int8, quant_min=0, quant_max=255), "0..255"),
    (lambda: MinMaxObserver(quant_min=5, quant_max=255), "5..255"),
    (lambda: MinMaxObserver(quant_min=0, quant_max=0), "0..0"),
    (lambda: MinMaxObserver(dtype=torch.float16), "float16"),
    (lambda: MinMaxObserver(dtype=torch.complex64), "complex64"),
    (lambda: MinMaxObserver(reduce_range=True, qscheme=torch.per_tensor_symmetric), "symmetric"),
    (lambda: HistogramObserver(is_dynamic=True), "HistogramObserver"),
    (lambda: PerChannelMinMaxObserver(is_dynamic=True), "PerChannelMinMaxObserver"),
    (lambda: MovingAverageMinMaxObserver(is_dynamic=True), "averaging_constant is 0.01"),
    (lambda: MovingAverageMinMaxObserver(averaging_constant=2.0), "averaging_constant is 2.0"),
    (lambda: HistogramObserver(bins=0), "0 bins"),
    (lambda: FixedQParamsObserver(scale=0.0, zero_point=0), "scale 0.0"),
    (lambda: FixedQParamsObserver(scale=1.0, zero_point=300), "zero point 300"),
    (lambda: FixedQParamsObserver(scale=1.0, zero_point=0, is_dynamic=True), "dynamic"),
]


@pytest.mark.parametrize(("build", "message"), REFUSED)
def test_impossible_arguments_are_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()
