"""One capture at a time, and nothing of what other threads do meanwhile.

While a model is traced, some of torch's functions and classes are replaced for the whole process.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

ONE_CAPTURE = threading.RLock()
"""Held while the replacements are in force: two sets of them would undo each other's."""


class OwnThread:
    """Base of the tracer: it records in the thread that made it.

    Attributes:
        executing: True while a recorded operation runs on its values, and in other threads; nothing is recorded then.
    """

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()
        self._executing = False

    @property
    def executing(self) -> bool:
        return self._executing or threading.get_ident() != self._thread

    @executing.setter
    def executing(self, running: bool) -> None:
        self._executing = running

    @contextmanager
    def nothing_recorded(self) -> Iterator[None]:
        """Inside, what runs is no part of the trace."""
        was, self._executing = self._executing, True
        try:
            yield
        finally:
            self._executing = was
