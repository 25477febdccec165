"""What is loaded computes what was saved, and is explained in the same words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from random_graphs import RandomNet
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from user_models import Gated, Output, WithLeaf, WithOutput, image, seeded

import fxquant
from fxquant.ir.float_part import FloatPart


def _same(one: Any, other: Any) -> bool:
    pairs = zip(pytree.tree_leaves(one), pytree.tree_leaves(other), strict=True)
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


def _through(model: Any, folder: Path) -> Any:
    fxquant.save(model, folder / "model.fxq")
    return fxquant.load(folder / "model.fxq")


class Recurrent(nn.Module):
    """Two LSTM layers and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.head = nn.LSTM(8, 16, 2, bidirectional=True, batch_first=True), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> dict[str, Any]:
        """Map [N, T, 8] to a dictionary with [N, T, 4] float32 and a number."""
        found, _ = self.layers(x)
        return {"logits": self.head(found), "batch": x.shape[0]}


class Shared(nn.Module):
    """A convolution called twice, an embedding table that is the head's weight, a buffer that is a view of another."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        table = torch.randn(6, 3)
        self.register_buffer("table", table)
        self.register_buffer("row", table[2])

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, 3, H, W] to [N, 6, H, W] float32."""
        twice = self.conv(torch.relu(self.conv(x))) + self.row.reshape(3, 1, 1)
        return torch.nn.functional.linear(twice.movedim(1, -1), self.table).movedim(-1, 1)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 400), count=st.integers(1, 8))
def test_random_graphs(seed: int, count: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Quantized and reference models of random networks come back the same, graph, results and explanation."""
    net = RandomNet(seed, count)
    try:
        observed = fxquant.prepare_fx(net, fxquant.get_default_qconfig_mapping(), (net.example(),))
        observed(net.example())
    except Exception:  # what cannot be captured is for the tests of capture
        reject()
    if any(isinstance(part, FloatPart) for part in observed.modules()):  # its steps hold functions without names
        with pytest.raises(fxquant.FxquantError, match="could find by that name"):
            fxquant.save(observed, tmp_path_factory.mktemp("models") / "model.fxq")
        return
    for model in (fxquant.convert_fx(observed), fxquant.convert_to_reference_fx(observed)):
        loaded = _through(model, tmp_path_factory.mktemp("models"))
        assert _same(loaded(net.example()), model(net.example())), net.describe()
        assert loaded.code == model.code and type(loaded).__mro__[1] is type(model).__mro__[1]
        assert str(fxquant.explain(loaded)) == str(fxquant.explain(model))


@pytest.mark.parametrize("dynamic", [False, True])
def test_recurrent_models(dynamic: bool, tmp_path: Path) -> None:
    model, x = seeded(Recurrent), torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    data = {"example_inputs": (x,), "dynamic": True} if dynamic else {"calibration_data": [x]}
    quantized = fxquant.quantize(model, **data, progress=False)  # type: ignore[arg-type]
    assert _same(_through(quantized, tmp_path)(x), quantized(x))


def test_transformer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, activation="gelu")
    model, x = nn.TransformerEncoder(layer, 2).eval(), torch.randn(2, 7, 32)
    quantized = fxquant.quantize(model, [x], progress=False)
    assert _same(_through(quantized, tmp_path)(x), quantized(x))


def test_standalone_modules(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()), nn.Conv2d(4, 2, 1)).eval()
    custom = fxquant.PrepareCustomConfig().set_standalone_module_name("1", None, None, None, None)
    observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping(), (image(),), custom)
    observed(image())
    quantized = fxquant.convert_fx(observed)
    loaded = _through(quantized, tmp_path)
    assert _same(loaded(image()), quantized(image()))
    assert str(fxquant.explain(loaded)) == str(fxquant.explain(quantized))


@pytest.mark.parametrize("kind", [Gated, WithLeaf])
def test_parts_that_run_as_python(kind: type[nn.Module], tmp_path: Path) -> None:
    custom = fxquant.PrepareCustomConfig().set_non_traceable_module_names(["odd"] if kind is WithLeaf else [])
    observed = fxquant.prepare_fx(seeded(kind), fxquant.get_default_qconfig_mapping(), (image(),), custom)
    observed(image())
    quantized = fxquant.convert_fx(observed)
    loaded = _through(quantized, tmp_path)
    for x in (image(1), -image(1)):
        assert _same(loaded(x), quantized(x))


def test_outputs_of_the_users_class(tmp_path: Path) -> None:
    quantized = fxquant.quantize(seeded(WithOutput), [image()], progress=False)
    found, expected = _through(quantized, tmp_path)(image(1)), quantized(image(1))
    assert type(found) is type(expected) is Output
    assert torch.equal(found.features, expected.features) and found.scores is None


def test_memory_that_is_shared_stays_shared(tmp_path: Path) -> None:
    observed = fxquant.prepare_fx(seeded(Shared), fxquant.get_default_qconfig_mapping(), (image(),))
    observed(image())
    loaded = _through(observed, tmp_path)
    assert _same(loaded(image()), observed(image()))
    tables = [item for item in loaded.buffers() if item.shape in ((6, 3), (3,)) and item.dtype == torch.float32]
    assert {item.untyped_storage().data_ptr() for item in tables if item.numel() in (18, 3)}
    loaded.table[2] = 7.0
    assert loaded.row.tolist() == [7.0, 7.0, 7.0]


def test_parameters_stay_parameters(tmp_path: Path) -> None:
    observed = fxquant.prepare_fx(seeded(Shared), fxquant.get_default_qconfig_mapping(), (image(),))
    loaded = _through(observed, tmp_path)
    assert {name for name, _ in loaded.named_parameters()} == {name for name, _ in observed.named_parameters()}
    assert set(loaded.state_dict()) == set(observed.state_dict())


def test_a_loaded_observed_model_converts(tmp_path: Path) -> None:
    observed = fxquant.prepare_fx(seeded(Shared), fxquant.get_default_qconfig_mapping(), (image(),))
    observed(image())
    loaded = _through(observed, tmp_path)
    assert _same(fxquant.convert_fx(loaded)(image()), fxquant.convert_fx(observed)(image()))


def test_a_file_holds_integers(tmp_path: Path) -> None:
    """An int8 model's file is about a quarter of the float model's weights."""
    model = nn.Sequential(*(nn.Linear(256, 256) for _ in range(4))).eval()
    quantized = fxquant.quantize(model, [torch.randn(4, 256)], progress=False)
    fxquant.save(quantized, tmp_path / "model.fxq")
    weights = sum(item.numel() * 4 for item in model.parameters())
    assert (tmp_path / "model.fxq").stat().st_size < 0.32 * weights


def test_what_is_no_stage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(fxquant.FxquantError, match="save needs a model that fxquant made, got Linear"):
        fxquant.save(nn.Linear(2, 2), tmp_path / "model.fxq")  # type: ignore[arg-type]


def test_what_cannot_be_stored_is_named(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4)).eval()
    model.made_for = lambda: None  # type: ignore[assignment]
    custom = fxquant.PrepareCustomConfig().set_preserved_attributes(["made_for"])
    observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping(), (torch.randn(2, 4),), custom)
    with pytest.raises(fxquant.FxquantError, match=r"made_for.*lambda"):
        fxquant.save(observed, tmp_path / "model.fxq")
    assert not list(tmp_path.iterdir())
