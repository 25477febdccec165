"""The call: what it refuses, what it leaves alone, what its report says."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fxquant import FxquantError
from fxquant.check import FindingKind, Severity, check_traceable
from fxquant.errors import ConfigError


class Plain(nn.Module):
    """Nothing is in the way here."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


IMAGE = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)


def test_a_plain_model_passes_with_proof_and_full_coverage() -> None:
    report = check_traceable(Plain().eval(), (IMAGE,))
    assert report.ok and report.exit_code == 0 and not report.findings, str(report)
    assert report.verdict.startswith("OK: traceable")
    groups = {row.group for row in report.proof.rows if row.outcome.holds}
    assert groups == {"example", "batch", "size", "values", "state", "mode", "gradients"}
    assert report.coverage.parameter_share == pytest.approx(
        1 - 16 / sum(p.numel() for p in Plain().parameters()), abs=0.1
    )
    assert report.coverage.mac_share == 1.0
    assert "will be int8" in str(report)


@pytest.mark.parametrize(("kind", "gates"), [(nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)])
@pytest.mark.parametrize("both_ways", [False, True])
def test_recurrent_layers_count_with_all_their_weights(kind: type[nn.RNNBase], gates: int, both_ways: bool) -> None:
    model = nn.Sequential(kind(8, 16, batch_first=True, bidirectional=both_ways))
    coverage = check_traceable(model.eval(), (torch.randn(2, 5, 8),)).coverage
    assert coverage.macs == 2 * 5 * gates * 16 * (8 + 16) * (2 if both_ways else 1)
    assert coverage.int8_macs == 0


@pytest.mark.parametrize("probes", [3, None, "all", {"x": IMAGE}, IMAGE])
def test_probes_that_are_no_list_of_inputs_are_refused(probes: Any) -> None:
    with pytest.raises(ConfigError, match="pass 'auto', or a list of inputs"):
        check_traceable(Plain().eval(), (IMAGE,), probes=probes)


def _exported() -> Any:
    return torch.export.export(Plain().eval(), (IMAGE,))


def _graph() -> Any:
    import fxquant

    return fxquant.prepare_fx(Plain().eval(), fxquant.get_default_qconfig_mapping(), (IMAGE,))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torch.jit.trace(Plain().eval(), IMAGE), "TorchScript"),
        (lambda: torch.compile(Plain().eval()), "_orig_mod"),
        (_exported, "torch.export"),
        (lambda: Plain, r"Plain\(\.\.\.\)"),
        (lambda: Plain().state_dict(), "load_state_dict"),
        (lambda: torch.relu, "small nn.Module"),
        (lambda: "model.pt", "pass the model itself"),
        (lambda: nn.LazyLinear(3), "once before"),
        (lambda: nn.Linear(3, 3, device="meta"), "meta device"),
        (_graph, "float model"),
    ],
)
def test_what_is_no_plain_module_is_refused_with_what_to_pass(make: Any, words: str) -> None:
    with pytest.raises(FxquantError, match=words):
        check_traceable(make(), (IMAGE,))


@pytest.mark.parametrize("inputs", [None, (), (torch.randn(2, 4, 8, 8),), {"y": IMAGE}])
def test_inputs_that_do_not_fit_are_refused(inputs: Any) -> None:
    with pytest.raises(FxquantError, match=r"example_inputs|does not run"):
        check_traceable(Plain().eval(), inputs)


def test_an_error_of_the_model_itself_names_its_line() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ x  # here

    with pytest.raises(FxquantError, match=r"test_check_traceable\.py:\d+"):
        check_traceable(Broken(), (torch.randn(2, 3),))


TOTAL = [0]


class Stateful(nn.Module):
    """Changes everything that it can reach."""

    shared = 0

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls, self.cache = nn.Linear(4, 4), 0, {}  # type: ignore[var-annotated]
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.cache[self.calls] = x
        self.mean += x.mean(0)
        self.fresh = x
        Stateful.shared += 1
        TOTAL[0] += 1
        return self.layer(x) * random.random() + torch.rand(4) + np.random.rand()


def test_model_inputs_and_random_states_stay_as_they_were() -> None:
    model, x = Stateful().eval(), torch.randn(3, 4)
    model(x)
    before = copy.deepcopy({key: value for key, value in vars(model).items() if not key.startswith("_")})
    state, kept, total = copy.deepcopy(model.state_dict()), x.clone(), (Stateful.shared, TOTAL[0])
    generators = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    report = check_traceable(model, (x,))
    assert generators[1:] == (random.getstate(), np.random.get_state()[1].tolist())
    assert torch.equal(torch.get_rng_state(), generators[0]) and torch.equal(x, kept)
    assert (Stateful.shared, TOTAL[0]) == total
    after = {key: value for key, value in vars(model).items() if not key.startswith("_")}
    assert after.keys() == before.keys() and after["calls"] == before["calls"]
    assert after["cache"].keys() == before["cache"].keys() and torch.equal(after["fresh"], before["fresh"])
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    kinds = {item.kind for item in report.findings}
    assert kinds >= {
        FindingKind.ATTRIBUTE_UPDATE, FindingKind.CONTAINER_UPDATE, FindingKind.BUFFER_UPDATE,
        FindingKind.GLOBAL_UPDATE, FindingKind.PYTHON_RANDOM, FindingKind.TORCH_RANDOM,
    }, str(report)  # fmt: skip


