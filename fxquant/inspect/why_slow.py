"""The answer to "why is it not faster?", in words, from the times and the plan."""

from __future__ import annotations

from fxquant.inspect.profile_row import ProfileRow
from fxquant.ir.quant_plan import QuantPlan, Unit

_MOST_NAMED = 5
# A share of the time that is worth a sentence.
_WORTH_NAMING = 0.02


def why_slow(rows: tuple[ProfileRow, ...], plan: QuantPlan, model_ms: float, float_ms: float) -> tuple[str, ...]:
    """Sentences on what costs time without being int8 arithmetic, and what would remove it.

    Args:
        rows: every call, timed.
        plan: of the model.
        model_ms: time of the whole model, float_ms: of the float operators.
    """
    total = sum(row.median_ms for row in rows) or 1.0
    units = {unit.name: unit for unit in plan.units}
    found = [f"int8 takes {model_ms / float_ms:.2f} of float's time"] if float_ms else []
    for row in _largest(rows, ("float", "step"), total):
        caused = _conversions_around(row, rows)
        found.append(f"{_share(row, total)}{_in_float(row, units)}{_conversions(caused, total)}")
    named = {item.node for row in rows if row.kind == "float" for item in _conversions_around(row, rows)}
    for row in _largest(rows, ("conversion",), total):
        if row.node not in named:
            found.append(f"{_share(row, total)}: {_border(row, rows)}")
    slower = [row for row in rows if row.kind == "int8" and 0 < row.float_ms < row.median_ms]
    slower = [row for row in slower if row.median_ms - row.float_ms > _WORTH_NAMING * total]
    for row in sorted(slower, key=lambda row: row.float_ms - row.median_ms)[:_MOST_NAMED]:
        found.append(f"{_share(row, total)} in {row.kernel}: slower than in float ({row.float_ms:.3f} ms)")
    if len(found) <= 1:
        found.append("nothing but int8 kernels takes more than 2 % of the time: their own speed is the limit")
    return tuple(found)


def _largest(rows: tuple[ProfileRow, ...], kinds: tuple[str, ...], total: float) -> list[ProfileRow]:
    worth = [row for row in rows if row.kind in kinds and row.median_ms > _WORTH_NAMING * total]
    return sorted(worth, key=lambda row: -row.median_ms)[:_MOST_NAMED]


def _share(row: ProfileRow, total: float) -> str:
    return f"{row.node} ({row.op}) takes {row.median_ms:.3f} ms, {100 * row.median_ms / total:.0f} %"


def _in_float(row: ProfileRow, units: dict[str, Unit]) -> str:
    reason = units[row.unit].reason if row.unit in units else ""
    if row.kind == "step":
        return f", in float between int8 neighbours{f': {reason}' if reason else ''}"
    remedy = "; take that entry out" if reason.startswith("excluded by qconfig") else "; use an operator that has one"
    return f", in float: {reason or 'no int8 kernel'}{remedy}"


def _conversions_around(row: ProfileRow, rows: tuple[ProfileRow, ...]) -> list[ProfileRow]:
    """The conversions that exist because the unit of ``row`` is float: of what it reads, and of its results."""
    members = [item for item in rows if item is row or (row.unit and item.unit == row.unit)]
    around = {name for item in members for name in (*item.reads, *item.readers)}
    return [item for item in rows if item.kind == "conversion" and item.node in around]


def _conversions(caused: list[ProfileRow], total: float) -> str:
    if not caused:
        return ""
    cost = sum(item.median_ms for item in caused)
    names = ", ".join(item.node for item in caused)
    return f"; it causes {names}: {cost:.3f} ms, {100 * cost / total:.0f} %, gone once it is int8"


def _border(row: ProfileRow, rows: tuple[ProfileRow, ...]) -> str:
    """Why a conversion is there that no float operator causes."""
    calls = {item.node for item in rows}
    if row.op == "quantize" and not any(name in calls for name in row.reads):
        return "the model's input becomes int8 here; set_input_quantized_indexes takes integers instead"
    if row.op == "dequantize" and "output" in row.readers:
        return "the model's output becomes float here; set_output_quantized_indexes returns integers instead"
    if row.op == "contiguous":
        return "an operator that depends on the memory layout reads it; channels-last kernels made it"
    return f"between {', '.join(row.reads)} and {', '.join(row.readers)}"
