"""Names of the child modules that fxquant adds beside the user's own."""

from __future__ import annotations

KERNELS = "int8"  # frozen weights and kernels, one child per unit
RANGES = "int8_ranges"  # scale and zero_point, one child per range class
RANGE_OBSERVERS = "int8_range_observers"  # one child per observed range class
WEIGHT_OBSERVERS = "int8_weight_observers"  # one child per unit with a weight
RECURRENT_OBSERVERS = "int8_recurrent_observers"  # one child per recurrent layer on ranges known before
INPUT_STATISTICS = "int8_input_statistics"  # one child per unit with a weight
BATCH_NORMS = "int8_batch_norms"  # one child per batch norm that no weight holds, in quantization-aware training
MODES = "int8_modes"  # one child per argument that follows training or evaluation mode

TRAINED = (RANGE_OBSERVERS, WEIGHT_OBSERVERS, RECURRENT_OBSERVERS, INPUT_STATISTICS, BATCH_NORMS, MODES)
"""What calibration and training need, and conversion leaves behind."""

RESERVED = (KERNELS, RANGES, *TRAINED)
