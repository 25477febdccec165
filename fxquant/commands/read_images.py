"""Batches from folders of images."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from fxquant.errors import FxquantError

_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
# Pillow's names of pixels, by the number of channels.
_MODES = {1: "L", 3: "RGB"}
# 16 bits as 8: 65535 / 257 = 255. Pillow itself would clip them.
_DEEP_STEP = 257
# The share of the shorter side that the crop in the middle takes, as ImageNet's models are judged.
# Source: torchvision's presets resize to 256 and crop 224.
_CROP = 224 / 256


def read_images(folder: Path, arguments: argparse.Namespace) -> list[Tensor]:
    """[N, C, size, size] float32 batches: the shorter side scaled, the middle cropped, colours normalized.

    Args:
        folder: its images, and those of the folders in it, in alphabetic order.
        arguments: ``batch_size``, ``batches``, ``image_size``, ``mean`` and ``std``, which have a number for each of
            the C channels, 3 or 1; ``input`` says how large images are where ``image_size`` does not.

    Raises:
        FxquantError: there are no images, one of them cannot be read, or how to read them is not clear.
    """
    found = (item for item in folder.rglob("*") if item.suffix.lower() in _ENDINGS and item.is_file())
    files = sorted(item for item in found if not item.name.startswith("."))
    if not files:
        raise FxquantError(f"{folder} holds no images", remedy=f"files that end in {', '.join(_ENDINGS)}")
    size, channels = arguments.image_size or _size_of_input(arguments), len(arguments.mean)
    if channels != len(arguments.std) or channels not in _MODES:
        raise FxquantError(
            f"--mean has {channels} numbers and --std {len(arguments.std)}",
            remedy="give three of each for coloured images, or one of each for grey ones",
        )
    if not all(arguments.std):
        raise FxquantError("--std is 0, by which nothing can be divided", remedy="give numbers above 0")
    wanted = files if arguments.batches is None else files[: arguments.batches * arguments.batch_size]
    pixels = torch.stack([_cropped(item, _MODES[channels], size) for item in wanted])
    mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in (arguments.mean, arguments.std))
    return list(torch.split((pixels - mean) / std, arguments.batch_size))


def _size_of_input(arguments: argparse.Namespace) -> int:
    shapes = getattr(arguments, "input", None) or ()
    last = shapes[0].partition(":")[0].split(",")[-1] if shapes else ""
    if not last.isdecimal():
        raise FxquantError("the size of images is not known", remedy="add --image-size 224, or --input 1,3,224,224")
    return int(last)


def _cropped(path: Path, mode: str, size: int) -> Tensor:
    """[C, size, size] float32, 0..1."""
    try:
        pillow = importlib.import_module("PIL.Image")
    except ImportError:
        raise FxquantError("reading images needs Pillow", remedy="pip install pillow, or give a .npy file") from None
    try:
        with pillow.open(path) as opened:
            image = _with_bytes(opened, pillow).convert(mode)
    except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
        raise FxquantError(
            f"{path} cannot be read: {error}", remedy="remove the file, or write the image again"
        ) from error
    scale = size / _CROP / min(image.size)
    width, height = (max(size, round(scale * side)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    cropped = image.resize((width, height), resample=pillow.BILINEAR).crop((left, top, left + size, top + size))
    pixels = torch.from_numpy(numpy.array(cropped)).reshape(size, size, -1)
    return pixels.permute(2, 0, 1).to(torch.float32) / 255


def _with_bytes(image: Any, pillow: Any) -> Any:
    """The image with 8 bits a channel.

    Raises:
        ValueError: its pixels are floats, whose range is not known.
    """
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers")
    if not image.mode.startswith("I"):
        return image
    deep = numpy.asarray(image).astype(numpy.int64)
    return pillow.fromarray((deep.clip(0, 65535) // _DEEP_STEP).astype(numpy.uint8))
