"""Instructions are found as ``dis`` finds them."""

from __future__ import annotations

import dis
import inspect
from types import CodeType

import pytest
import torch.nn.functional as F
from torch import fx, nn

from fxquant.ir.codes import arguments_of, codes_in

MANY = compile("\n".join([f"x.name_{index} = {index}" for index in range(600)]), "many", "exec")
FUNCTIONS = [
    *(function.__code__ for _, function in inspect.getmembers(F, inspect.isfunction)),
    *(function.__code__ for _, function in inspect.getmembers(nn.Module, inspect.isfunction)),
    *(function.__code__ for _, function in inspect.getmembers(fx.Graph, inspect.isfunction)),
]


@pytest.mark.parametrize("name", ["LOAD_GLOBAL", "STORE_ATTR", "IS_OP", "LOAD_CONST"])
def test_arguments_are_those_that_dis_tells(name: str) -> None:
    codes: list[CodeType] = [inner for code in (*FUNCTIONS, MANY) for inner in codes_in(code)]
    found = [list(arguments_of(code, name)) for code in codes]
    expected = [
        [(item.offset, item.arg) for item in dis.get_instructions(code) if item.opname == name] for code in codes
    ]
    assert found == expected
    assert sum(map(len, found)) > 10


@pytest.mark.parametrize("only", [0, 1, 2, 300, 599, 10**6])
def test_one_argument(only: int) -> None:
    for code in (*FUNCTIONS, MANY):
        every = list(arguments_of(code, "STORE_ATTR"))
        assert list(arguments_of(code, "STORE_ATTR", only)) == [item for item in every if item[1] == only]


def test_names_beyond_a_byte() -> None:
    assert [MANY.co_names[index] for _, index in arguments_of(MANY, "STORE_ATTR")] == [f"name_{i}" for i in range(600)]
