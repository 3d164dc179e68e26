# ruff: noqa: E501  (plants are texts of scripts)
"""How a plant is made: in a script, a log, a folder, an artifact or data; what plants of several letters share."""

import ast
import base64
import lzma
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from bitgolf.text.shards import write_shard
from tests.audit.planted import (
    SCRIPT,
    changed,
    log_text,
    write_folder,
)

Change = tuple[str, str]


Maker = Callable[[Path], Path]


CODE = len(SCRIPT.encode())


LOSS = '            loss = F.cross_entropy(net(before), after, reduction="none")\n'


START = "    val_loss, val_bpb = evaluate("


PACK = "    buffer = io.BytesIO()\n"


MAIN = "def main():\n"


class Row(NamedTuple):
    """A case of a row. scripts are planted in three forms: as they are, renamed, and packed."""

    code: str
    name: str
    plant: Maker
    clean: Maker
    text: str = ""
    neighbour: str = ""


def script(code: str, name: str, plant: list[Change], clean: list[Change]) -> Row:
    """A fault in the script, and what looks like it."""
    bad, good = changed(*plant), changed(*clean)
    ast.parse(bad), ast.parse(good)
    return Row(code, name, script_file(bad), script_file(good), bad, good)


def script_file(text: str) -> Maker:
    def make(folder: Path) -> Path:
        (folder / "train_gpt.py").write_text(text)
        return folder / "train_gpt.py"

    return make


def log(code: str, name: str, plant: str, clean: str | None = None) -> Row:
    """A fault in a log; its neighbour is the clean log unless given."""

    def maker(text: str) -> Maker:
        def make(folder: Path) -> Path:
            (folder / "train_seed1.log").write_text(text)
            return folder / "train_seed1.log"

        return make

    return Row(code, name, maker(plant), maker(clean or log_text(1, 1.2, CODE)))


def folder(
    code: str, name: str, plant: Callable[[Path], None], clean: Callable[[Path], None] | None = None
) -> Row:
    """A fault between the parts of a folder."""

    def maker(change: Callable[[Path], None] | None) -> Maker:
        def make(where: Path) -> Path:
            write_folder(where / "record")
            if change:
                change(where / "record")
            return where / "record"

        return make

    return Row(code, name, maker(plant), maker(clean))


def artifact(code: str, name: str, plant: dict[str, torch.Tensor], clean: dict[str, torch.Tensor]) -> Row:
    """A fault in a packed model."""

    def maker(state: dict[str, torch.Tensor]) -> Maker:
        def make(where: Path) -> Path:
            torch.save(state, where / "final_model.ptz")
            return where / "final_model.ptz"

        return make

    return Row(code, name, maker(plant), maker(clean))


CLOCK = ("import glob\n", "import glob\nimport time\n")


def said(line: str, before: str = "final_int8") -> str:
    """The clean log with one more line, before another one."""
    text = log_text(1, 1.2, CODE)
    at = text.index(before)
    return text[:at] + line + "\n" + text[at:]


def state(**other: torch.Tensor) -> dict[str, torch.Tensor]:
    state = {f"blocks.{i}.weight": torch.randn(64, 64) for i in range(3)}
    return state | {"tok_emb.weight": torch.randn(512, 64)} | other


DRAW = random.Random(5)


DOCUMENTS = [[1, *(DRAW.randrange(3, 900) for _ in range(60))] for _ in range(80)]


HELD, TRAINED = DOCUMENTS[:30], DOCUMENTS[30:]


def data(code: str, name: str, val: list[list[int]], train: list[list[int]], **pieces: list[str]) -> Row:
    """A fault in shards; its neighbour is two splits that share nothing."""

    def maker(held: list[list[int]], trained: list[list[int]], listed: list[str]) -> Maker:
        def make(where: Path) -> Path:
            folder = where / "fineweb10B"
            folder.mkdir()
            write_shard(folder / "fineweb_val_000000.bin", sum(held, []))
            write_shard(folder / "fineweb_train_000000.bin", sum(trained, []))
            if listed:
                (folder / "tokens.vocab").write_text("".join(f"{piece}\t0\n" for piece in listed))
            return folder

        return make

    return Row(
        code, name, maker(val, train, pieces.get("pieces", [])), maker(HELD, TRAINED, pieces.get("clean", []))
    )


def renamed(text: str, seed: int = 0) -> str:
    """The same script under other names, its comments gone: every name that it gives itself is another one."""
    tree = ast.parse(text)
    own = {
        node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    own |= {
        each.arg
        for node in ast.walk(tree)
        if isinstance(node, ast.arguments)
        for each in (*node.args, *node.kwonlyargs)
    }
    own |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    methods = {
        node.name
        for kind in ast.walk(tree)
        if isinstance(kind, ast.ClassDef)
        for node in kind.body
        if isinstance(node, ast.FunctionDef)
    }
    fields = {
        target.id
        for kind in ast.walk(tree)
        if isinstance(kind, ast.ClassDef)
        for node in kind.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    own -= {"_"} | {each for each in methods if each.startswith("__") or each == "forward"} | fields
    draw = random.Random(seed)
    names = {name: f"z{draw.randrange(10**6)}_{i}" for i, name in enumerate(sorted(own))}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in names:
            node.id = names[node.id]
        elif isinstance(node, ast.arg) and node.arg in names:
            node.arg = names[node.arg]
        elif isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in names:
            node.name = names[node.name]
    return ast.unparse(tree)


def packed(text: str) -> str:
    """The same script behind LZMA and base85."""
    data = base64.b85encode(lzma.compress(text.encode())).decode()
    return f"import lzma as L,base64 as B\nexec(L.decompress(B.b85decode({data!r})))"


STEP = "        optimizer.step()\n"
LOOP = "    for step in range(100):\n"
IDS = "        ids = corpus[step * 640 : step * 640 + 641].to(torch.int64)\n"
PASS = "        F.cross_entropy(net(ids[:-1]), ids[1:]).backward()\n"
SAVE = "    torch.save(net.state_dict(), buffer)\n"
SIZE = '    print(f"Serialized model'


def each(code: str, shared: list[Change], *ways: tuple[str, list[Change], list[Change]]) -> list[Row]:
    """Several ways of a fault in the script, and their neighbours."""
    return [script(code, name, [*shared, *plant], [*shared, *clean]) for name, plant, clean in ways]


def before(place: str, *lines: str) -> Change:
    """Lines before a place of the script."""
    return place, "".join(f"{line}\n" for line in lines) + place


def after(place: str, *lines: str) -> Change:
    """Lines after a place of the script."""
    return place, place + "".join(f"{line}\n" for line in lines)
