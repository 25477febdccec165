"""What was proven: a row for every comparison of the graph with eager."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fxquant.capture.facts import Fact
from fxquant.check.compare import Outcome
from fxquant.check.find_divergence import Divergence
from fxquant.check.observation import Observation

GuardKey = tuple[str, str, int, str, str]


@dataclass(frozen=True)
class ProofRow:
    """One comparison.

    Attributes:
        group: ``example``, ``batch``, ``size``, ``values``, ``mask``, ``given``, ``seed``, ``mode``, ``state`` or
            ``gradients``.
        name: what is different from the example, ``batch 4``.
        outcome: how the graph compares with eager.
        detail: how much they differ, or what was raised; "" for exact ones.
        divergence: the first node that differs and its line, None where there is none or it was not found.
        required: whether the graph is meant for this; training is not what a graph of a model in eval mode is for.
    """

    group: str
    name: str
    outcome: Outcome
    detail: str = ""
    divergence: Divergence | None = None
    required: bool = True

    def __str__(self) -> str:
        place = f", first at {self.divergence}" if self.divergence is not None else ""
        detail = f": {self.detail}" if self.detail else ""
        return f"{self.name}: {self.outcome}{detail}{place}"


@dataclass(frozen=True)
class Proof:
    """All comparisons.

    Attributes:
        rows: in the order in which they were made.
        answers: by row index, what the graph would have had built in, captured on the inputs of that row: answers to
            the questions that capture asked.
        comparable: whether eager itself gives the same for the same inputs and seed; else there are no comparisons.
    """

    rows: tuple[ProofRow, ...] = ()
    answers: Mapping[int, Mapping[GuardKey, frozenset[str]]] = field(default_factory=dict)
    comparable: bool = True

    @property
    def holds(self) -> bool:
        """Whether the graph was right wherever eager ran."""
        return all(row.outcome.holds or row.outcome is Outcome.SKIPPED for row in self.rows if row.required)

    def group(self, *names: str) -> tuple[ProofRow, ...]:
        """The rows of some groups that were compared."""
        return tuple(row for row in self.rows if row.group in names and row.outcome is not Outcome.SKIPPED)

    def rows_with_another_answer(self, seen: Observation) -> tuple[ProofRow, ...]:
        """The rows on whose inputs a question has another answer than on the example."""
        key = guard_key(seen)
        expected = self.answers.get(0, {}).get(key, frozenset())
        found = (index for index, known in self.answers.items() if index and known.get(key, frozenset()) != expected)
        return tuple(self.rows[index] for index in found)


def guard_key(seen: Observation | Fact) -> GuardKey:
    """What makes two facts the same question."""
    place = seen.place if isinstance(seen, Observation) else seen
    return seen.kind.value, place.file, place.line, place.expression, place.module_path


def answers_of(facts: tuple[Fact, ...]) -> dict[GuardKey, frozenset[str]]:
    """The answers by question."""
    found: dict[GuardKey, frozenset[str]] = {}
    for fact in facts:
        if fact.is_guard:
            key = guard_key(fact)
            found[key] = found.get(key, frozenset()) | {fact.value}
    return found
