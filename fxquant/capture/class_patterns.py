"""Proxies at class patterns: ``match x: case Tensor():``.

Python asks such a subject for its class in C, where no stand-in for ``isinstance`` sees it. There, and nowhere else, a
proxy says that it is what its value is: elsewhere C code would take it for a tensor and crash.
"""

from __future__ import annotations

import dis
import sys
from types import CodeType
from typing import Any

from fxquant.capture.facts import FactKind
from fxquant.capture.source import is_user_file
from fxquant.ir.codes import has_instruction, remembered

_MATCH_CLASS = dis.opmap["MATCH_CLASS"]


def _class_of(proxy: Any) -> type:
    frame = sys._getframe(1)
    if _has_class_patterns(frame.f_code) and frame.f_code.co_code[frame.f_lasti] == _MATCH_CLASS:
        found = type(proxy.value)
        proxy.tracer.record(FactKind.TYPE_TEST, found.__name__, "answered as eager does")
        return found
    return type(proxy)


@remembered
def _has_class_patterns(code: CodeType) -> bool:
    return is_user_file(code.co_filename) and has_instruction(code, "MATCH_CLASS")


class Matched:
    """What is of its value's class at a class pattern of the user's code, and of its own elsewhere."""

    __class__ = property(_class_of)
