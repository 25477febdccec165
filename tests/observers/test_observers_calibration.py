"""Every observer: gradient modes, bad data, copying, saving, moving; factories."""

from __future__ import annotations

import contextlib
import copy
import io
import math
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fxquant import observers
from fxquant.errors import CalibrationError
from fxquant.observers import (
    FixedQParamsObserver,
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    ObserverBase,
    ObserverFactory,
    PerChannelMinMaxObserver,
    RangeObserver,
    defaults,
)

KINDS: list[Callable[[], RangeObserver]] = [
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    PerChannelMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    HistogramObserver,
    HistogramObserver.with_args(bins=64, dtype=torch.int8, qscheme=torch.per_tensor_symmetric),
    HistogramObserver.with_args(horizon=8.0),
]
MODES: list[Callable[[], AbstractContextManager[Any]]] = [
    contextlib.nullcontext,
    torch.no_grad,
    torch.inference_mode,
]

every_observer = pytest.mark.parametrize("build", KINDS)


def data(count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(4, 6, generator=generator) * (i + 1) for i in range(count)]


def fed(build: Callable[[], RangeObserver]) -> RangeObserver:
    observer = build()
    for x in data():
        observer(x)
    return observer


def assert_same(first: ObserverBase, second: ObserverBase) -> None:
    assert first.state_dict().keys() == second.state_dict().keys()
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key
    for ours, theirs in zip(first.calculate_qparams(), second.calculate_qparams(), strict=True):
        assert torch.equal(ours, theirs)


@every_observer
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("built_inside", [False, True])
def test_gradient_modes_make_no_difference(
    build: Callable[[], RangeObserver], mode: Callable[[], AbstractContextManager[Any]], built_inside: bool
) -> None:
    observer = build()
    with mode():
        observer = copy.deepcopy(build()) if built_inside else observer
        for x in data():
            x = x.clone().requires_grad_(not torch.is_inference_mode_enabled())
            assert observer(x) is x
        qparams = observer.calculate_qparams()
    for tensor in (*(b for n, b in observer.named_buffers() if n != "eps"), *qparams):
        assert not tensor.is_inference() and not tensor.requires_grad
    observer(data()[0])  # and calibration can go on in another mode
    expected = fed(build)
    expected(data()[0])
    assert_same(observer, expected)


@every_observer
@pytest.mark.parametrize(("bad", "word"), [(math.nan, "NaN"), (math.inf, "infinity"), (-math.inf, "infinity")])
def test_values_that_are_not_finite_are_refused(build: Callable[[], RangeObserver], bad: float, word: str) -> None:
    observer = fed(build)
    x = data()[0].clone()
    x[1, 2] = bad
    with pytest.raises(CalibrationError, match=word):
        observer(x)
    assert_same(observer, fed(build))  # the bad batch left no trace


@every_observer
def test_no_data_is_an_error_and_empty_batches_are_no_data(build: Callable[[], RangeObserver]) -> None:
    observer = build()
    observer(torch.empty(0, 6))
    assert not observer.has_seen_data
    with pytest.raises(CalibrationError, match="seen no data"):
        observer.calculate_qparams()
    observer = fed(build)
    observer(torch.empty(4, 0))
    assert_same(observer, fed(build))
    observer.reset_min_max_vals()
    with pytest.raises(CalibrationError, match="seen no data"):
        observer.calculate_qparams()
    for x in data():
        observer(x)
    assert_same(observer, fed(build))


@every_observer
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_dtypes_are_observed_as_float32(build: Callable[[], RangeObserver], dtype: torch.dtype) -> None:
    observer, expected = build(), build()
    for x in data():
        assert observer(x.to(dtype)).dtype == dtype
        expected(x.to(dtype).to(torch.float32))
    assert observer.min_val.dtype == torch.float32
    assert_same(observer, expected)


@every_observer
def test_copies_pickles_and_state_dicts_round_trip(build: Callable[[], RangeObserver]) -> None:
    observer = fed(build)
    assert_same(copy.deepcopy(observer), observer)
    assert_same(pickle.loads(pickle.dumps(observer)), observer)
    file = io.BytesIO()
    torch.save(observer.state_dict(), file)
    file.seek(0)
    fresh = build()
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert_same(fresh, observer)
    fresh(data(5)[4])
    observer(data(5)[4])
    assert_same(fresh, observer)
    observer.load_state_dict(build().state_dict())
    assert not observer.has_seen_data


