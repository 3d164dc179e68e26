"""However a command ends: one line, its exit code, an empty stdout; on terminals, under signals, in use."""

import errno
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from bitgolf.base.errors import MOST_PROBLEMS, BitgolfError, PlanError
from bitgolf.base.files import read_json, write_json
from bitgolf.base.plan import to_json
from bitgolf.cli import faults, forecast
from bitgolf.cli import main as cli
from bitgolf.inputs.folder import held
from bitgolf.report import screen

EVIL = "\x1b[2J[bold]red[/bold]\u202e\udce9"

FAULTS = [
    (BitgolfError("odd", where="here"), 2, "error: here: odd"),
    (PlanError(["a: b"]), 2, "error: invalid settings: a: b"),
    (PermissionError(errno.EACCES, "Permission denied", "f"), 2, "error: f: Permission denied"),
    (OSError(errno.ENAMETOOLONG, "File name too long", "long"), 2, "error: long: File name too long"),
    (OSError(errno.ENOSPC, "No space left on device"), 2, "go on with --resume"),
    (UnicodeEncodeError("utf-8", "\udce9", 0, 1, "surrogates not allowed"), 2, "cannot be read or written"),
    (RecursionError("maximum recursion depth exceeded"), 2, "nested too deeply"),
    (MemoryError(), 2, "not enough memory"),
    (torch.OutOfMemoryError("CUDA out of memory"), 2, "not enough memory"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 2, "not enough memory"),
    (RuntimeError("[pair.cc:553] Connection closed by peer [::1]:1"), 2, "another process of this run has"),
    (KeyError("step"), 3, "a fault of bitgolf, not of yours: KeyError: 'step'"),
    (ValueError("two\nlines"), 3, "ValueError: two lines"),
    (AssertionError(), 3, "AssertionError"),
    (KeyboardInterrupt(), 130, "stopped"),
    (faults.Stopped(signal.SIGTERM), 143, "stopped"),
    (ExceptionGroup("many", [ValueError(1)]), 3, "ExceptionGroup"),
    (BitgolfError(EVIL), 2, r"\x1b[2J[bold]red[/bold]\u202e\udce9"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "code", "words"), FAULTS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("through_verb", [True, False])
def test_whatever_is_raised_becomes_one_line_and_a_code(
    monkeypatch, capsys, tmp_path, error, code, words, through_verb
):
    def raises(*_, **__):
        print("said before the error")
        raise error

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(*((forecast, "changed_recipe") if through_verb else (cli, "app")), raises)
    monkeypatch.setattr(sys, "argv", ["bitgolf", "forecast", "demo"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    assert end.value.code == code
    assert out == ""
    assert err.count("\n") == 1 and words in err
    traces = list(tmp_path.glob("bitgolf-*.txt"))
    assert len(traces) == (code == 3)
    if traces:
        assert str(traces[0]) in err and "Traceback" in traces[0].read_text()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("show demoo --json", 2, "no such recipe; did you mean 'demo'"),
        ("runn --json", 2, "no such command: runn"),
        ("show demo --bad --json", 2, "No such option: --bad"),
        ("prove --json", 2, "Missing argument"),
        ("forecast demo --json", 3, "a fault of bitgolf, not of yours: KeyError"),
    ],
)
def test_with_json_an_error_is_one_object_too(monkeypatch, capsys, tmp_path, words, code, said):
    def broken(*_, **__):
        print("said before the error")
        raise KeyError("planted")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(forecast, "changed_recipe", broken)
    monkeypatch.setattr(sys, "argv", ["bitgolf", *words.split()])
    with pytest.raises(SystemExit):
        cli.main()
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["status"], found["exit_code"]) == ("error", code)
    assert said in found["error"] and said in err


def test_what_was_shown_while_a_verb_goes_on_stays_and_is_the_one_object(monkeypatch, capsys):
    def goes_on():
        print('{"status": "listening"}')
        faults.show_now()
        assert capsys.readouterr().out == '{"status": "listening"}\n'  # at once
        print("said after it")
        raise BitgolfError("odd")

    assert faults.ended(goes_on, as_json=True) == 2
    assert capsys.readouterr().out == ""


