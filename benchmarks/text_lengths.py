"""Whether captured language models compute what eager does for other lengths, rows and masks, down to one token.

Each of transformers' language models is captured on four examples: one token, one row, and rows that are padded on the
left and on the right. Each graph is given five other inputs. What eager cannot compute is not counted.

    python benchmarks/text_lengths.py
    python benchmarks/text_lengths.py --only bert,llama,bart
"""

from __future__ import annotations

import argparse
import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
import trace_transformers
from report import print_machine, print_table
from torch import Tensor, nn
from trace_values import difference, is_close

from fxquant import pipeline
from fxquant.errors import FxquantError

Size = tuple[int, int, str]  # rows, tokens, the side that the first row is padded on
EXAMPLES: tuple[Size, ...] = ((1, 1, ""), (1, 6, ""), (2, 9, "left"), (2, 9, "right"))
OTHERS: tuple[Size, ...] = ((1, 1, ""), (2, 5, ""), (3, 13, "left"), (2, 8, "right"), (1, 33, ""))
_PADDED = 2  # tokens
OUTCOMES = ("right", "refused", "wrong")


def is_text(inputs: Any) -> bool:
    """Whether inputs are [rows, tokens] of integers only."""
    items = inputs.values() if isinstance(inputs, Mapping) else ()
    return bool(items) and all(
        isinstance(item, Tensor) and item.dim() == 2 and not item.is_floating_point() for item in items
    )


def resized(inputs: Mapping[str, Tensor], size: Size) -> dict[str, Tensor]:
    """Other tokens of a size; masks are ones, but for the padding."""
    rows, tokens, padded = size
    made = {}
    for name, item in inputs.items():
        if "mask" not in name:
            made[name] = torch.randint(1, int(item.max()) + 1, (rows, tokens), dtype=item.dtype)
            continue
        made[name] = torch.ones(rows, tokens, dtype=item.dtype)
        if padded:
            made[name][0, slice(None, _PADDED) if padded == "left" else slice(-_PADDED, None)] = 0
    return made


def outcome(model: nn.Module, captured: nn.Module, inputs: Mapping[str, Tensor]) -> str:
    """``right``, ``refused`` or ``wrong``; "" where the model itself fails."""
    with torch.no_grad():
        try:
            expected = model(**inputs)
        except Exception:  # whatever a model raises for lengths that it does not take
            return ""
        try:
            found = captured(**inputs)
        except FxquantError:
            return "refused"
    return "right" if is_close(difference(expected, found)) else "wrong"


def measure(subject: Any) -> list[Any] | None:
    """One row of the table; None for models that take something else than text."""
    model, given = subject.model(), subject.example()
    if not is_text(given):
        return None
    counted: Counter[str] = Counter()
    for example in EXAMPLES:
        torch.manual_seed(0)
        inputs = resized(given, example)
        try:
            with torch.no_grad():
                model(**inputs)
        except Exception:  # as above
            continue
        captured = pipeline.capture(model, inputs)
        counted.update(outcome(model, captured, resized(given, other)) for other in OTHERS)
    return [subject.name, *(counted[name] for name in OUTCOMES)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names of models")
    only = [name for name in parser.parse_args().only.split(",") if name]
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print_machine()
    every = (*trace_transformers.ENCODERS, *trace_transformers.DECODERS, *trace_transformers.ENCODER_DECODERS)
    rows = [measure(subject) for subject in every if not only or subject.name in only]
    found = [row for row in rows if row is not None]
    total = [f"{len(found)} models", *(sum(row[place] for row in found) for place in range(1, len(OUTCOMES) + 1))]
    print_table("Inputs of other lengths, rows and masks", ["model", *OUTCOMES], [*found, total])


if __name__ == "__main__":
    main()
