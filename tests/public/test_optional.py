"""Without the compressors' packages all works that does not need them, and the rest says what it needs."""

import json
import re
import subprocess
import sys

import pytest

from bitgolf.base.files import write_json
from bitgolf.base.plan import to_json
from bitgolf.net.model import build_model
from bitgolf.public.optional import is_installed, needed
from bitgolf.rivals.compressors import COMPRESSORS
from bitgolf.squeeze.artifact import PackPlan, pack
from bitgolf.squeeze.codec import Brotli, MissingCodecError
from bitgolf.squeeze.quantize import quantize_weights

WITHOUT = """
import contextlib, io, json, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("brotli", "zstandard", "constriction", "pyarrow", "huggingface_hub"):
            raise ModuleNotFoundError("blocked: " + name)

sys.meta_path.insert(0, Refuse())
from bitgolf.cli import main as cli

for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["bitgolf", *words]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""


def test_verbs_without_optional_packages(recipe, dataset, tmp_path):
    plain, data = tmp_path / "plain.json", ["--data", str(dataset.folder)]
    write_json(plain, to_json(recipe))
    model = build_model(recipe.network(), 1)
    tensors, _ = quantize_weights(recipe.quantize, {k: v.detach() for k, v in model.state_dict().items()}, {})
    tokenizer = dataset.tokenizer.to_bytes()
    brotli = pack(recipe.model.shipped(), tensors, tokenizer, PackPlan(codec=Brotli())).data
    (tmp_path / "brotli.bin").write_bytes(brotli)
    (tmp_path / "text.txt.zst").write_bytes(b"\x28\xb5\x2f\xfd")
    (tmp_path / "public.ptz").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(50))
    run, deflate = str(tmp_path / "run"), ["--set", "pack.codec=Deflate()"]
    works = [
        ["run", str(plain), *data, "--out", run, *deflate],
        ["score", f"{run}/model.bin", "--json"],
        ["show", str(plain), *deflate],
        ["show", str(plain), *deflate, "--script"],
        ["sample", run, "--tokens", "3"],
        ["pack", run, "--out", str(tmp_path / "again")],
        ["forecast", str(plain), *deflate],
    ]
    other = str(tmp_path / "other")
    refuses = {
        "brotli": [
            ["score", str(tmp_path / "brotli.bin"), *data],
            ["run", str(plain), *data, "--out", other, "--set", "budget.code_codec=brotli"],
            ["run", str(plain), *data, "--out", other, "--set", "pack.codec=Brotli()"],
        ],
        "zstandard": [
            ["score", run, "--text", str(tmp_path / "text.txt.zst")],
            ["score", str(tmp_path / "public.ptz"), *data],
            ["run", str(plain), *data, "--out", other, "--set", "pack.codec=Zstd()"],
        ],
        "constriction": [["run", str(plain), *data, "--out", other, "--set", "pack.codec=Histogram()"]],
    }
    asked = [*works, *(words for each in refuses.values() for words in each)]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, json.dumps(asked)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    for words, (code, out, err) in zip(works, answers):
        assert code == 0 and out, (words, err)
    assert re.search("code_bytes_with_brotli: +-", answers[6][1])
    expected = [package for package, each in refuses.items() for _ in each]
    for package, (code, out, err) in zip(expected, answers[len(works) :], strict=True):
        assert code == 2 and out == "", err
        assert err.splitlines()[-1].startswith("error: ") and f"pip install {package}" in err, err
        assert "Traceback" not in err and not (tmp_path / "other" / "recipe.json").exists()


def test_a_rival_without_its_package_is_left_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "brotli", None)
    assert not is_installed("brotli") and is_installed("zstandard")
    with pytest.raises(MissingCodecError, match="a thing needs brotli.*pip install brotli"):
        needed("brotli", "a thing")
    assert not COMPRESSORS["brotli -11 --lgwin=24"].is_here and COMPRESSORS["zstd -22 --long"].is_here
