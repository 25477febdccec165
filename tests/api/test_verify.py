"""A conversion that checks itself: kernels that leave the reference are replaced, and ``explain`` says so."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant.backends.native.kernels.base import from_integers, integers_of
from fxquant.backends.native.kernels.elementwise import Binary
from fxquant.backends.native.kernels.transposed import ConvTranspose
from fxquant.backends.native.kernels.weighted import Conv
from fxquant.errors import ConvertError
from fxquant.inspect.agreement import check_agreement
from fxquant.ir.stages import ObservedModel, QuantizedModel
from fxquant.qconfig import PrepareCustomConfig

SUPPORTED = torch.backends.quantized.supported_engines
pytestmark = pytest.mark.skipif("x86" not in SUPPORTED, reason="names engines of x86 CPUs")
MAPPING = fxquant.get_default_qconfig_mapping("x86")


class _Residual(nn.Module):
    """A convolution, a transposed one and an addition."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.up = nn.Conv2d(4, 4, 3, padding=1), nn.ConvTranspose2d(4, 4, 3, padding=1)
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        z: Tensor = self.last(self.up(y) + y)
        return z


X = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(0))


def _observed(model: nn.Module | None = None) -> ObservedModel:
    observed = fxquant.prepare_fx((model or _Residual()).eval(), MAPPING, (X,))
    observed(X)
    return observed


def _reasons(model: Any) -> dict[str, str]:
    return {row.node: row.reason for row in fxquant.explain(model).rows}


def _plant(monkeypatch: pytest.MonkeyPatch, kind: type[Any], engine: str = "", off: int = 12) -> None:
    """Make a kernel class add ``off`` quanta, where it is packed for ``engine``."""
    right = kind.forward

    def wrong(self: Any, *args: Any) -> Tensor:
        y: Tensor = right(self, *args)
        if engine not in ("", getattr(self, "engine", "")):
            return y
        integers = (integers_of(y).int() + off).clamp(0, 255).to(torch.uint8)
        return from_integers(integers, y.q_scale(), y.q_zero_point())

    monkeypatch.setattr(kind, "forward", wrong)


def _assert_right(quantized: QuantizedModel, model: nn.Module) -> None:
    with torch.no_grad():
        expected = model.eval()(X)
        step = float((expected.max() - expected.min()) / 255)
        assert float((quantized(X) - expected).abs().max()) < 8 * step


def test_a_wrong_kernel_is_replaced_by_another_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights are quantized again for the limits of the engine that takes over."""
    model = _Residual()
    _plant(monkeypatch, Conv, "onednn")
    quantized = fxquant.quantize(model.eval(), [X], progress=False)
    for name in ("first", "last"):
        kernel = quantized.plan.unit_of(name).kernel
        assert kernel is not None and (kernel.engine, kernel.weight_limit) == ("fbgemm", "taps_then_channels")
        assert (
            "onednn's quantized.conv2d left the reference by 12 quanta on the example; runs on fbgemm's"
            in (_reasons(quantized)[name])
        )
    _assert_right(quantized, model)


def test_a_kernel_wrong_on_every_engine_computes_in_float(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a step: stored as integers for those that read it so."""
    model = _Residual()
    _plant(monkeypatch, Conv)
    quantized = fxquant.quantize(model.eval(), [X], progress=False)
    rows = {row.node: row for row in fxquant.explain(quantized).rows}
    assert (rows["first"].outcome, rows["last"].outcome) == ("float", "float")  # one reads floats, one returns them
    assert (rows["up"].outcome, rows["add"].outcome) == ("int8", "int8")
    for engine in ("onednn", "fbgemm", "qnnpack"):
        assert f"{engine}'s quantized.conv2d left the reference" in rows["first"].reason
    assert rows["first"].reason.endswith("computed in float")
    _assert_right(quantized, model)