def test_all_findings_in_one_run_and_as_json() -> None:
    report = check_traceable(Stateful().eval(), (torch.randn(3, 4),))
    lines = [item.line for item in report.findings if item.severity is Severity.ERROR]
    assert len(set(lines)) >= 7
    found = json.loads(report.to_json())
    assert found["ok"] is report.ok and len(found["findings"]) == len(report.findings)
    assert {"kind", "severity", "file", "line", "code", "module_path", "message", "fix", "handled"} <= set(
        found["findings"][0]
    )
    assert found["proof"][0]["name"] == "the example"


def test_given_probes_take_the_place_of_those_made_up() -> None:
    report = check_traceable(Plain().eval(), (IMAGE,), probes=[(torch.randn(5, 3, 9, 9),)])
    names = [row.name for row in report.proof.rows]
    assert "probe 0" in names and not any(name.startswith("batch") for name in names)


def test_keyword_inputs_nested_inputs_and_half_precision() -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, batch: dict[str, Any], *, scale: float = 1.0) -> dict[str, Tensor]:
            return {"out": self.layer(batch["x"][0]) * scale + batch["y"]}

    inputs = {"batch": {"x": [torch.randn(2, 4)], "y": torch.randn(2, 1)}, "scale": 2.0}
    report = check_traceable(Nested().eval(), inputs)
    assert report.ok and "batch.x.0" in report.inputs, str(report)
    half = check_traceable(nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval().bfloat16(), torch.randn(2, 4).bfloat16())
    assert half.ok and half.proof.holds, str(half)


def test_a_large_example_is_compared_at_about_half_its_size_and_says_so() -> None:
    report = check_traceable(Plain().eval(), (torch.randn(2, 3, 64, 64),))
    names = [row.name for row in report.proof.rows]
    assert names[:2] == ["the example", "x[2], x[3]: 64 → 33"] and report.proof.holds
    assert {"batch 4 at x[2], x[3]: 64 → 33", "negated values at x[2], x[3]: 64 → 33"} <= set(names)


def test_a_large_example_is_not_compared_at_a_size_that_the_graph_is_wrong_for() -> None:
    class Flat(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) if x.shape[2] > 40 else self.conv(x) * 2

    report = check_traceable(Flat().eval(), (torch.randn(2, 3, 64, 64),))
    rows = {row.name: row for row in report.proof.rows}
    assert not rows["x[2], x[3]: 64 → 33"].outcome.holds
    right = [row for row in report.proof.rows if row.outcome.holds and row.group in ("batch", "values")]
    assert len(right) == 7 and {row.name.partition(" at ")[2] for row in right} == {"x[3]: 64 → 33"}


@pytest.mark.parametrize("in_training_only", [False, True])
def test_parameters_that_forward_writes_into_are_not_shared(in_training_only: bool) -> None:
    class Clamped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            if self.training or not in_training_only:
                self.layer.weight.data.mul_(1.5)
            return self.layer(x)

    model = Clamped().eval()
    before = model.layer.weight.detach().clone()
    report = check_traceable(model, (torch.randn(2, 4),))
    assert torch.equal(model.layer.weight, before)
    found = [item.severity for item in report.findings if item.code == "self.layer.weight.data.mul_(1.5)"]
    assert found == [Severity.INFO if in_training_only else Severity.ERROR], str(report)
    assert report.proof.holds, str(report)


def test_a_model_that_takes_gradients_in_training_mode_only_is_compared_in_eval_mode() -> None:
    class Penalized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Any:
            x = x.detach().requires_grad_(self.training)
            y = self.layer(x)
            if self.training:
                y = y + torch.autograd.grad(y.sum(), x, create_graph=True)[0].norm()
            return y

    report = check_traceable(Penalized().eval(), (torch.randn(2, 4),))
    assert report.ok and report.proof.holds, str(report)
    report = check_traceable(Penalized().train(), (torch.randn(2, 4),))
    assert not report.captured and {item.kind for item in report.findings} >= {FindingKind.ERROR}, str(report)


def test_what_parts_in_a_module_of_torch_is_told_at_a_line_of_the_user() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def __call__(self, x: Tensor) -> Any:
            return super().__call__(x * 3) + 1

        def forward(self, x: Tensor) -> Any:
            return self.layer(x)

    report = check_traceable(Scaled().eval(), (torch.randn(2, 4),))
    found = next(item for item in report.findings if item.kind is FindingKind.DIVERGENCE)
    assert found.file == __file__ and found.code.startswith("def __call__") and report.ok, str(report)
