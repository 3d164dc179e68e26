"""What a library has is known by its own name, whatever a script calls it."""

import ast

import pytest

from bitgolf.audit.unwrap import parsed


def spelled(text: str) -> str:
    return ast.unparse(parsed(text))


@pytest.mark.parametrize(
    ("script", "becomes"),
    [
        ("import os\nfetch = os.environ.get\nclass Settings:\n    a = fetch('A')", "a = os.environ.get('A')"),
        ("import torch as t\nprint(t.bfloat16)", "print(torch.bfloat16)"),
        ("import torch.nn.functional as func\nprint(func.softmax)", "print(F.softmax)"),
        ("from torch.nn import functional as tf\nprint(tf.softmax)", "print(F.softmax)"),
        ("from torch import distributed as comm\ncomm.barrier()", "dist.barrier()"),
        ("from math import log as ln\nprint(ln(2))", "print(log(2))"),
        ("import torch\nkind = torch.bfloat16\ndef cast(x):\n    return x.to(kind)", ".to(torch.bfloat16)"),
        ("import torch\ndef f():\n    mean = torch.mean\n    return lambda: mean(1)", ": torch.mean(1)"),
    ],
)  # fmt: skip
def test_other_names_are_spelled_out(script, becomes):
    assert becomes in spelled(script)


@pytest.mark.parametrize(
    "script",
    [
        "import os\nfetch = os.environ.get\n\ndef f(fetch):\n    return fetch('A')",  # a parameter
        "import os\nfetch = os.environ.get\nfetch = dict.get\nprint(fetch)",  # given twice
        "import os\nget = os.environ.get\n\ndef f():\n    global get\n    get = 1\n\ndef g():\n    get('A')",
        "import torch as net\ntorch = 3\nprint(net.zeros)",  # its own name is taken
        "import mine\nvalues = other.get\nprint(values)",  # of no library
    ],
)
def test_a_name_for_something_else_stays(script):
    assert spelled(script) == ast.unparse(ast.parse(script))
