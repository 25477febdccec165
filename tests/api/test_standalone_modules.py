"""Standalone modules: captured, planned, observed and converted on their own."""

from __future__ import annotations

import copy
import io
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant import FxquantError, PrepareCustomConfig, QConfigMapping, get_default_qconfig, get_default_qconfig_mapping
from fxquant.inspect.agreement import check_agreement
from fxquant.ir.stages import ObservedModel, QuantizedModel, ReferenceModel
from fxquant.numerics.sqnr import sqnr_db

ON = get_default_qconfig("x86")


class Block(nn.Module):
    """Convolution, batch norm, relu; an optional keyword."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor, *, shift: Tensor | None = None) -> Tensor:
        y = F.relu(self.norm(self.conv(x)))
        return y if shift is None else y + shift


class Net(nn.Module):
    """A block in a container between two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.body, self.last = nn.Conv2d(3, 8, 3), nn.Sequential(Block(), nn.ReLU()), nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(F.max_pool2d(self.body(self.first(x)), 2))
        return result


X = torch.randn(4, 3, 12, 12)


def _net() -> Net:
    torch.manual_seed(3)
    return Net().eval()


def _indexes(inputs: bool, outputs: bool) -> PrepareCustomConfig:
    return PrepareCustomConfig().set_input_quantized_indexes([0] * inputs).set_output_quantized_indexes([0] * outputs)


def _observed(config: PrepareCustomConfig, mapping: Any = None, net: nn.Module | None = None, x: Any = X) -> Any:
    observed = fxquant.prepare_fx(net or _net(), mapping or get_default_qconfig_mapping(), (x,), config)
    observed(x)
    return observed


def _block(model: nn.Module) -> Any:
    return model.get_submodule("body.0")


@pytest.mark.parametrize("by", ["name", "class"])
@pytest.mark.parametrize(("inputs", "outputs"), [(False, False), (True, False), (False, True), (True, True)])
def test_each_stage_holds_the_module_as_one_call(by: str, inputs: bool, outputs: bool) -> None:
    inside = _indexes(inputs, outputs)
    config = PrepareCustomConfig()
    if by == "name":
        config.set_standalone_module_name("body.0", None, None, inside, None)
    else:
        config.set_standalone_module_class(Block, None, (), inside, None)
    net = _net()
    observed = _observed(config, net=net)
    reference, quantized = fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed)
    for model, kind in ((observed, ObservedModel), (reference, ReferenceModel), (quantized, QuantizedModel)):
        assert isinstance(_block(model), kind)
        assert [str(n.target) for n in model.graph.find_nodes(op="call_module")].count("body.0") == 1
    assert torch.equal(observed(X), net(X))
    expected = net(X).detach()
    assert sqnr_db(expected, quantized(X)) > 30 and sqnr_db(expected, reference(X)) > 30
    assert not check_agreement(reference, quantized, X).violations
    assert {"body.0.relu", "last"} <= {row.unit for row in check_agreement(reference, quantized, X).rows}


@pytest.mark.parametrize(("inputs", "outputs"), [(False, False), (True, True)])
def test_borders_are_float_unless_its_config_says_integer(inputs: bool, outputs: bool) -> None:
    config = PrepareCustomConfig().set_standalone_module_name("body.0", prepare_custom_config=_indexes(inputs, outputs))
    quantized = fxquant.convert_fx(_observed(config))
    names = [node.name for node in quantized.graph.nodes]
    assert ("first_dequantize" in names) is not inputs
    assert quantized.plan.unit_of("body_1").outcome == ("int8" if outputs else "float")
    inside = [node.name for node in _block(quantized).graph.nodes]
    assert ("x_quantize" in inside) is not inputs and ("relu_dequantize" in inside) is not outputs


def test_integers_are_passed_without_being_requantized() -> None:
    config = PrepareCustomConfig().set_standalone_module_class(Block, prepare_custom_config=_indexes(True, True))
    reference = fxquant.convert_to_reference_fx(_observed(config))
    inside = _block(reference)
    assert torch.equal(inside.int8_ranges.x.scale, reference.int8_ranges.first.scale)
    assert torch.equal(inside.int8_ranges.relu.scale, reference.int8_ranges.body_0.scale)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a requantizing input would warn
        fxquant.convert_fx(_observed(config))(X)


