"""A convolution and the sum that follows it run as one kernel, which rounds once instead of twice.

Before::

    conv3: int8, quantized.conv2d;  add: int8, quantized.add_relu, reads conv3 and identity

After::

    add: int8, onednn.qconv2d_pointwise.binary, reads conv3's input and identity

The kernel writes into the other operand's memory, so that operand must be read by nobody afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx

from fxquant.ir.meta import info
from fxquant.ir.quant_plan import FusionRecord, KernelChoice
from fxquant.ops import catalogue
from fxquant.ops.opdef import Selects
from fxquant.ops.queries import asks_for_size
from fxquant.plan.assign_domains import Candidate
from fxquant.plan.backend import Backend
from fxquant.plan.borders import Borders
from fxquant.plan.resolve_qconfig import Resolved

RULE = "fuse_sum"
ROLE = "add"


@dataclass(frozen=True)
class _Joined:
    """A convolution, the sum that reads it, the other operand and the kernel for both."""

    conv: Candidate
    add: Candidate
    other: fx.Node
    kernel: KernelChoice


def fuse_sums(
    candidates: list[Candidate], configs: Mapping[str, Resolved], backend: Backend, borders: Borders
) -> tuple[list[Candidate], tuple[FusionRecord, ...]]:
    """Let convolutions do the sums that read them, where the backend has a kernel and the sum's other operand is free.

    Args:
        candidates: units in execution order, domains assigned; those of convolutions that grow are changed.
        configs: configuration by node name.
        backend: knows the kernels.
        borders: values that enter or leave as integers.

    Returns:
        The units that are left, and what was done.
    """
    by_value = {candidate.value: candidate for candidate in candidates}
    by_node = {node: candidate for candidate in candidates for node in candidate.draft.nodes}
    order = {node: position for position, node in enumerate(_graph_of(candidates))}
    kept: list[Candidate] = []
    records: list[FusionRecord] = []
    for add in candidates:
        joined = _join(add, by_value, configs, backend, order)
        if joined is None or not _may_overwrite(joined, by_node, order, borders):
            kept.append(add)
            continue
        conv = joined.conv
        names = tuple(node.name for node in (*conv.draft.nodes, *add.draft.nodes))
        records.append(FusionRecord(RULE, names))
        conv.draft.nodes = sorted((*conv.draft.nodes, *add.draft.nodes), key=order.__getitem__)
        conv.draft.roles |= {**add.draft.roles, ROLE: add.draft.anchor}
        conv.activations = (*conv.activations, (ROLE, joined.other))
        conv.kernel, conv.fallbacks = joined.kernel, ()
        by_node |= dict.fromkeys(add.draft.nodes, conv)
        by_value[conv.value] = conv
        kept = [candidate for candidate in kept if candidate is not conv] + [conv]
    return kept, tuple(records)


def _graph_of(candidates: list[Candidate]) -> tuple[fx.Node, ...]:
    return tuple(candidates[0].draft.anchor.graph.nodes) if candidates else ()


def _join(
    add: Candidate,
    by_value: Mapping[str, Candidate],
    configs: Mapping[str, Resolved],
    backend: Backend,
    order: Mapping[fx.Node, int],
) -> _Joined | None:
    """The convolution that can do a sum: the one of its operands that is made last, when nobody else reads it."""
    if add.row is None or add.row.name != "add" or not _is_plain(add) or len(add.activations) != 2:
        return None
    anchor = add.draft.anchor
    bound = catalogue.arguments(anchor, add.row)
    sources = [node for _, node in add.activations]
    if bound["alpha"] != 1 or [bound["input"], bound["other"]] != sources:
        return None
    for source, other in sorted(((*sources,), (*reversed(sources),)), key=lambda pair: -order[pair[0]]):
        conv = by_value.get(source.name)
        if conv is None or not _is_plain(conv) or "clip" in conv.draft.roles or ROLE in conv.draft.roles:
            continue
        same = configs[conv.draft.anchor.name].qconfig is configs[anchor.name].qconfig
        if same and set(conv.draft.last.users) == {anchor} and _same_shape(conv.draft.last, other):
            assert conv.kernel is not None
            output = info(anchor).tensor
            kernel = backend.kernel_with_sum(conv.kernel, output) if output is not None else None
            if kernel is not None:
                return _Joined(conv, add, other, kernel)
    return None


def _is_plain(candidate: Candidate) -> bool:
    """Whether a unit computes integers with a range of its own."""
    return candidate.integer and candidate.role == "requantize" and not candidate.shares_range


def _same_shape(made: fx.Node, other: fx.Node) -> bool:
    """Whether two values have one shape, with nothing in it but the batch that could be broadcast for other inputs."""
    first, second = info(made).tensor, info(other).tensor
    return (
        first is not None and second is not None and first.shape == second.shape and min(first.shape[1:], default=1) > 1
    )


def _may_overwrite(
    joined: _Joined, by_node: Mapping[fx.Node, Candidate], order: Mapping[fx.Node, int], borders: Borders
) -> bool:
    """Whether the other operand has memory of its own that nobody reads after the sum."""
    other, unit = joined.other, by_node.get(joined.other)
    if unit is None or not unit.integer or not _has_own_memory(unit) or other.name in borders.outputs:
        return False
    if any(node is other for _, node in joined.conv.activations):
        return False
    anchor = joined.add.draft.anchor
    for reader in other.users:
        if reader is anchor or asks_for_size(reader):
            continue
        known = by_node.get(reader)
        if known is None or not known.integer or not _has_own_memory(known) or order[reader] > order[anchor]:
            return False
    return True


def _has_own_memory(unit: Candidate) -> bool:
    """Whether a unit writes a new tensor, rather than a view of what it reads."""
    selects = unit.row is not None and isinstance(unit.row.output, Selects)
    return unit.role == "requantize" or (unit.role == "share" and selects)
