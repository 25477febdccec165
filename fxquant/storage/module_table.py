"""Module trees as tables: each module once, children and tensors by number."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from fxquant.errors import FxquantError
from fxquant.ir import records
from fxquant.ir.meta import NodeInfo
from fxquant.ir.stages import StageModule, StageState, rebuild_stage
from fxquant.storage.check_graph import check_nodes
from fxquant.storage.decode import Decoder
from fxquant.storage.encode import Encoder
from fxquant.storage.own_classes import class_name, class_of, stage_class
from fxquant.storage.tensor_table import TensorReader, TensorWriter
from fxquant.storage.user_code import UserCode

_HOOKS = tuple(name for name in vars(nn.Module()) if name.endswith("hooks"))
_NEVER = frozenset(
    (*vars(nn.Module()), *vars(fx.GraphModule(nn.Module(), fx.Graph())), "state", "example_inputs")
) - {"_modules", "_parameters", "_buffers", "_non_persistent_buffers_set", "training"}  # fmt: skip


class ModuleWriter:
    """Collects modules and what they hold.

    Attributes:
        tensors: the tensors, rows: the modules in JSON, required: names of the user's that loading needs.
    """

    def __init__(self) -> None:
        self.tensors, self.rows = TensorWriter(), list[Any]()
        self._numbers: dict[int, int] = {}
        self._kept: list[nn.Module] = []
        self._encoder = Encoder(self.tensors, self.add)

    @property
    def required(self) -> dict[str, str]:
        """Names of the user's that loading needs, with the first place that needs each."""
        return self._encoder.required

    def add(self, module: nn.Module, where: str) -> int:
        """Return the number of ``module``, the same for the same object.

        Args:
            module: of fxquant, torch.nn or the user.
            where: its path.

        Raises:
            FxquantError: it holds what files cannot.
        """
        if id(module) not in self._numbers:
            number = self._numbers[id(module)] = len(self.rows)
            self._kept.append(module)
            self.rows.append(None)
            self.rows[number] = self._encode(module, where)
        return self._numbers[id(module)]

    def _encode(self, module: nn.Module, where: str) -> dict[str, Any]:
        _require_no_hooks(module, where)
        if isinstance(module, StageModule):
            return self._encode_stage(module, where)
        kind = type(module)
        known = class_name(kind)
        named = {"user": self._encoder.class_of_user(kind, where)} if known is None else {"class": known}
        return {**named, "state": self._state(module.__getstate__(), where)}  # type: ignore[no-untyped-call]

    def _encode_stage(self, module: StageModule, where: str) -> dict[str, Any]:
        nodes = [self._encoder.encode(node, f"node {node.name}") for node in records.from_graph(module.graph)]
        return {
            "stage": module.stage,
            "name": type(module).__name__,
            "nodes": nodes,
            "plan": self._encoder.encode(module.state, f"{where}.state".strip(".")),
            "state": self._state(dict(vars(module)), where),
        }

    def _state(self, state: dict[str, Any], where: str) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key, value in state.items():
            if key in ("_modules", "_parameters", "_buffers"):
                path = f"{where}." if where else ""
                made[key] = {name: self._encoder.encode(item, f"{path}{name}") for name, item in value.items()}
            elif key == "_non_persistent_buffers_set":
                made[key] = sorted(value)
            elif key not in _NEVER:
                made[key] = self._encoder.encode(value, f"{where}.{key}" if where else key)
        return made


class ModuleReader:
    """Makes the modules again.

    Args:
        rows: from ``ModuleWriter``.
        tensors: makes the tensors.
        user_code: looks up what is the user's.
    """

    def __init__(self, rows: list[Any], tensors: TensorReader, user_code: UserCode) -> None:
        self._rows, self._user_code = rows, user_code
        self._made: dict[int, nn.Module] = {}
        self._decoder = Decoder(tensors, self.get, user_code)

    def get(self, number: int) -> nn.Module:
        """The module of that number."""
        if number not in self._made:
            row = self._rows[number]
            if number < 0 or not isinstance(row, dict):
                raise ValueError("a module that is none")
            self._made[number] = self._stage(**row) if "stage" in row else self._plain(number, row)
        return self._made[number]

    def _plain(self, number: int, row: dict[str, Any]) -> nn.Module:
        is_users = "user" in row
        kind = self._user_code.find("module", row["user"]) if is_users else class_of(row["class"], nn.Module)
        made: nn.Module = kind.__new__(kind)
        self._made[number] = made
        state = {**vars(nn.Module()), **self._state(row["state"])}
        made.__setstate__(state)  # type: ignore[no-untyped-call]
        return made

    def _stage(self, stage: str, name: str, plan: Any, nodes: list[Any], state: dict[str, Any]) -> nn.Module:
        kind, known = stage_class(stage), self._decoder.decode(plan)
        if not isinstance(known, StageState):
            raise ValueError("a model without its state")
        found = tuple(self._decoder.decode(node) for node in nodes)
        body = {**vars(nn.Module()), **self._state(state), "state": known}
        if not all(isinstance(node, records.NodeRecord) and isinstance(node.info, NodeInfo) for node in found):
            raise ValueError("a node that is none")
        check_nodes(found, body, self._user_code.used)
        if not name.isidentifier():
            raise ValueError("a name that is none")
        return rebuild_stage(kind, body, found, name)

    def _state(self, state: dict[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key, value in state.items():
            if key in ("_modules", "_parameters", "_buffers"):
                made[key] = {name: self._decoder.decode(item) for name, item in value.items()}
            elif key in _NEVER:
                raise ValueError(f"the attribute {key}")
            else:
                made[key] = set(value) if key == "_non_persistent_buffers_set" else self._decoder.decode(value)
        return made


def _require_no_hooks(module: nn.Module, where: str) -> None:
    found = [name for name in _HOOKS if vars(module).get(name)]
    if found:
        raise FxquantError(
            f"the module {where or '(root)'} has hooks ({', '.join(found)}), which are Python code that no file holds",
            module_path=where,
            remedy="remove them before the model is captured, and register them again after loading",
        )
