"""Write docs/support.md from the operator catalogue.

python docs/make_support_matrix.py            # writes the file
python docs/make_support_matrix.py --check    # exits with 1 when the file is stale
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from fxquant.fusion.fuse_units import RULES
from fxquant.fusion.rule import Rule
from fxquant.ir.meta import qualified_name
from fxquant.ops import catalogue
from fxquant.ops.opdef import Averages, Fixed, FloatOnly, Identity, Moves, OpDef, Query, Requantize, Selects
from fxquant.qconfig.qconfig import ENGINES

TARGET = Path(__file__).with_name("support.md")

_INTRODUCTION = """# Supported operators

Generated from the catalogue by `python docs/make_support_matrix.py`; do not edit it by hand.

Every spelling of an operator (function, method, operator, in-place form, and the modules whose `forward` calls it)
is quantized alike. Operators that are not listed run in float, with the reason in `fxquant.explain`.

- **int8**: what runs it, on every engine: {engines}. Layers with weights are packed for the engine; `x86` takes the
  better of onednn and fbgemm for each. A kernel may refuse single calls (a weight computed from activations, bilinear
  interpolation); `explain` names those.
- **step**: no int8 kernel; it is computed in float between its int8 neighbours.
- **takes over**: what fusion rules may fold into its kernel.
- **range**: `own` is observed, `input's` is shared with the input, `fixed` is known before any data.
"""


def render() -> str:
    """The whole page."""
    parts = [_INTRODUCTION.format(engines=", ".join(f"`{name}`" for name in ENGINES))]
    for title, family in catalogue.FAMILIES.items():
        parts.append(f"## {title}\n\n| op | spellings | int8 | range | remark |\n|---|---|---|---|---|")
        parts[-1] += "".join(f"\n{_line(row)}" for row in family.ROWS) + "\n"
    return "\n".join(parts)


def _line(row: OpDef) -> str:
    name = f"[{row.name}]({row.source})" if row.source else row.name
    cells = (name, ", ".join(f"`{text}`" for text in _spellings(row)), _int8(row), _range(row), _remark(row))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _spellings(row: OpDef) -> list[str]:
    """Functions, then methods with a dot, then modules."""
    functions: list[Callable[..., Any]] = list(row.functions)
    if not isinstance(row.target, str):
        functions.insert(0, row.target)
    found = [_short(function) for function in functions]
    found += [f".{name}" for name in row.methods if not name.startswith("__")]
    return list(dict.fromkeys([*found, *(f"nn.{kind.__name__}" for kind in row.modules)]))


def _short(function: Callable[..., Any]) -> str:
    """The public name of a function: where torch or torch.nn.functional holds that very object."""
    for prefix, module in (("torch", torch), ("F", F), ("torch.special", torch.special)):
        names = (getattr(function, "__name__", ""), *dir(module))
        found = next((name for name in names if getattr(module, name, None) is function), None)
        if found is not None:
            return f"{prefix}.{found}"
    return qualified_name(function)


def _int8(row: OpDef) -> str:
    if isinstance(row.output, (Query, Identity)):
        return "–"
    if "native" not in row.kernels:
        return "step"
    kernel = row.kernels["native"]
    if row.shares_range and kernel.convention in ("same_function", "on_integers"):
        return "yes, the same function on integers"
    return f"`{kernel.function}`" if kernel.function else f"yes ({kernel.convention})"


def _range(row: OpDef) -> str:
    if isinstance(row.output, Fixed):
        return f"fixed: scale {row.output.scale:.6g}, zero point {row.output.zero_point}"
    if row.shares_range:
        return "input's"
    return "–" if isinstance(row.output, (Query, Identity)) else "own"


def _remark(row: OpDef) -> str:
    taken = [rule.role.replace("_", " ") for rule in RULES if row.name in _keepers(rule)]
    if taken:
        return f"takes over: {', '.join(taken)}"
    if row.clip is not None:
        return "only clips: costs nothing after an operator with a range of its own"
    texts: dict[type, str] = {
        Moves: "moves numbers",
        Selects: "exact on integers",
        Averages: "rounds to the input's range",
        Identity: "does nothing in eval mode",
        Query: "makes no floating-point tensor",
        Requantize: "",
        Fixed: "",
    }
    return row.output.why if isinstance(row.output, FloatOnly) else texts[type(row.output)]


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
