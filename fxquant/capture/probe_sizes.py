"""Running a captured graph at other sizes, without computing, to see which built-in answers about sizes change.

``if x.shape[1] % 8: x = F.pad(x, ...)`` is built in as the example has it. Where the answer changes with the sizes of
the inputs, the statement runs as Python instead, and the graph is right for every size. Where it never does, it stays
built in, and what it computes stays int8.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, fx, nn

from fxquant.capture.inputs import BoundInputs, copy_tensors
from fxquant.capture.keep_state import randomness_kept
from fxquant.capture.layer_recording import RepeatedCall
from fxquant.capture.meta_run import META, MetaRun
from fxquant.capture.structures import leaves
from fxquant.capture.trouble import Trouble
from fxquant.ir.ancestors import with_ancestors

Size = Callable[[int], int]


def _same(size: int) -> int:
    return size


def _more(count: int) -> Size:
    return lambda size: size + count


def _one(size: int) -> int:
    return min(size, 1)


def _rounded(size: int) -> int:
    return size + -size % 32


# (inputs in a batch, pixels in height or tokens, pixels in width) as they are made of the example's. The first two show
# what asks for multiples, the third what asks for thresholds, the fourth what asks for single rows and tokens, as
# decoders do; the others are for what these sizes do not reach. The last one is of the same sizes, with its dimensions
# in another order in memory.
Probe = tuple[Size, Size, Size]
_OTHER_LAYOUT: Probe = (_same, _same, _same)
_FOR_ALL: tuple[Probe, ...] = (
    (_more(1), _more(1), _more(1)), (_same, _rounded, _rounded), (_same, _more(32), _more(16)), (_one, _one, _one),
)  # fmt: skip
_FOR_SOME: tuple[Probe, ...] = ((_same, _more(4), _more(4)), (_more(1), _same, _same), (_one, _same, _same))


def probe_sizes(
    root: nn.Module,
    graph: fx.Graph,
    inputs: BoundInputs,
    questions: Mapping[fx.Node, Trouble],
    repeated: Iterable[RepeatedCall],
) -> list[Trouble]:
    """What is answered differently for inputs of other sizes.

    Args:
        root: the copy that was traced. graph: its graph.
        inputs: the example.
        questions: by the node that checks the answer.
        repeated: calls that do what others did, see ``MetaRun``.
    """
    if not questions:
        return []
    run, found = MetaRun(root, graph, repeated), dict[fx.Node, None]()
    unanswered = set(questions)
    asks_for_layout = any(node.target == "is_contiguous" for node in with_ancestors(questions))
    probes = [(probe, signals) for signals in _kinds_of(inputs) for probe in (*_FOR_ALL, *_FOR_SOME)]
    for probe, signals in (*probes, *([(_OTHER_LAYOUT, False)] if asks_for_layout else [])):
        statements = {questions[node].spots[0] for node in found}
        left = [node for node in questions if questions[node].spots[0] not in statements]
        left = [node for node in left if node in unanswered] if probe in _FOR_SOME else left
        if not left:
            continue
        with warnings.catch_warnings(), randomness_kept(), torch.no_grad():
            warnings.simplefilter("ignore")
            resized = functools.partial(_resized, probe=probe, signals=signals)
            values = [copy_tensors(value, resized) for *_, value in inputs.entries]
            different = run.answers(values, left)
        unanswered -= different.keys()
        found.update(dict.fromkeys(node for node, answer in different.items() if answer))
    return [questions[node] for node in found]


def _kinds_of(inputs: BoundInputs) -> tuple[bool, ...]:
    """Whether to take inputs of three dimensions for signals: where there are some, one way and the other."""
    tensors = [leaf for *_, value in inputs.entries for leaf in leaves(value) if isinstance(leaf, Tensor)]
    return (False, True) if any(tensor.dim() == 3 for tensor in tensors) else (False,)


def _resized(tensor: Tensor, probe: Probe, signals: bool) -> Tensor:
    """An empty tensor with other rows, and other columns where dimensions are those of images, video, or tokens.

    Args:
        tensor: of the example.
        probe: how its sizes change.
        signals: whether three dimensions are [N, channels, length], not [N, tokens, features].
    """
    shape = list(tensor.shape)
    first = 2 if len(shape) > 3 or (signals and len(shape) == 3) else 1
    last = len(shape) if len(shape) > 2 and first == 2 else min(len(shape), 2)
    for place in (0, *range(first, last)) if shape else ():
        change = probe[0 if place == 0 else 2 if place == len(shape) - 1 and len(shape) > 3 else 1]
        shape[place] = change(shape[place])
    if probe is _OTHER_LAYOUT:
        return torch.empty(shape[::-1], dtype=tensor.dtype, device=META).permute(*reversed(range(len(shape))))
    return torch.empty(shape, dtype=tensor.dtype, device=META)
