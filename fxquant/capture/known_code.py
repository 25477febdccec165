"""What is known of the code of the classes of layers, for one trace."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import nn

from fxquant.capture.plain_code import NotPlainError, Reading, is_torchs
from fxquant.capture.watched_code import Watch, WatchedCode


class KnownCode:
    """What the code of layers reads: told from the code; where this may do more than compute, from what of it ran.

    Args:
        watched: by the class of a layer, what of its code ran, in traces before this one too.

    Attributes:
        met_in: by the class of a layer, those that what the last such layer holds is of.
    """

    def __init__(self, watched: dict[type, WatchedCode]) -> None:
        self.met_in: dict[type, frozenset[type]] = {}
        self._watched = watched
        self._watch = Watch()
        self._torch_reads: dict[type, bool] = {}
        self._read: dict[frozenset[type], Reading | None] = {}

    def is_read_by_torch(self, kind: type) -> bool:
        """Whether code of torch's may read attributes of a module that not every module has."""
        if kind not in self._torch_reads:
            bases = kind.__mro__[:-1]
            self._torch_reads[kind] = any(is_torchs(base) and base is not nn.Module for base in bases)
        return self._torch_reads[kind]

    def read_by(self, layer: type, kinds: frozenset[type]) -> Reading | WatchedCode:
        """What the code of layers of a class reads.

        Args:
            layer: the class.
            kinds: all classes that the objects of such a layer are of.

        Raises:
            NotPlainError: it may do something else than compute.
        """
        if layer in self._watched:
            return self._watched[layer]
        if kinds not in self._read:
            try:
                self._read[kinds] = Reading(kinds)
            except NotPlainError:
                self._read[kinds] = None
        reading = self._read[kinds]
        if reading is None:
            raise NotPlainError
        return reading

    def outside(self, layer: type, kinds: frozenset[type]) -> Hashable:
        """What the code of such a layer reads outside of its objects, as it is now.

        Raises:
            NotPlainError: as ``read_by``; or that is something else than what was looked at.
        """
        reading = self.read_by(layer, kinds)
        return reading.now(kinds) if isinstance(reading, WatchedCode) else reading.now()

    def watch(self, layer: type) -> bool:
        """Have the code of such layers watched from now on; False where it is already."""
        is_new = layer not in self._watched and self._watch.may_begin
        if is_new:
            self._watched[layer] = WatchedCode()
        return is_new

    @contextmanager
    def watching(self, layer: type, wanted: bool) -> Iterator[Callable[[], bool]]:
        """Inside, where it is wanted, what runs of the code of such a layer is noted, if it has to be.

        Gives what tells, afterwards, whether something ran that had not run before.
        """
        watched = self._watched.get(layer) if wanted else None
        if watched is not None and not self._watch.may_begin:  # forward began to watch by itself
            watched.is_plain, watched = False, None
        size = 0 if watched is None else watched.size
        with nullcontext() if watched is None else self._watch.noting(watched):
            yield lambda: watched is not None and watched.size != size

    def not_watching(self) -> AbstractContextManager[None]:
        """Inside, none of the user's code runs."""
        return self._watch.paused()

    def runs_unseen(self, layer: type) -> None:
        """A layer is recorded without its code: a layer around it that is being watched reads what this code reads."""
        if self._watch.inside:
            self._watch.inside[-1].absorb(self.read_by(layer, self.met_in.get(layer, frozenset())))
