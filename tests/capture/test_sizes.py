"""Sizes stay symbolic: a graph runs at another batch, image size and length wherever the model does."""

from __future__ import annotations

import enum
import math
import re
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant import convert_fx, get_default_qconfig_mapping, pipeline, prepare_fx
from fxquant.errors import FxquantError


class PadsOdd(nn.Module):
    """Pads where a size is no multiple of eight, which the example's is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 8, 8)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if height % 8 or width % 8:
            x = F.pad(x, (0, -width % 8, 0, -height % 8))
        y: Tensor = self.conv(x)
        return y


class Skips(nn.Module):
    """A U-shape whose halves differ where a size is odd."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up, self.head = nn.Conv2d(3, 3, 3, 2, 1), nn.Upsample(scale_factor=2), nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(self.down(x))
        if y.shape[-2:] != x.shape[-2:]:
            y = F.interpolate(y, size=x.shape[-2:])
        z: Tensor = self.head(torch.cat([x, y], 1))
        return z


class Interpolates(nn.Module):
    """Uses its positions as they are for one size, and resized for others."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 4, 4, 4)
        self.positions = nn.Parameter(torch.randn(1, 4, 4, 4))

    def place(self, y: Tensor) -> Tensor:
        if y.shape[-1] == self.positions.shape[-1] and self.patches.stride[0] == 4:
            return self.positions
        return F.interpolate(self.positions, size=y.shape[-2:], mode="bilinear")

    def forward(self, x: Tensor) -> Tensor:
        y = self.patches(x)
        z: Tensor = y + self.place(y)
        return z


class Sums(nn.Module):
    """A loop over a length."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.zeros(x.shape[0], x.shape[2])
        for step in range(x.size(1)):
            y = y + x[:, step] * (step + 1)
        return y


class Chunks(nn.Module):
    """Chunks of a root of the length, counted with Python's integers."""

    def forward(self, x: Tensor) -> Tensor:
        size = max(1, int(math.sqrt(x.shape[1])))
        return torch.cat([chunk.flip(1) for chunk in x.split(size, dim=1)], dim=1)


