"""Which values are stored as integers. Decided by who reads them, not forward from who makes them.

Operators that requantize (convolution, multiplication, ...) read and write integers wherever they are configured and
the backend has a kernel. Sums do where somebody reads their result as integers: the residual stream of a transformer,
which layer norms and further sums read, stays float and is not rounded at every block. Operators that share their
input's range (views, max pooling, cat) follow: they stay integer behind an integer producer, and become integer in
front of integer readers. Everything else is float.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from fxquant.fusion.rule import UnitDraft
from fxquant.ir.quant_plan import STANDALONE, KernelChoice
from fxquant.ops.opdef import OpDef
from fxquant.plan.borders import NO_BORDERS, Borders
from fxquant.plan.readers import reads_numbers


@dataclass
class Candidate:
    """A unit with what is known before domains are assigned.

    Attributes:
        draft: the unit.
        row: catalogue row of its anchor, None when unknown.
        role: ``requantize``, ``share``, ``clip``, ``element`` (of a tuple), ``identity``, ``standalone``, ``dynamic``
            (a kernel with floats on both sides), ``float`` or ``free``.
        activations: (operand, node) of its activation inputs, in order; of a standalone module: the integer ones.
        kernel: the backend's choice.
        reason: why it is float, when it is.
        excluded: whether the configuration keeps it float.
        constants: names of activations that are constants of the model, stored in the unit's range.
        fills: whether it writes a number into its output, which the range has to contain.
        shares_range: whether an operator that requantizes has to use its input's range.
        fallbacks: kernels to run it with when the backend's choice turns out to be wrong, the best first.
        gives_integers: whether a standalone module returns integers.
        mode: of the role ``dynamic``: as in ``Unit``.
        measures: whether its qconfig says how to measure a range.
        integer: whether the value is stored as integers; set here.
    """

    draft: UnitDraft
    row: OpDef | None
    role: str
    activations: tuple[tuple[str, fx.Node], ...] = ()
    kernel: KernelChoice | None = None
    reason: str = ""
    excluded: bool = False
    constants: frozenset[str] = frozenset()
    fills: bool = False
    shares_range: bool = False
    fallbacks: tuple[KernelChoice, ...] = ()
    gives_integers: bool = False
    mode: str = ""
    measures: bool = True
    integer: bool = False

    @property
    def value(self) -> str:
        """Name of the value the unit makes."""
        return self.draft.last.name

    @property
    def is_light(self) -> bool:
        """Whether it is no slower in float, and so runs on integers only for those who read integers."""
        return self.row is not None and self.row.light

    def reads_integers(self, node: fx.Node) -> bool:
        """Whether it reads ``node`` as integers, once ``integer`` is set."""
        if self.role == STANDALONE:
            return any(source is node for _, source in self.activations)
        return self.integer


def see_through_identities(candidates: list[Candidate]) -> dict[fx.Node, fx.Node]:
    """Let the readers of operators that do nothing (dropout in eval mode) read what those read.

    Args:
        candidates: units in execution order; their activations are replaced.

    Returns:
        What each node that does nothing stands for.
    """
    source_of: dict[fx.Node, fx.Node] = {}
    for candidate in candidates:
        candidate.activations = tuple((name, source_of.get(node, node)) for name, node in candidate.activations)
        if candidate.role == "identity":
            source_of[candidate.draft.last] = candidate.activations[0][1]
    return source_of


def assign_domains(candidates: list[Candidate], borders: Borders = NO_BORDERS) -> None:
    """Set ``integer`` on every candidate.

    Args:
        candidates: units in execution order.
        borders: values that enter or leave as integers: stored so, and wanted so.
    """
    by_value = {candidate.value: candidate for candidate in candidates}
    readers: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        for _, node in candidate.activations:
            if reads_numbers(candidate.draft.anchor, node):
                readers.setdefault(node.name, []).append(candidate)
    wanted = _wanted(candidates, readers, borders)
    for candidate in candidates:
        candidate.integer = _is_integer(candidate, by_value, wanted, borders)


def _wanted(
    candidates: list[Candidate], readers: dict[str, list[Candidate]], borders: Borders
) -> dict[str, tuple[bool, bool]]:
    """For each value: (some reader wants integers, all readers do). Last values first."""
    wanted: dict[str, tuple[bool, bool]] = {}
    for candidate in reversed(candidates):
        leaves = candidate.value in borders.outputs
        known_users = _inside_users(candidate, readers) + (leaves and candidate.value not in borders.floats)
        last = candidate.draft.last
        outside = sum(reads_numbers(user, last) for user in last.users) > known_users
        wishes = [_wishes(reader, wanted) for reader in readers.get(candidate.value, [])] + [True] * leaves
        wanted[candidate.value] = any(wishes), bool(wishes) and all(wishes) and not outside
    return wanted


def _inside_users(candidate: Candidate, readers: dict[str, list[Candidate]]) -> int:
    """How many of the value's users read it as an activation operand of a unit."""
    anchors = {id(node) for reader in readers.get(candidate.value, []) for node in reader.draft.nodes}
    last = candidate.draft.last
    return sum(id(user) in anchors and reads_numbers(user, last) for user in last.users)


def _wishes(reader: Candidate, wanted: dict[str, tuple[bool, bool]]) -> bool:
    if reader.role in ("requantize", STANDALONE):
        return not reader.is_light or wanted[reader.value][0]
    return reader.role in ("share", "element") and wanted[reader.value][1]


def _is_integer(
    candidate: Candidate, by_value: dict[str, Candidate], wanted: dict[str, tuple[bool, bool]], borders: Borders
) -> bool:
    if candidate.role == "requantize" and candidate.is_light and not wanted[candidate.value][0]:
        candidate.reason = "only operators that compute in float read its result"
        return False
    if candidate.role in ("requantize", STANDALONE):
        return candidate.role == "requantize" or candidate.gives_integers
    if candidate.role in ("float", "free", "identity", "dynamic"):
        return False
    stored = [
        node.name in borders.inputs or (node.name in by_value and by_value[node.name].integer)
        for _, node in candidate.activations
        if node.name not in candidate.constants
    ]
    if all(stored):
        return bool(stored)
    if candidate.role in ("clip", "element"):
        return False
    some, every = wanted[candidate.value]
    return every or (any(stored) and some)
