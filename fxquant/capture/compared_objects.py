"""Whether a model's code asks if two variables are one object: ``if key is value``.

Nothing is told of such a question to what is compared. It has one answer in a graph, which checks of its inputs that no
two of them are one, as they were not in the example.
"""

from __future__ import annotations

import dis
from collections.abc import Iterator, Sequence
from types import CodeType, FunctionType
from typing import TYPE_CHECKING

from torch import Tensor, nn

from fxquant.capture.facts import CHECKED, FactKind
from fxquant.capture.proxy import ValueProxy
from fxquant.capture.source import Place, is_user_file, place_of
from fxquant.ir.checks import require_others
from fxquant.ir.codes import codes_in, has_instruction
from fxquant.ir.own_functions import functions_kept

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer

_IS = dis.opmap["IS_OP"]
_VARIABLES = ("LOAD_FAST", "LOAD_DEREF")


def place_of_question(model: nn.Module) -> Place | None:
    """The first place where the user's code asks; None where it does not."""
    return next((place for function in _functions_of(model) for place in _questions(function.__code__)), None)


def check_objects(tracer: ValueTracer, inputs: Sequence[ValueProxy]) -> None:
    """Let the graph check that its inputs are different objects, where the model may ask for that and they are.

    Args:
        tracer: of the trace, which begins.
        inputs: all that the model is given.
    """
    tensors = [proxy for proxy in inputs if isinstance(proxy.value, Tensor)]
    if len(tensors) < 2 or not tracer.settings.inputs_apart:
        return
    place = place_of_question(tracer.root)
    if place is not None:
        tracer.recorder.record(FactKind.STATIC, "different inputs", CHECKED, place)
        source = f"{place.file}:{place.line}"
        tracer.create_proxy("call_function", require_others, (place.code, source, *tensors), {})


def _functions_of(model: nn.Module) -> Iterator[FunctionType]:
    """Methods of the user's classes, functions of their files, and functions that modules keep."""
    kinds = dict.fromkeys(kind for module in model.modules() for kind in type(module).__mro__)
    methods = [item for kind in kinds for item in vars(kind).values() if _is_users(item)]
    spaces = {id(item.__globals__): item.__globals__ for item in methods}
    functions = [item for space in spaces.values() for item in list(space.values()) if _is_users(item)]
    return iter(dict.fromkeys((*methods, *functions, *filter(_is_users, functions_kept(model)))))


def _is_users(item: object) -> bool:
    return type(item) is FunctionType and is_user_file(item.__code__.co_filename)


def _questions(function: CodeType) -> Iterator[Place]:
    for code in codes_in(function):
        if has_instruction(code, "IS_OP"):
            found = list(dis.get_instructions(code))
            for first, second, asks in zip(found, found[1:], found[2:], strict=False):
                both = first.opname.startswith(_VARIABLES) and second.opname.startswith(_VARIABLES)
                if asks.opcode == _IS and both:
                    yield place_of(code, asks.offset)