class Joins(nn.Module):
    """Parts of a fixed size, joined again without looking at them."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack(F.relu(x).unbind(1), 0) + torch.cat(x.split(4, 1), 1).sum()


class Placed(nn.Module):
    """Positions for one image, which has the shape of an example of one row; then heads, with the batch's size."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, 5, 8))

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.positions
        batch, count, width = y.shape
        z = y.reshape(batch, count, 2, width // 2).transpose(1, 2).reshape(batch, -1)
        return z + torch.zeros(batch, 1)


class LikeItsWeight(nn.Module):
    """A product whose result has, on the example, the shape of the weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 2, 1, groups=2)
        self.linear = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        both = y.new_zeros((y.shape[0], 2, *y.shape[1:]))
        both[:, 0] = y
        z = self.linear(y.mean((2, 3)))
        return both.flatten(1, 2).sum((1, 2, 3)) + z.view(z.shape[0], 2).sum(1)


CASES = (
    (Placed, (1, 5, 8), ((3, 5, 8),)),
    (LikeItsWeight, (2, 4, 1, 1), ((1, 4, 1, 1), (5, 4, 3, 2))),
    (PadsOdd, (2, 3, 16, 16), ((1, 3, 17, 23), (3, 3, 24, 16), (2, 3, 15, 9))),
    (Skips, (2, 3, 8, 8), ((1, 3, 9, 11), (3, 3, 16, 8))),
    (Interpolates, (2, 3, 16, 16), ((1, 3, 24, 20), (3, 3, 16, 16))),
    (Sums, (2, 5, 4), ((3, 7, 4), (1, 2, 4))),
    (Joins, (2, 8, 4), ((3, 12, 4), (1, 5, 4))),
    (Chunks, (2, 9, 4), ((3, 16, 4), (1, 5, 4))),
)


@pytest.mark.parametrize(("kind", "shape", "others"), CASES, ids=[case[0].__name__ for case in CASES])
def test_other_sizes(kind: type[nn.Module], shape: tuple[int, ...], others: tuple[tuple[int, ...], ...]) -> None:
    model = kind().eval()
    captured = pipeline.capture(model, (torch.randn(shape),))
    for other in (shape, *others):
        x = torch.randn(other)
        assert torch.equal(captured(x), model(x)), other


class EachImage(nn.Module):
    """Goes through lists of images, as detectors do."""

    def forward(self, images: list[Tensor], more: dict[str, tuple[Tensor, ...]]) -> list[Tensor]:
        return [image.mean() for image in (*images, *more["at"])]


def test_lists_are_of_any_length_and_tuples_are_not() -> None:
    model = EachImage()
    captured = pipeline.capture(model, ([torch.randn(3, 4)], {"at": (torch.randn(2, 2),)}))
    for count in (0, 1, 2, 5):
        images, more = [torch.randn(3 + count, index + 1) for index in range(count)], {"at": (torch.randn(1, 3),)}
        assert captured(images, more) == model(images, more) and len(images) == count
    with pytest.raises(FxquantError, match=re.escape("more['at']\" was a tuple of 1")):
        captured([torch.randn(3, 4)], {"at": (torch.randn(2, 2),) * 2})


class Detects(nn.Module):
    """Resizes each image, as detectors do, computes on the batch, and gives a result for each image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        if images[0].dim() != 3 or not images[0].is_floating_point():
            raise ValueError("images are [3, H, W]")
        sizes, images = [image.shape[-2:] for image in images], list(images)
        for index in range(len(images)):
            images[index] = F.interpolate(images[index][None], (8, 8))[0]
        scores = self.conv(torch.stack(images)).amax((2, 3))
        return [{"scores": row, "area": row.new_tensor(h * w)} for row, (h, w) in zip(scores, sizes, strict=True)]


def test_detectors_take_another_number_of_images() -> None:
    model = Detects().eval()
    prepared = prepare_fx(model, get_default_qconfig_mapping(), ([torch.rand(3, 9, 9)],))
    prepared([torch.rand(3, 9, 9) for _ in range(16)])
    converted = convert_fx(prepared)
    for count in (1, 3):
        images = [torch.rand(3, 7 + index, 9) for index in range(count)]
        want, kept = model(list(images)), list(images)
        for part, exact in ((prepared, True), (converted, False)):
            got = part(images)
            assert images == kept, "the caller's list is changed"
            assert len(got) == count and all(torch.equal(g["area"], w["area"]) for g, w in zip(got, want, strict=True))
            for found, expected in zip(got, want, strict=True):
                torch.testing.assert_close(found["scores"], expected["scores"], atol=0 if exact else 0.1, rtol=0)
    assert "conv" in {unit.name for unit in converted.plan.units}
    with pytest.raises(FxquantError, match="asks for what was"):
        converted([torch.rand(1, 3, 9, 9)])


class Neck(nn.Module):
    """Takes what belongs to each of its layers: the number is the model's."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(size, 4, 1) for size in (2, 3))

    def forward(self, maps: list[Tensor]) -> Tensor:
        return sum(conv(item) for conv, item in zip(self.convs, maps, strict=True))  # type: ignore[return-value]


def test_lists_whose_length_the_model_fixes_are_taken_apart() -> None:
    model, maps = Neck(), [torch.randn(1, 2, 4, 4), torch.randn(1, 3, 4, 4)]
    captured = pipeline.capture(model, (maps,))
    assert torch.equal(captured(maps), model(maps)) and not captured.state.capture_notes
    with pytest.raises(FxquantError, match="'maps' was a list of 2"):
        captured([*maps, maps[1]])


class Chosen(nn.Module):
    """Gives as many rows as there are with a positive sum: in a list, a tuple, by their numbers."""

    def forward(self, x: Tensor, kind: Any) -> Any:
        found = {place: row for place, row in enumerate(x) if row.sum() > 0}
        return found if kind is dict else kind(found.values())


class UsesChosen(nn.Module):
    """Applies weights to what a part gives that is kept whole."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.kind, self.chosen, self.linear = kind, Chosen(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        found = self.chosen(x, self.kind)
        if self.kind is dict:
            return {place: self.linear(row) for place, row in found.items()}
        return [self.linear(row) for row in found]


class GivesParts(nn.Module):
    """Returns as many parts as values say."""

    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        return x.sum(), torch.split(x, lengths.tolist())


def test_parts_that_give_more_or_less_are_refused() -> None:
    x = torch.tensor([[1.0] * 4, [-1.0] * 4, [2.0] * 4])
    for kind in (list, tuple, dict):
        model = UsesChosen(kind)
        captured = pipeline.capture(model, (x,))
        for given in (x, 2 * x):
            got, want = captured(given), model(given)
            pairs = zip(got.values(), want.values(), strict=True) if kind is dict else zip(got, want, strict=True)
            assert all(torch.equal(first, second) for first, second in pairs)
        for given in (-x, x.abs()):
            with pytest.raises(FxquantError, match="when the model was captured"):
                captured(given)
    captured = pipeline.capture(GivesParts(), (x, torch.tensor([1, 2])))
    assert [len(part) for part in captured(x, torch.tensor([2, 1]))[1]] == [2, 1]
    with pytest.raises(FxquantError, match="the model's result"):
        captured(x, torch.tensor([1, 1, 1]))


class Squeezed(nn.Module):
    """One image gives a vector, several give rows: of how many dimensions a result is depends on sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x).mean(1).squeeze()
        if y.dim() == 1:
            y = y[None] * 2
        z: Tensor = y.sum(-1)
        return z


def test_squeezed_dimensions_are_not_built_in() -> None:
    model, one, more = Squeezed(), torch.randn(1, 3, 4), torch.randn(5, 3, 4)
    captured = pipeline.capture(model, (one,))
    assert torch.equal(captured(one), model(one)) and torch.equal(captured(more), model(more))
    captured = pipeline.capture(model, (more,))
    assert torch.equal(captured(one), model(one)) and torch.equal(captured(2 * more), model(2 * more))


class AsksForType(nn.Module):
    """Is written for several kinds of inputs."""

    def __init__(self, asks: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self.asks = asks

    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        return y.sum(0) if self.asks(x) else y


ASKS: tuple[tuple[Callable[[Any], Any], Tensor], ...] = (
    (lambda x: x.dim() == 3, torch.ones(2, 3, 4)),
    (lambda x: x.ndim == 3, torch.ones(2, 3, 4)),
    (lambda x: len(x.shape) == 3, torch.ones(2, 3, 4)),
    (lambda x: len((x + 1).shape[:-1]) == 2, torch.ones(2, 3, 4)),
    (lambda x: x.view(*x.shape[1:], -1).dim() == 3, torch.ones(2, 3, 4)),
    (lambda x: x.dtype == torch.int64, torch.ones(3, 4, dtype=torch.int64)),
    (lambda x: not x.is_floating_point(), torch.ones(3, 4, dtype=torch.int64)),
    (lambda x: x.is_complex(), torch.ones(3, 4, dtype=torch.complex64)),
)


@pytest.mark.parametrize(("asks", "other"), ASKS)
def test_inputs_of_another_type_are_refused_where_code_asks_for_it(asks: Any, other: Tensor) -> None:
    captured, model = pipeline.capture(AsksForType(asks), (torch.ones(3, 4),)), AsksForType(asks)
    assert torch.equal(captured(torch.ones(5, 6)), model(torch.ones(5, 6)))
    with pytest.raises(FxquantError, match="when the model was captured"):
        captured(other)


GIVES_FORM: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: x.view(x.shape[0], -1),
    lambda x: x.reshape((x.size(0), -1)),
    lambda x: torch.reshape(x, [x.shape[0], -1]) + 1,
    lambda x: x.sum().expand(3, 4),
    lambda x: (x + 1).view(x.shape[0], -1).repeat(2, 1),
)


@pytest.mark.parametrize("form", GIVES_FORM)
def test_inputs_of_more_dimensions_are_taken_where_code_asks_for_those_it_gives(form: Any) -> None:
    model = AsksForType(lambda x: form(x).dim() == 2)
    captured = pipeline.capture(model, (torch.ones(3, 4),))
    for given in (torch.rand(5, 6), torch.rand(2, 3, 4)):
        assert torch.equal(captured(given), model(given))


class LooksAlike(nn.Module):
    """Gives one tensor the form of another one, and asks for it."""

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        y = x.reshape(like.shape)
        return y.sum(0) if y.dim() == 3 else y


def test_form_of_another_tensor_is_asked_for_there() -> None:
    captured, model = pipeline.capture(LooksAlike(), (torch.ones(3, 4), torch.ones(4, 3))), LooksAlike()
    x, like = torch.rand(2, 1, 6), torch.ones(2, 6)
    assert torch.equal(captured(x, like), model(x, like))
    with pytest.raises(FxquantError, match="when the model was captured"):
        captured(torch.rand(3, 4), torch.ones(2, 3, 2))


def test_inputs_of_another_type_are_taken_where_no_code_asks_for_it() -> None:
    captured = pipeline.capture(nn.ReLU(), (torch.ones(3, 4),))
    for given in (torch.ones(2, 3, 4), torch.ones(3, 4, dtype=torch.int64)):
        assert torch.equal(captured(given), given)


class Mode(enum.Enum):
    """A choice."""

    ADD = 1
    SUBTRACT = 2


class Chooses(nn.Module):
    """Does what an input says that is no tensor."""

    def forward(self, x: Tensor, how: Any) -> Tensor:
        if isinstance(how, Mode):
            return x + 1 if how is Mode.ADD else x - 1
        if isinstance(how, slice):
            return x[how]
        if isinstance(how, (torch.dtype, torch.device)):
            return x.to(how)
        if how is True:
            return -x
        return x * len(how) if hasattr(how, "__len__") else x * how


@pytest.mark.parametrize(
    ("how", "other"),
    [
        (Mode.ADD, Mode.SUBTRACT), (slice(0, 2), slice(1, 2)), (torch.float32, torch.float64), (range(2), range(3)),
        (torch.Size([1, 2]), torch.Size([1, 2, 3])), (np.float32(2), np.float32(3)), (True, 1), (2j, 3j),
    ],
)  # fmt: skip
def test_other_choices_are_refused(how: Any, other: Any) -> None:
    model, x = Chooses(), torch.randn(3, 4)
    captured = pipeline.capture(model, (x, how))
    assert torch.equal(captured(2 * x, how), model(2 * x, how))
    with pytest.raises(FxquantError, match="input 'how'"):
        captured(x, other)


def test_arrays_of_numpy_are_inputs() -> None:
    model, x = Chooses(), torch.randn(3, 4)
    captured = pipeline.capture(model, (x, np.ones(3)))
    for given in (np.zeros(3), np.ones(2)):
        assert torch.equal(captured(x, given), model(x, given))


class Recurrent(nn.Module):
    """A loop with weights in it: unrolled, since it is to be int8."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = x[:, 0]
        for step in range(0, x.shape[1], 2):
            y = torch.tanh(self.cell(x[:, step] + y))
        return y


def test_a_loop_with_weights_is_unrolled_and_its_count_checked() -> None:
    model = Recurrent().eval()
    captured = pipeline.capture(model, (torch.randn(2, 6, 4),))
    assert not captured.state.capture_notes
    for length in (5, 6):
        x = torch.randn(3, length, 4)
        assert torch.equal(captured(x), model(x))
    with pytest.raises(FxquantError, match=r"range\(0, x\.shape\[1\], 2\)"):
        captured(torch.randn(2, 8, 4))


def test_200_layers_take_little_longer_than_eager() -> None:
    model = nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.ReLU()) for _ in range(200))).eval()
    x = torch.randn(4, 64)
    model(x)
    times = []
    for run in (lambda: model(x), lambda: pipeline.capture(model, (x,))):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    assert times[1] < 2 * times[0] + 1


