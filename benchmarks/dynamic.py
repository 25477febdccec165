"""Dynamic quantization, batch 1, one thread: float, torch.ao, ONNX Runtime and fxquant, side by side in one run.

Two shapes with random weights: a BERT-base encoder of four layers on 128 tokens, and an LSTM of two layers of 512 over
100 steps. The sides take turns, in a rotating order; a ratio is the median over the rounds of the ratio within a round.
The size is that of the saved parameters. In the LSTM, torch.ao and fxquant spend their time in the same kernel.
"""

from __future__ import annotations

import argparse
import importlib
import io
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from networks import import_torchvision_models
from report import print_machine, print_table, write_json
from torch import Tensor, nn

import fxquant
from fxquant.numerics.sqnr import sqnr_db

Run = Callable[[Tensor], Tensor]
_TOKENS, _STEPS = 128, 100


@dataclass(frozen=True)
class Subject:
    """A model and its input.

    Attributes:
        name: shown in the table.
        model: float, in eval mode; one tensor in, one out.
        example: its input.
        checked: another input, for the signal to noise ratio.
        repeats: how many rounds there are for each asked for; more of short ones.
    """

    name: str
    model: nn.Module
    example: Tensor
    checked: Tensor
    repeats: int = 1


class _Encoder(nn.Module):
    """The layers of a BERT-base, without its table of words."""

    def __init__(self) -> None:
        super().__init__()
        import_torchvision_models()  # transformers imports it, and fails where it does not fit torch
        transformers = importlib.import_module("transformers")
        config = transformers.BertConfig(num_hidden_layers=4, attn_implementation="eager")
        self.layers = transformers.BertModel(config, add_pooling_layer=False).encoder

    def forward(self, embeddings: Tensor) -> Tensor:
        result: Tensor = self.layers(embeddings).last_hidden_state
        return result


class _Speech(nn.Module):
    """Two layers of 512 over a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.LSTM(512, 512, 2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layers(x)[0]
        return result


def subjects() -> list[Subject]:
    """Both shapes; without transformers, the LSTM alone."""
    torch.manual_seed(0)
    found = [Subject("LSTM 2x512", _Speech().eval(), torch.randn(_STEPS, 1, 512), torch.randn(_STEPS, 1, 512), 4)]
    try:
        encoder = _Encoder().eval()
    except ImportError as error:
        print(f"no encoder: {error}")
        return found
    tokens = [torch.randn(1, _TOKENS, 768) for _ in range(2)]
    return [Subject("BERT-base, 4 layers", encoder, *tokens), *found]


def _torch_ao(subject: Subject) -> tuple[Run, int] | None:
    try:
        quantization = importlib.import_module("torch.ao.quantization")
    except ImportError:
        return None
    model = quantization.quantize_dynamic(subject.model, {nn.Linear, nn.LSTM}, dtype=torch.qint8)
    return model, _saved_bytes(model)


def _ours(subject: Subject) -> tuple[Run, int] | None:
    model = fxquant.quantize(subject.model, example_inputs=(subject.example,), dynamic=True)
    return model, _saved_bytes(model)


def _float(subject: Subject) -> tuple[Run, int] | None:
    return subject.model, _saved_bytes(subject.model)


def _onnx_runtime(subject: Subject) -> tuple[Run, int] | None:
    """ONNX Runtime's dynamic int8; None where it, or what exports to it, is missing."""
    try:
        runtime = importlib.import_module("onnxruntime")
        tools = importlib.import_module("onnxruntime.quantization")
    except ImportError:
        return None
    with tempfile.TemporaryDirectory() as folder:
        plain, small = f"{folder}/float.onnx", f"{folder}/int8.onnx"
        torch.onnx.export(subject.model, (subject.example,), plain, input_names=["x"], dynamo=False)
        tools.quantize_dynamic(plain, small, weight_type=tools.QuantType.QInt8)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = runtime.InferenceSession(small, options, providers=["CPUExecutionProvider"])
        size = Path(small).stat().st_size
    return lambda x: torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), size


SIDES: Mapping[str, Callable[[Subject], tuple[Run, int] | None]] = {
    "float": _float,
    "torch.ao": _torch_ao,
    "ONNX Runtime": _onnx_runtime,
    "fxquant": _ours,
}


def _saved_bytes(model: nn.Module) -> int:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return file.tell()


def _times_ms(runs: Mapping[str, Run], example: Tensor, rounds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in runs}
    sides = list(runs.items())
    for number in range(rounds + 1):
        first = number % len(sides)
        for name, run in (*sides[first:], *sides[:first]):  # nobody always follows the same side
            run(example)
            start = time.perf_counter()
            run(example)
            if number:  # the first round warms up
                found[name].append(1e3 * (time.perf_counter() - start))
    return found


def _ratio(others: list[float], own: list[float]) -> float:
    """Median of the ratios within a round; not a number without the other side."""
    ratios = [other / mine for other, mine in zip(others, own, strict=False)]
    return statistics.median(ratios) if ratios else float("nan")


def measure(subject: Subject, rounds: int) -> dict[str, dict[str, float]]:
    """Time, accuracy and size of every side that is there.

    Args:
        subject: the model.
        rounds: how often the sides take turns.
    """
    built = {name: made for name, build in SIDES.items() if (made := build(subject)) is not None}
    with torch.no_grad():
        runs = {name: run for name, (run, _) in built.items()}
        times = _times_ms(runs, subject.example, rounds * subject.repeats)
        expected = subject.model(subject.checked)
        found = {}
        for name, (run, size) in built.items():
            found[name] = {
                "ms": statistics.median(times[name]),
                "speedup": _ratio(times["float"], times[name]),
                "speedup_over_torch_ao": _ratio(times.get("torch.ao", []), times[name]),
                "sqnr_db": sqnr_db(expected, run(subject.checked)),
                "megabytes": size / 2**20,
            }
    return found


def main() -> None:
    """Measure both shapes and print a table for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print_machine()
    figures = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for subject in subjects():
            figures[subject.name] = found = measure(subject, arguments.rounds)
            rows = [[name, *values.values()] for name, values in found.items()]
            print_table(subject.name, ["side", "ms", "times float", "times torch.ao", "dB from float", "MiB"], rows)
    write_json(arguments.json, figures)


if __name__ == "__main__":
    main()
