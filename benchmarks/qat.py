"""Quantization-aware training on scikit-learn's digits: what quantizing loses, and how much of it training recovers.

A float network is trained, then quantized after training, and trained quantized from there; with 8-bit and with 4-bit
weights, by fxquant and by torch.ao. Four bits and a scale per channel are enough for the ordinary networks; what four
bits cost shows where networks are narrow, their convolutions depthwise, and a weight has one scale for all channels.
All train on the same batches, step by step in turn, so that the time of a step is a ratio within one run; the float
network goes on training beside them. Accuracy is labelled, on the 500 test images, of the converted int8 model; the
agreement is that of the trained model in evaluation mode with the int8 model made of it.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from report import print_machine, print_table, write_json
from torch import Tensor, nn

import fxquant
from fxquant.demo.digits import (
    BATCH_SIZE,
    TRAIN_COUNT,
    DigitsNet,
    ResidualBlock,
    calibration_batches,
    load_digits,
)
from fxquant.numerics.sqnr import sqnr_db

_LARGEST = {"8-bit": 127, "4-bit": 7, "4-bit, one scale": 7}
_COLUMNS = (
    "after training",
    "in training",
    "trained",
    "recovered %",
    "agreement dB",
    "ms a step",
    "of torch.ao's",
)


class SmallResidual(nn.Module):
    """A residual network for the digits: a stem and six blocks.

    Args:
        width: channels of the stem and the first blocks; the others have twice as many.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        widths = ((width, width, 1), (width, width, 1), (width, 2 * width, 2), *((2 * width, 2 * width, 1),) * 3)
        self.blocks = nn.Sequential(*(ResidualBlock(*each) for each in widths))
        self.classifier = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [N, 1, 8, 8] float32, 0..1, to logits [N, 10] float32."""
        result: Tensor = self.classifier(self.blocks(self.stem(x)).mean((2, 3)))
        return result


def separable(model: nn.Module) -> nn.Module:
    """``model`` with a depthwise and a pointwise convolution in the place of every wide 3x3 one, as in MobileNet.

    Source: Howard et al. 2017, https://arxiv.org/abs/1704.04861, figure 3.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) and module.in_channels > 1:
            channels = module.in_channels
            depthwise = nn.Conv2d(channels, channels, 3, module.stride, 1, groups=channels, bias=False)
            pointwise = nn.Conv2d(channels, module.out_channels, 1, bias=False)
            model.set_submodule(name, nn.Sequential(depthwise, nn.BatchNorm2d(channels), nn.ReLU(), pointwise))
    return model


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "digits": DigitsNet,
    "small residual": SmallResidual,
    "narrow residual": lambda: SmallResidual(8),
    "separable digits": lambda: separable(DigitsNet(8)),
    "separable residual": lambda: separable(SmallResidual(8)),
}