def test_the_work_grows_with_the_number_of_layers_and_no_faster() -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(2, 2, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            if x.shape[-1] % 8:
                x = nn.functional.pad(x, (0, 8 - x.shape[-1] % 8))
            return torch.relu(self.conv(x))

    def calls(layers: int) -> int:
        model, count = nn.Sequential(*(Padded() for _ in range(layers))).eval(), 0

        def note(*_: object) -> None:
            nonlocal count
            count += 1

        sys.setprofile(note)
        try:
            pipeline.capture(model, (torch.randn(1, 2, 16),))
        finally:
            sys.setprofile(None)
        return count

    calls(2)  # what is made once and kept
    few, more, many = calls(20), calls(40), calls(80)
    assert many - more < 2.2 * (more - few)


class PadsSignal(nn.Module):
    """Pads the last of three dimensions to a multiple of eight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 3, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        pad = (8 - x.shape[-1] % 8) % 8
        if pad:
            x = F.pad(x, (0, pad))
        y: Tensor = self.conv(x)
        return y


@pytest.mark.parametrize("length", [13, 16])
def test_signals_are_padded_at_every_length(length: int) -> None:
    model = PadsSignal().eval()
    captured = pipeline.capture(model, (torch.randn(2, 2, length),))
    for other in (8, 13, 16, 17, 32):
        x = torch.randn(3, 2, other)
        assert torch.equal(captured(x), model(x))


class MaskedBySize(nn.Module):
    """Keeps the mask of one size; a method that mentions no weights makes others."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.size = nn.Conv2d(3, 3, 1), (8, 8)
        self.register_buffer("mask", self.make(8, 8))

    def make(self, height: int, width: int) -> Tensor:
        return (torch.arange(height)[:, None] + torch.arange(width)).float()

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        mask = self.mask if (height, width) == self.size else self.make(height, width)
        y: Tensor = self.conv(x) + mask
        return y


def test_a_method_without_weights_runs_as_python_for_other_sizes() -> None:
    model = MaskedBySize().eval()
    captured = pipeline.capture(model, (torch.randn(1, 3, 8, 8),))
    for height, width in ((8, 8), (5, 8), (9, 4)):
        x = torch.randn(2, 3, height, width)
        assert torch.equal(captured(x), model(x))


class NoneForLong(nn.Module):
    """Chooses by a size whether there is a scale, and looks at that in another statement."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        scale = None if x.shape[1] > 8 else 0.5
        if scale is not None:
            x = x * scale
        y: Tensor = self.linear(x)
        return y


def test_none_that_a_size_gives_is_not_taken_for_a_number() -> None:
    model = NoneForLong().eval()
    for example in (5, 12):
        captured = pipeline.capture(model, (torch.randn(2, example, 4),))
        for length in (3, 8, 9, 12):
            x = torch.randn(1, length, 4)
            assert torch.equal(captured(x), model(x))


class SetsForMany(nn.Module):
    """Sets a tensor for large batches only, and asks whether there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y, bound = self.first(x), None
        if x.shape[0] > 6:
            bound = y.amax(0)
        if bound is not None:
            y = y * 3
        z: Tensor = self.last(y)
        return z


@pytest.mark.parametrize(("example", "other"), [(8, 4), (4, 8)])
def test_a_tensor_that_is_none_for_other_sizes(example: int, other: int) -> None:
    model = SetsForMany().eval()
    captured = pipeline.capture(model, (torch.randn(example, 8),))
    x = torch.randn(example + (1 if example > 6 else -1), 8)
    assert torch.equal(captured(x), model(x))
    with pytest.raises(FxquantError):
        captured(torch.randn(other, 8))


class AsksForPast(nn.Module):
    """Its list has None where there is nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor, past: list[Tensor | None]) -> Tensor:
        y: Tensor = self.linear(x)
        if past[1] is None:
            y = y * 2
        assert past[0] is not None
        return y + past[0]


def test_lists_with_none_are_taken_apart() -> None:
    model, x = AsksForPast().eval(), torch.randn(2, 8)
    captured = pipeline.capture(model, (x, [x, None]))
    assert not captured.state.capture_notes and torch.equal(captured(x, [x, None]), model(x, [x, None]))
    with pytest.raises(FxquantError, match="None"):
        captured(x, [x, x])
