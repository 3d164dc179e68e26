"""The verbs of studies. Their modules are imported when a verb runs: statistics take a second to load."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitgolf.base.errors import BitgolfError
from bitgolf.report import screen

if TYPE_CHECKING:
    from bitgolf.study.conduct import Prepared
    from bitgolf.study.design import Study
    from bitgolf.study.executors import Executor

Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object on stdout.")]
STORE = Path("runs/studies")
CHANGE_COLUMNS = (
    screen.Column("arm"),
    screen.Column("against", 20, at_least=120),
    screen.Column("setting", 24),
    screen.Column("change"),
)
COMPARISON_COLUMNS = (
    screen.Column("comparison"),
    screen.Column("against", 16, at_least=120),
    screen.Column("n", 3, at_least=90, right=True),
    screen.Column("difference", 10, right=True),
    screen.Column("interval", 18, right=True),
    screen.Column("p", 8, right=True),
    screen.Column("detectable", 10, at_least=100, right=True),
    screen.Column("verdict", 11, right=True),
)


def study(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A study: file.py, or the folder of one.")],
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what would be run and found; run nothing.")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Write the report of what was run; run nothing.")
    ] = False,
    processes: Annotated[int, typer.Option(min=1, help="Runs at once on this machine.")] = 1,
    ray: Annotated[
        str | None, typer.Option("--ray", metavar="ADDRESS", help="Run on a Ray cluster; `local` starts one.")
    ] = None,
    slurm: Annotated[
        list[str] | None,
        typer.Option("--slurm", metavar="NAME=VALUE", help="Run as Slurm jobs, e.g. slurm_partition=gpu."),
    ] = None,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of each run on a cluster, or here if not one.")] = 0,
    space: Annotated[
        list[str] | None,
        typer.Option("--search", metavar="PATH=RANGE", help="First search, e.g. model.layers=3..6."),
    ] = None,
    search_seconds: Annotated[float, typer.Option(min=0.0, help="Time budget of the search.")] = 600.0,
    retry: Annotated[bool, typer.Option("--retry", help="Begin failed runs again.")] = False,
    out: Annotated[Path, typer.Option("--out", help="Folder of all studies and their runs.")] = STORE,
    data: Annotated[str | None, typer.Option("--data", help="Another text than the study's.")] = None,
    as_json: Json = False,
) -> None:
    """One change at a time, over several seeds, with intervals and verdicts; `FILE` says what and how.

    Killed anywhere, the same command goes on: finished runs are kept, half-finished ones resume. Writes
    study.html, study.md and study.json. Exit code 1 if a run failed.

    Example: bitgolf study studies/pr682.py --processes 2
    """
    from bitgolf.study.conduct import find_study, prepare

    chosen = find_study(file)
    if data is not None:
        chosen = chosen.but(data=data)
    if report:
        _finish(out / chosen.name, chosen.reading, as_json)
        return
    if plan and space:
        raise BitgolfError(
            "what a search finds is not known before it ran",
            where="--plan --search",
            way_out="leave one of them out",
        )
    executor = _executor(chosen, processes, ray, slurm or [], gpus, out)
    if space:
        chosen = _searched(chosen, space, out, search_seconds, as_json)
    prepared = screen.follow(prepare(chosen, out, device="cuda" if gpus and (ray or slurm) else ""))
    facts = _show_plan(prepared, processes, as_json)
    if plan:
        screen.close(facts, as_json=as_json)
        return
    _run(prepared, executor, facts["seconds_to_do"], retry)
    _finish(prepared.folder, chosen.reading, as_json)


def _executor(
    study: "Study", processes: int, ray: str | None, slurm: list[str], gpus: int, out: Path
) -> "Executor":
    from bitgolf.study.executors import in_processes, in_this_process, on_ray, on_slurm

    if ray:
        return on_ray(ray, study.threads * study.processes, gpus)
    if slurm:
        pairs = [text.partition("=") for text in slurm]
        if odd := [text for text, (_, equals, value) in zip(slurm, pairs) if not (equals and value)]:
            raise BitgolfError("expected NAME=VALUE", where="--slurm", value=odd[0])
        return on_slurm(out / "slurm", {name: _plain(value) for name, _, value in pairs})
    if processes == 1:
        return in_this_process
    return in_processes(processes, study.threads * study.processes, gpus or study.processes)


def _plain(value: str) -> Any:
    return int(value) if value.lstrip("-").isdigit() else value


def _searched(study: "Study", space: list[str], out: Path, seconds: float, as_json: bool) -> "Study":
    from bitgolf.study.search import parse_space, search

    found = screen.follow(search(study, parse_space(study.baseline, space), out, seconds))
    rows = [(", ".join(trial.changes), trial.value, trial.error) for trial in found.trials]
    screen.table(
        f"{len(rows)} trials on a seed of their own", ("settings", study.metric, ""), rows, as_json=as_json
    )
    return found.claim


def _show_plan(prepared: "Prepared", processes: int, as_json: bool) -> dict[str, Any]:
    from bitgolf.net.backend import choose_backend
    from bitgolf.study.ahead import change_rows, disturbances, plan_facts
    from bitgolf.study.findings import already_tested, measured

    study = prepared.study
    title = f"{study.name}: {study.question}"
    screen.grouped_table(CHANGE_COLUMNS, [(title, change_rows(study))], as_json=as_json)
    facts = plan_facts(prepared, processes)
    store = prepared.folder.parent
    facts["already_tested"] = already_tested(study, measured(store)[0]) if store.is_dir() else []
    facts["disturbed"] = disturbances(study, processes, choose_backend(study.baseline.backend).device.type)
    if not as_json:
        for name in ("already_tested", "disturbed"):
            for warning in facts[name]:
                print(f"{name.replace('_', ' ')}: {warning}")
    return facts


def _run(prepared: "Prepared", executor: "Executor", seconds: float, retry: bool) -> None:
    from bitgolf.study.conduct import conduct
    from bitgolf.study.live import Board, follow

    board = Board(prepared, seconds)
    context, look = follow(board)
    try:
        with context:
            conduct(prepared, executor, look, retry=retry)
    except KeyboardInterrupt as stop:
        stop.add_note("nothing is lost, the same command goes on from here")
        raise


def _finish(folder: Path, reading: str, as_json: bool) -> None:
    from bitgolf.study.report import write_report

    found = write_report(folder, reading)
    rows = [
        (
            row["name"],
            row["against"] or row["kind"],
            str(row.get("n", "-")),
            _signed(row.get("effect")),
            f"{_signed(row['low'])} to {_signed(row['high'])}" if "effect" in row else "-",
            "-" if row["p_corrected"] is None else f"{row['p_corrected']:.2g}",
            _signed(row["detectable"]).lstrip("+"),
            row["verdict"],
        )
        for row in found["comparisons"]
    ]
    title = f"{found['study']}: {found['metric']}, lower is better, 95% intervals, p corrected"
    screen.grouped_table(COMPARISON_COLUMNS, [(title, rows)], as_json=as_json)
    failed = [
        (arm["name"], run["seed"], run["error"] or run["status"])
        for arm in found["arms"]
        for run in arm["runs"]
        if run["state"] == "failed"
    ]
    if failed:
        screen.table(
            "Failed runs; --retry begins them again", ("arm", "seed", "error"), failed, as_json=as_json
        )
    facts = {
        "study": found["study"],
        "status": found["status"],
        "failed_runs": len(failed),
        "noise": found["noise"]["deviation"],
        "report": str(folder / "study.html"),
    }
    screen.close(found if as_json else facts, as_json=as_json)
    if failed:
        raise typer.Exit(1)


def _signed(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:+.4f}" if abs(value) < 1000 else f"{value:+,.0f}"


def findings(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[WORD]...", help="Only lines with these words.")
    ] = None,
    folder: Annotated[Path, typer.Option("--in", help="Every study below this folder.")] = Path(),
    cited: Annotated[
        list[Path] | None, typer.Option("--cited", help="More figures of other people: a .json or .csv file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """What all studies found, null and negative results too; beside it, apart, what others published.

    Example: bitgolf findings EMA
    """
    import dataclasses

    from bitgolf.study import findings as ledger

    known, problems = ledger.measured(folder)
    own = ledger.matching(known, words or [])
    others = ledger.matching(ledger.cited(*(cited or [])), words or [])
    screen.table("Measured here", *ledger.measured_rows(own), as_json=as_json)
    screen.table("Cited: other people's figures and conditions", *ledger.cited_rows(others), as_json=as_json)
    if problems and not as_json:
        print("not readable: " + ", ".join(problems) + "\n")
    facts: dict[str, Any] = {"measured": len(own), "cited": len(others), "unreadable": len(problems)}
    if as_json:
        facts = {
            "measured": [dataclasses.asdict(each) for each in own],
            "cited": [dataclasses.asdict(each) for each in others],
            "unreadable": problems,
        }
    screen.close(facts, as_json=as_json)


def show_against(name: str, published: float, metric: str, as_json: bool) -> None:
    """`bitgolf compare RUNS --against FIGURE`."""
    from bitgolf.base.errors import nearest
    from bitgolf.study.compare import against_constant, read_run_set
    from bitgolf.study.design import METRICS

    if metric not in METRICS:
        raise BitgolfError("no such figure", where="--metric", value=metric, way_out=nearest(metric, METRICS))
    if not math.isfinite(published):
        raise BitgolfError("not a number", where="--against", value=published, way_out="e.g. 1.2244")
    found = against_constant(read_run_set(name), published, metric)
    if not as_json:
        print("\n".join([screen.escaped(found["claim"]), found.get("units", "")]).strip() + "\n")
    plain = (
        "metric",
        "against",
        "n",
        "mean",
        "deviation",
        "effect",
        "low",
        "high",
        "t",
        "freedom",
        "p",
        "p_lower",
    )
    screen.close(found if as_json else {key: found[key] for key in plain}, as_json=as_json)


def show_comparison(names: list[str], metric: str, as_json: bool) -> None:
    """`bitgolf compare` of finished runs."""
    from bitgolf.base.errors import nearest
    from bitgolf.base.plan import diff, to_json
    from bitgolf.study.compare import compare_runs, read_run_set
    from bitgolf.study.design import METRICS

    if metric not in METRICS:
        raise BitgolfError("no such figure", where="--metric", value=metric, way_out=nearest(metric, METRICS))
    sets = [read_run_set(name) for name in names]
    found = compare_runs(sets, metric)
    for other, row in zip(sets[1:], found["comparisons"]):
        changes = [change for change in diff(sets[0].recipe, other.recipe) if change[0] != "name"]
        row["changes"] = [{"path": p, "left": to_json(a), "right": to_json(b)} for p, a, b in changes]
        title = f"{sets[0].name} against {other.name}"
        screen.table(title, ("setting", "left", "right"), changes, as_json=as_json)
        if not as_json:
            print(row["claim"] + "\n")
    lines = {"metric": metric, "against": found["against"], "comparisons": len(found["comparisons"])}
    screen.close(found if as_json else lines, as_json=as_json)
