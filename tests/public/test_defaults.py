"""The defaults of a script's variables become those of a recipe, and what cannot is said."""

import ast

import pytest

from bitgolf.base.errors import BitgolfError
from bitgolf.public.constants import folded
from bitgolf.public.defaults import COMPUTED, read_defaults, taken
from bitgolf.public.variables import apply_variables, variable_rows
from bitgolf.recipes.baseline import baseline

SCRIPT = """
import os
from dataclasses import dataclass
raise SystemExit("executed")
WIDTH = 256
class Hyperparameters:
    num_layers = int(os.environ.get("NUM_LAYERS", 7))
    width: int = int(os.getenv("MODEL_DIM", WIDTH))
    tied = bool(int(os.environ.get("TIE_EMBEDDINGS", "1")))
    cap = float(os.environ.get("LOGIT_SOFTCAP", 2 * 10.0))
    batch = int(os.environ.get("TRAIN_BATCH_TOKENS", 64 * 1024))
    leak = float(os.environ.get("NEGATIVE_SLOPE", -0.5 * -1))
    path = os.environ.get("DATA_PATH", "./data")
    run_id = os.environ.get("RUN_ID", str(uuid.uuid4()))
    heads = int(os.environ.get("NUM_HEADS", width // 64))
    mystery = int(os.environ.get("MYSTERY_KNOB", 3))
    dims = int(os.environ.get("BIGRAM_DIM", 128))
    bad = os.environ.get("QK_GAIN_INIT", "much")
@dataclass
class OtherConfig:
    iterations: int = 1234
    nonsense: int = 5
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "train_gpt.py"
    path.write_text(SCRIPT)
    return path


def test_defaults_are_read_in_every_form(script):
    defaults, unread = read_defaults(script)
    assert defaults == {
        "NUM_LAYERS": "7", "MODEL_DIM": "256", "TIE_EMBEDDINGS": "1", "LOGIT_SOFTCAP": "20.0",
        "TRAIN_BATCH_TOKENS": "65536", "NEGATIVE_SLOPE": "0.5", "DATA_PATH": "./data", "MYSTERY_KNOB": "3",
        "BIGRAM_DIM": "128", "QK_GAIN_INIT": "much", "ITERATIONS": "1234",
    }  # fmt: skip
    # RUN_ID is a new one each time, and decides nothing.
    assert [(one.name, one.default, one.why) for one in unread] == [("NUM_HEADS", "width // 64", COMPUTED)]


def test_what_a_recipe_takes_and_what_it_does_not(script):
    kept, left = taken(baseline(), read_defaults(script)[0])
    assert kept.keys() == {
        "NUM_LAYERS", "MODEL_DIM", "TIE_EMBEDDINGS", "LOGIT_SOFTCAP", "TRAIN_BATCH_TOKENS", "NEGATIVE_SLOPE",
        "ITERATIONS",
    }  # fmt: skip
    reasons = {one.name: one.why for one in left}
    assert reasons["MYSTERY_KNOB"] == "unknown here" and "BigramHash" in reasons["BIGRAM_DIM"]
    assert reasons["QK_GAIN_INIT"].startswith("expected") and len(reasons) == 3


def test_a_file_that_is_no_script_is_one_line(tmp_path, script):
    other = tmp_path / "notes.txt"
    other.write_text("not python at all")
    for path, said in ((other, "not Python"), (tmp_path / "none.py", "cannot read")):
        with pytest.raises(BitgolfError, match=said):
            read_defaults(path)


def test_windows_of_documents_have_no_length_to_follow(tmp_path):
    path = tmp_path / "train_gpt.py"
    path.write_text(
        'import os\na = os.environ.get("TTT_LORA_RANK", 8), os.environ.get("TRAIN_SEQ_LEN", 512)\n'
    )
    kept, left = taken(baseline(), read_defaults(path)[0])
    assert kept == {"TTT_LORA_RANK": "8", "TRAIN_SEQ_LEN": "512"} and not left
    before = baseline()
    rows = variable_rows(before, apply_variables(before, kept), kept)
    assert {row[0] for row in rows} == {"TTT_LORA_RANK", "TRAIN_SEQ_LEN"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2 + 3", 5), ("2 - 3.5", -1.5), ("64 * 1024", 65536), ("1 / 4", 0.25), ("7 // 2", 3),
        ("10 ** 3", 1000), ("10 ** -3", 0.001), ("1 << 20", 2**20), ("2.0 << 3", 16), ("1 / 0", None),
        ("0 ** -1", None), ("0.5 << 2", None), ("1 << 99999", None), ("9 ** 99999", None),
        ("99999 ** 2", None), ("7 % 4", None), ("1e999 << 1", None), ("1 << 1e999", None),
        ("(-8.0) ** 0.5", None), ("1e308 * 10", float("inf")),
    ],
)  # fmt: skip
def test_arithmetic_of_constants_is_folded_and_never_endless(text, value):
    node = ast.parse(text, mode="eval").body
    found = folded(node.op, ast.literal_eval(node.left), ast.literal_eval(node.right))
    assert (found, type(found)) == (value, type(value))
