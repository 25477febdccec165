"""Whole torchvision architectures: what runs int8, how accurately and how fast; torch.ao beside it.

Random weights, batch-norm statistics of images, one row a network. `SQNR` is that of the output over inputs that
calibration has not seen; ratios are times of int8 divided by those of the faster float memory format, at batch 1 on
one thread, the models taking turns. Below the table: every target that a network misses.
"""

from __future__ import annotations

import argparse
import copy
import gc
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from architectures import ZOO
from latency import FLOAT_SIDES, Contender, measure, paired_ratio
from report import print_machine, print_table, write_json
from sides import Fxquant, Side, TorchAo, available_sides, quantize
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fxquant import Explanation, explain
from fxquant.numerics.sqnr import sqnr_db

OURS, RIVAL = Fxquant(), TorchAo("x86")
BATCH = 8
CNN_SHARE, TRANSFORMER_SHARE, ADVANTAGE_DB = 0.99, 0.90, 1.0


@dataclass(frozen=True)
class Subject:
    """A float network with its data.

    Attributes:
        name: in `ZOO`.
        model: in eval mode.
        calibration: batches of inputs.
        test: inputs that are not in calibration.
        reference: the float output on `test`.
        macs: multiply-accumulates on one input, counted by torch on the float network.
    """

    name: str
    model: nn.Module
    calibration: list[Tensor]
    test: Tensor
    reference: Tensor
    macs: int

    @staticmethod
    def of(name: str, inputs: int, seed: int) -> Subject:
        """Build network `name` with `inputs` inputs for calibration and as many for the test, fewer if it is slow."""
        architecture = ZOO[name]
        model, count = architecture.build(seed), max(1, round(inputs * architecture.inputs_share))
        calibration = torch.split(architecture.make_inputs(count, 2 * seed + 1), BATCH)
        test = architecture.make_inputs(count, 2 * seed + 2)
        with FlopCounterMode(display=False) as counter:
            model(test[:1])
        reference = outputs_of(model, test)
        return Subject(name, model, list(calibration), test, reference, counter.get_total_flops() // 2)


def outputs_of(model: nn.Module, inputs: Tensor) -> Tensor:
    """The outputs of `model`, batch by batch; `out` of networks that return a dict."""
    with torch.no_grad():
        results = [model(batch) for batch in torch.split(inputs, BATCH)]
    return torch.cat([result["out"] if isinstance(result, dict) else result for result in results])


def attempt(side: Side, subject: Subject) -> tuple[nn.Module | None, Tensor | None, str]:
    """Quantize and run a network with one side; the model, its outputs, and the first words of what went wrong.

    The first run is of one input: torch's onednn kernels are fast for the first shape they meet, and that is timed.
    """
    try:
        model = quantize(side, subject.model, subject.calibration)
        outputs_of(model, subject.test[:1])
        return model, outputs_of(model, subject.test), ""
    except Exception as error:  # any failure of a side is a result
        words = " ".join(str(error).split())
        return None, None, f"{type(error).__name__}: {words[:70]}"


def judge(name: str, sides: Sequence[Side], arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures of one network, by column."""
    subject = Subject.of(name, arguments.inputs, arguments.seed)
    figures: dict[str, Any] = {}
    models: dict[str, nn.Module] = {}
    for side in sides:
        model, outputs, error = attempt(side, subject)
        figures[f"{side.name} error"] = error
        if model is not None and outputs is not None:
            models[side.name] = model
            figures[f"{side.name} dB"] = sqnr_db(subject.reference, outputs)
    if OURS.name in models and RIVAL.name in models:
        figures["advantage dB"] = figures[f"{OURS.name} dB"] - figures[f"{RIVAL.name} dB"]
    if OURS.name in models:
        figures |= what_runs_int8(subject, explain(models[OURS.name]), arguments.reasons)
    if not arguments.no_latency:
        figures |= latency_ratios(subject, models, arguments)
    return figures


def what_runs_int8(subject: Subject, explanation: Explanation, show_reasons: bool) -> dict[str, Any]:
    """Share of multiply-accumulates in int8 kernels, 0..1; steps and floats.

    The whole is torch's count on the float network, so that what `explain` does not count is not taken for int8; or
    `explain`'s, where that is more: torch does not count attention in its fused kernels.
    """
    batch = len(subject.calibration[0])
    explained = sum(explanation.macs.values()) // batch
    rows = [row for row in explanation.rows if row.outcome in ("step", "float")]
    if show_reasons:
        reasons = Counter((row.outcome, row.op, row.reason) for row in rows)
        table = [[*key, count] for key, count in sorted(reasons.items())]
        print_table(f"{subject.name}: what is not int8", ["outcome", "operator", "reason", "count"], table)
    return {
        "int8 MACs": explanation.macs["int8"] / batch / max(subject.macs, explained),
        "uncounted MACs": max(0, subject.macs - explained),
        "steps": explanation.counts["step"],
        "floats": explanation.counts["float"],
    }


def latency_ratios(
    subject: Subject, models: Mapping[str, nn.Module], arguments: argparse.Namespace
) -> dict[str, float | None]:
    """Time of every side's model divided by that of the faster float memory format, medians of paired rounds."""
    example = subject.test[:1]
    layout = torch.channels_last if example.dim() == 4 else torch.channels_last_3d
    floats = [
        Contender(FLOAT_SIDES[0], subject.model, example),
        Contender(
            FLOAT_SIDES[1],
            copy.deepcopy(subject.model).to(memory_format=layout),
            example.contiguous(memory_format=layout),
        ),
    ]
    quantized = [Contender(name, model, example) for name, model in models.items()]
    measure([*floats, *quantized], arguments.rounds, arguments.runs)
    fastest = min(floats, key=lambda entry: entry.median_ms)
    return {
        "float ms": fastest.median_ms,
        **{f"{entry.name} ratio": paired_ratio(entry, fastest) for entry in quantized},
    }


def shortfalls(name: str, figures: Mapping[str, Any]) -> list[str]:
    """What a network lacks of the targets, a phrase each."""
    if figures.get(f"{OURS.name} error"):
        return ["is not converted"]
    missed: list[str] = []
    share = TRANSFORMER_SHARE if ZOO[name].transformer else CNN_SHARE
    if figures["int8 MACs"] < share:
        missed.append(f"{figures['int8 MACs']:.1%} of multiply-accumulates int8, {share:.0%} wanted")
    advantage = figures.get("advantage dB")
    if advantage is not None and advantage < ADVANTAGE_DB:
        missed.append(f"{advantage:+.2f} dB against torch.ao, +{ADVANTAGE_DB:g} wanted")
    ratio = figures.get(f"{OURS.name} ratio")
    if ratio is not None and ratio > 1:
        missed.append(f"{ratio:.2f} of float's time")
    return missed


def print_zoo(figures: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the table, what failed, and the missed targets."""
    titles = {
        f"{OURS.name} dB": "dB",
        f"{RIVAL.name} dB": "torch.ao\ndB",
        "advantage dB": "dB more",
        "float ms": "float\nms",
        f"{OURS.name} ratio": "/ float",
        f"{RIVAL.name} ratio": "torch.ao\n/ float",
    }
    columns = {key: title for key, title in titles.items() if any(key in row for row in figures.values())}
    rows = [
        [name, "no" if row.get(f"{OURS.name} error") else "yes", _percent(row.get("int8 MACs")), row.get("steps"),
         row.get("floats"), *(row.get(key) for key in columns)]
        for name, row in figures.items()
    ]  # fmt: skip
    headers = ["network", "captured", "int8\nMACs", "float\nsteps", "float\nunits", *columns.values()]
    print_table("Whole architectures", headers, rows)
    for name, row in figures.items():
        for side in (OURS, RIVAL):
            if row.get(f"{side.name} error"):
                print(f"{name}: {side.name} failed: {row[f'{side.name} error']}")
        if row.get("uncounted MACs"):
            print(f"{name}: explain counts {row['uncounted MACs'] / 1e6:.1f} million multiply-accumulates too few")
    missed = [f"{name}: {phrase}" for name, row in figures.items() for phrase in shortfalls(name, row)]
    print("\n".join(["missed targets:", *missed]) if missed else "every target is met")


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.2f} %"


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(ZOO), metavar="NAME,NAME")
    parser.add_argument("--inputs", type=int, default=32, help="how many to calibrate with, and to test with")
    parser.add_argument("--no-latency", action="store_true")
    parser.add_argument("--reasons", action="store_true", help="list the operators that run in float, and why")
    parser.add_argument("--sides", nargs="+", default=[RIVAL.name, OURS.name])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--runs", type=int, default=5, help="timed runs per round and model")
    parser.add_argument("--seed", type=int, default=0, help="of weights and inputs")
    parser.add_argument("--json", type=Path, metavar="PATH")
    arguments = parser.parse_args()
    unknown = set(arguments.only) - set(ZOO)
    if unknown:
        parser.error(f"no network called {', '.join(sorted(unknown))}; there are {', '.join(ZOO)}")
    return arguments


def main() -> None:
    """Judge every network and print the table."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    print_machine()
    sides = available_sides(arguments.sides)
    figures: dict[str, dict[str, Any]] = {}
    for name in arguments.only:
        start = time.perf_counter()
        figures[name] = judge(name, sides, arguments)
        gc.collect()
        print(f"judged {name} in {time.perf_counter() - start:.0f} s", flush=True)
    print_zoo(figures)
    write_json(arguments.json, {"zoo": figures})


if __name__ == "__main__":
    main()
