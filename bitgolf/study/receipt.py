"""The receipt of a study: its plan and date, and the folder of each arm and seed."""

from pathlib import Path

from bitgolf.base.errors import BitgolfError, nearest
from bitgolf.inputs.typed import Receipt, read_as
from bitgolf.study.terms import TESTS

RECEIPT = "plan.json"
RUNS = "../runs/"  # of a study, from its folder
MOVE_AWAY = "move the file away and begin the study again; finished runs are kept"


def receipt_of(folder: Path) -> Receipt:
    """The receipt of a study that was begun. Raises BitgolfError where there is none, or no such."""
    if not (folder / RECEIPT).is_file():
        raise BitgolfError(
            "no study was begun here",
            where=str(folder),
            way_out="begin one with its file: bitgolf study FILE.py",
        )
    receipt = read_as(folder / RECEIPT, Receipt, MOVE_AWAY)
    for run in receipt["runs"]:
        name = run["folder"].removeprefix(RUNS)
        if not run["folder"].startswith(RUNS) or name != Path(name).name or name in ("", ".."):
            raise BitgolfError(
                f"a run of a study lies in {RUNS}NAME",
                where=str(folder / RECEIPT),
                value=run["folder"],
                way_out=MOVE_AWAY,
            )
    return receipt


def is_study(text: str) -> bool:
    """Whether this is the folder of a study that was begun."""
    return (Path(text) / RECEIPT).is_file()


def folders_by_arm(study: Path) -> dict[str, list[Path]]:
    """The run folders of each arm of a study, one a seed, the baseline first."""
    folders: dict[str, list[Path]] = {}
    for run in receipt_of(study)["runs"]:
        folders.setdefault(run["arm"], []).append(study.parent / "runs" / run["folder"].removeprefix(RUNS))
    return folders


def test_of(study: Path) -> str:
    """The test that a study declared. Raises BitgolfError where its plan names none that there is."""
    test = receipt_of(study)["plan"].get("test")
    if test not in TESTS:
        raise BitgolfError("no test is declared", where=str(study / RECEIPT), value=test, way_out=MOVE_AWAY)
    return test


def arm_folders(text: str) -> list[Path]:
    """The run folders of an arm, which is written STUDY/ARM; none where no part of the text is a study.

    Raises BitgolfError for a study without it. An arm may have slashes and commas in its name.
    """
    parts = text.split("/")
    for end in range(len(parts) - 1, 0, -1):
        study, arm = Path("/".join(parts[:end]) or "/"), "/".join(parts[end:])
        if arm and "," not in str(study) and (study / RECEIPT).is_file():
            arms = folders_by_arm(study)
            if arm not in arms:
                raise BitgolfError("no such arm", where=str(study), value=arm, way_out=nearest(arm, arms))
            return arms[arm]
    return []
