"""Stand-ins for what Python draws and for clocks: a graph would keep what they gave during capture for ever."""

from __future__ import annotations

import datetime
import os
import random
import secrets
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from itertools import product
from typing import TYPE_CHECKING, Any

import torch

from fxquant.capture.facts import FactKind
from fxquant.capture.source import is_user_file
from fxquant.ir.named_call import NamedCall

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer

# Return a number, which a node can stand for; what else there is in these modules runs as Python.
_DRAWS = ("random", "uniform", "randint", "randrange", "gauss", "normalvariate", "triangular", "betavariate",
          "expovariate", "getrandbits", "lognormvariate", "vonmisesvariate", "gammavariate")  # fmt: skip
_NUMPY_DRAWS = ("rand", "randn", "random", "randint", "uniform", "normal", "random_sample", "standard_normal", "choice",
                "permutation", "binomial", "beta", "exponential", "poisson")  # fmt: skip
_CLOCKS = ("time", "perf_counter", "monotonic", "process_time", "time_ns", "perf_counter_ns")
_OTHER_CLOCKS = (time.localtime, time.gmtime, time.ctime, time.strftime, time.asctime)
_OTHER_DRAWS = (os.urandom, uuid.uuid1, uuid.uuid4, secrets.choice, secrets.randbelow, secrets.randbits,
                secrets.token_bytes, secrets.token_hex, secrets.token_urlsafe)  # fmt: skip
_TORCH_STATE = ("manual_seed", "seed", "get_rng_state", "set_rng_state", "fork_rng")
RANDOM_AND_TIME = ("random", "time", "numpy.random", "os", "uuid", "secrets", "datetime", "torch", "torch.random")
_NOW = ("now", "utcnow", "today")


def random_stand_ins(tracer: ValueTracer) -> dict[Any, Any]:
    """Stand-ins of functions that draw numbers outside torch, set a random state, or ask for the time; by function."""
    found: dict[Any, Any] = {}
    numpy_random = sys.modules.get("numpy.random")
    seeds = [numpy_random.seed, numpy_random.set_state, numpy_random.get_state] if numpy_random is not None else []
    for function in (*_methods_behind(random), *_methods_behind(numpy_random), *seeds, *_OTHER_DRAWS):
        found[function] = _reported(tracer, function, FactKind.PYTHON_RANDOM)
    found[torch.set_default_dtype] = _reported(tracer, torch.set_default_dtype, FactKind.GLOBAL_UPDATE)
    for module, name in product((torch, torch.random), _TORCH_STATE):  # torch._dynamo replaces some when it is imported
        if hasattr(module, name):
            function = getattr(module, name)
            found[function] = _reported(tracer, function, FactKind.TORCH_RANDOM)
    found[torch.Generator] = _stand_in_class(
        torch.Generator, {}, _reported(tracer, torch.Generator, FactKind.TORCH_RANDOM, 2)
    )
    for kind in (random.Random, random.SystemRandom, *_numpy_generators(numpy_random)):
        found[kind] = _stand_in_class(kind, {}, _reported(tracer, kind, FactKind.PYTHON_RANDOM, 2))
    if numpy_random is not None:
        found[numpy_random.default_rng] = _reported(tracer, numpy_random.default_rng, FactKind.PYTHON_RANDOM)
    for function in _OTHER_CLOCKS:
        found[function] = _reported(tracer, function, FactKind.TIME)
    for kind in (datetime.datetime, datetime.date):
        found[kind] = _calendar(tracer, kind)
    draws = [(random, name) for name in _DRAWS]
    draws += [(numpy_random, name) for name in _NUMPY_DRAWS if numpy_random is not None]
    for module, name in draws:
        anew = "recorded: draws anew at every call"
        found[getattr(module, name)] = _called_anew(tracer, module, name, FactKind.PYTHON_RANDOM, anew)
    for name in _CLOCKS:
        anew = "recorded: asks anew at every call"
        found[getattr(time, name)] = _called_anew(tracer, time, name, FactKind.TIME, anew)
    return found


def _numpy_generators(numpy_random: Any) -> tuple[Any, ...]:
    """Classes of generators, made in forward by their names."""
    return () if numpy_random is None else (numpy_random.RandomState, numpy_random.Generator)


def _methods_behind(module: Any) -> Iterator[Any]:
    """Functions of a module that are methods of its own generator."""
    for name, value in list(vars(module).items()) if module is not None else ():
        owner = getattr(value, "__self__", None)
        drawn = isinstance(owner, random.Random) or type(owner).__module__.startswith("numpy.random")
        if drawn and callable(value) and not name.startswith("_") and name not in ("getstate", "get_state"):
            yield value


def _called_anew(tracer: ValueTracer, module: Any, name: str, kind: FactKind, handled: str) -> Any:
    original = getattr(module, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        if tracer.executing or not is_user_file(sys._getframe(1).f_code.co_filename):
            return original(*args, **kwargs)
        tracer.record(kind, name, handled)
        return tracer.create_proxy("call_function", NamedCall(module.__name__, name), args, kwargs)

    return call


def _reported(tracer: ValueTracer, original: Callable[..., Any], kind: FactKind, frames: int = 1) -> Any:
    """``original``, whose calls are reported.

    Args:
        tracer: takes the report, of this kind.
        original: the function.
        kind: of the report.
        frames: between the user's code and the stand-in.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        if not tracer.executing and is_user_file(sys._getframe(frames).f_code.co_filename):
            tracer.report(kind, original.__name__)
        return original(*args, **kwargs)

    return call


def _calendar(tracer: ValueTracer, kind: Any) -> Any:
    """``datetime.datetime`` or ``datetime.date`` that says who asks it for the time."""
    names = [name for name in _NOW if hasattr(kind, name)]
    return _stand_in_class(
        kind, {name: staticmethod(_reported(tracer, getattr(kind, name), FactKind.TIME)) for name in names}, kind
    )


def _stand_in_class(kind: Any, methods: dict[str, Any], make: Callable[..., Any]) -> Any:
    """A class that stands for another one, with some methods of its own, and makes what ``make`` makes."""

    class Metaclass(type):
        def __instancecheck__(cls, thing: Any) -> bool:
            return isinstance(thing, kind)

        def __subclasscheck__(cls, other: Any) -> bool:
            return issubclass(other, kind)

        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            return make(*args, **kwargs)

        def __getattr__(cls, name: str) -> Any:
            return getattr(kind, name)

    return Metaclass(kind.__name__, (), methods)
