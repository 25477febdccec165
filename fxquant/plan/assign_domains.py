"""Which values are stored as integers. Decided by who reads them, not forward from who makes them.

Operators that requantize (convolution, addition, ...) read and write integers wherever they are configured and
the backend has a kernel. Operators that share their input's range (views, max pooling, cat) follow: they stay
integer behind an integer producer, and become integer in front of integer readers. Everything else is float.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from fxquant.fusion.rule import UnitDraft
from fxquant.ir.quant_plan import KernelChoice
from fxquant.ops.opdef import OpDef


@dataclass
class Candidate:
    """A unit with what is known before domains are assigned.

    Attributes:
        draft: the unit.
        row: catalogue row of its anchor, None when unknown.
        role: ``requantize``, ``share``, ``clip``, ``element`` (of a tuple), ``identity``, ``float`` or ``free``.
        activations: (operand, node) of its activation inputs, in order.
        kernel: the backend's choice.
        reason: why it is float, when it is.
        excluded: whether the configuration keeps it float.
        integer: whether the value is stored as integers; set here.
    """

    draft: UnitDraft
    row: OpDef | None
    role: str
    activations: tuple[tuple[str, fx.Node], ...] = ()
    kernel: KernelChoice | None = None
    reason: str = ""
    excluded: bool = False
    integer: bool = False

    @property
    def value(self) -> str:
        """Name of the value the unit makes."""
        return self.draft.last.name


def see_through_identities(candidates: list[Candidate]) -> None:
    """Let the readers of operators that do nothing (dropout in eval mode) read what those read.

    Args:
        candidates: units in execution order; their activations are replaced.
    """
    source_of: dict[fx.Node, fx.Node] = {}
    for candidate in candidates:
        candidate.activations = tuple((name, source_of.get(node, node)) for name, node in candidate.activations)
        if candidate.role == "identity":
            source_of[candidate.draft.last] = candidate.activations[0][1]


def assign_domains(candidates: list[Candidate]) -> None:
    """Set ``integer`` on every candidate.

    Args:
        candidates: units in execution order.
    """
    by_value = {candidate.value: candidate for candidate in candidates}
    readers: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        for _, node in candidate.activations:
            readers.setdefault(node.name, []).append(candidate)
    wanted = _wanted(candidates, readers)
    for candidate in candidates:
        candidate.integer = _is_integer(candidate, by_value, wanted)


def _wanted(candidates: list[Candidate], readers: dict[str, list[Candidate]]) -> dict[str, tuple[bool, bool]]:
    """For each value: (some reader wants integers, all readers do). Last values first."""
    wanted: dict[str, tuple[bool, bool]] = {}
    for candidate in reversed(candidates):
        outside = len(set(candidate.draft.last.users)) > _inside_users(candidate, readers)
        wishes = [_wishes(reader, wanted) for reader in readers.get(candidate.value, [])]
        wanted[candidate.value] = any(wishes), bool(wishes) and all(wishes) and not outside
    return wanted


def _inside_users(candidate: Candidate, readers: dict[str, list[Candidate]]) -> int:
    """How many of the value's users read it as an activation operand of a unit."""
    anchors = {id(node) for reader in readers.get(candidate.value, []) for node in reader.draft.nodes}
    return sum(id(user) in anchors for user in candidate.draft.last.users)


def _wishes(reader: Candidate, wanted: dict[str, tuple[bool, bool]]) -> bool:
    if reader.role == "requantize":
        return True
    return reader.role in ("share", "element") and wanted[reader.value][1]


def _is_integer(candidate: Candidate, by_value: dict[str, Candidate], wanted: dict[str, tuple[bool, bool]]) -> bool:
    if candidate.role == "requantize":
        return True
    if candidate.role in ("float", "free", "identity"):
        return False
    stored = [node.name in by_value and by_value[node.name].integer for _, node in candidate.activations]
    if all(stored):
        return bool(stored)
    if candidate.role in ("clip", "element"):
        return False
    some, every = wanted[candidate.value]
    return every or (any(stored) and some)
