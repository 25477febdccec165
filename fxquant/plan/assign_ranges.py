"""Which values share one scale and zero point.

The members of a cat, of a chain of views, of a pooling form one class, observed where new numbers enter it.
A fixed range (sigmoid, tanh) is never widened: an operator that joins it with others requantizes it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import torch

from fxquant.ir.meta import info
from fxquant.ir.quant_plan import STANDALONE, FixedRange, RangeClass, TensorSpec
from fxquant.ops.opdef import Fixed
from fxquant.plan.assign_domains import Candidate
from fxquant.plan.borders import NO_BORDERS, Borders

_FULL = TensorSpec(torch.uint8, 0, 255)

_AVERAGES = ("mean", *(f"{kind}avg_pool{rank}d" for kind in ("", "adaptive_") for rank in (1, 2, 3)))
_MANY = 16
_HEADROOM = 1.4
"""For averages of many numbers: a sample has few of them, so calibration sees little of how far they reach, and what is
beyond is lost to everything that follows. Source: measurements, ``benchmarks/accuracy.py --seed 3``."""

_NOISE = 2.0**-20
"""Of the largest number that is summed: results that small are what float32, of 24 bits, leaves of a difference."""
_PRODUCTS = ("matmul", "bilinear")  # of two activations; those with a weight read one


@dataclass
class _Group:
    members: list[str]
    sources: list[str]
    fixed: FixedRange | None = None
    configured_by: str = ""
    given_by: str = ""
    notes: list[str] = field(default_factory=list)
    headroom: float = 1.0
    noise: float = 0.0

    @property
    def is_final(self) -> bool:
        """Whether its parameters are not ours to choose, so that no other value can widen them."""
        return self.fixed is not None or bool(self.given_by)


def assign_ranges(
    candidates: list[Candidate], specs: dict[str, TensorSpec], borders: Borders = NO_BORDERS
) -> tuple[tuple[RangeClass, ...], dict[str, str]]:
    """Form range classes.

    Args:
        candidates: units with domains assigned.
        specs: how the activations of each unit are stored, by value name, for units with a qconfig; under "" those of
            the global one.
        borders: values that enter or leave as integers.

    Returns:
        The classes, and for each integer value the name of its class.
    """
    groups = {name: _Group([name], [name], given_by=name if borders.given else "") for name in borders.inputs}
    for candidate in candidates:
        if candidate.role == STANDALONE:
            _add_border_values(candidate, groups)
            if candidate.integer:
                groups[candidate.value] = _Group([candidate.value], [candidate.value], given_by=candidate.value)
            continue
        if not candidate.integer:
            continue
        if candidate.role == "requantize" and not candidate.shares_range:
            _add_border_values(candidate, groups)
            groups[candidate.value] = _own_group(candidate)
        else:
            _join(candidate, groups)
    for name in borders.outputs:
        groups.setdefault(name, _Group([name], [name], configured_by=name))
    classes: list[RangeClass] = []
    names: dict[str, str] = {}
    for group in {id(group): group for group in groups.values()}.values():
        made = _finish(group, specs)
        classes.append(made)
        names.update(dict.fromkeys(group.members, made.name))
    return tuple(classes), names


def _own_group(candidate: Candidate) -> _Group:
    output = candidate.row.output if candidate.row is not None else None
    fixed = FixedRange(output.scale, output.zero_point) if isinstance(output, Fixed) else None
    if candidate.draft.roles:  # a clip after a fixed range would make a range of its own
        fixed = None
    headroom = _HEADROOM if _averages_many(candidate) else 1.0
    return _Group(
        [candidate.value], [candidate.value], fixed, candidate.value, headroom=headroom, noise=_noise(candidate)
    )


def _noise(candidate: Candidate) -> float:
    """Magnitude that rounding leaves where a sum in float32 should come to nothing, on the example inputs."""
    given = [info(node).largest for _, node in candidate.activations]
    name = "" if candidate.row is None else candidate.row.name
    if name in ("mul", "div") or not given:  # nothing is summed
        return 0.0
    return _NOISE * (prod(given) if name in _PRODUCTS else max(given))


def _averages_many(candidate: Candidate) -> bool:
    """Whether each number of the result is the mean of many."""
    if candidate.row is None or candidate.row.name not in _AVERAGES:
        return False
    read, made = info(candidate.activations[0][1]).tensor, info(candidate.draft.last).tensor
    return read is not None and made is not None and prod(read.shape) >= _MANY * prod(made.shape)


def _add_border_values(candidate: Candidate, groups: dict[str, _Group]) -> None:
    """Float values that this unit reads as integers get a range of their own."""
    for _, node in candidate.activations:
        speaker = candidate.value if candidate.measures else ""
        group = groups.setdefault(node.name, _Group([node.name], [node.name], None, speaker))
        group.configured_by = group.configured_by or speaker


def _join(candidate: Candidate, groups: dict[str, _Group]) -> None:
    """Merge the ranges of a sharing operator's inputs and output."""
    _add_border_values(candidate, groups)
    sharing = [groups[node.name] for _, node in candidate.activations]
    if len({id(group) for group in sharing}) > 1:
        free = [group for group in sharing if not group.is_final]
        if len(free) < len(sharing):
            note = f"{candidate.value} requantizes its inputs of fixed range"
            sharing = free or [_Group([], [candidate.value], None, candidate.value)]
            sharing[0].notes.append(note)
    if candidate.fills and all(group.is_final for group in sharing):  # the number need not be in such a range
        sharing = [_Group([], [candidate.value], None, candidate.value)]
    target = sharing[0]
    for other in sharing[1:]:
        if other is not target:
            _merge(target, other, groups)
    target.members.append(candidate.value)
    if (candidate.role == "requantize" or candidate.fills) and candidate.value not in target.sources:
        target.sources.append(candidate.value)
    groups[candidate.value] = target


def _merge(target: _Group, other: _Group, groups: dict[str, _Group]) -> None:
    target.members += other.members
    target.sources += other.sources
    target.notes += other.notes
    target.headroom = max(target.headroom, other.headroom)
    target.noise = max(target.noise, other.noise)
    for member in other.members:
        groups[member] = target


def _finish(group: _Group, specs: dict[str, TensorSpec]) -> RangeClass:
    wishes = [specs[name] for name in (group.configured_by, *group.sources) if name in specs]
    different = len(set(wishes)) > 1
    if different:
        group.notes.append(f"members ask for different integer ranges; {group.configured_by}'s is used")
    return RangeClass(
        name=group.sources[0],
        members=tuple(group.members),
        sources=tuple(group.sources),
        spec=_FULL if group.is_final else wishes[0] if wishes else specs.get("", _FULL),
        configured_by=group.configured_by,
        fixed=group.fixed,
        given_by=group.given_by,
        note="; ".join(group.notes),
        headroom=group.headroom,
        noise=group.noise,
    )