@every_observer
def test_state_dicts_load_inside_a_model_and_in_inference_mode(build: Callable[[], RangeObserver]) -> None:
    model = nn.Sequential(nn.Linear(6, 6), fed(build))
    with torch.inference_mode():
        fresh = nn.Sequential(nn.Linear(6, 6), copy.deepcopy(build()))
    fresh[0] = nn.Linear(6, 6)
    fresh.load_state_dict(model.state_dict())
    assert isinstance(fresh[1], ObserverBase) and isinstance(model[1], ObserverBase)
    assert_same(fresh[1], model[1])


@every_observer
def test_half_leaves_statistics_in_float32(build: Callable[[], RangeObserver]) -> None:
    assert_same(fed(build).half(), fed(build))
    assert fed(build).to(torch.bfloat16).min_val.dtype == torch.float32
    assert fed(build).to("meta").min_val.device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_observer
def test_observers_move_between_devices(build: Callable[[], RangeObserver]) -> None:
    observer = build().to("cuda")
    for x in data():
        observer(x.cuda())
    assert observer.min_val.device.type == "cuda" and observer.calculate_qparams()[0].device.type == "cuda"
    expected = fed(build)
    assert torch.equal(observer.cpu().min_val, expected.min_val)
    observer(data()[0].cuda())  # a tensor from another device than the buffers'
    assert observer.min_val.device.type == "cpu"


@every_observer
def test_state_of_torch_ao_loads(build: Callable[[], RangeObserver]) -> None:
    theirs = pytest.importorskip("torch.ao.quantization.observer")
    observer = build()
    bins = {"bins": observer.bins} if isinstance(observer, HistogramObserver) else {}
    original = getattr(theirs, type(observer).__name__)(**bins)
    for x in data():
        original(x)
    observer.load_state_dict(original.state_dict())
    assert torch.equal(observer.min_val, original.min_val) and observer.has_seen_data


def test_factories_build_copy_pickle_and_compare() -> None:
    factory = HistogramObserver.with_args(bins=32).with_args(quant_max=127)
    built = factory(reduce_range=False)
    assert isinstance(built, HistogramObserver) and (built.bins, built.quant_max) == (32, 127)
    assert factory() is not factory()
    assert repr(factory) == "HistogramObserver.with_args(bins=32, quant_max=127)"
    for copied in (copy.deepcopy(factory), pickle.loads(pickle.dumps(factory))):
        assert copied == factory and hash(copied) == hash(factory) and copied().bins == 32
    assert factory != factory.with_args(bins=33) and factory(bins=8).bins == 8
    scheme = MinMaxObserver.with_args(dtype=torch.int8, qscheme=torch.per_tensor_symmetric)
    assert pickle.loads(pickle.dumps(scheme))().qscheme == torch.per_tensor_symmetric


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in vars(defaults) if "_observer" in name])
def test_ready_made_observers_match_torch_ao(name: str) -> None:
    theirs = getattr(pytest.importorskip("torch.ao.quantization.observer"), name)()
    factory = getattr(defaults, name)
    assert getattr(observers, name) is factory
    assert isinstance(factory, ObserverFactory) or issubclass(factory, ObserverBase)
    ours = factory()
    plain = {"quint8": torch.uint8, "qint8": torch.int8, "quint4x2": torch.uint8}
    assert ours.dtype == plain.get(str(theirs.dtype).removeprefix("torch."), theirs.dtype)
    for attribute in ("qscheme", "quant_min", "quant_max"):
        if hasattr(theirs, attribute):
            assert getattr(ours, attribute) == getattr(theirs, attribute)
    assert type(ours).__name__ == type(theirs).__name__ and ours.is_dynamic == theirs.is_dynamic
    if isinstance(ours, RangeObserver):
        assert torch.equal(ours.eps, theirs.eps)
    if isinstance(ours, FixedQParamsObserver):
        assert torch.equal(ours.scale, theirs.scale) and int(ours.zero_point) == int(theirs.zero_point)
    assert repr(ours)
