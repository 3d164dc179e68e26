"""Whatever foreign code does in the sandbox, nothing outside moves and it ends."""

import shutil
import sys
import textwrap
import time

import pytest

from bitgolf.audit.sandbox.box import BUBBLEWRAP, UNSHARE, Ended, Limits, run, way
from bitgolf.base.errors import BitgolfError

FEW = Limits(seconds=20, memory_bytes=500_000_000, disk_bytes=20_000_000, processes=16)


def works(name: str) -> bool:
    """Whether a program makes a sandbox here."""
    try:
        return way((name,)) == name
    except BitgolfError:
        return False


@pytest.fixture(params=[BUBBLEWRAP, UNSHARE], scope="module")
def name(request):
    """Each program that makes a sandbox here."""
    if not works(request.param):
        pytest.skip(f"{request.param} makes no sandbox here")
    return request.param


def ended(name: str, code: str, limits: Limits = FEW, lent=()) -> Ended:
    """How foreign code ends."""
    command = [sys.executable, "-I", "-S", "-c", textwrap.dedent(code)]
    return run(command, [*lent], limits, name)


def test_nothing_outside_is_reached_or_written(name, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "word")
    (tmp_path / "lent").mkdir()
    (tmp_path / "lent" / "given").write_text("given")
    (tmp_path / "other").write_text("hidden")
    found = ended(
        name,
        f"""
        import os, pathlib, socket
        print(open("/in/given").read(), os.environ.get("SECRET"))
        kernel = "/proc/sys/kernel/hostname"
        for path in ("/in/new", "/in/given", "/usr/new", "{tmp_path}/new", "/etc/new", kernel):
            try:
                open(path, "w")
                print("wrote", path)
            except OSError:
                pass
        hidden = [pathlib.Path(each).exists() for each in ("{tmp_path}/other", "/etc/passwd")]
        print(*hidden)
        try:
            socket.create_connection(("192.0.2.1", 80), 3)
        except OSError as error:
            print(error.strerror)
        here = socket.create_server(("127.0.0.1", 0))
        socket.create_connection(here.getsockname(), 3)
        print(*[line.split()[1] for line in open("/proc/self/status") if line[:6] in ("CapEff", "CapBnd")])
        """,
        lent=[(str(tmp_path / "lent"), "/in")],
    )
    assert found.output.decode().splitlines() == [
        "given None",
        "False False",
        "Network is unreachable",
        "0" * 16 + " " + "0" * 16,
    ], found.stderr
    assert (tmp_path / "lent" / "given").read_text() == "given"


FORKS = "import os\nwhile True:\n try: os.fork()\n except OSError: pass"
MANY_FILES = "for i in range(9): open(f'/tmp/{i}', 'wb').write(bytes(9_000_000))"
MANY_OF_MEMORY = "import os, time\nfor i in range(9): os.fork() or (b'1' * 10**8, time.sleep(9))\nos.wait()"
ENDS = [  # what it does, the limit that ends it, what it says
    ("open('/tmp/a', 'wb').write(bytes(40_000_000))", "", "File too large"),
    (MANY_FILES, "", "No space left"),
    ("bytearray(10**9)", "", "MemoryError"),
    (MANY_OF_MEMORY, "500,000,000 bytes of memory", ""),
    ("import os\nwhile True: os.write(1, bytes(9999))", "1,048,576 bytes of output", ""),
    ("import os\nwhile True: os.write(2, b'said')", "1 seconds", "said"),
    ("while True: pass", "1 seconds", ""),
    (FORKS, "1 seconds", ""),
    ("import os, time\nos.setsid()\nos.fork() or os.fork() or time.sleep(77)\nprint(1)", "", ""),
]


@pytest.mark.parametrize(("code", "stopped", "said"), ENDS)
def test_it_ends_whatever_it_does(name, code, stopped, said):
    started = time.monotonic()
    found = ended(name, code, FEW._replace(seconds=1) if "seconds" in stopped else FEW)
    assert found.stopped == stopped
    assert said in found.stderr
    assert len(found.output) <= FEW.output_bytes
    assert time.monotonic() - started < 15


def test_without_a_sandbox_nothing_is_run(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(BitgolfError, match="REFUSED: foreign code runs in a sandbox alone"):
        way()
