"""The frame whose code asks a proxy something, the user's or not."""

from __future__ import annotations

import os
from types import FrameType

from fxquant.capture.source import frames

_ANSWERING = tuple(
    os.path.join("capture", f"{name}.py")
    for name in ("answers", "answer_checks", "asked_integers", "asking_frame", "lengths", "proxy", "tracer")
)


def asking_frame() -> FrameType | None:
    """The innermost frame that does not answer."""
    return next((frame for frame in frames() if not frame.f_code.co_filename.endswith(_ANSWERING)), None)
