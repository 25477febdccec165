"""Seconds to capture against depth, beside the forward pass of eager, plain torch.fx and torch.export.

Six families of small networks, so that what is measured is the tool and not the kernels: ``conv``, blocks of
convolution, batch norm and ReLU; ``bottleneck``, three of those with ReLU and sum in place, as ResNets have them;
``norm``, blocks of ``x + layer_norm(relu(linear(x)))``; ``padded``, convolutions that pad odd sizes, so that a branch
on a size is in each; ``encoder``, torch.nn's transformer layers; ``causal``, attention and MLP as decoders write them,
53 operations a block. Capture is asked to take no longer than two forward passes and a second, and to grow with the
number of nodes. ``first s`` is the first capture of a row: with one row, that of a process.

With ``--networks``, transformers of 12 layers of full width, with random weights, one sequence of 128 tokens; or of
another number of layers and width.

    python benchmarks/capture_time.py --families conv,norm --depths 50,100,200 --prepare
    python benchmarks/capture_time.py --families "" --networks bert,gpt2,llama
    python benchmarks/capture_time.py --families "" --networks bert,gpt2,llama --layers 200 --width 48
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from networks import import_torchvision_models
from report import print_machine, print_table, write_json
from torch import Tensor, fx, nn

from fxquant import get_default_qconfig_mapping, pipeline, prepare_fx

ROUNDS = 3


class Conv(nn.Module):
    """Convolution, batch norm and ReLU on [N, 8, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, 8, H, W] to the same shape."""
        return torch.relu(self.norm(self.conv(x)))


class Bottleneck(nn.Module):
    """A block of a ResNet on [N, 16, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(16, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv3, self.norm3 = nn.Conv2d(4, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, 16, H, W] to the same shape."""
        y = self.relu(self.norm1(self.conv1(x)))
        y = self.relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        y += x
        result: Tensor = self.relu(y)
        return result


class Padded(Conv):
    """The same with odd sizes padded."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, 8, H, W] to sizes that are multiples of 2."""
        if x.shape[-1] % 2:
            x = F.pad(x, (0, 1))
        return super().forward(x)


class Norm(nn.Module):
    """``x + layer_norm(relu(linear(x)))`` on [N, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, 8] to the same shape."""
        y: Tensor = x + self.norm(F.relu(self.linear(x)))
        return y


class Causal(nn.Module):
    """Attention to what came before, and an MLP, on [N, T, 32] with T up to 64."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.norm1, self.norm2, self.heads = nn.LayerNorm(width), nn.LayerNorm(width), heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down, self.dropout = nn.Linear(width, 2 * width), nn.Linear(2 * width, width), nn.Dropout(0.1)
        self.register_buffer("mask", torch.tril(torch.ones(64, 64)).view(1, 1, 64, 64))

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, T, 32] to the same shape."""
        n, length, width = x.size()
        q, k, v = self.qkv(self.norm1(x)).split(width, dim=2)
        q, k, v = (item.view(n, length, self.heads, width // self.heads).transpose(1, 2) for item in (q, k, v))
        scores = (q @ k.transpose(-2, -1)) / math.sqrt(k.size(-1))
        scores = scores.masked_fill(self.mask[:, :, :length, :length] == 0, float("-inf"))
        y = self.dropout(F.softmax(scores, dim=-1)) @ v
        x = x + self.out(y.transpose(1, 2).contiguous().view(n, length, width))
        result: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return result


def _encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)


def _network(name: str, layers: int, width: int) -> tuple[nn.Module, dict[str, Tensor]]:
    """A transformer with 12 heads and random weights, and its inputs."""
    import_torchvision_models()  # transformers imports it
    import transformers as hf

    made: nn.Module
    if name == "bert":
        sizes = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": 4 * width}
        made = hf.BertModel(hf.BertConfig(**sizes))
    elif name == "gpt2":
        made = hf.GPT2Model(hf.GPT2Config(n_embd=width, n_layer=layers, use_cache=False))
    else:
        sizes = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": 8 * width // 3}
        heads = {"num_attention_heads": 12, "num_key_value_heads": 4}
        made = hf.LlamaModel(hf.LlamaConfig(**sizes, **heads, vocab_size=1000, use_cache=False))
    return made, {"input_ids": torch.randint(0, 1000, (1, 128))}


FAMILIES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv": (Conv, (2, 8, 16, 16)),
    "bottleneck": (Bottleneck, (2, 16, 8, 8)),
    "norm": (Norm, (4, 8)),
    "padded": (Padded, (2, 8, 16, 16)),
    "encoder": (_encoder, (2, 10, 32)),
    "causal": (Causal, (2, 10, 32)),
}


def once(call: Callable[[], Any]) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def seconds(call: Callable[[], Any]) -> float:
    """Median seconds of a call, after one that is not counted."""
    call()
    return median(once(call) for _ in range(ROUNDS))


def measure(
    name: str, depth: int, model: nn.Module, inputs: dict[str, Any], given: argparse.Namespace
) -> dict[str, Any]:
    """One row of the table."""
    model.eval()
    with torch.no_grad():
        eager = seconds(lambda: model(**inputs))
    first = once(lambda: pipeline.capture(model, inputs))
    taken = seconds(lambda: pipeline.capture(model, inputs))
    nodes = len(pipeline.capture(model, inputs).graph.nodes)
    row = {"family": name, "depth": depth, "nodes": nodes, "eager s": eager, "first s": first, "capture s": taken}
    row |= {"allowed s": 2 * eager + 1, "ms per node": 1000 * taken / nodes}
    if given.prepare:
        row["prepare_fx s"] = seconds(lambda: prepare_fx(model, get_default_qconfig_mapping(), inputs))
    if given.others:
        row["plain fx s"] = _seconds_or_none(lambda: fx.symbolic_trace(model))
        row["torch.export s"] = _seconds_or_none(lambda: torch.export.export(model, (), inputs, strict=False))
    return row


def _stack(family: str, depth: int) -> tuple[nn.Module, dict[str, Tensor]]:
    make, shape = FAMILIES[family]
    return nn.Sequential(*(make() for _ in range(depth))), {"input": torch.randn(shape)}


def _seconds_or_none(call: Callable[[], Any]) -> float | None:
    try:
        return seconds(call)
    except Exception:  # whatever it says of the model
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--depths", default="50,100,200")
    parser.add_argument("--networks", default="")
    parser.add_argument("--layers", type=int, default=12, help="of the networks")
    parser.add_argument("--width", type=int, default=768, help="of the networks, a multiple of 12")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--others", action="store_true", help="also plain torch.fx and torch.export")
    parser.add_argument("--prepare", action="store_true", help="also the whole of prepare_fx")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print_machine()
    rows = [
        measure(family, int(depth), *_stack(family, int(depth)), given)
        for family in filter(None, given.families.split(","))
        for depth in given.depths.split(",")
    ]
    for name in filter(None, given.networks.split(",")):
        rows.append(measure(name, given.layers, *_network(name, given.layers, given.width), given))
    title = "Seconds of one thread to capture, and what two forward passes and a second are"
    print_table(title, list(rows[0]), [list(row.values()) for row in rows])
    write_json(given.json, {"rows": rows})


if __name__ == "__main__":
    main()
