"""A study from its file to its verdicts."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bitgolf.base.errors import BitgolfError
from bitgolf.cli.options import Json
from bitgolf.inputs.writable import refuse_folder
from bitgolf.net.backend import choose_backend
from bitgolf.report import screen
from bitgolf.study.cited import cited_in
from bitgolf.study.design import Study
from bitgolf.study.executors import Executor, in_processes, in_this_process, on_ray, on_slurm
from bitgolf.study.findings import already_tested, measured, tried_in_public
from bitgolf.study.formatting import margin_in_words
from bitgolf.study.live import Board, follow
from bitgolf.study.power import change_rows, disturbances, plan_facts
from bitgolf.study.receipt import is_study
from bitgolf.study.report import write_report
from bitgolf.study.runner import Prepared, find_study, prepare, run_study
from bitgolf.study.search import parse_space, search

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
        bool, typer.Option("--plan", help="Print what would be run and could be found; run nothing.")
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
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of each run, on a cluster or here.")] = 0,
    space: Annotated[
        list[str] | None,
        typer.Option("--search", metavar="PATH=RANGE", help="Search first, e.g. model.layers=3..6."),
    ] = None,
    search_seconds: Annotated[float, typer.Option(min=0.0, help="Time budget of the search.")] = 600.0,
    retry: Annotated[bool, typer.Option("--retry", help="Start failed runs again.")] = False,
    store: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder of all studies and their runs; that of FILE if it is in one, else runs/studies.",
        ),
    ] = None,
    data: Annotated[str | None, typer.Option("--data", help="Another text than the study's.")] = None,
    as_json: Json = False,
) -> None:
    """Change one thing at a time, over several seeds, with intervals and verdicts.

    If killed, the same command continues: finished runs are kept, unfinished ones resume. Writes study.html,
    study.md and study.json. Exit code 1 if a run failed.

    Example: bitgolf study studies/pr682.py --processes 2
    """
    chosen = find_study(file)
    out = store or store_of(file)
    if not plan:
        refuse_folder(out / chosen.name)
    if data is not None:
        chosen = chosen.replace(data=data)
    if report:
        _finish(out / chosen.name, chosen.reading, as_json)
        return
    if plan and space:
        raise BitgolfError(
            "what a search finds is not known before it ran",
            where="--plan --search",
            way_out="leave one of them out",
        )
    executor = in_this_process if plan else _executor(chosen, processes, ray, slurm or [], gpus, out)
    if space:
        chosen = _searched(chosen, space, out, search_seconds, as_json)
    device = "cuda" if gpus and (ray or slurm) else ""
    prepared = screen.follow(prepare(chosen, out, device, only_planned=plan))
    facts = _show_plan(prepared, processes, as_json)
    if plan:
        screen.close(facts, as_json=as_json)
        return
    _run(prepared, executor, facts["seconds_to_do"], retry)
    _finish(prepared.folder, chosen.reading, as_json)


def store_of(file: str) -> Path:
    """Where a study goes on: beside its runs if its folder is named, else in the folder of all studies."""
    if not is_study(file):
        return STORE
    path = Path(file) if Path(file).name.strip(".") else Path(file).resolve()
    return path.parent


def _executor(
    study: Study, processes: int, ray: str | None, slurm: list[str], gpus: int, out: Path
) -> Executor:
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


def _searched(study: Study, space: list[str], out: Path, seconds: float, as_json: bool) -> Study:
    result = screen.follow(search(study, parse_space(study.baseline, space), out, seconds))
    rows = [(", ".join(trial.overrides), trial.value, trial.error) for trial in result.trials]
    screen.table(
        f"{len(rows)} trials on a seed of their own", ("settings", study.metric, ""), rows, as_json=as_json
    )
    return result.claim


def _show_plan(prepared: Prepared, processes: int, as_json: bool) -> dict[str, Any]:
    study = prepared.study
    title = f"{study.name}: {study.question}"
    screen.grouped_table(CHANGE_COLUMNS, [(title, change_rows(study))], as_json=as_json)
    facts = plan_facts(prepared, processes)
    store = prepared.folder.parent
    facts["already_tested"] = already_tested(study, measured(store)[0]) if store.is_dir() else []
    facts["tried_in_public"] = tried_in_public(study, cited_in(store))
    facts["disturbed"] = disturbances(study, processes, choose_backend(study.baseline.backend).device.type)
    if not as_json:
        for name in ("already_tested", "tried_in_public", "disturbed"):
            for warning in facts[name]:
                print(f"{name.replace('_', ' ')}: {screen.escaped(warning)}")
    return facts


def _run(prepared: Prepared, executor: Executor, seconds: float, retry: bool) -> None:
    board = Board(prepared, seconds)
    context, look = follow(board)
    try:
        with context:
            run_study(prepared, executor, look, retry=retry)
    except KeyboardInterrupt as stop:
        stop.add_note("nothing is lost, the same command goes on from here")
        raise


def _finish(folder: Path, reading: str, as_json: bool) -> None:
    report = write_report(folder, reading)
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
        for row in report["comparisons"]
    ]
    margin = margin_in_words(report, "margin")
    counts = f"; a difference counts beyond the margin of {margin}" if margin else ""
    title = f"{report['study']}: {report['metric']}, lower is better, 95% intervals, p corrected{counts}"
    screen.grouped_table(COMPARISON_COLUMNS, [(title, rows)], as_json=as_json)
    failed = [
        (arm["name"], run["seed"], run["error"] or run["status"])
        for arm in report["arms"]
        for run in arm["runs"]
        if run["state"] == "failed"
    ]
    if failed:
        screen.table(
            "Failed runs; --retry begins them again", ("arm", "seed", "error"), failed, as_json=as_json
        )
    facts = {
        "study": report["study"],
        "status": report["status"],
        "failed_runs": len(failed),
        "noise": report["noise"]["deviation"],
        **({"margin": margin} if margin else {}),
        "report": str(folder / "study.html"),
    }
    screen.close(report if as_json else facts, as_json=as_json)
    if failed:
        raise typer.Exit(1)


def _signed(value: float | None) -> str:
    if value is None:
        return "-"
    text = f"{value:+.4f}" if abs(value) < 1000 else f"{value:+,.0f}"
    return text if float(text.replace(",", "")) else "0.0000"
