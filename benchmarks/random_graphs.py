"""Random networks for the fuzzer: a seed and a number of operators in, a module out.

A network is a list of steps; each reads earlier values and is chosen among the operations whose condition on the
shape holds. The first k steps of a seed are the same for every length, so a failure is minimised by shortening.
Nothing here knows fxquant.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import torch
from random_operations import OPERATIONS, Operation
from torch import Tensor, nn

_SMALLEST, _LARGEST = 5, 60
_LARGEST_VALUE = 4096
KINDS = ("static", "dynamic", "float16", "float")
"""Kinds of quantization that a network's modules are given."""


@dataclass
class Step:
    """One operation of a network.

    Attributes:
        operation: what it does.
        sources: positions of the values it reads; 0 is the input.
        settings: its arguments.
        module: name of the submodule it calls, "" for none.
    """

    operation: Operation
    sources: tuple[int, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    module: str = ""

    def __str__(self) -> str:
        settings = "".join(f", {key}={value}" for key, value in self.settings.items())
        return f"{self.operation.name}({', '.join(f'v{s}' for s in self.sources)}{settings}) {self.module}".rstrip()


class RandomNet(nn.Module):
    """A network that replays random steps.

    Args:
        seed: everything follows from it.
        count: number of steps; by default drawn from 5 to 60.
    """

    def __init__(self, seed: int, count: int | None = None) -> None:
        super().__init__()
        self.seed = seed
        self.drawn = random.Random(seed)
        drawn_count = self.drawn.randint(_SMALLEST, _LARGEST)
        self.channels = self.drawn.choice((3, 4, 8))
        self.steps: list[Step] = []
        self.children_by_step = nn.ModuleDict()
        torch.manual_seed(seed)
        with torch.no_grad():
            values: list[Any] = [self.example()]
            for _ in range(drawn_count if count is None else count):
                self._grow(values)
        self.results = self._unread()
        self.eval()

    def example(self, batch: int = 2) -> Tensor:
        """An input, [batch, channels, 10, 10] float32, always the same."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(batch, self.channels, 10, 10, generator=generator)

    def forward(self, x: Tensor) -> Any:
        """Run the steps; return every value that no step reads."""
        values: list[Any] = [x]
        for step in self.steps:
            module = self.children_by_step[step.module] if step.module else None
            inputs = [values[source] for source in step.sources]
            values.append(step.operation.call(module, *inputs, **step.settings))
        return tuple(values[position] for position in self.results)

    def describe(self) -> str:
        """The network as text, a line a step."""
        lines = [f"v{position}: {step}" for position, step in enumerate(self.steps, 1)]
        return "\n".join([f"seed {self.seed}, {len(self.steps)} steps", *lines, f"returns {self.results}"])

    def kinds(self) -> dict[str, str]:
        """How to quantize the whole network ("") and some of its modules, by path, for a mixed configuration.

        Returns:
            ``static``, ``dynamic``, ``float16`` or ``float``; of the whole ``static`` or ``dynamic``. In half of all
            networks nothing but the whole.
        """
        drawn = random.Random(self.seed + 1)
        found = {"": "static" if drawn.random() < 0.8 else "dynamic"}
        if drawn.random() < 0.5:
            for name in self.children_by_step:
                if drawn.random() < 0.5:
                    found[f"children_by_step.{name}"] = drawn.choice(KINDS)
        return found

    def _grow(self, values: list[Any]) -> None:
        """Append one step that fits and whose value is of a reasonable size; recent values are likelier sources."""
        for _ in range(200):
            step = self._draw(values)
            if step is None:
                continue
            made = self._try(step, values)
            if made is not None:
                self.steps.append(step)
                values.append(made)
                return
        raise RuntimeError(f"seed {self.seed}: no operation fits after {len(self.steps)} steps")

    def _draw(self, values: list[Any]) -> Step | None:
        operation = self.drawn.choices(OPERATIONS, [item.weight for item in OPERATIONS])[0]
        first = max(self.drawn.randrange(len(values)) for _ in range(4))
        fitting = [p for p, value in enumerate(values) if operation.fits(values[first], value)]
        if (operation.in_place and first == 0) or first not in fitting:
            return None
        others = [self.drawn.choice(fitting) for _ in range(operation.arity - 1)]
        settings = operation.settings(self.drawn, values[first])
        return Step(operation, (first, *others), settings, self._module(operation, values[first]))

    def _module(self, operation: Operation, value: Any) -> str:
        """A new submodule, or one used before where the operation has one for such values."""
        if operation.module is None:
            return ""
        used = [s.module for s in self.steps if s.operation is operation and self._takes(s.module, value)]
        if used and self.drawn.random() < 0.3:
            return self.drawn.choice(used)
        name = f"{operation.name}_{len(self.children_by_step)}"
        self.children_by_step[name] = operation.module(self.drawn, value).eval()
        return name

    def _takes(self, name: str, value: Any) -> bool:
        try:
            self.children_by_step[name](value.clone())
        except (RuntimeError, ValueError):
            return False
        return True

    def _try(self, step: Step, values: list[Any]) -> Any:
        """The step's value, None when torch refuses it or it is too large; nothing of it stays then."""
        module = self.children_by_step[step.module] if step.module else None
        copies = [values[source].clone() for source in step.sources]
        try:
            step.operation.call(module, *copies, **step.settings)
            made = step.operation.call(module, *(values[source] for source in step.sources), **step.settings)
        except (RuntimeError, ValueError, IndexError):
            return self._forget(step)
        if isinstance(made, Tensor) and 0 < made.numel() <= _LARGEST_VALUE and bool(made.isfinite().all()):
            return made if float(made.abs().max()) < 1e4 else self._forget(step)
        return self._forget(step)

    def _forget(self, step: Step) -> None:
        if step.module and all(other.module != step.module for other in self.steps):
            del self.children_by_step[step.module]

    def _unread(self) -> list[int]:
        read = {source for step in self.steps for source in step.sources}
        return [position for position in range(1, len(self.steps) + 1) if position not in read]