@dataclass
class Run:
    """A model in training.

    Attributes:
        model: in training mode.
        optimizer: of its parameters.
        schedule: called after each step.
        seconds: of each step.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Callable[[], None] = lambda: None
    seconds: list[float] = field(default_factory=list)

    def step(self, images: Tensor, labels: Tensor) -> None:
        """One step of training."""
        start = time.perf_counter()
        loss = F.cross_entropy(self.model(images), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.seconds.append(time.perf_counter() - start)
        self.schedule()


def train(runs: list[Run], epochs: int, seed: int) -> None:
    """Train all runs on the same batches, in turn."""
    data, generator = load_digits(), torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(TRAIN_COUNT, generator=generator)
        for number, batch in enumerate(order[: TRAIN_COUNT // BATCH_SIZE * BATCH_SIZE].view(-1, BATCH_SIZE)):
            for run in runs if number % 2 else reversed(runs):
                run.step(data.train_images[batch], data.train_labels[batch])


def float_network(name: str, epochs: int, seed: int) -> nn.Module:
    """A trained float network in eval mode."""
    torch.manual_seed(seed)
    model = NETWORKS[name]()
    steps = epochs * (TRAIN_COUNT // BATCH_SIZE)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, steps)
    train([Run(model.train(), optimizer, schedule.step)], epochs, seed)
    return model.eval()


def judge(model: nn.Module) -> tuple[float, Tensor]:
    """Accuracy on the test images in percent, and the logits."""
    data = load_digits()
    with torch.no_grad():
        logits = model(data.test_images)
    return 100 * float((logits.argmax(1) == data.test_labels).double().mean()), logits


# -- the sides ------------------------------------------------------------------------------------------


class Ours:
    """fxquant."""

    name = "fxquant"

    def __init__(self, weights: str) -> None:
        limits = {"quant_min": -_LARGEST[weights], "quant_max": _LARGEST[weights]}
        default = fxquant.get_default_qat_qconfig()
        if weights.endswith("one scale"):
            observer: Any = fxquant.MinMaxObserver.with_args(qscheme=torch.per_tensor_symmetric)
            trained: Any = fxquant.default_fused_wt_fake_quant
        else:
            observer = fxquant.PerChannelMinMaxObserver.with_args(qscheme=torch.per_channel_symmetric)
            trained = default.weight
        weight = observer.with_args(dtype=torch.int8, **limits)
        self.after = fxquant.QConfig(activation=fxquant.get_default_qconfig().activation, weight=weight)
        self.during = fxquant.QConfig(activation=default.activation, weight=trained.with_args(**limits))

    def calibrated(self, model: nn.Module) -> Any:
        """Prepared for quantization after training, and calibrated."""
        observed = fxquant.prepare_fx(model, self.after, (calibration_batches()[0],))
        for batch in calibration_batches():
            observed(batch)
        return observed

    def trainable(self, model: nn.Module, calibrated: Any) -> nn.Module:
        """Prepared for training, from the ranges of the calibrated one."""
        example = (calibration_batches()[0],)
        return fxquant.prepare_qat_fx(model, self.during, example, start_from=calibrated).train()

    def converted(self, model: Any) -> nn.Module:
        """The int8 model."""
        return fxquant.convert_fx(model)

    def frozen(self, model: nn.Module) -> None:
        """Freeze ranges and batch norms."""
        model.apply(fxquant.disable_observer)
        model.apply(fxquant.freeze_bn_stats)


class Theirs:
    """torch.ao's FX mode."""

    name = "torch.ao"

    def __init__(self, weights: str) -> None:
        self.ao = importlib.import_module("torch.ao.quantization")
        self.fx = importlib.import_module("torch.ao.quantization.quantize_fx")
        self.qat = importlib.import_module("torch.ao.nn.intrinsic.qat")
        self.weights, self.one_scale = weights, weights.endswith("one scale")

    def _mapping(self, default: Any, kind: Any) -> Any:
        """The default mapping, its weights in fewer bits."""
        mapping = default("x86")
        if self.weights != "8-bit":
            largest, given = _LARGEST[self.weights], mapping.global_qconfig
            qscheme = torch.per_tensor_symmetric if self.one_scale else torch.per_channel_symmetric
            weight = kind(dtype=torch.qint8, qscheme=qscheme, quant_min=-largest, quant_max=largest)
            mapping.set_global(self.ao.QConfig(activation=given.activation, weight=weight))
        return mapping

    def calibrated(self, model: nn.Module) -> Any:
        """Prepared for quantization after training, and calibrated."""
        kind = (self.ao.MinMaxObserver if self.one_scale else self.ao.PerChannelMinMaxObserver).with_args
        mapping = self._mapping(self.ao.get_default_qconfig_mapping, kind)
        observed = self.fx.prepare_fx(copy.deepcopy(model), mapping, (calibration_batches()[0],))
        for batch in calibration_batches():
            observed(batch)
        return observed

    def trainable(self, model: nn.Module, calibrated: Any) -> nn.Module:
        """Prepared for training; ranges start with the first batch."""

        def kind(**keywords: Any) -> Any:
            averaging = self.ao.MovingAverageMinMaxObserver
            observer = averaging if self.one_scale else self.ao.MovingAveragePerChannelMinMaxObserver
            return self.ao.FusedMovingAvgObsFakeQuantize.with_args(observer=observer, **keywords)

        mapping = self._mapping(self.ao.get_default_qat_qconfig_mapping, kind)
        prepared: nn.Module = self.fx.prepare_qat_fx(copy.deepcopy(model).train(), mapping, (calibration_batches()[0],))
        return prepared

    def converted(self, model: Any) -> nn.Module:
        """The int8 model."""
        converted: nn.Module = self.fx.convert_fx(copy.deepcopy(model).eval())
        return converted

    def frozen(self, model: nn.Module) -> None:
        """Freeze ranges and batch norms."""
        model.apply(self.ao.disable_observer)
        model.apply(self.qat.freeze_bn_stats)


