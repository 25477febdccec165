"""Other inputs that the user's model takes: batches, sizes, values and masks that the example does not show.

What a model takes is not declared anywhere, so it is tried: an input is a probe when eager runs on it.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.capture.inputs import map_leaves
from fxquant.capture.varying_lists import lists_in, one_more, with_lists

_SEED = 20
# Sizes tried in the place of a size, the first that eager takes is used: a neighbour, the double, smaller ones; of a
# large one about half of it first, which says as much and takes less time.
_OTHER_SIZES: tuple[Callable[[int], int], ...] = (lambda s: s + 1, lambda s: 2 * s, lambda s: s - 1, lambda s: s // 2)
_HALVES: tuple[Callable[[int], int], ...] = (lambda s: s // 2 + 1, lambda s: s // 2)
_LARGE = 64

Path = tuple[Any, ...]


@dataclass(frozen=True)
class Probe:
    """Inputs to compare a graph with eager on.

    Attributes:
        group: ``example``, ``batch``, ``size``, ``values``, ``mask`` or ``given``.
        name: what is different from the example, ``batch 4``.
        inputs: in the form of the example inputs.
    """

    group: str
    name: str
    inputs: Any


@dataclass(frozen=True)
class Example:
    """Example inputs, and what the model calls them.

    Attributes:
        inputs: a tuple of positional inputs, a dict of keyword inputs, or one tensor.
        names: names of the positional parameters.
    """

    inputs: Any
    names: tuple[str, ...] = ()

    @staticmethod
    def of(model: nn.Module, inputs: Any) -> Example:
        """The example inputs of a model."""
        parameters = inspect.signature(model.forward).parameters.values()
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        return Example(inputs, tuple(parameter.name for parameter in parameters if parameter.kind in kinds))

    def leaves(self) -> list[_Leaf]:
        """The tensors in the inputs."""
        found: list[_Leaf] = []

        def at_leaf(leaf: Any, path: Path) -> Any:
            if isinstance(leaf, Tensor):
                found.append(_Leaf(path, leaf, self._name(path)))
            return leaf

        map_leaves(self.inputs, at_leaf)
        return found

    def _name(self, path: Path) -> str:
        """``input_ids``, ``x``, ``batch.image``."""
        steps = [str(step[1]) if isinstance(step, tuple) else str(step) for step in path]
        if isinstance(self.inputs, Tensor):
            return self.names[0] if self.names else "input"
        if path and isinstance(path[0], int) and path[0] < len(self.names):
            steps[0] = self.names[path[0]]
        return ".".join(steps)

    @property
    def elements(self) -> int:
        """Elements of all tensors."""
        return sum(leaf.tensor.numel() for leaf in self.leaves())

    @property
    def is_large(self) -> bool:
        """Whether some size, a batch excepted, is so large that other sizes are tried before all else."""
        found = self.leaves()
        dims = _batch_dims(found)
        sizes = [
            leaf.tensor.shape[dim] for leaf in found for dim in range(leaf.tensor.dim()) if (leaf.path, dim) not in dims
        ]
        return max(sizes, default=0) >= _LARGE

    def __str__(self) -> str:
        texts = []
        for leaf in self.leaves():
            dtype = str(leaf.tensor.dtype).removeprefix("torch.")
            texts.append(f"{leaf.name}: {dtype}{list(leaf.tensor.shape)}")
        return ", ".join(texts)


@dataclass(frozen=True)
class _Leaf:
    path: Path
    tensor: Tensor
    name: str


def batch_probes(example: Example) -> Iterator[Probe]:
    """The example at twice and three times its batch, and at one; lists of tensors with one more, and with one only."""
    found = example.leaves()
    dims = _batch_dims(found)
    batches = [leaf.tensor.shape[0] for leaf in found if (leaf.path, 0) in dims][:1]
    for size in dict.fromkeys(size for batch in batches for size in (2 * batch, 3 * batch, 1) if size != batch):
        yield Probe("batch", f"batch {size}", _resized(example, dict.fromkeys(dims, size)))
    lists = lists_in(example.inputs)
    for length in dict.fromkeys(lists.values()):
        paths = {path for path, known in lists.items() if known == length}
        yield Probe("batch", f"lists of {length + 1}", fresh(with_lists(example.inputs, paths, one_more)))
        if length > 1:
            yield Probe("batch", "lists of 1", fresh(with_lists(example.inputs, paths, lambda items: items[:1])))


def at(probe: Probe, small: Probe) -> Probe:
    """A probe of an example that is ``small`` itself, called so."""
    return replace(probe, name=f"{probe.name} at {small.name}")


def size_probes(example: Example) -> Iterator[tuple[Probe, ...]]:
    """Groups of alternatives for other sizes and lengths: of each group, the first that eager takes is enough."""
    found = example.leaves()
    dims = _batch_dims(found)
    others = [(leaf, dim) for leaf in found for dim in range(leaf.tensor.dim()) if (leaf.path, dim) not in dims]
    for size in dict.fromkeys(leaf.tensor.shape[dim] for leaf, dim in others):
        members = [(leaf, dim) for leaf, dim in others if leaf.tensor.shape[dim] == size]
        yield tuple(_changed(example, members, size))
        for part in _parts(members):
            yield tuple(_changed(example, part, size))


def _parts(members: list[tuple[_Leaf, int]]) -> list[list[tuple[_Leaf, int]]]:
    """Equal sizes that may be independent: of different dimensions, and of an encoder and a decoder."""
    groups: dict[tuple[int, bool], list[tuple[_Leaf, int]]] = {}
    for leaf, dim in members:
        groups.setdefault((dim, "decoder" in leaf.name), []).append((leaf, dim))
    return list(groups.values()) if len(groups) > 1 else []


def value_probes(example: Example) -> Iterator[Probe]:
    """The example with other numbers, with its signs turned, and with small and large numbers."""
    yield Probe("values", "other values", _resized(example, {}))
    floating = [leaf for leaf in example.leaves() if leaf.tensor.is_floating_point()]
    if floating:
        yield Probe("values", "negated values", _mapped(example, lambda t: -t))
        yield Probe("values", "values times 10", _mapped(example, lambda t: t * 10))
        yield Probe("values", "values near 0", _mapped(example, lambda t: t * 1e-3))


def mask_probes(example: Example) -> Iterator[Probe]:
    """The example with its masks padded on the right, and on the left."""
    masks = [leaf for leaf in example.leaves() if is_mask(leaf.name, leaf.tensor)]
    for side in ("right", "left") if masks else ():
        paths = {leaf.path for leaf in masks}

        def pad(value: Any, path: Path, side: str = side, paths: set[Path] = paths) -> Any:
            return _padded(value, side) if path in paths else fresh_leaf(value)

        names = ", ".join(leaf.name for leaf in masks)
        yield Probe("mask", f"{names} padded on the {side}", map_leaves(example.inputs, pad))


def is_mask(name: str, tensor: Tensor) -> bool:
    """Whether a tensor looks like a mask that masks nothing."""
    if tensor.dim() == 0 or tensor.numel() < 2 or tensor.layout is not torch.strided:
        return False
    constant = bool((tensor == tensor.flatten()[0]).all())
    value = float(tensor.flatten()[0])
    named = "mask" in name.lower()
    if not constant or value not in (0.0, 1.0):
        return False
    return named or tensor.dtype == torch.bool or (value == 1.0 and not tensor.is_floating_point())


def fresh(inputs: Any) -> Any:
    """A copy of inputs that a model may write into; caches and other objects are copied too."""
    return map_leaves(inputs, lambda leaf, path: fresh_leaf(leaf))


def fresh_leaf(leaf: Any) -> Any:
    """A copy of one value."""
    if isinstance(leaf, Tensor):
        return leaf.detach().clone()
    return leaf if isinstance(leaf, (bool, int, float, str, type(None))) else copy.deepcopy(leaf)


# -- how ----------------------------------------------------------------------------------------------


def _batch_dims(found: list[_Leaf]) -> dict[tuple[Path, int], None]:
    """The first dimensions that are as large as that of the first tensor that has one."""
    shaped = [leaf for leaf in found if leaf.tensor.dim() > 0]
    return {(leaf.path, 0): None for leaf in shaped if leaf.tensor.shape[0] == shaped[0].tensor.shape[0]}


def _changed(example: Example, members: list[tuple[_Leaf, int]], size: int) -> Iterator[Probe]:
    for rule in (*_HALVES, *_OTHER_SIZES[:3]) if size >= _LARGE else _OTHER_SIZES:
        new = rule(size)
        if new > 0 and new != size:
            name = ", ".join(dict.fromkeys(f"{leaf.name}[{dim}]" for leaf, dim in members[:3]))
            more = ", ..." if len(members) > 3 else ""
            changes = {(leaf.path, dim): new for leaf, dim in members}
            yield Probe("size", f"{name}{more}: {size} → {new}", _resized(example, changes))


def _resized(example: Example, sizes: dict[tuple[Path, int], int]) -> Any:
    """The example with some sizes changed, and new numbers like the old ones."""
    generator = torch.Generator().manual_seed(_SEED)

    def at_leaf(leaf: Any, path: Path) -> Any:
        if not isinstance(leaf, Tensor):
            return fresh_leaf(leaf)
        shape = [sizes.get((path, dim), leaf.shape[dim]) for dim in range(leaf.dim())]
        return _drawn_like(leaf, shape, generator)

    return map_leaves(example.inputs, at_leaf)


def _drawn_like(tensor: Tensor, shape: list[int], generator: torch.Generator) -> Tensor:
    if tensor.layout is not torch.strided:
        same = list(tensor.shape) == shape
        return tensor.detach().clone() if same else torch.zeros(shape, dtype=tensor.dtype, layout=tensor.layout)
    if tensor.numel() == 0 or tensor.is_complex():
        return tensor.new_zeros(shape)
    numbers = tensor.detach().double()
    if tensor.is_floating_point() and float(numbers.std(correction=0)) > 0:
        drawn = (
            torch.randn(shape, generator=generator, dtype=torch.float64) * numbers.std(correction=0) + numbers.mean()
        )
        return (drawn.abs() if float(numbers.min()) >= 0 else drawn).to(tensor.dtype)
    if tensor.is_floating_point() or tensor.dtype == torch.bool:
        index = torch.randint(tensor.numel(), tuple(shape), generator=generator)
        return tensor.detach().flatten()[index]
    low, high = int(numbers.min()), int(numbers.max())
    return torch.randint(low, high + 1, tuple(shape), generator=generator).to(tensor.dtype)


def _mapped(example: Example, change: Callable[[Tensor], Tensor]) -> Any:
    def at_leaf(leaf: Any, path: Path) -> Any:
        floating = isinstance(leaf, Tensor) and leaf.is_floating_point()
        return change(leaf.detach().clone()) if floating else fresh_leaf(leaf)

    return map_leaves(example.inputs, at_leaf)


def _padded(mask: Tensor, side: str) -> Tensor:
    """A mask that masks a third of its last dimension, in the second half of its first one."""
    padded = mask.detach().clone()
    value = padded.flatten()[0]
    rows = slice(padded.shape[0] // 2, None) if padded.dim() > 1 else slice(None)
    length = max(1, padded.shape[-1] // 3)
    columns = slice(-length, None) if side == "right" else slice(None, length)
    if mask.is_floating_point() and float(value) == 0.0:
        other: Any = torch.finfo(mask.dtype).min
    else:
        other = not bool(value) if mask.dtype == torch.bool else 1 - int(value)
    target = padded[rows] if padded.dim() > 1 else padded
    target[..., columns] = other
    return padded
