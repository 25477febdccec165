"""What goes with quantization-aware training: switches and a schedule."""

from fxquant.qat.schedule import QATSchedule

__all__ = ["QATSchedule"]
