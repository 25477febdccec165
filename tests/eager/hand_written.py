"""Networks written for the eager style, as the tutorials of torch.ao write them, tiny.

Each takes the namespace whose stubs it uses: ``fxquant.eager`` or torch.ao's. Nothing else differs.
Source: https://docs.pytorch.org/tutorials/advanced/static_quantization_tutorial.html
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class ConvBNReLU(nn.Sequential):
    """Convolution, batch norm, relu."""

    def __init__(self, given: int, made: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> None:
        padding = (kernel - 1) // 2
        super().__init__(
            nn.Conv2d(given, made, kernel, stride, padding, groups=groups, bias=False),
            nn.BatchNorm2d(made, momentum=0.1),
            nn.ReLU(inplace=False),
        )


class InvertedResidual(nn.Module):
    """MobileNetV2's block; the residual addition is a FloatFunctional."""

    def __init__(self, given: int, made: int, stride: int, expand: int, style: Any) -> None:
        super().__init__()
        hidden = given * expand
        self.use_residual = stride == 1 and given == made
        self.conv = nn.Sequential(
            ConvBNReLU(given, hidden, 1),
            ConvBNReLU(hidden, hidden, 3, stride, hidden),
            nn.Conv2d(hidden, made, 1, bias=False),
            nn.BatchNorm2d(made, momentum=0.1),
        )
        self.skip_add = style.FloatFunctional()

    def forward(self, x: Tensor) -> Tensor:
        if self.use_residual:
            return self.skip_add.add(x, self.conv(x))
        return self.conv(x)


class MobileNet(nn.Module):
    """The static tutorial's network, two blocks of it."""

    def __init__(self, style: Any) -> None:
        super().__init__()
        self.features = nn.Sequential(
            ConvBNReLU(3, 8, 3, 2),
            InvertedResidual(8, 8, 1, 2, style),
            InvertedResidual(8, 16, 2, 2, style),
            ConvBNReLU(16, 32, 1),
        )
        self.quant, self.dequant = style.QuantStub(), style.DeQuantStub()
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(32 * 16, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(self.quant(x))
        return self.dequant(self.classifier(torch.flatten(x, 1)))

    def fuse_model(self, style: Any) -> None:
        """As the tutorial does it."""
        for module in self.modules():
            if type(module) is ConvBNReLU:
                style.fuse_modules(module, ["0", "1", "2"], inplace=True)
            if type(module) is InvertedResidual:
                style.fuse_modules(module.conv, ["2", "3"], inplace=True)


def mobilenet(style: Any) -> MobileNet:
    """In eval mode, with batch norms that do something; the same numbers whatever the style."""
    torch.manual_seed(0)
    model = MobileNet(style).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    return model


class Arithmetic(nn.Module):
    """Every method of FloatFunctional that has a range of its own."""

    def __init__(self, style: Any) -> None:
        super().__init__()
        self.quant, self.dequant = style.QuantStub(), style.DeQuantStub()
        self.left, self.right = nn.Linear(8, 8), nn.Linear(8, 8)
        for name in ("add", "mul", "cat", "add_relu", "matmul"):
            self.add_module(f"f_{name}", style.FloatFunctional())

    def forward(self, x: Tensor) -> Tensor:
        x = self.quant(x)
        a, b = self.left(x), self.right(x)
        c = self.f_mul.mul(self.f_add.add(a, b), a)
        d = self.f_cat.cat([c, self.f_add_relu.add_relu(a, b)], dim=1)
        return self.dequant(self.f_matmul.matmul(d, b.transpose(1, 2)))


class WordModel(nn.Module):
    """The dynamic LSTM tutorial's language model.

    Source: https://docs.pytorch.org/tutorials/advanced/dynamic_quantization_tutorial.html
    """

    def __init__(self, words: int = 50, size: int = 16, hidden: int = 32, layers: int = 2) -> None:
        super().__init__()
        self.drop, self.encoder = nn.Dropout(0.5), nn.Embedding(words, size)
        self.rnn, self.decoder = nn.LSTM(size, hidden, layers, dropout=0.5), nn.Linear(hidden, words)
        self.layers, self.hidden = layers, hidden

    def forward(self, words: Tensor, hidden: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        output, hidden = self.rnn(self.drop(self.encoder(words)), hidden)
        return self.decoder(self.drop(output)), hidden

    def init_hidden(self, batch: int) -> tuple[Tensor, Tensor]:
        zeros = torch.zeros(self.layers, batch, self.hidden)
        return zeros, zeros.clone()


class BertLayer(nn.Module):
    """One layer of BERT, its projections as linears.

    Source: https://docs.pytorch.org/tutorials/intermediate/dynamic_quantization_bert_tutorial.html
    """

    def __init__(self, size: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(size, size) for _ in range(3))
        self.output, self.norm = nn.Linear(size, size), nn.LayerNorm(size)
        self.wide, self.narrow, self.last = nn.Linear(size, 4 * size), nn.Linear(4 * size, size), nn.LayerNorm(size)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        x = self.norm(x + self.output((scores @ v).transpose(1, 2).flatten(2)))
        return self.last(x + self.narrow(nn.functional.gelu(self.wide(x))))
