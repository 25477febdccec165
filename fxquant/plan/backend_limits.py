"""What a BackendConfig allows, read once and asked per unit: which operators, in which groups, with which ranges.

Patterns are matched like ``set_object_type``: a module class stands for modules of exactly that class, a function or
method name for every spelling of the operator outside torch.nn modules; with ``set_every_spelling``, inside as well. A
tuple allows the operators to run as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import fx

from fxquant.errors import ConfigError
from fxquant.fusion.rule import Accept, Match, Reject, Rule, UnitDraft
from fxquant.ir.meta import info, qualified_name
from fxquant.ops import catalogue
from fxquant.ops.opdef import Fixed, OpDef
from fxquant.ops.opened_modules import row_of_element
from fxquant.plan.check_dtypes import unmet_by_mode, unmet_demand
from fxquant.plan.match_calls import closeness
from fxquant.qconfig.backend_pattern_config import BackendPatternConfig, ObservationType


@dataclass(frozen=True)
class PatternLimit:
    """One pattern of a backend config.

    Attributes:
        elements: module classes, functions or method names, in execution order.
        config: what is stated of them.
    """

    elements: tuple[Any, ...]
    config: BackendPatternConfig

    def fits(self, nodes: Sequence[fx.Node]) -> bool:
        """Whether the nodes are the pattern, one for one."""
        if len(self.elements) != len(nodes):
            return False
        if self.config.every_spelling:
            return self.ops == tuple(_op_of(node) for node in nodes)
        return all(
            closeness(element, info(node).origin, _op_of(node))
            for element, node in zip(self.elements, nodes, strict=True)
        )

    @cached_property
    def ops(self) -> tuple[str, ...]:
        """Catalogue names of the elements, "" for those without a row."""
        return tuple(getattr(row_of_element(element), "name", "") for element in self.elements)

    def is_spelled(self, nodes: Sequence[fx.Node]) -> bool:
        """Whether the nodes are also spelled like the pattern."""
        return all(
            isinstance(element, type) or qualified_name(element) == info(node).origin.spelling
            for element, node in zip(self.elements, nodes, strict=True)
        )


@dataclass(frozen=True)
class Judgement:
    """What a backend config says of one unit.

    Attributes:
        refusal: why it stays float, "" when it need not.
        range: ``own`` or ``shared`` as the config says, "" where each call may do as the catalogue says.
    """

    refusal: str = ""
    range: str = ""


FREE = Judgement()


@dataclass(frozen=True)
class BackendLimits:
    """The patterns of a backend config.

    Attributes:
        name: the config's name, shown in reasons.
        patterns: in the order they were stated.
        every_group: whether listed operators may run as one without a pattern that says so.
    """

    name: str
    patterns: tuple[PatternLimit, ...]
    every_group: bool = False

    @property
    def title(self) -> str:
        """How reasons call it."""
        return f"backend_config {self.name!r}"

    def judge(self, draft: UnitDraft, row: OpDef, qconfig: Any) -> Judgement:
        """What is said of a unit.

        Args:
            draft: the unit.
            row: catalogue row of its anchor.
            qconfig: its QConfig.

        Raises:
            ConfigError: an operator of fixed range is to share its input's.
        """
        pattern = self._pattern_for([draft.anchor] if self.every_group else draft.nodes)
        if pattern is None:
            return Judgement(f"not in {self.title}")
        observation = _observation(pattern.config, draft.anchor, row)
        if observation is ObservationType.INPUT_OUTPUT_NOT_OBSERVED:
            return Judgement(f"{self.title} does not observe it")
        unmet = [unmet_demand(item, qconfig, row) for item in pattern.config.dtype_configs]
        if all(unmet):
            return Judgement(f"{self.title} asks for {'; or '.join(unmet) or 'no dtypes'}")
        if info(draft.anchor).part_of:  # what is said of the whole output says nothing of the parts between
            return FREE
        shares = observation is ObservationType.OUTPUT_SHARE_OBSERVER_WITH_INPUT
        if shares and isinstance(row.output, Fixed):
            origin = info(draft.anchor).origin
            raise ConfigError(
                f"{self.title} lets {row.name} share its input's range, and its kernel has a range of its own",
                op=row.name,
                module_path=origin.module_path,
                source=origin.source,
                remedy="set_observation_type(OUTPUT_USE_DIFFERENT_OBSERVER_AS_INPUT) for it",
            )
        if pattern.config.every_spelling and shares == row.shares_range:
            return FREE
        return Judgement(range="shared" if shares else "own")

    def refuse_mode(self, draft: UnitDraft, qconfig: Any, mode: str) -> str:
        """Why a unit with floats on both sides stays whole in float, "" when it need not.

        Args:
            draft: the unit.
            qconfig: its QConfig.
            mode: as in ``Unit``.
        """
        pattern = self._pattern_for([draft.anchor] if self.every_group else draft.nodes)
        if pattern is None:
            return f"not in {self.title}"
        unmet = [unmet_by_mode(item, qconfig, mode) for item in pattern.config.dtype_configs]
        return f"{self.title} asks for {'; or '.join(unmet) or 'no dtypes'}" if all(unmet) else ""

    def restrict(self, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
        """The fusion rules, refusing groups that no pattern lists."""
        return tuple(self._restricted(rule) for rule in rules)

    def _restricted(self, rule: Rule) -> Rule:
        def check(match: Match) -> Accept | Reject | None:
            verdict = rule.check(match)
            nodes = [*match.head.nodes, *match.tail.nodes]
            if verdict is None or isinstance(verdict, Reject) or self._allows_group(nodes):
                return verdict
            return Reject(f"{self.title} has no pattern ({', '.join(_title(node) for node in _steps(nodes))})")

        return replace(rule, check=check)

    def _allows_group(self, nodes: Sequence[fx.Node]) -> bool:
        """Whether the nodes are a pattern, or the beginning of one that goes on in the graph as the pattern does."""
        steps = _steps(nodes)
        if self.every_group:
            return all(self._pattern_for([node]) is not None for node in steps)
        longest = max((len(pattern.elements) for pattern in self.patterns), default=0)
        chain = _steps([*nodes, *_followers(nodes[-1], longest)])
        return any(
            len(pattern.elements) >= len(steps) and pattern.fits(chain[: len(pattern.elements)])
            for pattern in self.patterns
        )

    def _pattern_for(self, nodes: Sequence[fx.Node]) -> PatternLimit | None:
        """The pattern of a unit; of several, one that spells the anchor as the user did."""
        steps = _steps(nodes)
        fitting = [pattern for pattern in self.patterns if pattern.fits(steps)]
        spelled = [pattern for pattern in fitting if pattern.is_spelled(steps)]
        return next(iter([*spelled, *fitting]), None)


def _op_of(node: fx.Node) -> str:
    """Catalogue name of a node; of a part, that of the operation the user wrote."""
    whole = info(node).part_of
    return whole[1] if whole else info(node).op


def _steps(nodes: Sequence[fx.Node]) -> list[fx.Node]:
    """The nodes, those that one call of a torch.nn module made (padding and convolution) counted once."""
    kept: list[fx.Node] = []
    for node in nodes:
        origin = info(node).origin
        before = info(kept[-1]).origin if kept else None
        same_module = before is not None and before.module_path == origin.module_path and origin.from_torch_module
        if same_module:
            kept[-1] = node
        else:
            kept.append(node)
    return kept


def _followers(node: fx.Node, count: int) -> list[fx.Node]:
    """Up to ``count`` nodes after ``node``, each the only reader of the one before."""
    found: list[fx.Node] = []
    while len(found) < count and len(node.users) == 1:
        node = next(iter(node.users))
        found.append(node)
    return found


def _observation(config: BackendPatternConfig, anchor: fx.Node, row: OpDef) -> ObservationType:
    by_count = config._num_tensor_args_to_observation_type
    if not by_count:
        return config.observation_type
    bound = catalogue.arguments(anchor, row)
    count = sum(isinstance(bound[name], fx.Node) for name in row.activations)
    return ObservationType.of(by_count.get(count, config.observation_type))


def _title(node: fx.Node) -> str:
    origin = info(node).origin
    return origin.module_type.rpartition(".")[2] if origin.from_torch_module else info(node).op or origin.spelling
