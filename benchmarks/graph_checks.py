"""What must hold for every network, random ones included; used by the tests and by ``fuzz.py``."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from random_graphs import RandomNet
from torch import Tensor

import fxquant
from fxquant.inspect.agreement import UnitAgreement, check_agreement

ENGINES = tuple(n for n in ("x86", "fbgemm", "onednn", "qnnpack") if n in torch.backends.quantized.supported_engines)


# What was written in place into a strided tensor lies densely when captured, and sums over it take another order.
_SUMMATION = 1e-6


@dataclass(frozen=True)
class Failure:
    """A property that a random network broke.

    Attributes:
        seed: of the network, count: its number of steps.
        what: the property, detail: what was seen.
    """

    seed: int
    count: int
    what: str
    detail: str


def check_graph(seed: int, count: int | None = None) -> tuple[Failure | None, tuple[UnitAgreement, ...]]:
    """Quantize the network of ``seed`` and check every property.

    Returns:
        The first property that fails, None when all hold; and the agreement of its units.
    """
    net = RandomNet(seed, count)
    rows: tuple[UnitAgreement, ...] = ()
    what = "prepare"
    try:
        with torch.no_grad():
            x, eager = net.example(), net(net.example())
            observed = fxquant.prepare_fx(net, _mapping(net), (net.example(),), backend_config=_engine(net))
            what = "capture equals eager"
            assert _same(observed(x), eager, _SUMMATION)
            assert torch.equal(x, net.example()), "the input was changed"
            what = "convert"
            reference, quantized = fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed)
            what = "run"
            result = quantized(net.example())
            what = "agreement"
            agreement = check_agreement(reference, quantized, net.example())
            rows = agreement.rows
            assert not agreement.violations, f"\n{agreement}"
            what = "deterministic"
            assert _same(quantized(net.example()), result), "a second call gives something else"
            assert _same(fxquant.convert_fx(observed)(net.example()), result), "a second conversion differs"
            what = "save and load"
            assert _same(_reloaded(quantized)(net.example()), result)
            what = "another batch size"
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*degrees of freedom")  # of deviations in an empty batch
                _check_batches(net, quantized)
    except Exception as error:
        return Failure(seed, len(net.steps), what, f"{type(error).__name__}: {error}"), rows
    return None, rows


def minimise(failure: Failure) -> Failure:
    """The failure of the same kind in the shortest network of that seed."""
    for count in range(1, failure.count + 1):
        shorter, _ = check_graph(failure.seed, count)
        if shorter is not None and shorter.what == failure.what:
            return shorter
    return failure


def _engine(net: RandomNet) -> str:
    return ENGINES[net.seed % len(ENGINES)]


def _mapping(net: RandomNet) -> fxquant.QConfigMapping:
    """The default of some engine, or dynamic; with some modules quantized otherwise or in float."""
    engine, kinds = _engine(net), net.kinds()
    qconfigs = {
        "static": fxquant.get_default_qconfig(engine),
        "dynamic": fxquant.per_channel_dynamic_qconfig,
        "float16": fxquant.float16_dynamic_qconfig,
        "float": None,
    }
    is_static = kinds.pop("") == "static"
    mapping = fxquant.get_default_qconfig_mapping(engine) if is_static else fxquant.QConfigMapping()
    if not is_static:
        mapping.set_global(qconfigs["dynamic"])
    for name, kind in kinds.items():
        mapping.set_module_name(name, qconfigs[kind])
    return mapping


def _check_batches(net: RandomNet, quantized: torch.nn.Module) -> None:
    for size in (1, 5, 0):
        try:
            eager = net(net.example(size))
        except (RuntimeError, ValueError, IndexError):
            continue
        made = quantized(net.example(size))
        shapes = [tuple(item.shape) for item in made], [tuple(item.shape) for item in eager]
        assert shapes[0] == shapes[1], f"batch {size}: {shapes}"


def _reloaded(model: torch.nn.Module) -> torch.nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded: torch.nn.Module = torch.load(file, weights_only=False)
    return loaded


def _same(actual: Any, expected: tuple[Tensor, ...], error: float = 0.0) -> bool:
    """Whether values are equal, up to a share of their norm."""
    pairs = list(zip(actual, expected, strict=True))
    alike = all(a.dtype == e.dtype and a.shape == e.shape for a, e in pairs)
    return alike and all(torch.equal(a, e) or bool((a - e).norm() <= error * e.norm()) for a, e in pairs)
