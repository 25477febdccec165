"""The one family of exceptions fxquant raises.

Every message names the op, the module path, the user's source line, what was tried and a remedy,
as far as they are known at the place that raises.
"""

from __future__ import annotations


class FxquantError(Exception):
    """Base of everything fxquant raises.

    Args:
        message: what went wrong, in one sentence.
        op: the operator concerned, for example ``conv2d``.
        module_path: dotted path of the module it was called in, for example ``layer1.0.conv2``.
        source: ``file:line`` of the user's code.
        remedy: what to do about it.
    """

    def __init__(
        self, message: str, *, op: str = "", module_path: str = "", source: str = "", remedy: str = ""
    ) -> None:
        self.message = message
        self.op = op
        self.module_path = module_path
        self.source = source
        self.remedy = remedy
        super().__init__(self._render())

    def _render(self) -> str:
        facts = (("op", self.op), ("module", self.module_path), ("source", self.source))
        lines = [self.message]
        lines += [f"  {name}: {value}" for name, value in facts if value]
        if self.remedy:
            lines.append(f"  remedy: {self.remedy}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        fields = {"op": self.op, "module_path": self.module_path, "source": self.source}
        return _rebuild, (type(self), self.message, {**fields, "remedy": self.remedy})


class CaptureError(FxquantError):
    """The model could not be turned into a graph."""


class ConfigError(FxquantError):
    """A configuration names something that does not exist, or asks for something impossible."""


class CalibrationError(FxquantError):
    """Calibration data is unusable: NaN, infinity, no data, or batches that do not fit ``forward``."""


class ConvertError(FxquantError):
    """An observed model cannot be converted."""


class BackendError(FxquantError):
    """A backend or engine is not available, or cannot do what was asked."""


class NotYetError(FxquantError):
    """A documented entry that this version does not implement."""


def _rebuild(kind: type[FxquantError], message: str, facts: dict[str, str]) -> FxquantError:
    return kind(message, **facts)
