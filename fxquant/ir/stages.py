"""One type per stage of the flow. All are ``fx.GraphModule``s that survive copying and files.

fx pickles a GraphModule as source text and traces it again on loading, which drops everything known about
its nodes. Here the graph itself is stored, as plain records (``ir/records.py``).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import fx, nn

from fxquant.errors import FxquantError
from fxquant.ir import records
from fxquant.ir.graph import Graph
from fxquant.ir.own_functions import OwnFunctions
from fxquant.ir.quant_plan import QuantPlan
from fxquant.ir.require_inputs import require_inputs
from fxquant.ir.take_attributes import take_attributes
from fxquant.ir.walk_modules import modules_by_path

_Stage = TypeVar("_Stage", bound="StageModule")


@dataclass(frozen=True)
class StageState:
    """What every stage carries besides its graph.

    Attributes:
        captured: records of the captured graph, the common ancestor that explanations and diffs refer to; empty in a
            captured model, which holds that graph itself.
        facts: what capture met, ``fxquant.capture.facts.Fact``s.
        capture_notes: what runs as Python because it could not be captured, one sentence each.
        plan: the plan, once there is one.
        preserved: names of user attributes kept on the module, and of objects that are constants of the graph.
        by_mode: arguments that differ in training, ``fxquant.capture.training_mode.ModeArgument``s, of models that are
            prepared for quantization-aware training.
        float_dtype: dtype of the user's model when it was not float32, else None.
        module_paths: module paths of the user's model, which configurations speak of.
        range_notes: where the range of each class came from, by its name, after freeze.
        key_origins: state_dict key to the user's keys it was made from, after freeze.
        constants: names of the tensors that capture added to the model. Every stage keeps them, for what is computed as
            in float beside it.
        path: of a standalone module in the whole model it belongs to, "" for whole models.
        config_prefix: what to put before its module paths to get the names that its configuration uses: of a
            standalone module without a mapping of its own, the path from where the mapping it inherits starts.
    """

    captured: tuple[records.NodeRecord, ...] = ()
    facts: tuple[Any, ...] = ()
    capture_notes: tuple[str, ...] = ()
    plan: QuantPlan | None = None
    preserved: tuple[str, ...] = ()
    by_mode: tuple[Any, ...] = ()
    float_dtype: torch.dtype | None = None
    module_paths: tuple[str, ...] = ()
    range_notes: dict[str, str] = field(default_factory=dict)
    key_origins: dict[str, tuple[str, ...]] = field(default_factory=dict)
    constants: tuple[str, ...] = ()
    path: str = ""
    config_prefix: str = ""

    @property
    def guards(self) -> tuple[Any, ...]:
        """The facts that assume something of the example inputs."""
        return tuple(fact for fact in self.facts if fact.is_guard)


class StageModule(fx.GraphModule):
    """Base of the stages.

    Attributes:
        state: what is known besides the graph.
        compiled_when_called: of stages that mostly are on the way to another: their code is written when it is needed.
        trains: of stages that are in the mode the user's model was in. Others come from a model in evaluation mode.
    """

    stage: ClassVar[str] = ""
    trains: ClassVar[bool] = False
    compiled_when_called: ClassVar[bool] = False
    state: StageState

    def __init__(self, root: nn.Module, graph: fx.Graph, class_name: str = "GraphModule", *, state: Any = None) -> None:
        super().__init__(nn.Module(), Graph(), class_name)
        self.training = root.training
        take_attributes(self, root, graph)
        self.graph = graph
        if not self.trains:
            self._leave_training()
        _keep_out_of_state_dict(self, root)
        self.state = state or StageState()
        for name in self.state.preserved:
            if not hasattr(self, name) and hasattr(root, name):
                setattr(self, name, getattr(root, name))
        for name in self.state.constants:
            if name not in self._buffers and name in root._buffers:
                self.register_buffer(name, root._buffers[name], persistent=False)

    def _leave_training(self) -> None:
        """Be in evaluation mode, with the containers that hold parts; modules that compute are in their own mode."""
        for _, module in modules_by_path(self):
            if module is self or type(module) is nn.Module:
                module.training = False

    @property
    def captured_nodes(self) -> tuple[records.NodeRecord, ...]:
        """Records of the captured graph."""
        return self.state.captured

    @property
    def plan(self) -> QuantPlan:
        """The plan of this model.

        Raises:
            FxquantError: the model was only captured.
        """
        if self.state.plan is None:
            raise FxquantError("this model has no quantization plan", remedy="pass it through prepare_fx first")
        return self.state.plan

    def __prepare_scriptable__(self) -> nn.Module:
        """Refuse ``torch.jit.script``, which asks for what to compile by this name.

        Raises:
            FxquantError: always.
        """
        raise FxquantError(
            f"torch.jit.script does not take the {self.stage} model",
            remedy="use torch.jit.trace(model, example_inputs), which does",
        )

    def recompile(self) -> Any:
        """Write the code of ``forward`` anew after a change of the graph."""
        return None if self.compiled_when_called and "_code" not in vars(self) else super().recompile()

    def compiled(self: _Stage) -> _Stage:
        """This model, the code of it and of the stages in it written."""
        for part in self.modules():
            if isinstance(part, StageModule) and "_code" not in vars(part):
                fx.GraphModule.recompile(part)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the graph.

        Raises:
            FxquantError: the inputs are not the ones that the model was captured with.
        """
        try:
            return super().__call__(*args, **kwargs)
        except (TypeError, AttributeError, LookupError, RuntimeError) as error:
            try:
                require_inputs(self.graph, args, kwargs)
            except FxquantError as explained:
                raise explained from error
            raise

    def _apply(self: _Stage, fn: Any, recurse: bool = True) -> _Stage:
        """As of every module; tensors that the graph and its parts have in common stay one."""
        held: dict[int, list[tuple[dict[str, Any], str]]] = {}
        for _, module in modules_by_path(self):
            for table in (module._buffers, module._parameters):
                for name, item in table.items():
                    if item is not None:
                        held.setdefault(id(item), []).append((table, name))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for (first, own), *others in held.values():
            for table, name in others:
                table[name] = first[own]
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the graph. Code, once written, takes the place of this method."""
        return self.compiled().forward(*args, **kwargs)

    @property
    def code(self) -> str:
        """Source of ``forward``."""
        self.compiled()
        return super().code

    def __str__(self) -> str:
        self.compiled()
        return super().__str__()

    def __reduce__(self) -> tuple[Any, ...]:
        body = {key: value for key, value in self.__dict__.items() if key not in _REBUILT}
        return rebuild_stage, (_stage_class(self), body, records.from_graph(self.graph), type(self).__name__)

    def __deepcopy__(self, memo: dict[int, Any]) -> StageModule:
        _, (kind, body, nodes, name) = self.__reduce__()
        state = body.pop("state")  # frozen: shared, like the records of the nodes
        functions = OwnFunctions(self.modules())
        memo.update(functions.copies)
        result = rebuild_stage(kind, {**copy.deepcopy(body, memo), "state": state}, nodes, name)
        functions.bind(memo)
        memo[id(self)] = result
        return result

    def __copy__(self) -> StageModule:
        return self.__deepcopy__({})


def _keep_out_of_state_dict(model: nn.Module, root: nn.Module) -> None:
    """Buffers that are no part of the state_dict stay none: fx copies them without saying so."""
    for path, module in modules_by_path(root):
        for name in module._non_persistent_buffers_set:
            try:
                owner = model.get_submodule(path)
            except AttributeError:  # nothing in it is referred to
                continue
            if name in owner._buffers:
                owner._non_persistent_buffers_set.add(name)


_REBUILT = frozenset(("_graph", "_code", "_lineno_map", "_prologue_start", "_co_fields", "example_inputs"))


def _stage_class(module: StageModule) -> type[StageModule]:
    """The class as written: fx gives every instance a subclass of its own."""
    return next(kind for kind in type(module).__mro__ if "stage" in vars(kind))


def rebuild_stage(
    kind: type[StageModule], body: dict[str, Any], nodes: tuple[records.NodeRecord, ...], name: str
) -> StageModule:
    """Make a stage again from its parts.

    Args:
        kind: of the stage.
        body: attributes of the instance, its graph and code left out.
        nodes: of the graph.
        name: of the class that the code is printed with.
    """
    root = nn.Module()
    root.__dict__.update(body)
    result = kind(root, records.to_graph(nodes), name, state=body["state"])
    for key, value in body.items():
        if key not in ("_modules", "_parameters", "_buffers"):
            result.__dict__[key] = value
    for key, child in root._modules.items():  # modules that no node refers to, kept for the user
        if key not in result._modules:
            result._modules[key] = child
    return result.compiled()


class CapturedModel(StageModule):
    """The float model as a canonical graph."""

    stage = "captured"
    compiled_when_called = True

    @property
    def captured_nodes(self) -> tuple[records.NodeRecord, ...]:
        """Records of this graph."""
        return records.from_graph(self.graph)


class FusedModel(StageModule):
    """The float model with batch norms folded and clips recorded, by ``fuse_fx``."""

    stage = "fused"


class ObservedModel(StageModule):
    """The float model with observers; run calibration data through it.

    Attributes:
        example_inputs: positional and keyword arguments to verify conversions with, as the user passed them; None
            after loading, since files do not hold them.
    """

    stage = "observed"
    example_inputs: tuple[tuple[Any, ...], dict[str, Any]] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> StageModule:
        result = super().__deepcopy__(memo)
        result.example_inputs = self.example_inputs  # type: ignore[assignment]
        return result


class FakeQuantizedModel(ObservedModel):
    """The float model with its values and weights rounded as integers will hold them; train it, then convert it."""

    stage = "fake_quantized"
    trains = True


class ReferenceModel(StageModule):
    """Explicit quantize and dequantize on plain integers; any device; the oracle."""

    stage = "reference"
    compiled_when_called = True


class QuantizedModel(StageModule):
    """Backend kernels on the CPU.

    Attributes:
        original_weights_lookup: only there when ``convert_fx`` was asked to keep the float weights; see there.
    """

    stage = "quantized"
    original_weights_lookup: dict[str, list[torch.Tensor | None]]

    def _apply(self, fn: Any, recurse: bool = True) -> QuantizedModel:
        """Moving or casting a lowered model is refused: its kernels exist for this CPU only."""
        probe = torch.zeros(1)
        try:
            moved = fn(probe)
        except (AssertionError, RuntimeError) as error:  # torch was built without that device, or there is none
            raise FxquantError(
                f"a quantized model cannot be moved: its int8 kernels run on the CPU ({error})",
                remedy="use convert_to_reference_fx for other devices",
            ) from error
        if moved.device != probe.device or moved.dtype != probe.dtype:
            raise FxquantError(
                f"a quantized model cannot become {moved.dtype} on {moved.device}: its int8 kernels run on the CPU",
                remedy="use convert_to_reference_fx for other devices, or convert a model of the dtype you want",
            )
        return self


def with_state(model: StageModule, **changes: Any) -> StageState:
    """The state of the stage after ``model``: its own with some fields replaced."""
    return replace(model.state, captured=model.captured_nodes, **changes)
