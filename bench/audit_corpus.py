"""How good the audit is: recall by row of the catalogue, false alarms, and its verdicts on public entries.

python -m bench.audit_corpus CHECKOUT [--part rows|merged|labelled] [--json]
CHECKOUT is a clone of the public challenge, bare or not, that has its pull requests (refs/pull/N/head).
Nothing of it is executed. The plants are those of the tests; what reviewers said of pull requests is in
audit_labels.toml, notes on merged folders that are not clean are in audit_merged.toml.
"""

import argparse
import json
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from bitgolf.audit.audit import Audit, audit
from bitgolf.audit.finding import CANNOT_TELL, FOUND, SUSPECTED
from bitgolf.audit.many import codes
from bitgolf.audit.rules import rules_named
from bitgolf.base.errors import BitgolfError

LABELS = Path(__file__).with_name("audit_labels.toml")
NOTES = Path(__file__).with_name("audit_merged.toml")
UNREAD: dict[str, Any] = {"verdict": "unreadable", "found": [], "suspected": [], "seconds": 0.0}
FLAGGED = ("invalid", "suspect")
MOST_FILE = 32 << 20  # of an entry that are unpacked


def git(checkout: Path, *words: str) -> bytes:
    """What git says. Raises BitgolfError where it fails."""
    done = subprocess.run(["git", "-C", str(checkout), *words], capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise BitgolfError("git failed", where=" ".join(words[:3]), value=said[-1] if said else "")
    return done.stdout


def unpack(checkout: Path, ref: str, folder: str, out: Path) -> Path:
    """A folder of a commit: its plain files that are there; clones may lack the largest."""
    listed = git(checkout, "ls-tree", "-r", "-z", ref, f"{folder}/").decode().split("\0")
    for line in filter(None, listed):
        facts, _, name = line.partition("\t")
        mode, kind, blob = facts.split()
        if kind != "blob" or not mode.startswith("100") or ".." in PurePosixPath(name).parts:
            continue
        done = subprocess.run(
            ["git", "-C", str(checkout), "cat-file", "blob", blob], capture_output=True, check=False
        )
        if done.returncode == 0 and len(done.stdout) <= MOST_FILE:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes(done.stdout)
    return out / folder


def main_branch(checkout: Path) -> str:
    """The branch that entries were merged into."""
    refs = git(checkout, "for-each-ref", "--format=%(refname)").decode().split()
    known = ("refs/heads/main", "refs/remotes/origin/main", "refs/heads/master")
    return next((each for each in known if each in refs), "HEAD")


def folder_of(checkout: Path, ref: str, main: str) -> str:
    """The record folder that a pull request adds: the one with a script that trains."""
    base = git(checkout, "merge-base", main, ref).decode().strip()
    changed = git(checkout, "diff", "--name-only", "--diff-filter=AM", "-z", base, ref).decode().split("\0")
    folders: dict[str, int] = {}
    for name in filter(None, changed):
        path = PurePosixPath(name)
        weight = 100 if path.name.startswith("train") and path.suffix == ".py" else 1
        weight += 50 if path.name == "submission.json" else 0
        if len(path.parts) > 1:
            folders[str(path.parent)] = folders.get(str(path.parent), 0) + weight
    if not folders:
        raise BitgolfError("adds no folder", where=ref)
    return max(folders, key=lambda each: (folders[each], -each.count("/")))


def rows() -> Iterator[dict[str, Any]]:
    """Each plant: whether its row was named, and what was said of its clean neighbour."""
    from tests.audit.rows import ROWS
    from tests.audit.rows.made import packed, renamed, script_file

    rules = rules_named()
    for row in ROWS:
        forms = {"plain": (row.plant, row.clean)}
        if row.text:
            forms["renamed"] = (script_file(renamed(row.text)), script_file(renamed(row.neighbour)))
            forms["packed"] = (script_file(packed(row.text)), script_file(packed(row.neighbour)))
        for form, makers in forms.items():
            said = []
            for make in makers:
                with tempfile.TemporaryDirectory() as place:
                    found = audit(make(Path(place)), rules)
                said.append({each.code for each in found.findings if each.sure != CANNOT_TELL})
            yield {
                "code": row.code,
                "name": row.name,
                "form": form,
                "named": row.code in said[0],
                "false": sorted(said[1]),
            }


def looked(path: Path, name: str, rules: Any) -> dict[str, Any]:
    """Our verdict on one folder."""
    started = time.monotonic()
    try:
        found: Audit | None = audit(path, rules)
    except BitgolfError as error:
        return {
            "name": name,
            "verdict": "unreadable",
            "found": [],
            "suspected": [],
            "seconds": 0.0,
            "why": str(error),
        }
    assert found is not None
    return {
        "name": name,
        "verdict": found.verdict,
        "found": codes(found, FOUND),
        "suspected": codes(found, SUSPECTED),
        "disputed": sorted({each.code for each in found.disputed}),
        "seconds": round(time.monotonic() - started, 1),
    }


def merged(checkout: Path) -> Iterator[dict[str, Any]]:
    """Every record folder of the main branch: they stood review."""
    rules, main = rules_named(), main_branch(checkout)
    notes = tomllib.loads(NOTES.read_text(encoding="utf-8"))["read"]
    names = git(checkout, "ls-tree", "-d", "--name-only", "-r", "-z", main, "records/").decode().split("\0")
    for name in sorted(each for each in names if each.count("/") == 2):
        with tempfile.TemporaryDirectory() as place:
            row = looked(unpack(checkout, main, name, Path(place)), name.split("/", 1)[1], rules)
        yield row | {"note": notes.get(row["name"], "")}


def labelled(checkout: Path) -> Iterator[dict[str, Any]]:
    """Pull requests of which reviewers said something."""
    rules, main = rules_named(), main_branch(checkout)
    for label in tomllib.loads(LABELS.read_text(encoding="utf-8"))["entries"]:
        ref = label.get("commit", f"refs/pull/{label['pull']}/head")  # what was reviewed, where it changed
        with tempfile.TemporaryDirectory() as place:
            try:
                folder = folder_of(checkout, ref, main)
                row = looked(unpack(checkout, ref, folder, Path(place)), f"#{label['pull']}", rules)
            except BitgolfError as error:
                row = {"name": f"#{label['pull']}", "why": str(error)} | UNREAD
        yield row | {"label": label["word"], "codes": label["codes"], "note": label.get("note", "")}


def table(head: list[str], lines: list[list[object]]) -> str:
    """A Markdown table."""
    text = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*text, *(f"| {' | '.join(map(str, line))} |" for line in lines)])


