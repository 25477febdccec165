"""Running a captured graph at other sizes, without computing, to see which built-in answers about sizes change.

``if x.shape[1] % 8: x = F.pad(x, ...)`` is built in as the example has it. Where the answer changes with the sizes of
the inputs, the statement runs as Python instead, and the graph is right for every size. Where it never does, it stays
built in, and what it computes stays int8.
"""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fxquant.capture.inputs import BoundInputs, copy_tensors
from fxquant.capture.keep_state import randomness_kept
from fxquant.capture.trouble import Trouble
from fxquant.ir.checks import CHECKS, require_same

# (more inputs in a batch, more pixels in height, width, or tokens)
_PROBES = ((1, 0, 0), (0, 1, 1), (0, 3, 3), (0, 32, 16))


def probe_sizes(
    root: nn.Module, graph: fx.Graph, inputs: BoundInputs, questions: Mapping[fx.Node, Trouble]
) -> list[Trouble]:
    """What is answered differently for inputs of other sizes.

    Args:
        root: the copy that was traced. graph: its graph.
        inputs: the example.
        questions: by the node that checks the answer.
    """
    if not questions:
        return []
    found: dict[fx.Node, None] = {}
    for probe in _PROBES:
        run = _Run(root, graph)
        with _quiet(), randomness_kept(), FakeTensorMode(allow_non_fake_inputs=True):
            resized = functools.partial(_resized, more=probe)
            values = [copy_tensors(value, resized) for *_, value in inputs.entries]
            with suppress(Exception):  # the size may not fit, or an operator need values: what was seen counts
                run.run(*values)
        found.update(dict.fromkeys(run.different))
    return [questions[node] for node in found if node in questions]


class _Run(fx.Interpreter):
    """Runs a graph and notes the checks that fail.

    Attributes:
        different: nodes of the checks.
    """

    def __init__(self, root: nn.Module, graph: fx.Graph) -> None:
        super().__init__(root, graph=graph)
        self.extra_traceback = False
        self.different: list[fx.Node] = []

    def run_node(self, n: fx.Node) -> Any:
        """Run a node; a check raises nothing."""
        if n.target is require_same:
            args, _ = self.fetch_args_kwargs_from_env(n)
            if args[0] is not args[1] and args[0] != args[1]:
                self.different.append(n)
        return None if n.target in CHECKS else super().run_node(n)


def _resized(tensor: Tensor, more: tuple[int, int, int]) -> Tensor:
    """An empty tensor with more rows, and more columns where dimensions are those of images, video, or tokens."""
    shape = list(tensor.shape)
    sized = range(2, len(shape)) if len(shape) > 3 else range(1, min(len(shape), 2))
    for place in range(len(shape)):
        if place == 0:
            shape[place] += more[0]
        elif place in sized:
            shape[place] += more[2] if place == len(shape) - 1 and len(shape) > 3 else more[1]
    return torch.empty(shape, dtype=tensor.dtype, device=tensor.device)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings and messages of a run that is expected to fail."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
