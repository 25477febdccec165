"""The networks and inputs that the benchmarks use; everything is seeded and nothing is downloaded.

The torchvision networks have random weights but batch-norm statistics that fit them: the running mean and
variance are those of images passed through the network, as after training, so that activations neither vanish
nor explode.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

IMAGE_SIZE = 224
CALIBRATION_COUNT = 32
TEST_COUNT = 32
_kept_libraries: list[torch.library.Library] = []


def import_torchvision_models() -> ModuleType:
    """Import `torchvision.models`, also where its compiled operators do not fit the installed torch.

    Without them the import fails on the two schemas declared here, which no network here calls.

    Raises:
        ModuleNotFoundError: torchvision is not installed.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("these benchmarks need torchvision: pip install --no-deps torchvision")
    try:
        torch.ops.load_library(next(Path(spec.origin).parent.glob("_C.*")))
    except (OSError, StopIteration):
        if not _kept_libraries:
            library = torch.library.Library("torchvision", "DEF")
            for name in ("nms", "qnms"):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _kept_libraries.append(library)
    return importlib.import_module("torchvision.models")


def natural_images(count: int, seed: int, size: int = IMAGE_SIZE) -> Tensor:
    """Make images whose amplitude spectrum falls as 1/f, as that of photographs does.

    Args:
        count: how many images.
        seed: the same seed gives the same images.
        size: height and width in pixels.

    Returns:
        [count, 3, size, size] float32. Within an image each channel has deviation 1, and the three share most
        of their content, as colours do; the mean differs from image to image with deviation 0.5.

    Source:
        D. J. Field, "Relations between the statistics of natural images and the response properties of
        cortical cells", 1987 (amplitude proportional to 1/f).
    """
    generator = torch.Generator().manual_seed(seed)
    frequency = torch.fft.fftfreq(size)[:, None] ** 2 + torch.fft.rfftfreq(size)[None, :] ** 2
    amplitude = 1 / frequency.sqrt().clamp(min=1 / size)
    noise = torch.randn(count, 4, size, size, generator=generator)
    grey, colour = (torch.fft.irfft2(torch.fft.rfft2(noise) * amplitude, s=(size, size))).split((1, 3), dim=1)
    images = grey + 0.3 * colour
    images = images / images.std(dim=(2, 3), keepdim=True)
    level = 0.5 * torch.randn(count, 1, 1, 1, generator=generator)
    return images - images.mean(dim=(2, 3), keepdim=True) + level


def settle_batch_norms(
    model: nn.Module,
    seed: int,
    make_inputs: Callable[[int, int], Tensor] = natural_images,
    branch_gain: float = 1.0,
) -> nn.Module:
    """Give every batch norm realistic parameters and the statistics of images; returns `model` in eval mode.

    gamma is uniform in [0.5, 1.5], beta normal with deviation 0.2; statistics are means over four batches.

    Args:
        model: changed in place.
        seed: of the parameters and the inputs.
        make_inputs: called with a count and a seed, returns that many inputs.
        branch_gain: factor for the gammas that end the residual branches of a ResNet-50 (``bn3``). Training makes them
            small; at 1 the random network is chaotic, and its output says little about small errors at its input.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = [module for module in model.modules() if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d))]
    ends = {module for name, module in model.named_modules() if name.endswith("bn3")}
    momenta = [norm.momentum for norm in norms]
    with torch.no_grad():
        for norm in norms:
            norm.weight.copy_(torch.rand(norm.num_features, generator=generator) + 0.5)
            norm.weight.mul_(branch_gain if norm in ends else 1.0)
            norm.bias.copy_(0.2 * torch.randn(norm.num_features, generator=generator))
            norm.reset_running_stats()
            norm.momentum = None
        model.train()
        for batch in range(4):
            model(make_inputs(8, 10_000 + seed + batch))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()


def _torchvision_network(name: str, seed: int, branch_gain: float = 1.0) -> nn.Module:
    builder: Callable[..., nn.Module] = getattr(import_torchvision_models(), name)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return settle_batch_norms(builder(weights=None), seed, branch_gain=branch_gain)


def resnet18(seed: int = 0) -> nn.Module:
    """torchvision's ResNet-18 in eval mode: [N, 3, 224, 224] to [N, 1000] float32."""
    return _torchvision_network("resnet18", seed)


def resnet50(seed: int = 0) -> nn.Module:
    """torchvision's ResNet-50 in eval mode: [N, 3, 224, 224] to [N, 1000] float32."""
    return _torchvision_network("resnet50", seed)


def resnet50_damped(seed: int = 0) -> nn.Module:
    """ResNet-50 whose residual branches are as weak as trained ones."""
    return _torchvision_network("resnet50", seed, branch_gain=0.3)


def mobilenet_v2(seed: int = 0) -> nn.Module:
    """torchvision's MobileNetV2 in eval mode: [N, 3, 224, 224] to [N, 1000] float32."""
    return _torchvision_network("mobilenet_v2", seed)


def efficientnet_lite0(seed: int = 0) -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights (`seed` has no effect): [N, 3, 224, 224] to [N, 1000]."""
    from fxquant.demo.efficientnet import load_efficientnet_lite0

    return load_efficientnet_lite0()


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "resnet18": resnet18,
    "resnet50": resnet50,
    "mobilenet_v2": mobilenet_v2,
    "efficientnet_lite0": efficientnet_lite0,
}
"""Builder of every network by name; each takes a seed."""

JUDGED = {**NETWORKS, "resnet50_damped": resnet50_damped}
"""Those whose accuracy is judged: the same kernels, in a network that does not amplify every error."""


@cache
def _inputs(name: str, seed: int, count: int, test: bool) -> Tensor:
    if name != "efficientnet_lite0":
        return natural_images(count, seed=2 * seed + 1 + test)
    from fxquant.demo.efficientnet import crops

    return crops(count, seed, "test" if test else "calibration")


def calibration_batches(name: str, seed: int = 0, count: int = CALIBRATION_COUNT) -> list[Tensor]:
    """The inputs to calibrate the network `name` with, in batches of 8: [8, 3, 224, 224] float32."""
    return list(torch.split(_inputs(name, seed, count, False), 8))


def test_batches(name: str, seed: int = 0, count: int = TEST_COUNT) -> list[Tensor]:
    """Inputs for judging the network `name`, none of them in calibration, in batches of 8."""
    return list(torch.split(_inputs(name, seed, count, True), 8))
