"""What a checker sees happen, before it is judged: by capture, by running eagerly, or in the source."""

from __future__ import annotations

from dataclasses import dataclass

from fxquant.capture.facts import Fact
from fxquant.check.finding import FindingKind

_OF_MODULES = (FindingKind.ATTRIBUTE_UPDATE, FindingKind.CONTAINER_UPDATE, FindingKind.BUFFER_UPDATE)


@dataclass(frozen=True)
class Place:
    """Where in the user's program something happened.

    Attributes:
        file, line, code: the user's line: path, number from 1, text without indentation.
        module_path: module whose forward was running, "" for the root.
        expression: the part of the line that did it, as the user wrote it; "" when unknown.
    """

    file: str = ""
    line: int = 0
    code: str = ""
    module_path: str = ""
    expression: str = ""


@dataclass(frozen=True)
class Observation:
    """One thing that a graph does not hold, or assumes.

    Attributes:
        kind: which.
        place: where.
        value: the answer that was given, or what was found, as text.
        handled: how capture dealt with it, one clause, "" when capture did not say.
        mode: ``training`` or ``eval`` when it happens in that mode only, which is not the model's; "" otherwise.
        others: paths of other modules in whose forward the same happened on the same line.
        owner: path of the module that was changed, None where it is the one whose forward was running.
        inside: class of torch.nn whose own code did it, when called by the user's line; "" for the user's code.
        remedy: what the error that was raised says to do, "" when it says nothing, or when it was none of fxquant's.
    """

    kind: FindingKind
    place: Place
    value: str = ""
    handled: str = ""
    mode: str = ""
    others: tuple[str, ...] = ()
    owner: str | None = None
    inside: str = ""
    remedy: str = ""

    @property
    def key(self) -> tuple[FindingKind, str, int]:
        """What two witnesses of one event agree on."""
        return self.kind, self.place.file, self.place.line

    @property
    def changed(self) -> str:
        """What changed, as the function whose forward was running calls it: ``self.bn.training``; "" when unknown."""
        if self.kind not in _OF_MODULES or not self.value:
            return self.value
        names, path = self.value.removeprefix("self.").split(", "), self.place.module_path
        start = "self"
        if self.owner is not None:
            inner = self.owner.removeprefix(f"{path}.") if path else self.owner
            below = not path or self.owner.startswith(f"{path}.")
            start = f"self.{inner}" if below else self.owner or "the model"
        elif not self.value.isidentifier():
            return self.value
        return ", ".join(f"{start}.{name}" for name in names)

    @property
    def module_paths(self) -> tuple[str, ...]:
        """Paths of all modules in whose forward it happened."""
        return self.place.module_path, *self.others

    @staticmethod
    def of(fact: Fact) -> Observation:
        """What capture recorded, in the checker's terms."""
        place = Place(fact.file, fact.line, fact.code, fact.module_path, fact.expression)
        return Observation(FindingKind(fact.kind.value), place, fact.value, fact.handled)
