"""``fxquant diff``: what quantization changed in a model, and why."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path
from typing import Any

from fxquant.commands.show import plain, require_writable, show_json, write_text
from fxquant.commands.subject import add_data, add_inputs, add_output, read_batches, read_model, read_stage
from fxquant.diagnose import compare
from fxquant.errors import FxquantError
from fxquant.inspect.compare import Comparison
from fxquant.inspect.graph_diff import graph_diff
from fxquant.ir.stages import StageModule

_EXAMPLES = """examples:
  fxquant diff net.py:model net.fxq                       what became of every operator, in the terminal
  fxquant diff net.py:model net.fxq --html net.html --open    the same with the graph, in the browser
  fxquant diff net.py:model net.fxq --data photos/ --image-size 224 --html net.html     coloured by error
  fxquant diff first.fxq second.fxq --context 2           two configurations of one model
"""


def add(commands: Any) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "diff",
        help="show what changed between two stages of a model, and why",
        description="Compare a float model with its quantized file, or two files made from one model: what was fused,\n"
        "replaced, inserted or left float, by which rule or pass, and why.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("before", help="file.py:object, module:object, or a file that fxquant quantize wrote")
    parser.add_argument("after", help="the same")
    parser.add_argument(
        "--context", type=int, default=0, metavar="N", help="unchanged operators to show beside changes"
    )
    parser.add_argument("--html", metavar="FILE", help="write a page with the graph, to look at and to send")
    parser.add_argument("--markdown", metavar="FILE", help="write Markdown")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    add_data(parser, "--data", what="to measure errors on, which colour the page")
    add_inputs(parser)
    add_output(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Compare and print; returns the exit code."""
    if arguments.open and not arguments.html:
        raise FxquantError("--open opens the page that --html writes", remedy="add --html FILE")
    for path in filter(None, (arguments.markdown, arguments.html)):
        require_writable(path)
    before, after = read_model(arguments.before), read_model(arguments.after)
    if not isinstance(before, StageModule) and not isinstance(after, StageModule):
        after = read_stage(arguments.after, arguments)
    found = graph_diff(before, after, context=arguments.context)
    comparison = _comparison(before, after, arguments)
    if arguments.markdown:
        write_text(arguments.markdown, found.to_markdown(comparison), arguments.quiet)
    if arguments.html:
        write_text(arguments.html, found.to_html(comparison), arguments.quiet)
        if arguments.open:
            webbrowser.open(Path(arguments.html).resolve().as_uri())
    if arguments.json:
        changes = [plain(change) for change in found.changes]
        show_json({"before": found.before, "after": found.after, "counts": found.counts, "changes": changes})
    elif not (arguments.html or arguments.markdown):
        print(found)
    return 0


def _comparison(before: Any, after: Any, arguments: argparse.Namespace) -> Comparison | None:
    batches = read_batches(arguments)
    if batches is None:
        return None
    if isinstance(before, StageModule):
        raise FxquantError("errors are measured against the float model", remedy="name the float model first")
    return compare(before, after, batches)
