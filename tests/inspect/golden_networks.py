"""Three small networks whose reports are kept as text: convolutions, attention, and one that is partly float."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant


class Block(nn.Module):
    """Two convolutions and the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] to the same shape."""
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + x)


class Residual(nn.Module):
    """A stem, two blocks and a head; the last block stays float."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6())
        self.layer1, self.layer2 = nn.Sequential(Block(8)), nn.Sequential(Block(8))
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, 3, 8, 8] to [N, 4] float32."""
        return self.fc(torch.flatten(self.pool(self.layer2(self.layer1(self.stem(x)))), 1))


class Attention(nn.Module):
    """One head of attention and a feed-forward layer, each with a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.query, self.key, self.value, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, T, 16] to the same shape."""
        y = self.norm1(x)
        scores = self.query(y) @ self.key(y).transpose(-2, -1) / 4.0
        x = x + self.out(torch.softmax(scores, dim=-1) @ self.value(y))
        return x + self.mlp(self.norm2(x))


class Mixed(nn.Module):
    """Branches that are joined, an operator without an int8 kernel, a dropout that does nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1)
        self.drop, self.head = nn.Dropout(), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, 3, 8, 8] to [N, 2, 8, 8] float32."""
        joined = torch.cat([F.hardswish(self.left(x)), F.relu(self.right(x))], dim=1)
        return torch.i0(self.head(self.drop(F.max_pool2d(joined, 3, 1, 1))))


_SHAPES: dict[Callable[[], nn.Module], tuple[int, ...]] = {
    Residual: (4, 3, 8, 8), Attention: (4, 5, 16), Mixed: (4, 3, 8, 8),
}  # fmt: skip
NETWORKS = {kind.__name__: kind for kind in _SHAPES}


def build(name: str) -> tuple[nn.Module, list[Tensor], fxquant.QConfigMapping]:
    """A network, four batches, and its configuration."""
    kind = NETWORKS[name]
    torch.manual_seed(0)
    model = kind().eval()
    generator = torch.Generator().manual_seed(1)
    mapping = fxquant.get_default_qconfig_mapping("onednn")
    if name == "Residual":
        mapping.set_module_name("layer2", None)
    return model, [torch.randn(_SHAPES[kind], generator=generator) for _ in range(4)], mapping
