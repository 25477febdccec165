"""Names of torch's operations that give something else at every call, or a shape that depends on values."""

from __future__ import annotations

from typing import Any

from torch import fx

from fxquant.ir.named_call import NamedCall

# Draw random numbers whatever the mode of the model, or set what is drawn next.
RANDOM = frozenset(
    ("rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "normal", "normal_",
     "bernoulli", "bernoulli_", "multinomial", "poisson", "uniform_", "random_", "exponential_", "cauchy_",
     "geometric_", "log_normal_", "rrelu_with_noise", "gumbel_softmax", "manual_seed", "seed", "set_state")
)  # fmt: skip
# Give a shape that depends on the values of their input.
DATA_SHAPED = frozenset(
    ("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "_unique2", "bincount", "nms",
     "unique_dim", "batched_nms", "nonzero_tuple", "histogramdd", "flatnonzero")
)  # fmt: skip


def name_of(target: Any) -> str:
    """The bare name of a call's target."""
    return target if isinstance(target, str) else str(getattr(target, "__name__", ""))


def is_random(node: fx.Node) -> bool:
    """Whether a call draws random numbers whatever the mode of the model."""
    if isinstance(node.target, NamedCall):
        return node.target.module in ("random", "numpy.random")
    return node.op.startswith("call_") and name_of(node.target) in RANDOM