def test_its_own_mapping_is_in_its_own_names() -> None:
    own = QConfigMapping().set_global(ON).set_module_name("conv", None)
    config = PrepareCustomConfig().set_standalone_module_name("body.0", own)
    observed = _observed(config)
    assert _block(observed).plan.unit_of("conv").outcome == "float"
    assert observed.plan.unit_of("first").outcome == "int8"
    assert _block(_observed(config, QConfigMapping())).plan.unit_of("norm").config == "set_module_name('conv')"
    wrong = PrepareCustomConfig().set_standalone_module_name("body.0", QConfigMapping().set_module_name("body.0", None))
    with pytest.raises(FxquantError, match=r"'body.0'.*matches no module"):
        _observed(wrong)


def test_without_a_mapping_it_follows_the_one_around_it() -> None:
    config = PrepareCustomConfig().set_standalone_module_name("body.0")
    excluded = get_default_qconfig_mapping().set_module_name("body.0.conv", None)
    assert _block(_observed(config, excluded)).plan.unit_of("conv").outcome == "float"
    by_type = get_default_qconfig_mapping().set_object_type(nn.BatchNorm2d, None)
    observed = _observed(config, by_type)
    assert not any("matched nothing" in note for note in (*observed.plan.notes, *_block(observed).plan.notes))
    own = PrepareCustomConfig().set_standalone_module_name("body.0", by_type.set_object_type(nn.LSTM, None))
    assert "body.0: set_object_type(LSTM) matched nothing" in fxquant.explain(_observed(own)).notes
    regex = get_default_qconfig_mapping().set_module_name_regex(r"body\..*", None)
    assert _block(_observed(config, regex)).plan.unit_of("conv").outcome == "float"


def test_excluding_at_convert_reaches_into_it() -> None:
    observed = _observed(PrepareCustomConfig().set_standalone_module_name("body.0"))
    mapping = get_default_qconfig_mapping().set_module_name("body", None)
    quantized = fxquant.convert_fx(observed, qconfig_mapping=mapping)
    assert _block(quantized).plan.unit_of("conv").outcome == "float"
    assert quantized.plan.unit_of("last").outcome == "int8"
    own = PrepareCustomConfig().set_standalone_module_name("body.0", QConfigMapping().set_global(None))
    assert fxquant.convert_fx(_observed(own), qconfig_mapping=get_default_qconfig_mapping())(X).shape == (4, 4, 3, 3)


def test_its_own_backend() -> None:
    config = PrepareCustomConfig().set_standalone_module_name("body.0", backend_config="onednn")
    quantized = fxquant.convert_fx(_observed(config, get_default_qconfig_mapping("fbgemm")))
    assert (quantized.plan.engine, _block(quantized).plan.engine) == ("fbgemm", "onednn")
    limited = fxquant.BackendConfig("none")
    config = PrepareCustomConfig().set_standalone_module_name("body.0", backend_config=limited)
    observed = _observed(config)
    assert _block(observed).plan.unit_of("conv").reason == "not in backend_config 'none'"
    assert observed.plan.unit_of("first").outcome == "int8"


def test_example_inputs_are_what_it_is_passed_or_its_own() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block(3)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.block(x, shift=x.mean())
            return result

    config = PrepareCustomConfig().set_standalone_module_name("block")
    observed = _observed(config, net=Shifted().eval())
    assert [node.name for node in observed.block.graph.find_nodes(op="placeholder")] == ["x", "shift"]
    assert fxquant.convert_fx(observed)(X).shape == X.shape
    own = {"x": torch.randn(1, 3, 5, 5), "shift": torch.zeros(())}
    observed = _observed(PrepareCustomConfig().set_standalone_module_name("block", None, own), net=Shifted().eval())
    first = next(iter(observed.block.state.captured))
    assert first.info.value.shape == (1, 3, 5, 5)
    assert fxquant.convert_fx(observed)(X).shape == X.shape


def test_a_standalone_module_in_a_standalone_module() -> None:
    inner = PrepareCustomConfig().set_standalone_module_class(nn.Conv2d)
    config = PrepareCustomConfig().set_standalone_module_name("body.0", prepare_custom_config=inner)
    observed = _observed(config, get_default_qconfig_mapping().set_module_name("body.0.conv", None))
    deepest = _block(observed).conv
    assert isinstance(deepest, ObservedModel) and deepest.state.path == "body.0.conv"
    assert deepest.plan.units[0].reason == "excluded by qconfig (set_module_name('body.0.conv'))"
    observed = _observed(config)
    quantized = fxquant.convert_fx(observed)
    assert isinstance(_block(quantized).conv, QuantizedModel)
    assert any(row.node.startswith("body.0.conv.") and row.outcome == "int8" for row in fxquant.explain(quantized).rows)
    assert sqnr_db(_net()(X).detach(), quantized(X)) > 25


