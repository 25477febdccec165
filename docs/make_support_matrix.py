"""Write docs/support.md from the operator catalogue.

python docs/make_support_matrix.py            # writes the file
python docs/make_support_matrix.py --check    # exits with 1 when the file is stale
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from fxquant import pipeline
from fxquant.backends.native.backend import NativeBackend
from fxquant.fusion.fuse_units import RULES
from fxquant.fusion.rule import Rule
from fxquant.ir.meta import info, qualified_name
from fxquant.ir.quant_plan import Unit
from fxquant.ir.stages import CapturedModel
from fxquant.ops import catalogue
from fxquant.ops.opdef import Averages, Fixed, Identity, Moves, OpDef, Query, Selects
from fxquant.passes.decompose_operators import decompose_operators
from fxquant.plan.build_plan import build_plan
from fxquant.plan.request import PlanRequest
from fxquant.qconfig import get_default_qconfig_mapping
from fxquant.qconfig.qconfig import ENGINES

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "ops"))
from between import DECOMPOSED, DOMAINS, WRITTEN_AS, Between
from op_spellings import spellings, tensors_of

TARGET = Path(__file__).with_name("support.md")

_INTRODUCTION = """# Supported operators

Generated from the catalogue by `python docs/make_support_matrix.py`; do not edit it by hand. Each line is what the
planner decides for the examples that `tests/ops/test_every_op.py` runs between two int8 layers, in every spelling, on
every engine, against the reference.

Every spelling of an operator (function, method, operator, in-place form, and the modules whose `forward` calls it) is
quantized alike. Operators that are not listed run in float, with the reason in `fxquant.explain`, and int8 resumes
after them. The reference backend (`convert_to_reference_fx`) computes every line on any device.

- **int8**: an integer kernel runs it. A kernel may refuse single calls; `explain` says which and why.
- **folded**: part of the operator before it, at no cost where that one has a range of its own.
- **step**: computed in float between its int8 neighbours, stored int8; the reason is in the last column.
- **free**: a view, a move, an operator that does nothing in eval mode, or one that makes no floating-point tensor.
- **range**: `own` is observed, `input's` is shared with the input, `fixed` is known before any data.

Lines with two outcomes have examples of both: arguments decide.
"""


def render() -> str:
    """The whole page."""
    parts = [_INTRODUCTION]
    engines = " | ".join(f"`{name}`" for name in ENGINES)
    for title, family in catalogue.FAMILIES.items():
        parts.append(
            f"## {title}\n\n| op | spellings | {engines} | kernel | range | remark |\n|{'---|' * (5 + len(ENGINES))}"
        )
        parts[-1] += "".join(f"\n{_line(row)}" for row in family.ROWS) + "\n"
    return "\n".join(parts)


def _line(row: OpDef) -> str:
    name = f"[{row.name}]({row.source})" if row.source else row.name
    planned = {engine: _planned(row, engine) for engine in ENGINES}
    outcomes = [_joined(outcome for outcome, _ in units) for units in planned.values()]
    kernels = _joined(_kernel(row, *item) for units in planned.values() for item in units)
    spellings = ", ".join(f"`{text}`" for text in _spellings(row))
    cells = (name, spellings, *outcomes, kernels, _range(row), _remark(row, planned[ENGINES[0]]))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _joined(texts: Iterable[str]) -> str:
    """Distinct texts in order, a dash for none."""
    return ", ".join(dict.fromkeys(text for text in texts if text)) or "–"


def _planned(row: OpDef, engine: str) -> list[tuple[str, Unit]]:
    """Outcome and unit of the examples of a row between integer neighbours."""
    return [unit for index in range(len(row.examples)) for unit in _plan_example(row, index, engine)]


def _plan_example(row: OpDef, index: int, engine: str) -> list[tuple[str, Unit]]:
    mapping = get_default_qconfig_mapping(engine)
    captured = decompose_operators(_capture_example(row.name, index), mapping)
    plan, _ = build_plan(captured, PlanRequest(mapping, NativeBackend(engine)))
    names = {row.name, WRITTEN_AS.get(row.name), DECOMPOSED.get(row.name)}
    nodes = [node.name for node in captured.graph.nodes if info(node).op in names and node.op.startswith("call_")]
    units = [(name, plan.unit_of(name)) for name in nodes]
    return [(unit.outcome if unit.anchor == name else "folded", unit) for name, unit in units]


@cache
def _capture_example(name: str, index: int) -> CapturedModel:
    row = catalogue.by_name(name)
    assert row is not None
    example = row.examples[index]
    model = Between(next(spellings(row, example)), example, DOMAINS.get(name)).eval()
    return pipeline.capture(model, tuple(tensors_of(example, torch.Generator().manual_seed(2))))


def _kernel(row: OpDef, outcome: str, unit: Unit) -> str:
    if outcome == "folded":
        return f"`{row.kernels['native'].function}` where it is not" if row.clip is not None else ""
    return f"`{unit.kernel.function}`" if unit.kernel is not None and unit.kernel.function else ""


def _spellings(row: OpDef) -> list[str]:
    """Functions, then methods with a dot, then modules."""
    functions: list[Callable[..., Any]] = list(row.functions)
    if not isinstance(row.target, str):
        functions.insert(0, row.target)
    found = [_short(function) for function in functions]
    found += [f".{name}" for name in row.methods if not name.startswith("__")]
    return list(dict.fromkeys([*found, *(f"nn.{kind.__name__}" for kind in row.modules)]))


_PLACES = {"torch": torch, "F": F, "torch.special": torch.special, "torch.linalg": torch.linalg}


def _short(function: Callable[..., Any]) -> str:
    """The public name of a function: where torch or torch.nn.functional holds that very object."""
    for prefix, module in _PLACES.items():
        names = (getattr(function, "__name__", ""), *dir(module))
        found = next((name for name in names if getattr(module, name, None) is function), None)
        if found is not None:
            return f"{prefix}.{found}"
    return qualified_name(function)


def _range(row: OpDef) -> str:
    if isinstance(row.output, Fixed):
        return f"fixed: scale {row.output.scale:.6g}, zero point {row.output.zero_point}"
    if row.shares_range:
        return "input's"
    return "–" if isinstance(row.output, (Query, Identity)) else "own"


# What a rule absorbs, where its role is not a name that says so.
_TAKEN = {"expression": "functions of the same numbers", "batch_norm_before": "batch norm on either side"}


def _remark(row: OpDef, planned: list[tuple[str, Unit]]) -> str:
    taken = [_TAKEN.get(rule.role, rule.role.replace("_", " ")) for rule in RULES if row.name in _keepers(rule)]
    remarks = [f"takes over: {', '.join(taken)}"] if taken else []
    remarks += [unit.reason.partition(";")[0] for outcome, unit in planned if outcome == "step"]
    texts: dict[type, str] = {
        Moves: "moves numbers",
        Selects: "exact on integers",
        Averages: "rounds to the input's range",
        Identity: "does nothing in eval mode",
        Query: "makes no floating-point tensor",
    }
    return "; ".join(dict.fromkeys(remarks)) or texts.get(type(row.output), "")


def _keepers(rule: Rule) -> frozenset[str]:
    """Operators whose kernel takes over what the rule absorbs."""
    return rule.heads if rule.absorbs == "tail" else rule.tails


def main(arguments: list[str]) -> int:
    """Write the page, or with ``--check`` compare it."""
    page = render()
    if "--check" in arguments:
        return 0 if TARGET.is_file() and TARGET.read_text() == page else 1
    TARGET.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