def test_json_of_another_programs_words_is_its_own(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bitgolf", "probe", "--positions", "0", "--", "program", "--json"])
    with pytest.raises(SystemExit):
        cli.main()
    assert capsys.readouterr().out == ""


def test_a_pipe_that_nobody_reads_any_more_is_left_in_silence():
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-m", "bitgolf", "show", "demo"]
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_the_trace_is_shown_where_asked_for(monkeypatch, capsys):
    monkeypatch.setenv(faults.SHOW_TRACE, "1")

    def broken():
        raise KeyError("planted")

    assert faults.ended(broken) == 3
    err = capsys.readouterr().err
    assert "Traceback" in err and "in broken" in err


def test_text_for_a_screen_moves_and_turns_nothing():
    assert screen.escaped(EVIL) == r"\x1b[2J[bold]red[/bold]\u202e\udce9"
    assert screen.escaped("plain é 漢字 ▁\u200d") == "plain é 漢字 ▁\u200d"
    assert screen.escaped("a\nb\t\r", keep="\n\t") == "a\nb\t\\r".replace("\\r", "\\x0d")


@pytest.mark.parametrize(
    "show",
    [
        lambda: screen.table(EVIL, (EVIL,), [(EVIL,)], as_json=False),
        lambda: screen.grouped_table((screen.Column("a"),), [(EVIL, [(EVIL,)])], as_json=False),
        lambda: screen.card(EVIL, {"a": EVIL}, as_json=False),
        lambda: screen.close({"a": EVIL}, as_json=False),
    ],
)
def test_markup_and_controls_of_others_are_shown_not_obeyed(show, capsys):
    show()
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\u202e" not in out and "[bold]red[/bold]" in out.replace("\n", "")


def on_a_terminal(words, env) -> tuple[int, str]:
    """Exit code and all that a terminal is sent."""
    leader, follower = pty.openpty()
    with subprocess.Popen(words, stdin=follower, stdout=follower, stderr=follower, env=env) as child:
        os.close(follower)
        said = b""
        while True:
            try:
                part = os.read(leader, 65536)
            except OSError:  # the other side is closed
                break
            if not part:
                break
            said += part
    os.close(leader)
    return child.wait(), said.decode(errors="replace")


@pytest.fixture
def command(recipe, dataset, tmp_path):
    """The words of a run in a process of its own."""
    write_json(tmp_path / "tiny.json", to_json(recipe))
    return [sys.executable, "-m", "bitgolf", "run", tmp_path / "tiny.json", "--data", dataset.folder]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm", **more}


def test_numbers_that_are_none_do_not_stop_a_terminal(command, tmp_path):
    wild = [each for i in range(3) for each in ("--set", f"optim.rows.{i}.rule.lr=9e18")]
    code, said = on_a_terminal([*command, "--out", tmp_path / "r", *wild], environment())
    assert code == 1, said
    assert "Traceback" not in said and "diverged" in said and "next:" not in said
    assert read_json(tmp_path / "r" / "result.json")["status"] == "diverged"
    assert (tmp_path / "r" / "report.html").is_file()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_says_how_to_go_on_and_does(command, tmp_path, number, code):
    folder = tmp_path / "r"
    long = [*command, "--out", folder, "--set", "train.steps=100000", "--set", "train.checkpoint_seconds=0"]
    with subprocess.Popen(
        long, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), text=True
    ) as child:
        deadline = time.monotonic() + 60
        while not (folder / "checkpoint" / "state.safetensors").is_file() and time.monotonic() < deadline:
            time.sleep(0.02)
        child.send_signal(number)
        out, err = child.communicate(timeout=60)
    assert child.returncode == code
    assert out == "" and "Traceback" not in err
    assert err.splitlines()[-1].startswith("stopped; go on with --resume: bitgolf run ")
    assert (folder / "checkpoint" / "state.safetensors").is_file() and not (folder / "result.json").exists()


def test_a_run_folder_belongs_to_one_process(command, tmp_path):
    (tmp_path / "r").mkdir()
    with FileLock(tmp_path / "r" / ".lock"):
        done = subprocess.run(
            [*command, "--out", tmp_path / "r"], capture_output=True, text=True, env=environment()
        )
    assert done.returncode == 2 and "another process is writing to this folder" in done.stderr
    assert done.stdout == "" and done.stderr.count("\n") == 1


