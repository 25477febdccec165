"""Accuracy of int8 against float: fxquant beside torch.ao's default, on the same networks and inputs.

SQNR in dB of the output over 32 inputs that were not among the 32 of calibration; top-1 agreement with the
float network for EfficientNet-Lite0; labelled accuracy for the handwritten digits.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from networks import JUDGED, calibration_batches
from networks import test_batches as unseen_batches
from report import print_machine, print_table, write_json
from sides import Fxquant, Side, TorchAo, available_sides, quantize
from torch import nn

from fxquant.demo.digits import digits_task
from fxquant.demo.efficientnet import predict, top1_agreement
from fxquant.numerics.sqnr import sqnr_db

RIVAL = TorchAo("x86")
OURS = Fxquant()
TRAINED = ("efficientnet_lite0",)
"""Networks with trained weights; of random ones, top-1 agreement says nothing."""


def judge_network(name: str, sides: list[Side], seed: int) -> dict[str, float]:
    """Quantize one network with every side; `"<side> dB"` and, for trained ones, `"<side> top-1"` (0..1)."""
    model = JUDGED[name](seed)
    inputs = torch.cat(unseen_batches(name, seed))
    reference = predict(model, inputs)
    figures: dict[str, float] = {}
    for side in sides:
        outputs = predict(quantize(side, model, calibration_batches(name, seed)), inputs)
        figures[f"{side.name} dB"] = sqnr_db(reference, outputs)
        if name in TRAINED:
            figures[f"{side.name} top-1"] = top1_agreement(reference, outputs)
    if f"{RIVAL.name} dB" in figures and f"{OURS.name} dB" in figures:
        figures["difference dB"] = figures[f"{OURS.name} dB"] - figures[f"{RIVAL.name} dB"]
    return figures


def judge_digits(sides: list[Side], seed: int) -> dict[str, float]:
    """Train the digits network and return the labelled accuracy (0..1) of float and of every side."""
    task = digits_task(seed)
    figures = {"float": task.baseline["accuracy"]}
    for side in sides:
        model: nn.Module = quantize(side, task.model, task.calibration)
        figures[side.name] = task.evaluate(model)["accuracy"]
    return figures


def print_networks(figures: dict[str, dict[str, float]]) -> None:
    """Print the SQNR table of all networks."""
    columns = list(dict.fromkeys(key for row in figures.values() for key in row))
    rows = [[name, *(row.get(column) for column in columns)] for name, row in figures.items()]
    print_table("Output against float (SQNR in dB, top-1 agreement 0..1)", ["network", *columns], rows)


def print_digits(figures: dict[str, float]) -> None:
    """Print the accuracies of the digits network and what each side loses."""
    baseline = figures["float"]
    rows = [[name, f"{100 * value:.2f} %", f"{100 * (baseline - value):+.2f}"] for name, value in figures.items()]
    print_table("Handwritten digits, labelled", ["side", "accuracy", "loss in points"], rows)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", choices=JUDGED, default=list(JUDGED), metavar="NAME")
    parser.add_argument("--sides", nargs="+", default=[RIVAL.name, OURS.name])
    parser.add_argument("--no-digits", action="store_true", help="leave the digits network out")
    parser.add_argument("--seed", type=int, default=0, help="of weights, images and training")
    parser.add_argument("--json", type=Path, metavar="PATH")
    return parser.parse_args()


def main() -> None:
    """Judge every network and print the tables."""
    arguments = parse_arguments()
    print_machine()
    sides = available_sides(arguments.sides)
    networks = {name: judge_network(name, sides, arguments.seed) for name in arguments.networks}
    if networks:
        print_networks(networks)
    digits = {} if arguments.no_digits else judge_digits(sides, arguments.seed)
    if digits:
        print_digits(digits)
    write_json(arguments.json, {"networks": networks, "digits": digits})


if __name__ == "__main__":
    main()
