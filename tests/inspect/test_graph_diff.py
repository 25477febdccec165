"""graph_diff: alignment by origin, who did what and why, and rendering."""

from __future__ import annotations

import io
import pickle
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant import FxquantError, GraphDiff, graph_diff
from fxquant.inspect.graph_diff import Change


class Block(nn.Module):
    """conv, batch norm, relu, residual addition; then float and linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout()
        self.linear = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.conv(x)))
        y = torch.flatten(F.adaptive_avg_pool2d(self.drop(y), 1), 1)
        return torch.i0(self.linear(y))


def convert(model: nn.Module, mapping: fxquant.QConfigMapping | None = None) -> dict[str, nn.Module]:
    x = torch.randn(8, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    mapping = mapping or fxquant.get_default_qconfig_mapping("onednn")
    observed = fxquant.prepare_fx(model, mapping, (x,), backend_config="onednn")
    observed(x)
    return {
        "float": model,
        "fused": fxquant.fuse_fx(model, example_inputs=(x,)),
        "observed": observed,
        "reference": fxquant.convert_to_reference_fx(observed),
        "quantized": fxquant.convert_fx(observed),
    }


@pytest.fixture(scope="module")
def made() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return convert(Block().eval())


def the(diff: GraphDiff, kind: str, text: str) -> Change:
    """The one change of a kind that mentions ``text`` on either side."""
    found = [c for c in diff.changes if c.kind == kind and any(text in str(n) for n in (*c.before, *c.after))]
    assert len(found) == 1, [str(change) for change in found]
    return found[0]


def test_float_to_quantized_says_which_rules_fused_what(made: dict[str, nn.Module]) -> None:
    change = the(graph_diff(made["float"], made["quantized"]), "fused", "quantized.conv2d")
    assert [node.text for node in change.before] == ["conv2d", "batch_norm", "relu"]
    assert change.by == "fold_batch_norm, absorb_clip, lower_native"
    assert change.reason.startswith("scale=")
    assert "zero_point=0, range [0, " in change.reason
    assert "weight int8 per channel" in change.reason


def test_inserted_quantize_tells_its_parameters(made: dict[str, nn.Module]) -> None:
    reference = made["reference"]
    change = the(graph_diff(made["float"], reference), "inserted", "x_quantize")
    scale = float(reference.get_buffer("int8_ranges.x.scale"))
    zero_point = int(reference.get_buffer("int8_ranges.x.zero_point"))
    assert change.reason.startswith(f"scale={scale:.4g} zero_point={zero_point}, range [")
    assert change.by == "build_reference"
    assert change.before == ()


def test_float_operators_are_shown_with_their_reason(made: dict[str, nn.Module]) -> None:
    diff = graph_diff(made["float"], made["quantized"])
    assert "float: " in the(diff, "unchanged", "i0").reason
    assert the(diff, "removed", "dropout").reason == "does nothing in eval mode"
    assert the(diff, "inserted", "linear_dequantize").reason == "read as float by i0"


def test_fused_and_observed_stages(made: dict[str, nn.Module]) -> None:
    fused = the(graph_diff(made["float"], made["fused"]), "fused", "batch_norm")
    assert (fused.by, [node.text for node in fused.after]) == ("fold_batch_norm", ["conv2d"])
    observed = graph_diff(made["float"], made["observed"])
    assert set(observed.counts) == {"inserted", "unchanged"}
    change = the(observed, "inserted", "x_observer")
    assert change.after[0].text == "HistogramObserver"
    assert change.reason.endswith("over 1 batches")


def test_conversions_inside_a_unit_join_its_kernel(made: dict[str, nn.Module]) -> None:
    change = the(graph_diff(made["reference"], made["quantized"]), "fused", "quantized.linear")
    assert [node.text for node in change.before] == ["dequantize", "linear", "quantize"]


@pytest.mark.parametrize("pair", list(permutations(("float", "fused", "observed", "reference", "quantized"), 2)))
def test_every_pair_of_stages_covers_every_node_once(made: dict[str, nn.Module], pair: tuple[str, str]) -> None:
    before, after = made[pair[0]], made[pair[1]]
    diff = graph_diff(before, after)
    assert diff == graph_diff(pickle.loads(pickle.dumps(before)), pickle.loads(pickle.dumps(after)))
    for side in ("before", "after"):
        names = [node.name for change in diff.changes for node in getattr(change, side)]
        assert len(names) == len(set(names))
    assert {"x", "output"} <= {node.name for change in diff.changes for node in change.after}


def test_same_stage_is_unchanged(made: dict[str, nn.Module]) -> None:
    assert set(graph_diff(made["quantized"], made["quantized"]).counts) == {"unchanged"}


def test_two_configurations_of_one_model() -> None:
    torch.manual_seed(0)
    model = Block().eval()
    excluded = fxquant.get_default_qconfig_mapping("onednn").set_module_name("linear", None)
    diff = graph_diff(convert(model)["quantized"], convert(model, excluded)["quantized"])
    change = the(diff, "replaced", "quantized.linear")
    assert [node.text for node in change.after] == ["linear"]
    assert change.reason == "float: excluded by qconfig (set_module_name('linear'))"
    assert change.title.startswith("quantized.linear [onednn")
    back = graph_diff(convert(model, excluded)["quantized"], convert(model)["quantized"])
    assert the(back, "replaced", "quantized.linear").reason.endswith(f"before, {change.reason}")


def test_a_fusion_that_no_longer_happens_is_undone() -> None:
    torch.manual_seed(0)
    model = Block().eval()
    excluded = fxquant.get_default_qconfig_mapping("onednn").set_module_name("conv", None)
    first, second = convert(model)["quantized"], convert(model, excluded)["quantized"]
    change = the(graph_diff(first, second), "split", "quantized.conv2d")
    assert change.by_text.startswith("undo: fold_batch_norm")
    assert "float: excluded by qconfig (set_module_name('conv'))" in change.reason
    assert the(graph_diff(second, first), "fused", "quantized.conv2d").by_text.startswith("fuse: fold_batch_norm")


def test_training_rounds_values_and_weights() -> None:
    torch.manual_seed(0)
    model, mapping = Block().train(), fxquant.get_default_qat_qconfig_mapping("onednn")
    trained = fxquant.prepare_qat_fx(model, mapping, (torch.randn(4, 4, 6, 6),))
    trained(torch.randn(4, 4, 6, 6))
    diff = graph_diff(model, trained)
    change = the(diff, "inserted", "x_rounded")
    assert change.reason.startswith("scale=") and change.outcome == "observer"
    change = the(diff, "replaced", "conv2d")
    assert change.reason.startswith("weight rounded in training by ")
    assert not any("getitem" in node.text for change in diff.changes for node in change.after)
    converted = graph_diff(trained, fxquant.convert_fx(trained.eval()))
    assert {change.kind for change in converted.changes if "x_rounded" in str(change.before)} == {"removed"}


def test_unchanged_observers_are_no_news(made: dict[str, nn.Module]) -> None:
    torch.manual_seed(5)
    again = convert(Block().eval())["observed"]
    assert all(not change.reason for change in graph_diff(made["observed"], made["observed"]).changes)
    change = the(graph_diff(made["observed"], again), "replaced", "linear_observer")
    assert change.reason.startswith("range [") and " → range [" in change.reason


def test_refuses_models_it_cannot_align(made: dict[str, nn.Module]) -> None:
    with pytest.raises(FxquantError, match="remedy: pass at least one model"):
        graph_diff(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(FxquantError, match="not the model"):
        graph_diff(nn.Linear(2, 2), made["quantized"])
    other = convert(nn.Sequential(nn.Conv2d(4, 2, 1)).eval())["quantized"]
    with pytest.raises(FxquantError, match="different graphs"):
        graph_diff(made["quantized"], other)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_text_is_plain_in_pipes_and_coloured_on_terminals(
    made: dict[str, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    diff = graph_diff(made["float"], made["quantized"])
    monkeypatch.setattr("sys.stdout", io.StringIO())
    plain = str(diff)
    assert "\x1b" not in plain
    assert plain.startswith("float → quantized: ")
    assert "  … 1 unchanged" in plain
    monkeypatch.setattr("sys.stdout", Terminal())
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[31m" in str(diff)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[31m" not in str(diff)


def test_notebooks_get_html(made: dict[str, nn.Module]) -> None:
    assert graph_diff(made["float"], made["quantized"])._repr_html_().startswith("<pre")
