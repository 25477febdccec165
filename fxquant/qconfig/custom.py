"""The custom config of ``prepare_fx``. Names, setters and dictionaries are torch.ao's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from fxquant.qconfig.check_entries import require_list
from fxquant.qconfig.custom_config import (
    FLOAT_TO_OBSERVED,
    LISTS,
    STANDALONE,
    ClassMapping,
    CustomConfig,
    by_kind,
    require_constructor,
)
from fxquant.qconfig.dtype_config import check_keys
from fxquant.qconfig.mapping import QConfigMapping, as_mapping
from fxquant.qconfig.quant_type import QuantType, require_static

_QUANTIZABLE = "torch.ao.nn.quantizable"


@dataclass(frozen=True)
class StandaloneModuleConfigEntry:
    """How a standalone module is prepared.

    Attributes:
        qconfig_mapping: its own, in its own module names; None: the parent's, in the parent's names.
        example_inputs: positional inputs (tuple) or keyword inputs (dict); None or empty: what the parent passes to it.
        prepare_custom_config: its own; None for an empty one.
        backend_config: its own; None for the parent's.
    """

    qconfig_mapping: QConfigMapping | None = None
    example_inputs: Any = None
    prepare_custom_config: PrepareCustomConfig | None = None
    backend_config: Any = None

    @staticmethod
    def of(mapping: Any, example_inputs: Any, custom: Any, backend_config: Any) -> StandaloneModuleConfigEntry:
        """Accept the arguments in every form that ``prepare_fx`` accepts."""
        return StandaloneModuleConfigEntry(
            None if mapping is None else as_mapping(mapping),
            example_inputs,
            None if custom is None else PrepareCustomConfig.of(custom),
            backend_config,
        )

    def to_tuple(self) -> tuple[Any, ...]:
        """The setter's arguments after the name or class, as ``to_dict`` writes them."""
        mapping, custom = self.qconfig_mapping, self.prepare_custom_config
        return (
            None if mapping is None else mapping.to_dict(),
            self.example_inputs,
            None if custom is None else custom.to_dict(),
            self.backend_config,
        )


