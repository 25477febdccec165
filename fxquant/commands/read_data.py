"""Batches from folders of images and from array files."""

from __future__ import annotations

import argparse
import importlib
import pickle
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from fxquant.errors import FxquantError

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
# The share of the shorter side that the crop in the middle takes, as ImageNet's models are judged.
# Source: torchvision's presets resize to 256 and crop 224.
_CROP = 224 / 256


def read_data(path: Path, arguments: argparse.Namespace) -> list[Any]:
    """Batches from a path.

    Args:
        path: a folder of images; a ``.npy`` file with an array [N, ...]; a ``.pt`` file with a tensor [N, ...] or a
            list of batches.
        arguments: ``batch_size``, ``image_size``, ``mean`` and ``std``; ``input`` says how large images are.

    Raises:
        FxquantError: it is something else, or cannot be read.
    """
    if path.is_dir():
        return _images(path, arguments)
    if not path.is_file():
        raise FxquantError(f"there is no {path}", remedy="name a folder of images, a .npy or .pt file, or a function")
    try:
        found = _arrays(path)
    except (ValueError, OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        detail = str(error).split("\n")[0]
        raise FxquantError(f"{path} cannot be read: {detail}", remedy="use numpy.save or torch.save") from error
    if isinstance(found, Tensor):
        if not found.dim():
            raise FxquantError(f"{path} holds a single number", remedy="give an array whose first axis counts inputs")
        return list(torch.split(found, arguments.batch_size))
    if isinstance(found, (list, tuple)):
        return list(found)
    raise FxquantError(f"{path} holds a {type(found).__name__}", remedy="give a tensor or a list of batches")


def _arrays(path: Path) -> Any:
    if path.suffix == ".npy":
        return torch.from_numpy(numpy.load(path, allow_pickle=False))
    if path.suffix in (".pt", ".pth"):
        return torch.load(path, weights_only=True)
    raise ValueError(f"{path.suffix or 'a file without an ending'} is neither .npy nor .pt")


def _images(folder: Path, arguments: argparse.Namespace) -> list[Any]:
    """[N, 3, size, size] float32 batches: the shorter side scaled, the middle cropped, colours normalized."""
    try:
        image_module = importlib.import_module("PIL.Image")
    except ImportError:
        raise FxquantError("reading images needs Pillow", remedy="pip install pillow, or give a .npy file") from None
    files = sorted(item for item in folder.rglob("*") if item.suffix.lower() in _IMAGES)
    size = arguments.image_size or _size_of_input(arguments)
    wanted = files if arguments.batches is None else files[: arguments.batches * arguments.batch_size]
    tensors = [_image(image_module.open(item), size) for item in wanted]
    if not tensors:
        raise FxquantError(f"{folder} holds no images", remedy=f"files that end in {', '.join(_IMAGES)}")
    mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in (arguments.mean, arguments.std))
    return list(torch.split((torch.stack(tensors) - mean) / std, arguments.batch_size))


def _size_of_input(arguments: argparse.Namespace) -> int:
    shapes = getattr(arguments, "input", None) or ()
    last = shapes[0].partition(":")[0].split(",")[-1] if shapes else ""
    if not last.isdecimal():
        raise FxquantError("the size of images is not known", remedy="add --image-size 224, or --input 1,3,224,224")
    return int(last)


def _image(image: Any, size: int) -> Tensor:
    """[3, size, size] float32, 0..1."""
    image = image.convert("RGB")
    scale = size / _CROP / min(image.size)
    width, height = (max(size, round(scale * side)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    cropped = image.resize((width, height), resample=2).crop((left, top, left + size, top + size))
    return torch.from_numpy(numpy.array(cropped)).permute(2, 0, 1).to(torch.float32) / 255