def test_a_folder_that_was_made_for_nothing_is_gone(tmp_path):
    with pytest.raises(KeyError), held(tmp_path / "a" / "b"):
        raise KeyError
    assert not (tmp_path / "a").exists()
    with held(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "file").touch()
    assert (tmp_path / "a" / "b" / "file").is_file()


@pytest.mark.parametrize("name", ["file", "file/x", "x" * 300, "nul\0"])
def test_a_path_that_can_be_no_folder_is_refused_at_once(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(BitgolfError, match="cannot be a run folder"), held(tmp_path / name):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_names_in_any_bytes_can_be_written_to(command, tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    done = subprocess.run([*command, "--out", folder, "--json"], capture_output=True, env=environment())
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == str(folder)
    assert (folder / "report.html").is_file()
    for options in (["--json"], []):
        words = [sys.executable, "-m", "bitgolf", "sample", folder, "--prompt", b"caf\xe9", "--tokens", "3"]
        done = subprocess.run([*words, *options], capture_output=True, env=environment())
        assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"caf\xe9")


USER_FILES = {
    "import sys\nsys.exit(0)": "line 2: SystemExit: 0",
    "def make():\n    raise SystemExit": "line 2: SystemExit",
    "def make(:": "line 1: SyntaxError",
    "x = 1\n\n1 / 0": "line 3: ZeroDivisionError",
    "def make():\n    return make()": "line 2: RecursionError",
    "import absent_module": "line 1: ModuleNotFoundError",
    "def other(): pass": "has no attribute 'make'",
    "print('noise')\nfrom bitgolf.recipe import Recipe\ndef make():\n    return Recipe(nme=1)": "line 4",
    "from bitgolf.train.loop import TrainPlan\ndef make():\n    return TrainPlan(steps=0)": "line 3: invalid",
    "def make():\n    raise BaseExceptionGroup('g', [KeyError()])": "line 2",
    "\0": "null bytes",
    "from bitgolf.train.qat import Noise\nclass Mine(Noise):\n    def misfits(self, names): return ['no']": (
        "Mine defines misfits, which nothing calls any more; call it validate_for"
    ),
}


@pytest.mark.parametrize("text", USER_FILES)
@pytest.mark.parametrize("verb", ["show", "study"])
def test_a_users_file_can_fail_in_any_way(monkeypatch, capsys, tmp_path, text, verb):
    (tmp_path / "mine.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bitgolf", verb, "mine.py:make"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    assert end.value.code == 2 and out == ""
    line = err.splitlines()[-1]
    assert line.startswith("error: mine.py:make: ") and USER_FILES[text] in line


def test_a_damaged_artifact_is_named(monkeypatch, capsys, tmp_path):
    Path(tmp_path / "odd.bin").write_bytes(b"hello")
    monkeypatch.setattr(sys, "argv", ["bitgolf", "score", str(tmp_path / "odd.bin")])
    with pytest.raises(SystemExit):
        cli.main()
    assert "odd.bin" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        "model.layers=1000000",
        "model.width=1000000000000",
        "model.mlp_multiplier=1e300",
        "train.steps=" + "9" * 30,
    ],
)
def test_an_absurd_size_is_refused_at_its_setting(monkeypatch, capsys, change):
    monkeypatch.setattr(sys, "argv", ["bitgolf", "forecast", "demo", "--set", change])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    assert end.value.code == 2 and out == "" and err.count("\n") == 1
    assert change.split("=")[0].split(".")[1] in err and re.search("must be at most|below 2", err)


def test_endless_problems_are_said_in_few_lines():
    problems = [f"settings.{i}: {'x' * 100_000} unknown" for i in range(20_000)]
    line, code = faults.in_one_line(PlanError(problems))
    assert code == 2 and line.count("\n") == MOST_PROBLEMS + 1 and len(line) < 200_000
    assert line.startswith("error: invalid settings:\n  settings.0: xxx") and line.endswith("and 19,980 more")
    line, _ = faults.in_one_line(BitgolfError("odd", where="w" * 50_000, way_out="mend it"))
    assert len(line) < 4000 and line.endswith("mend it")