class PrepareCustomConfig(CustomConfig):
    """Options of ``prepare_fx``."""

    def __init__(self) -> None:
        super().__init__()
        self.standalone_module_names: dict[str, StandaloneModuleConfigEntry] = {}
        self.standalone_module_classes: dict[type[nn.Module], StandaloneModuleConfigEntry] = {}
        self.float_to_observed_mapping: ClassMapping = {}
        self.non_traceable_module_names: list[str] = []
        self.non_traceable_module_classes: list[type[nn.Module]] = []
        self.input_quantized_indexes: list[int] = []
        self.output_quantized_indexes: list[int] = []

    def set_standalone_module_name(
        self,
        module_name: str,
        qconfig_mapping: Any = None,
        example_inputs: Any = None,
        prepare_custom_config: Any = None,
        backend_config: Any = None,
    ) -> PrepareCustomConfig:
        """Capture, plan and convert the module at this path on its own; see ``StandaloneModuleConfigEntry``.

        It takes and returns float, unless its own config sets quantized indexes. A name goes before a class.
        """
        self.standalone_module_names[module_name] = StandaloneModuleConfigEntry.of(
            qconfig_mapping, example_inputs, prepare_custom_config, backend_config
        )
        return self

    def set_standalone_module_class(
        self,
        module_class: type[nn.Module],
        qconfig_mapping: Any = None,
        example_inputs: Any = None,
        prepare_custom_config: Any = None,
        backend_config: Any = None,
    ) -> PrepareCustomConfig:
        """The same for every module of exactly this class."""
        self.standalone_module_classes[module_class] = StandaloneModuleConfigEntry.of(
            qconfig_mapping, example_inputs, prepare_custom_config, backend_config
        )
        return self

    def set_float_to_observed_mapping(
        self, float_class: type[nn.Module], observed_class: type[nn.Module], quant_type: Any = QuantType.STATIC
    ) -> PrepareCustomConfig:
        """Replace modules of exactly ``float_class`` by ``observed_class.from_float(module)`` at prepare.

        The module it is given is a copy with a ``qconfig`` attribute, on its children too. Its ``forward`` takes one
        tensor and returns one. Recurrent layers and cells that are mapped to torch.ao's quantizable classes become
        fxquant's own static ones instead, as if an entry named their type.

        Raises:
            ConfigError: the class has no ``from_float``, or ``quant_type`` is not STATIC.
        """
        kind = require_static(quant_type, "set_float_to_observed_mapping")
        require_constructor(observed_class, "from_float")
        self.float_to_observed_mapping.setdefault(kind, {})[float_class] = observed_class
        return self

    def set_non_traceable_module_names(self, module_names: Sequence[str]) -> PrepareCustomConfig:
        """Module paths to keep as float leaves."""
        self.non_traceable_module_names = require_list("set_non_traceable_module_names", module_names, "names")
        return self

    def set_non_traceable_module_classes(self, module_classes: Sequence[type[nn.Module]]) -> PrepareCustomConfig:
        """Module classes to keep as float leaves."""
        self.non_traceable_module_classes = require_list("set_non_traceable_module_classes", module_classes, "classes")
        return self

    def set_input_quantized_indexes(self, indexes: Sequence[int]) -> PrepareCustomConfig:
        """Inputs, counted from 0, that the converted model takes as integers.

        Prepared models take them in float. Reference models take uint8 tensors, quantized models torch's quantized
        tensors; ``quantized_borders`` of a converted model tells the scale and zero point.
        """
        self.input_quantized_indexes = list(indexes)
        return self

    def set_output_quantized_indexes(self, indexes: Sequence[int]) -> PrepareCustomConfig:
        """Elements of the returned tuple or list, counted from 0, that the converted model returns as integers.

        A single result, or a dictionary as a whole, is element 0.
        """
        self.output_quantized_indexes = list(indexes)
        return self

    @property
    def observed_classes(self) -> dict[type[nn.Module], type[nn.Module]]:
        """Float class to observed class, but for ``static_recurrent``."""
        return {
            kind: observed
            for kind, observed in self.float_to_observed_mapping.get(QuantType.STATIC, {}).items()
            if kind not in self.static_recurrent
        }

    @property
    def static_recurrent(self) -> frozenset[type[nn.Module]]:
        """Recurrent classes that are mapped to torch.ao's quantizable ones."""
        return frozenset(
            kind
            for kind, observed in self.float_to_observed_mapping.get(QuantType.STATIC, {}).items()
            if issubclass(kind, (nn.RNNBase, nn.RNNCellBase)) and observed.__module__.startswith(_QUANTIZABLE)
        )

    @classmethod
    def from_dict(cls, custom_config_dict: Mapping[str, Any]) -> PrepareCustomConfig:
        """Make a config from ``to_dict``'s result, or from torch.ao's dictionary.

        Raises:
            ConfigError: an unknown key, or an entry that does not fit its setter.
        """
        given = custom_config_dict
        check_keys("a PrepareCustomConfig", given, (*STANDALONE, FLOAT_TO_OBSERVED, *LISTS))
        config = cls()
        for key in STANDALONE:
            for target, *entry in given.get(key, ()):
                getattr(config, f"set_{key}")(target, *entry)
        for kind, classes in given.get(FLOAT_TO_OBSERVED, {}).items():
            for float_class, observed_class in classes.items():
                config.set_float_to_observed_mapping(float_class, observed_class, kind)
        for key, attribute in LISTS.items():
            what = "classes" if key.endswith("class") else "names"
            setattr(config, attribute, require_list(f"{key!r} of a PrepareCustomConfig", given.get(key, ()), what))
        return config

    def to_dict(self) -> dict[str, Any]:
        """The entries that are set."""
        entries: dict[str, Any] = {}
        for key, entry_of in zip(
            STANDALONE, (self.standalone_module_names, self.standalone_module_classes), strict=True
        ):
            entries[key] = [(target, *entry.to_tuple()) for target, entry in entry_of.items()]  # type: ignore[attr-defined]
        entries[FLOAT_TO_OBSERVED] = by_kind(self.float_to_observed_mapping)
        entries |= {key: getattr(self, attribute) for key, attribute in LISTS.items()}
        return {key: value for key, value in entries.items() if value}