def test_a_name_inside_another_standalone_module_is_refused() -> None:
    config = PrepareCustomConfig().set_standalone_module_class(Block).set_standalone_module_name("body.0.conv")
    with pytest.raises(FxquantError, match=r"inside standalone module body.0(.|\n)*name 'conv' in the prepare_custom"):
        _observed(config)
    by_class = PrepareCustomConfig().set_standalone_module_class(Block).set_standalone_module_class(nn.BatchNorm2d)
    assert _block(_observed(by_class)).plan.unit_of("norm").name == "relu"


def test_a_class_whose_module_is_not_called_is_left_alone() -> None:
    class Spare(Net):
        def __init__(self) -> None:
            super().__init__()
            self.spare = Block()

    quantized = fxquant.convert_fx(
        _observed(PrepareCustomConfig().set_standalone_module_class(Block), net=Spare().eval())
    )
    assert isinstance(_block(quantized), QuantizedModel)


def test_called_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block(3)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.block(self.block(x))
            return result

    net = Twice().eval()
    config = PrepareCustomConfig().set_standalone_module_class(Block, prepare_custom_config=_indexes(False, True))
    observed = _observed(config, net=net)
    quantized = fxquant.convert_fx(observed)
    assert sqnr_db(net(X).detach(), quantized(X)) > 25
    config = PrepareCustomConfig().set_standalone_module_class(Block, prepare_custom_config=_indexes(True, False))
    with pytest.raises(FxquantError, match="takes integers and is called 2 times"):
        _observed(config, net=net)


def test_joined_with_another_range() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.conv, self.last = Block(3), nn.Conv2d(3, 3, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.last(torch.cat([self.block(x), 5 * self.conv(x)], 1))
            return result

    net = Joined().eval()
    config = PrepareCustomConfig().set_standalone_module_class(Block, prepare_custom_config=_indexes(True, True))
    observed = _observed(config, net=net)
    reference, quantized = fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed)
    assert quantized.plan.unit_of("cat").outcome == "int8"
    assert (
        "requantizes its inputs of fixed range" in quantized.plan.range_class(quantized.plan.unit_of("cat").output).note
    )
    assert not check_agreement(reference, quantized, X).violations
    assert sqnr_db(net(X).detach(), quantized(X)) > 25


@pytest.mark.parametrize("stage", ["observed", "reference", "quantized"])
def test_files_and_copies(stage: str) -> None:
    config = PrepareCustomConfig().set_standalone_module_class(Block, prepare_custom_config=_indexes(True, True))
    observed = _observed(config)
    makers = {"reference": fxquant.convert_to_reference_fx, "quantized": fxquant.convert_fx}
    model = observed if stage == "observed" else makers[stage](observed)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
        assert torch.equal(twin(X), model(X)) and twin.plan == model.plan
        assert type(_block(twin)).__mro__[1] is type(_block(model)).__mro__[1]
        assert _block(twin).plan == _block(model).plan
    state = model.state_dict()
    assert any(key.startswith("body.0.") for key in state)
    if stage != "observed":
        assert model.state.key_origins["body.0.int8.relu.weight"][0] == "body.0.conv.weight"
        assert set(model.state.key_origins) <= set(state)
    if stage == "quantized":
        other = fxquant.convert_fx(_observed(config, net=Net().eval()))
        other.load_state_dict(state)
        assert torch.equal(other(X), model(X))


