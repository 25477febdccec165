"""Where in the user's code the trace is right now."""

from __future__ import annotations

import contextlib
import linecache
import os
import sys

import torch

_TORCH = os.path.dirname(torch.__file__) + os.sep
_PASSED_OVER = (_TORCH, contextlib.__file__, "<frozen")
_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_OWN_USER_CODE = os.path.join(_OWN, "demo") + os.sep


def user_line() -> tuple[str, int, str]:
    """Return (file, line number, text of the line) of the innermost frame outside torch and fxquant.

    Frames of ``contextlib`` are passed over: decorators of torch and fxquant leave them behind.

    Returns ``("", 0, "")`` when every frame is torch's or ours.
    """
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        own = name.startswith(_OWN) and not name.startswith(_OWN_USER_CODE)
        if not own and not name.startswith(_PASSED_OVER):
            return name, frame.f_lineno, linecache.getline(name, frame.f_lineno).strip()
        frame = frame.f_back  # type: ignore[assignment]
    return "", 0, ""
