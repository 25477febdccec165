"""Observers that measure no range, factories with callable arguments, and the statistics of a whole model."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant.errors import CalibrationError
from fxquant.observers import (
    MinMaxObserver,
    NoopObserver,
    ObserverBase,
    RecordingObserver,
    ReuseInputObserver,
    get_observer_state_dict,
    load_observer_state_dict,
)


@pytest.mark.parametrize("build", [RecordingObserver, NoopObserver, ReuseInputObserver])
def test_passive_observers_return_their_input_and_have_no_scale(build: type[ObserverBase]) -> None:
    observer = build()
    x = torch.tensor([1.0, float("nan")])
    assert observer(x) is x and not observer.is_dynamic and repr(observer)
    with pytest.raises(CalibrationError, match=rf"{build.__name__}(.|\n)*remedy"):
        observer.calculate_qparams()
    assert not observer.state_dict()
    assert type(pickle.loads(pickle.dumps(observer))) is build


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["RecordingObserver", "NoopObserver", "ReuseInputObserver"])
def test_dtypes_are_those_of_torch_ao(name: str) -> None:
    theirs = getattr(pytest.importorskip("torch.ao.quantization.observer"), name)()
    plain = {"torch.quint8": torch.uint8}.get(str(theirs.dtype), theirs.dtype)
    assert getattr(fxquant.observers, name)().dtype == plain


def test_recording_keeps_copies_in_order() -> None:
    observer = RecordingObserver(dtype=torch.int8)
    first, second = torch.ones(2, requires_grad=True), torch.zeros(3, dtype=torch.float64)
    with torch.inference_mode():
        observer(first * 1)
    observer(second)
    second.add_(5)
    kept = observer.get_tensor_value()
    assert [value.tolist() for value in kept] == [[1.0, 1.0], [0.0, 0.0, 0.0]]
    assert not kept[0].requires_grad and not kept[0].is_inference() and kept[1].dtype == torch.float64
    assert "2 tensors" in repr(observer) and len(copy.deepcopy(observer).tensor_val) == 2


def test_noop_carries_what_it_is_told() -> None:
    observer = NoopObserver(dtype=torch.bfloat16, custom_op_name="mine")
    assert (observer.dtype, observer.custom_op) == (torch.bfloat16, "mine")


def test_callable_arguments_are_computed_for_each_observer() -> None:
    counter = iter(range(20, 100))
    factory = MinMaxObserver.with_callable_args(quant_max=lambda: next(counter)).with_args(quant_min=0)
    assert [factory().quant_max, factory().quant_max, factory(quant_max=9).quant_max] == [20, 21, 9]
    assert factory.with_args(quant_max=7)().quant_max == 7 and next(counter) == 22
    assert "with_args(quant_min=0).with_callable_args(quant_max=" in repr(factory)
    assert copy.copy(factory) == factory != MinMaxObserver.with_args(quant_min=0)
    assert hash(copy.copy(factory)) == hash(factory)


class Net(nn.Module):
    """Two layers of weights and an addition."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().mean((2, 3)) + 1)


X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def _prepared(net: nn.Module, qconfig: Any = None) -> Any:
    qconfig = fxquant.get_default_qconfig() if qconfig is None else qconfig
    return fxquant.prepare_fx(net, fxquant.QConfigMapping().set_global(qconfig), (X,))


def test_statistics_of_a_model_are_saved_and_loaded() -> None:
    net = Net().eval()
    calibrated, fresh = _prepared(net), _prepared(net)
    calibrated(X)
    saved = get_observer_state_dict(calibrated)
    assert saved and not set(saved) & set(net.state_dict()) and set(saved) < set(calibrated.state_dict())
    load_observer_state_dict(fresh, pickle.loads(pickle.dumps(saved)))
    first, second = fxquant.convert_fx(calibrated), fxquant.convert_fx(fresh)
    assert torch.equal(first(X), second(X))


def test_statistics_of_another_model_are_refused() -> None:
    net = Net().eval()
    saved = get_observer_state_dict(_prepared(net))
    missing = dict(saved)
    gone, _ = missing.popitem()
    for given, word in ((missing, f"missing: {gone}"), ({**saved, "other": torch.ones(1)}, "unexpected: other")):
        observed = _prepared(net)
        with pytest.raises(CalibrationError, match=word.replace(".", r"\.")):
            load_observer_state_dict(observed, given)


def test_an_observer_alone_has_statistics() -> None:
    observer = MinMaxObserver()
    observer(torch.arange(3.0))
    other = MinMaxObserver()
    load_observer_state_dict(other, get_observer_state_dict(observer))
    assert float(other.max_val) == 2.0


def test_debugging_keeps_activations_and_refuses_to_convert() -> None:
    observed = _prepared(Net().eval(), fxquant.default_debug_qconfig)
    observed(X)
    kept = [m for m in observed.modules() if isinstance(m, RecordingObserver)]
    assert kept and all(len(recording.tensor_val) == 1 for recording in kept)
    with pytest.raises(CalibrationError, match=r"RecordingObserver(.|\n)*get_tensor_value"):
        fxquant.convert_fx(observed)
