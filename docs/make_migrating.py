"""Write docs/migrating.md from the table docs/migrating.toml.

python docs/make_migrating.py            # writes the file
python docs/make_migrating.py --check    # exits with 1 when the file is stale
"""

from __future__ import annotations

import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("migrating.toml")
TARGET = Path(__file__).with_name("migrating.md")

_INTRODUCTION = """# Coming from torch.ao.quantization

Written from [migrating.toml](migrating.toml) by `python docs/make_migrating.py`; do not edit it by hand.

Everything that fxquant shares with torch.ao's FX graph mode has the same name and is imported from `fxquant`:

```
from torch.ao.quantization import QConfigMapping, get_default_qconfig_mapping     # before
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

from fxquant import QConfigMapping, convert_fx, get_default_qconfig_mapping, prepare_fx     # after
```

QConfigs, mappings, custom configs and observers made by torch.ao are accepted wherever fxquant's are, and so are their
dictionaries. fxquant itself never imports torch.ao.

## What behaves differently

- **`example_inputs` are used**: the model is captured by running it on them, so shapes may steer its control flow. They
  must be inputs that the model takes: a tuple, a dictionary of keywords, or one tensor.
- **The float model is never changed**, and a prepared model can be converted more than once.
- **Names that match nothing are errors**: a module name or pattern in a mapping, a key in a dictionary.
- **Ranges that saw no data are errors at convert.** To load a saved state_dict of a quantized model into a new one, run
  any batch through the prepared model first; the loaded scales replace what it saw. Or save the whole model:
  `torch.save(quantized, path)`, `torch.load(path, weights_only=False)`.
- **Activations keep 8 bits on x86 and fbgemm.** torch.ao gives up one bit so that int16 sums on CPUs without VNNI do
  not overflow; fxquant limits pairs of weights instead. `reduce_range=True` in an observer is honoured all the same.
- **What stays float says why**: `print(fxquant.explain(model))`. An operator that no kernel runs in int8 is computed in
  float between its neighbours, and its neighbours stay int8.
- **Fixed ranges** (sigmoid, tanh) and limits of kernels need no entries in the mapping. Entries for them, as in
  torch.ao's default mapping, are accepted, and speak of the operator's result only, not of its inputs.
- **Keys of the state_dict** are those of the float model through prepare. After convert,
  `quantized.state.key_origins` maps each key to the parameters it was made from.
- **`torch.jit.script`**, which torch has deprecated, takes models of the eager style, but for recurrent layers and a
  few other kernels; `torch.jit.trace` takes every model. Files of TorchScript pack weights anew where they are loaded,
  for the engine that is set there: where another engine's kernels would overflow, the file holds plain tensors, and
  packs them at every call or computes their exact sums in float. Models prepared for `fbgemm` hold packed weights.

## Code in eager style

`fxquant.eager` takes the place of `torch.ao.quantization`: the same calls with the same arguments, and the names of
observers, fake quantization and QConfigs. What differs:

- `prepare` needs eval mode, a QConfig somewhere, and, like `convert`, data; `quantize` and `quantize_dynamic` set eval
  mode themselves. To load a state_dict into a fresh model, run any batch through it between the two.
- Names that match nothing, and named modules that have no dynamic kernel, are errors in `quantize_dynamic`.
- Quantized modules hold plain tensors: `layer.weight` is int8, with `weight_scale` beside it, not a method. Hooks of
  the user stay, and are called with what the quantized module gets and gives.
- Tables of classes (`get_default_static_quant_module_mappings`, `get_default_dynamic_quant_module_mappings`) name
  classes of torch.nn; add `YourModule: YourQuantizedModule`, which has `from_float`, and pass them to `convert` or
  `quantize_dynamic`. `prepare_qat` takes none, and `convert` makes no reference models.
- A fused layer and its relu are one `FusedReLU`, not a class for every pair.
- More is quantized: recurrent layers and attention between stubs, RNN, dynamic convolutions, every function of one
  number.

## Name by name

- **present**: the same name in fxquant.
- **replaced**: there is something else for it.
- **not yet**: comes with the kind of quantization that is named; until then the name does not exist.
- **not planned**: with the reason.

Members of a class that is present are present too, unless a line says otherwise.
"""


@dataclass(frozen=True)
class Entry:
    """What became of one name.

    Attributes:
        status: ``present``, ``replaced``, ``not yet`` or ``not planned``.
        remark: what differs, what replaces it, what it waits for, or why not; may be empty when present.
    """

    status: str
    remark: str


def load() -> dict[str, dict[str, Entry]]:
    """Entries by module and name, in the table's order.

    Raises:
        ValueError: a name is listed twice in a module.
    """
    found: dict[str, dict[str, Entry]] = {}
    for module in tomllib.loads(TABLE.read_text())["module"]:
        entries: dict[str, Entry] = {}
        for name, entry in _entries(module):
            if name in entries:
                raise ValueError(f"{module['name']}: {name} is listed twice")
            entries[name] = entry
        found[module["name"]] = entries
    return found


def _entries(module: dict[str, Any]) -> list[tuple[str, Entry]]:
    entries = [(name, Entry("present", remark)) for name, remark in module.get("present", {}).items()]
    entries += [(name, Entry("replaced", f"use {text}")) for name, text in module.get("replaced", {}).items()]
    for kind, names in module.get("not_yet", {}).items():
        entries += [(name, Entry("not yet", kind)) for name in names]
    for reason, names in module.get("not_planned", {}).items():
        entries += [(name, Entry("not planned", reason)) for name in names]
    return entries


def render() -> str:
    """The whole page."""
    parts = [_INTRODUCTION]
    for module, entries in load().items():
        lines = [f"| `{name}` | {entry.status} | {entry.remark} |" for name, entry in entries.items()]
        parts.append("\n".join((f"### {module}", "", "| name | in fxquant | remark |", "|---|---|---|", *lines, "")))
    return "\n".join(parts)


def main(arguments: list[str]) -> int:
    """Write the page, or with ``--check`` compare it."""
    page = render()
    if "--check" in arguments:
        return 0 if TARGET.is_file() and TARGET.read_text() == page else 1
    TARGET.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
