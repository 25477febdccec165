"""The digits demo: its data, its network and its training."""

from __future__ import annotations

import sys

import pytest
import torch

pytest.importorskip("sklearn")

from fxquant.demo.digits import (
    DigitsNet,
    accuracy,
    calibration_batches,
    digits_task,
    load_digits,
    train,
)
from fxquant.demo.extras import require
from fxquant.errors import FxquantError


def test_split_has_every_digit_and_the_documented_shapes() -> None:
    data = load_digits()
    assert data.train_images.shape == (1297, 1, 8, 8)
    assert data.test_images.shape == (500, 1, 8, 8)
    assert data.train_images.dtype == torch.float32
    assert (data.train_images.min().item(), data.train_images.max().item()) == (0.0, 1.0)
    assert data.train_labels.unique().tolist() == data.test_labels.unique().tolist() == list(range(10))


def test_no_test_image_is_in_the_training_data() -> None:
    data = load_digits()
    seen = {image.numpy().tobytes() for image in data.train_images}
    assert all(image.numpy().tobytes() not in seen for image in data.test_images)


def test_split_is_the_same_every_time() -> None:
    first = load_digits()
    load_digits.cache_clear()
    second = load_digits()
    assert torch.equal(first.train_images, second.train_images)
    assert torch.equal(first.test_labels, second.test_labels)


def test_calibration_batches_come_from_the_training_images() -> None:
    batches = calibration_batches(count=3, batch_size=16)
    assert [tuple(batch.shape) for batch in batches] == [(16, 1, 8, 8)] * 3
    assert torch.equal(torch.cat(batches), load_digits().train_images[:48])


@pytest.mark.parametrize("batch", [0, 1, 5])
def test_network_takes_any_batch_size(batch: int) -> None:
    assert DigitsNet(width=4).eval()(torch.zeros(batch, 1, 8, 8)).shape == (batch, 10)


def test_training_is_deterministic_and_leaves_the_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    first = train(epochs=1, seed=3).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(7)
    second = train(epochs=1, seed=3).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_training_works_where_gradients_are_off() -> None:
    with torch.inference_mode():
        model = train(epochs=1)
    assert not any(parameter.is_inference() for parameter in model.parameters())


def test_task_reaches_the_accuracy_floor_and_reports_progress() -> None:
    reports: list[tuple[int, int]] = []
    task = digits_task(progress=lambda done, total, what: reports.append((done, total)))
    assert not task.model.training
    assert reports[-1] == (8, 8)
    assert task.baseline[task.headline] >= 0.975
    assert task.evaluate(task.model) == task.baseline == {"accuracy": accuracy(task.model)}


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(FxquantError, match=r"scikit-learn[\s\S]*pip install 'fxquant\[demo\]'"):
        require("sklearn.datasets", "scikit-learn")