def sides(weights: str) -> list[Any]:
    """Both, or ours alone where torch.ao is gone."""
    try:
        return [Ours(weights), Theirs(weights)]
    except ImportError:
        return [Ours(weights)]


# -- the comparison -------------------------------------------------------------------------------------


def compare(model: nn.Module, weights: str, epochs: int, rate: float, seed: int) -> dict[str, dict[str, float]]:
    """Quantize after training and train quantized, by every side."""
    found, runs = sides(weights), list[Run]()
    figures: dict[str, dict[str, float]] = {}
    for side in found:
        calibrated = side.calibrated(model)
        figures[side.name] = {"after training": judge(side.converted(calibrated))[0]}
        trained = side.trainable(model, calibrated)
        optimizer = torch.optim.AdamW(trained.parameters(), rate, weight_decay=1e-2)
        runs.append(Run(trained, optimizer, _Schedule(side, trained, optimizer, epochs)))
    further = copy.deepcopy(model).train()
    optimizer = torch.optim.AdamW(further.parameters(), rate, weight_decay=1e-2)
    lowered = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * (TRAIN_COUNT // BATCH_SIZE))
    train([*runs, Run(further, optimizer, lowered.step)], epochs, seed + 1)
    figures["float, trained on"] = {"trained": judge(further.eval())[0]}
    ratios = [ours / theirs for ours, theirs in zip(runs[0].seconds, runs[-1].seconds, strict=True)]
    for side, run in zip(found, runs, strict=True):
        run.model.eval()
        shown, logits = judge(run.model)
        accuracy, integers = judge(side.converted(run.model))
        figures[side.name] |= {
            "in training": shown,
            "trained": accuracy,
            "agreement dB": sqnr_db(logits, integers),
            "ms a step": 1e3 * statistics.median(run.seconds),
            "of torch.ao's": statistics.median(ratios) if run is runs[0] and len(runs) > 1 else 1.0,
        }
    return figures


class _Schedule:
    """Lowers the learning rate to zero; freezes ranges and batch norms after three quarters."""

    def __init__(self, side: Any, model: nn.Module, optimizer: torch.optim.Optimizer, epochs: int) -> None:
        self.side, self.model, self.steps, self.done = side, model, epochs * (TRAIN_COUNT // BATCH_SIZE), 0
        self.rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)

    def __call__(self) -> None:
        self.rate.step()
        self.done += 1
        if self.done == self.steps * 3 // 4:
            self.side.frozen(self.model)


def report(
    name: str, kinds: list[str], seeds: list[int], epochs: int, float_epochs: int, rate: float
) -> dict[str, Any]:
    """Figures of one network, means over the seeds; printed as a table."""
    rows: dict[tuple[str, str], list[dict[str, float]]] = {}
    floats = []
    for seed in seeds:
        model = float_network(name, float_epochs, seed)
        floats.append(judge(model)[0])
        for weights in kinds:
            for side, figures in compare(model, weights, epochs, rate, seed).items():
                rows.setdefault((side, weights), []).append(figures)
    baseline = statistics.fmean(floats)
    table, figures = [], dict[str, Any](float=baseline)
    for (side, weights), found in rows.items():
        means = {key: statistics.fmean(item[key] for item in found) for key in found[0]}
        lost = baseline - means.get("after training", baseline)
        if lost > 0.1:
            means["recovered %"] = 100 * (means["trained"] - means["after training"]) / lost
        figures[f"{side} {weights}"] = means
        cells = [f"{means[column]:.2f}" if column in means else None for column in _COLUMNS]
        table.append([f"{side}, {weights}" if side in ("fxquant", "torch.ao") else side, *cells])
    print_table(f"{name}: float {baseline:.2f} % over {len(seeds)} seeds", ["side", *_COLUMNS], table)
    return figures


def main() -> None:
    """Train and compare every network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--weights", nargs="*", choices=_LARGEST, default=list(_LARGEST), metavar="KIND")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=16, help="of quantization-aware training")
    parser.add_argument("--float-epochs", type=int, default=12)
    parser.add_argument("--rate", type=float, default=5e-3, help="of quantization-aware training, at its start")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, metavar="PATH")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print_machine()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seeds = list(range(arguments.seeds))
        given = arguments.weights, seeds, arguments.epochs, arguments.float_epochs, arguments.rate
        figures = {name: report(name, *given) for name in arguments.networks}
    write_json(arguments.json, figures)


if __name__ == "__main__":
    main()
