"""Handwritten digits: scikit-learn's bundled images and a small residual network, trained in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant.demo.extras import require
from fxquant.demo.task import DemoTask, Progress

TRAIN_COUNT = 1297
TEST_COUNT = 500
SPLIT_SEED = 0
BATCH_SIZE = 64
EPOCHS = 8
LEARNING_RATE = 1e-2


@dataclass(frozen=True)
class DigitsData:
    """The split data set.

    Attributes:
        train_images: [1297, 1, 8, 8] float32, 0..1.
        train_labels: [1297] int64, 0..9.
        test_images: [500, 1, 8, 8] float32, 0..1.
        test_labels: [500] int64, 0..9.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


@cache
def load_digits() -> DigitsData:
    """Load the 1797 digits that come with scikit-learn and split them, the same way every time.

    Raises:
        FxquantError: scikit-learn is not installed.

    Source:
        https://scikit-learn.org/stable/modules/generated/sklearn.datasets.load_digits.html (pixels are 0..16)
    """
    bundled = require("sklearn.datasets", "scikit-learn").load_digits()
    images = torch.as_tensor(bundled.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.as_tensor(bundled.target, dtype=torch.int64)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SPLIT_SEED))
    train, test = order[:TRAIN_COUNT], order[TRAIN_COUNT : TRAIN_COUNT + TEST_COUNT]
    return DigitsData(images[train], labels[train], images[test], labels[test])


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a skip around them; a 1x1 convolution on the skip where shapes differ."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C_in, H, W] float32 to [N, C_out, H/stride, W/stride] float32, 0 or more."""
        skip = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += skip
        return F.relu(out)


class DigitsNet(nn.Module):
    """A small residual network for 8x8 grey images: stem, three blocks, global average pool, linear.

    Args:
        width: channels of the stem; the later blocks have twice as many.
        classes: outputs of the last layer.
    """

    def __init__(self, width: int = 32, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.block1 = ResidualBlock(width, width)
        self.block2 = ResidualBlock(width, 2 * width, stride=2)
        self.block3 = ResidualBlock(2 * width, 2 * width)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [N, 1, 8, 8] float32, 0..1, to logits [N, classes] float32."""
        x = self.stem(x)
        x = self.block3(self.block2(self.block1(x)))
        x = torch.flatten(self.pool(x), 1)
        return self.classifier(x)  # type: ignore[no-any-return]


def train(epochs: int = EPOCHS, seed: int = 0, progress: Progress | None = None) -> DigitsNet:
    """Train a `DigitsNet` on the training images; a few seconds on two cores.

    The same seed gives the same weights on one machine. The global random state is left as it was.

    Args:
        epochs: passes over the 1297 training images.
        seed: of the initial weights and of the order of the images.
        progress: told after each epoch.

    Returns:
        The trained network in eval mode.

    Raises:
        FxquantError: scikit-learn is not installed.
    """
    data = load_digits()
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        torch.default_generator.manual_seed(seed)
        model = DigitsNet()
        steps = epochs * (TRAIN_COUNT // BATCH_SIZE)
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps)
        for epoch in range(epochs):
            loss = _train_epoch(model, data, optimizer, schedule)
            if progress is not None:
                progress(epoch + 1, epochs, f"training, loss {loss:.3f}")
    return model.eval()


def _train_epoch(
    model: DigitsNet,
    data: DigitsData,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> float:
    """Make one pass over the training images in random order and return the last batch's loss."""
    last_loss = 0.0
    for batch in torch.randperm(TRAIN_COUNT)[: TRAIN_COUNT // BATCH_SIZE * BATCH_SIZE].view(-1, BATCH_SIZE):
        loss = F.cross_entropy(model(data.train_images[batch]), data.train_labels[batch])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        last_loss = loss.item()
    return last_loss


def accuracy(model: nn.Module) -> float:
    """Fraction of the 500 test images that `model` labels rightly, 0..1."""
    data = load_digits()
    with torch.no_grad():
        predicted = model(data.test_images).argmax(dim=1)
    return float((predicted == data.test_labels).double().mean())


def calibration_batches(count: int = 10, batch_size: int = 32) -> list[Tensor]:
    """The first training images as `count` batches, each [batch_size, 1, 8, 8] float32, 0..1."""
    images = load_digits().train_images
    return [images[start : start + batch_size] for start in range(0, count * batch_size, batch_size)]


def digits_task(seed: int = 0, progress: Progress | None = None) -> DemoTask:
    """Train the network and wrap it as a demo; its metric is `accuracy`, on labelled images.

    Raises:
        FxquantError: scikit-learn is not installed.
    """
    model = train(seed=seed, progress=progress)
    calibration = calibration_batches()

    def evaluate(candidate: nn.Module) -> dict[str, float]:
        return {"accuracy": accuracy(candidate)}

    return DemoTask(
        name="digits",
        description=f"residual CNN on scikit-learn's handwritten digits, {TEST_COUNT} labelled test images",
        model=model,
        example_inputs=(calibration[0],),
        calibration=calibration,
        evaluate=evaluate,
        baseline=evaluate(model),
        headline="accuracy",
        latency_inputs=(load_digits().test_images[:256],),
    )