def test_converting_twice_and_leaving_the_float_model_alone() -> None:
    net = _net()
    before = copy.deepcopy(net.state_dict())
    observed = _observed(PrepareCustomConfig().set_standalone_module_class(Block), net=net)
    assert torch.equal(fxquant.convert_fx(observed)(X), fxquant.convert_fx(observed)(X))
    assert isinstance(_block(observed), ObservedModel) and isinstance(_block(net), Block)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_explain_and_graph_diff_look_inside() -> None:
    net = _net()
    observed = _observed(PrepareCustomConfig().set_standalone_module_class(Block), net=net)
    quantized = fxquant.convert_fx(observed)
    rows = {row.node: row for row in fxquant.explain(quantized).rows}
    assert rows["body_0"].outcome == "free" and rows["body_0"].kernel == "Block (standalone module)"
    assert rows["body.0.conv"].outcome == "int8" and rows["body.0.conv"].module_path == "body.0.conv"
    assert fxquant.explain(quantized).int8_mac_share == 1.0
    text = str(fxquant.graph_diff(net, quantized))
    assert "  body.0  Block" in text and "    ~ conv + norm + relu → quantized.conv2d" in text
    assert fxquant.graph_diff(observed, quantized).counts["replaced"] > 2


class InPlace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x += 1
        return x.sum()


class Tuple(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.relu(), x


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (PrepareCustomConfig().set_standalone_module_name("bdy"), "'bdy'.*matches no module"),
        (PrepareCustomConfig().set_standalone_module_name("spare"), "spare is not called on the example inputs"),
        (PrepareCustomConfig().set_standalone_module_class(InPlace), "changes a tensor in place that is read again"),
        (
            PrepareCustomConfig().set_standalone_module_class(Tuple, prepare_custom_config=_indexes(False, True)),
            "returns integers in a tuple",
        ),
        (
            PrepareCustomConfig().set_standalone_module_class(Tuple, prepare_custom_config=_indexes(False, True)),
            "return one tensor",
        ),
    ],
)
def test_what_is_refused(config: PrepareCustomConfig, message: str) -> None:
    class Host(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.spare, self.in_place, self.several = Block(), InPlace(), Tuple()

        def forward(self, x: Tensor) -> Tensor:
            twice = x * 2
            total: Tensor = self.in_place(twice)
            one, other = self.several(x)
            return total + one + other + twice

    with pytest.raises(FxquantError, match=message):
        _observed(config, net=Host().eval())


def test_changing_what_nobody_reads_again_is_fine() -> None:
    class Host(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.body = nn.Conv2d(3, 8, 3), nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(8, 4, 3))

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.body(self.conv(x))
            return result

    net = Host().eval()
    config = PrepareCustomConfig().set_standalone_module_name("body", prepare_custom_config=_indexes(True, True))
    observed = _observed(config, net=net)
    assert torch.equal(observed(X), net(X))
    assert sqnr_db(net(X).detach(), fxquant.convert_fx(observed)(X)) > 30


def test_a_tuple_of_floats_may_be_returned() -> None:
    class Host(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.several, self.conv = Tuple(), nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            one, other = self.several(x)
            result: Tensor = self.conv(one + other)
            return result

    quantized = fxquant.convert_fx(
        _observed(PrepareCustomConfig().set_standalone_module_class(Tuple), net=Host().eval())
    )
    assert quantized(X).shape == (4, 4, 10, 10) and quantized.plan.unit_of("conv").outcome == "int8"


def test_inputs_called_like_a_builtin() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU())).eval()
    config = PrepareCustomConfig().set_standalone_module_name("1", prepare_custom_config=_indexes(True, True))
    quantized = fxquant.convert_fx(_observed(config, net=net))
    assert set(fxquant.quantized_borders(quantized.get_submodule("1")).inputs) == {"input"}
    assert sqnr_db(net(X).detach(), quantized(X)) > 30


def test_a_class_that_matches_nothing_is_noted() -> None:
    observed = _observed(PrepareCustomConfig().set_standalone_module_class(nn.LSTM))
    assert "set_standalone_module_class(LSTM) matched nothing" in observed.plan.notes


@pytest.mark.parametrize("inputs", [None, (torch.randn(1, 8, 6, 6).half(),)])
def test_in_a_half_model(inputs: Any) -> None:
    config = PrepareCustomConfig().set_standalone_module_name("body.0", None, inputs, _indexes(True, True))
    net = _net().half()
    quantized = fxquant.convert_fx(_observed(config, net=net, x=X.half()))
    assert quantized(X.half()).dtype == torch.float16
    assert sqnr_db(net.float()(X).detach(), quantized(X.half()).float()) > 25


def test_verified_conversion() -> None:
    config = PrepareCustomConfig().set_standalone_module_name("body.0", prepare_custom_config=_indexes(True, True))
    quantized = fxquant.convert_fx(_observed(config), verify=True)
    assert any(note.startswith("verified on the example inputs") for note in quantized.plan.notes)
