"""``fxquant explain``: what happens to each operator of a model, and why; what the slowest one does."""

from __future__ import annotations

import argparse
import os
from typing import Any

from fxquant.commands.show import plain, show_json
from fxquant.commands.subject import add_inputs, add_output, read_stage, require_inputs
from fxquant.diagnose import profile
from fxquant.errors import FxquantError
from fxquant.inspect.explain import OUTCOMES, Explanation, ExplanationRow, explain
from fxquant.inspect.profile import Profile
from fxquant.inspect.profile_row import ProfileRow

_EXAMPLES = """examples:
  fxquant explain net.fxq                                 a row for each operator
  fxquant explain net.fxq --outcome float                 what was left float, and why
  fxquant explain net.fxq --node layer3.0.conv1           one operator in full
  fxquant explain net.fxq --slowest --input 1,3,224,224   the operator that takes most time, in full
  fxquant explain net.py:model --input 1,3,224,224        the plan for a float model, before any data is seen
"""


def add(commands: Any) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "explain",
        help="say what happens to each operator, and why",
        description="Say for each operator whether it runs int8, which kernel runs it, what it was fused with, and\n"
        "why it was left float.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="a file that fxquant quantize wrote, or file.py:object with --input")
    parser.add_argument("--outcome", choices=OUTCOMES, help="only operators with this outcome")
    parser.add_argument("--node", metavar="NAME", help="one operator, by its name or its module's path, in full")
    parser.add_argument("--slowest", action="store_true", help="time the model; the slowest operator in full")
    add_inputs(parser)
    add_output(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Explain and print; returns the exit code."""
    model = read_stage(arguments.model, arguments)
    found = explain(model)
    timed, call = None, None
    if arguments.slowest:
        timed = profile(model, require_inputs(arguments))
        call = _slowest(timed)
    rows = _chosen(found, arguments, call)
    if arguments.json:
        show_json({"stage": found.stage, "backend": found.backend, "rows": [plain(row) for row in rows],
                   "slowest": call, "counts": found.counts, "notes": found.notes})  # fmt: skip
    elif arguments.slowest or arguments.node:
        print("\n\n".join(_in_full(rows, call, timed)))
    elif arguments.outcome:
        print(Explanation(rows, found.counts, found.macs, found.notes, found.stage, found.backend))
    else:
        print(found)
    return 0


def _slowest(timed: Profile) -> ProfileRow:
    if not timed.rows:
        raise FxquantError("the model calls nothing that takes time", remedy="leave --slowest out")
    return timed.by_cost[0]


def _chosen(found: Explanation, arguments: argparse.Namespace, call: ProfileRow | None) -> tuple[ExplanationRow, ...]:
    rows = found.rows
    if call is not None:
        rows = tuple(row for row in rows if row.unit == (call.unit or call.node))
    if arguments.node:
        rows = tuple(row for row in rows if arguments.node in (row.node, row.module_path, row.unit))
        if not rows:
            raise FxquantError(f"there is no operator {arguments.node}", remedy="fxquant explain MODEL lists all")
    if arguments.outcome:
        rows = tuple(row for row in rows if row.outcome == arguments.outcome)
    return rows


def _in_full(rows: tuple[ExplanationRow, ...], call: ProfileRow | None, timed: Profile | None) -> list[str]:
    """Paragraphs: the time of a call, then each operator it computes."""
    found = []
    if call is not None and timed is not None:
        share = f"{100 * call.median_ms / timed.nodes_ms:.1f} %"
        lines = [f"{call.node}: {call.median_ms:.3f} ms, {share} of {timed.nodes_ms:.2f} ms"]
        if call.float_ms:
            lines.append(f"  in float    {call.float_ms:.3f} ms")
        lines += [f"  kernel      {call.kernel}", f"  moves       {call.bytes_moved / 1024:.0f} KiB"]
        lines += [f"  reads       {', '.join(call.reads)}"] if call.reads else []
        lines += [f"  note        {text}" for text in timed.why if text.startswith(f"{call.node} (")]
        found.append("\n".join(lines))
    return found + [_paragraph(row) for row in rows]


def _paragraph(row: ExplanationRow) -> str:
    place = (
        f"{os.path.relpath(row.source)}" if row.source and os.path.exists(row.source.rpartition(":")[0]) else row.source
    )
    facts = (("operator", row.op), ("module", row.module_path or "(root)"), ("source", place), ("outcome", row.outcome),
             ("kernel", row.kernel), ("why", row.reason), ("MACs", f"{row.macs:,}" if row.macs else ""))  # fmt: skip
    return "\n".join([row.node, *(f"  {title:<11} {text}" for title, text in facts if text)])
