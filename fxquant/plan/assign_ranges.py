"""Which values share one scale and zero point.

The members of a cat, of a chain of views, of a pooling form one class, observed where new numbers enter it.
A fixed range (sigmoid, tanh) is never widened: an operator that joins it with others requantizes it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from fxquant.ir.quant_plan import FixedRange, RangeClass, TensorSpec
from fxquant.ops.opdef import Fixed
from fxquant.plan.assign_domains import Candidate

_FULL = TensorSpec(torch.uint8, 0, 255)


@dataclass
class _Group:
    members: list[str]
    sources: list[str]
    fixed: FixedRange | None = None
    configured_by: str = ""
    notes: list[str] = field(default_factory=list)


def assign_ranges(
    candidates: list[Candidate], specs: dict[str, TensorSpec]
) -> tuple[tuple[RangeClass, ...], dict[str, str]]:
    """Form range classes.

    Args:
        candidates: units with domains assigned.
        specs: how the activations of each unit are stored, by value name, for units with a qconfig.

    Returns:
        The classes, and for each integer value the name of its class.
    """
    groups: dict[str, _Group] = {}
    for candidate in candidates:
        if not candidate.integer:
            continue
        if candidate.role == "requantize":
            _add_border_values(candidate, groups)
            groups[candidate.value] = _own_group(candidate)
        else:
            _join(candidate, groups)
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
    return _Group([candidate.value], [candidate.value], fixed, candidate.value)


def _add_border_values(candidate: Candidate, groups: dict[str, _Group]) -> None:
    """Float values that this unit reads as integers get a range of their own."""
    for _, node in candidate.activations:
        if node.name not in groups:
            groups[node.name] = _Group([node.name], [node.name], None, candidate.value)


def _join(candidate: Candidate, groups: dict[str, _Group]) -> None:
    """Merge the ranges of a sharing operator's inputs and output."""
    _add_border_values(candidate, groups)
    sharing = [groups[node.name] for _, node in candidate.activations]
    if len({id(group) for group in sharing}) > 1:
        free = [group for group in sharing if group.fixed is None]
        if len(free) < len(sharing):
            note = f"{candidate.value} requantizes its inputs of fixed range"
            sharing = free or [_Group([], [candidate.value], None, candidate.value)]
            sharing[0].notes.append(note)
    target = sharing[0]
    for other in sharing[1:]:
        if other is not target:
            _merge(target, other, groups)
    target.members.append(candidate.value)
    groups[candidate.value] = target


def _merge(target: _Group, other: _Group, groups: dict[str, _Group]) -> None:
    target.members += other.members
    target.sources += other.sources
    target.notes += other.notes
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
        spec=wishes[0] if group.fixed is None else _FULL,
        configured_by=group.configured_by,
        fixed=group.fixed,
        note="; ".join(group.notes),
    )