def test_operators_without_weights_are_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """An addition has one kernel, so it becomes a float step between its integer neighbours."""
    model = _Residual()
    _plant(monkeypatch, Binary, off=-5)
    quantized = fxquant.quantize(model.eval(), [X], progress=False)
    row = next(row for row in fxquant.explain(quantized).rows if row.node == "add")
    assert row.outcome == "step"
    assert row.reason == ("quantized.add left the reference by 5 quanta on the example; computed in float, stored int8")
    _assert_right(quantized, model)


def test_a_kernel_that_raises_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message of the error is in the reason."""
    right = Conv.forward

    def failing(self: Conv, x: Tensor) -> Tensor:
        if self.engine == "onednn":
            raise RuntimeError("could not create a primitive")
        return right(self, x)

    monkeypatch.setattr(Conv, "forward", failing)
    quantized = fxquant.quantize(_Residual().eval(), [X], progress=False)
    assert "failed on the example (RuntimeError: could not create a primitive)" in _reasons(quantized)["first"]


def test_a_suspected_kernel_is_probed_without_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    """At freeze, so that the reference has the weights of the kernel that takes over."""
    observed = _observed()
    _plant(monkeypatch, ConvTranspose)
    reference, quantized = fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed)
    for model in (reference, quantized):
        reason = _reasons(model)["up"]
        assert "left the reference by 12 quanta on random data; runs on onednn's quantized.conv2d" in reason
    assert reference.plan == quantized.plan
    assert reference.get_buffer("int8.up.weight_scale").shape == (4,)  # was one scale for the planned kernel
    assert not check_agreement(reference, quantized, X).violations
    assert observed.plan.unit_of("up").kernel != reference.plan.unit_of("up").kernel


def test_a_wrong_kernel_in_a_standalone_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """The unit is planned again in the module's own plan."""
    custom = PrepareCustomConfig().set_standalone_module_name("1", None, (X,), None, None)
    model = nn.Sequential(nn.Identity(), _Residual()).eval()
    observed = fxquant.prepare_fx(model, MAPPING, (X,), custom)
    observed(X)
    _plant(monkeypatch, Conv, "onednn")
    quantized = fxquant.convert_fx(observed, verify=True)
    assert "runs on fbgemm's" in _reasons(quantized)["1.first"]
    _assert_right(quantized, model)


def test_verified_conversions_say_so() -> None:
    """How many values were compared, and how far the result is from float."""
    observed = _observed()
    assert not any("verified" in note for note in fxquant.explain(fxquant.convert_fx(observed)).notes)
    notes = fxquant.explain(fxquant.convert_fx(observed, verify=True)).notes
    note = next(note for note in notes if note.startswith("verified on the example inputs"))
    assert "5 int8 values within a quantum" in note and "dB from float" in note


def test_example_inputs_are_kept_but_not_in_files() -> None:
    """Copies keep them; a loaded model says that it needs them, and probes all the same."""
    observed = _observed()
    assert observed.example_inputs is not None
    assert observed.example_inputs[0][0] is X and copy.deepcopy(observed).example_inputs[0][0] is X  # type: ignore[attr-defined]
    file = io.BytesIO()
    torch.save(observed, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert loaded.example_inputs is None
    fxquant.convert_fx(loaded)
    with pytest.raises(ConvertError, match="needs the example inputs"):
        fxquant.convert_fx(loaded, verify=True)
    loaded.example_inputs = ((X,), {})
    assert any("verified" in note for note in fxquant.explain(fxquant.convert_fx(loaded, verify=True)).notes)


def test_verifying_changes_nothing() -> None:
    """The observed model gives the same conversion afterwards."""
    observed = _observed()
    before = {key: value.clone() for key, value in observed.state_dict().items()}
    first = fxquant.convert_fx(observed)
    verified = fxquant.convert_fx(observed, verify=True)
    assert all(torch.equal(value, before[key]) for key, value in observed.state_dict().items())
    with torch.no_grad():
        assert torch.equal(first(X), verified(X))
