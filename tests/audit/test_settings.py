"""Settings in a dict are read as those of a class."""

import ast

import pytest

from bitgolf.audit.unwrap import parsed

SETTINGS = "cfg = dict(rate=0.1, steps=100, width=64, name='a')\n"
SECTIONS = "BASE = {'train': {'rate': 0.1, 'steps': 100}, 'net': {'width': 64, 'depth': 9}}\n"


def spelled(text: str) -> str:
    return ast.unparse(parsed(text))


@pytest.mark.parametrize(
    ("script", "becomes"),
    [
        (SETTINGS + "print(cfg['rate'])", "print(cfg.rate)"),
        (SETTINGS + "print(cfg.get('rate', 1))", "print(cfg.rate)"),
        (SETTINGS + "def f(plan):\n    return plan['steps']\nf(cfg)", "return plan.steps"),
        (SETTINGS + "def f(net):\n    net.p = cfg\n    print(net.p['rate'])", "net.p.rate"),
        (SECTIONS + "def f():\n    return BASE\np = f()\nprint(p['net']['width'])", "print(p.net.width)"),
    ],
)  # fmt: skip
def test_an_entry_is_an_attribute(script, becomes):
    assert becomes in spelled(script)
    assert "class " in spelled(script)


@pytest.mark.parametrize(
    "script",
    [
        "files = {'text': 'fineweb_train_*.bin', 'own': 'fineweb_val_*.bin', 'a': 1, 'b': 2}\nfiles['own']",
        "pair = {'a': 1, 'b': 2}\nprint(pair['a'])",
        SETTINGS + "for group in groups:\n    group['rate'] = 1",
        SETTINGS + "def f(rate):\n    return rate['steps']",
    ],
)  # fmt: skip
def test_other_dicts_stay(script):
    assert script.splitlines()[-1] in spelled(script).replace("\n\n", "\n")