def rows_text(found: list[dict[str, Any]]) -> str:
    """Recall by row, and false alarms."""
    named = {each["code"] for each in found} - {each["code"] for each in found if not each["named"]}
    false = [each for each in found if each["false"]]
    lines: list[list[object]] = []
    for code in sorted({each["code"] for each in found}):
        own = [each for each in found if each["code"] == code]
        hits = sum(each["named"] for each in own)
        lines.append(
            [
                code,
                f"{hits} of {len(own)}",
                ", ".join(sorted({c for each in own for c in each["false"]})) or "none",
            ]
        )
    head = f"{len(named)} of {len(lines)} rows in every form; "
    head += f"{len(false)} of {len(found)} clean neighbours with a finding."
    return f"{head}\n\n{table(['row', 'named', 'said of the neighbours'], lines)}"


def merged_text(found: list[dict[str, Any]]) -> str:
    """Verdicts on folders that stood review."""
    counts = {
        word: sum(each["verdict"] == word for each in found)
        for word in ("clean", CANNOT_TELL, "flawed", "suspect", "invalid")
    }
    seconds = sorted(each["seconds"] for each in found)
    lines = [
        [each["name"], each["verdict"], " ".join(each["found"]), " ".join(each["suspected"]), each["note"]]
        for each in found
    ]
    open_ones = sum(each["verdict"] in ("invalid", "flawed") and not each["note"] for each in found)
    return (
        f"{len(found)} folders: {', '.join(f'{count} {word}' for word, count in counts.items())}; "
        f"{seconds[len(seconds) // 2]} s each in the middle, at most {seconds[-1]} s. "
        f"{open_ones} invalid or flawed ones without a note.\n\n"
        + table(["folder", "verdict", "found", "suspected", "note"], lines)
    )


def labelled_text(found: list[dict[str, Any]]) -> str:
    """Our verdicts beside the reviewers'."""
    bad = [each for each in found if each["label"] == "invalid"]
    good = [each for each in found if each["label"] == "valid"]
    hits = [each for each in bad if each["verdict"] in FLAGGED]
    own = [each for each in bad if {*each["codes"]} & {*each["found"], *each["suspected"]}]
    lines = [
        [
            each["name"],
            each["label"],
            " ".join(each["codes"]),
            each["verdict"],
            " ".join(each["found"]),
            " ".join(each["suspected"]),
            each["note"],
        ]
        for each in found
    ]
    false = sum(each["verdict"] == "invalid" for each in good)
    share = 100 * len(hits) / max(1, len(bad))
    return (
        f"{len(hits)} of {len(bad)} that were ruled out are invalid or suspect ({share:.0f}%), {len(own)} by "
        f"the row of the ruling; of {len(good)} that stood review {false} are invalid.\n\n"
        + table(["pull request", "reviewers", "for", "verdict", "found", "suspected", "note"], lines)
    )


PARTS = {"rows": rows_text, "merged": merged_text, "labelled": labelled_text}


def main() -> None:
    """Print the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--part", choices=[*PARTS], action="append")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {}
    for part in options.part or PARTS:
        source = (
            rows() if part == "rows" else {"merged": merged, "labelled": labelled}[part](options.checkout)
        )
        found[part] = [*source]
        if not options.json:
            print(f"## {part}\n\n{PARTS[part](found[part])}\n", flush=True)
    if options.json:
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
