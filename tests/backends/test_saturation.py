"""No silent overflow: worst-case activations on CPUs with and without VNNI, on every engine.

CPUs without VNNI add pairs of uint8 x int8 products in int16. The second run of each case restricts torch's kernel
libraries to AVX2, which makes any machine such a CPU.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

SUPPORTED = torch.backends.quantized.supported_engines
ENGINES = [name for name in ("x86", "fbgemm", "onednn", "qnnpack") if name in SUPPORTED]
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}

SCRIPT = """
import sys, torch, fxquant
from torch import nn
from fxquant import pipeline
from fxquant.plan.demote_unit import Demotion
from fxquant.inspect.agreement import check_agreement

def layers():
    yield "1x1", nn.Conv2d(16, 16, 1), (2, 16, 9, 9)
    yield "3x3", nn.Conv2d(16, 24, 3, padding=1), (2, 16, 9, 9)
    yield "odd channels", nn.Conv2d(3, 16, 3), (2, 3, 9, 9)
    yield "depthwise", nn.Conv2d(32, 32, 3, padding=1, groups=32), (2, 32, 9, 9)
    yield "depthwise 5x5", nn.Conv2d(32, 32, 5, padding=2, groups=32), (2, 32, 9, 9)
    padded = nn.Conv2d(32, 32, 3, stride=2, groups=32)
    yield "depthwise padded", nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), padded), (2, 32, 9, 9)
    yield "grouped", nn.Conv2d(32, 32, 3, groups=8), (2, 32, 9, 9)
    yield "conv1d", nn.Conv1d(16, 8, 3), (2, 16, 12)
    yield "conv3d", nn.Conv3d(6, 8, 3), (2, 6, 5, 5, 5)
    yield "linear", nn.Linear(64, 32), (4, 64)
    yield "linear odd", nn.Linear(65, 32), (4, 65)
    yield "transposed 2x2", nn.ConvTranspose2d(16, 8, 2, 2), (2, 16, 5, 5)
    yield "transposed 2x2, as many out", nn.ConvTranspose2d(16, 16, 2, 2), (2, 16, 5, 5)
    yield "transposed 3x3", nn.ConvTranspose2d(16, 8, 3, padding=1), (2, 16, 5, 5)
    yield "transposed, odd channels", nn.ConvTranspose2d(3, 8, 3), (2, 3, 5, 5)
    yield "transposed, odd channels, strided", nn.ConvTranspose2d(5, 8, 4, 2), (2, 5, 5, 5)
    yield "transposed, odd as many out", nn.ConvTranspose2d(5, 5, 3, 2, output_padding=1), (2, 5, 5, 5)
    yield "transposed, grouped", nn.ConvTranspose2d(12, 24, 3, 2, groups=4), (2, 12, 5, 5)
    yield "transposed, depthwise", nn.ConvTranspose2d(8, 8, 3, padding=1, groups=8), (2, 8, 5, 5)
    yield "transposed, depthwise, strided", nn.ConvTranspose2d(8, 8, 4, 2, padding=1, groups=8), (2, 8, 5, 5)
    yield "transposed 1d", nn.ConvTranspose1d(16, 8, 3), (2, 16, 9)
    yield "transposed 3d", nn.ConvTranspose3d(6, 8, 2, 2), (2, 6, 3, 3, 3)

for engine in sys.argv[1:]:
    for title, layer, shape in layers():
        torch.manual_seed(0)
        axis = 1 if "transposed" in title else 0
        for parameter in layer.parameters():
            if parameter.dim() > 1:  # large weights of one sign a channel: neighbouring products add up
                sign = torch.where(torch.arange(parameter.shape[axis]) % 2 == 0, 1.0, -1.0)
                along = [-1 if dim == axis else 1 for dim in range(parameter.dim())]
                parameter.data = (torch.rand_like(parameter) * 0.2 + 0.8) * sign.reshape(along)
        for squash in (None, nn.Sigmoid()):
            body = layer if squash is None else nn.Sequential(squash, layer)
            model = nn.Sequential(body).eval()
            x = torch.rand(shape) * 0.2 + (0.8 if squash is None else 6.0)  # near the top of the range
            observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping(engine), (x,))
            observed(x)
            unit = observed.plan.units[-1]
            for demoted in range(1 if squash else 1 + len(unit.fallbacks)):  # also the kernels it may be given instead
                reference = pipeline.freeze(observed, demotions=[Demotion("", unit.name, "is not wanted")] * demoted)
                agreement = check_agreement(reference, pipeline.lower(reference), x)
                assert not agreement.violations, f"{engine}, {title}: {agreement}"
                assert max(row.max_difference for row in agreement.rows) <= 1
    print(engine)
"""


@pytest.mark.parametrize("restricted", [False, True], ids=["this CPU", "AVX2 only"])
def test_worst_case_activations_are_exact(restricted: bool) -> None:
    environment = {**os.environ, **(AVX2 if restricted else {})}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *ENGINES], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ENGINES


def test_the_restriction_makes_unlimited_weights_saturate() -> None:
    """The AVX2 runs above would pass for nothing if the restriction did not reach the kernels."""
    script = (
        "import torch\n"
        "torch.backends.quantized.engine = 'onednn'\n"
        "x = torch.full((1, 16, 4, 4), 255, dtype=torch.uint8)\n"
        "w = torch.full((16, 16, 1, 1), 127, dtype=torch.int8)\n"
        "q = torch._make_per_tensor_quantized_tensor\n"
        "p = torch.ops.quantized.conv2d_prepack(q(w, 1.0, 0), None, [1, 1], [0, 0], [1, 1], 1)\n"
        "print(float(torch.ops.quantized.conv2d.new(q(x, 1.0, 0), p, 4000.0, 0).dequantize().mean()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, env={**os.environ, **AVX2}
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.6 * 255 * 127 * 16
