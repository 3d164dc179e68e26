"""A sandbox for foreign code: no network, nothing to write to but a little memory, an end in any case."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from bitgolf.base.errors import BitgolfError

ENTER = Path(__file__).with_name("enter.py")
BUBBLEWRAP, UNSHARE = "bwrap", "unshare"
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "TMPDIR": "/tmp", "USER": "nobody"}
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # threads count as processes
LOOK_SECONDS = 0.1  # between two looks at its memory
SAID_BYTES = 4000


class Limits(NamedTuple):
    """What foreign code may use, all its processes together; memory_bytes holds for each of them too."""

    seconds: int = 120
    memory_bytes: int = 4 * 10**9
    disk_bytes: int = 256 * 10**6
    processes: int = 64
    output_bytes: int = 2**20


class Ended(NamedTuple):
    """code: of the command, negative for a signal. stopped: the limit that ended it, '' for none.

    output: what it wrote to stdout, never more than the limit. said: the end of its stderr.
    """

    code: int
    stopped: str
    output: bytes
    stderr: str


def way(names: tuple[str, ...] = (BUBBLEWRAP, UNSHARE)) -> str:
    """The first of the programs that makes a sandbox here. Raises BitgolfError where none does."""
    for name in names:
        if shutil.which(name):
            with suppress(OSError):
                if run([sys.executable, "-I", "-S", "-c", "print(7)"], [], Limits(20), name).output == b"7\n":
                    return name
    raise BitgolfError(
        "REFUSED: foreign code runs in a sandbox alone, and none can be made here",
        where="--run",
        value=f"neither of {', '.join(names)} works",
        way_out="install bubblewrap, allow user namespaces, or leave --run out",
    )


def python_folders() -> list[tuple[str, str]]:
    """The folders that this Python is read from, each at its own place."""
    folders = {sys.prefix, sys.base_prefix, sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    return [(each, each) for each in sorted(folders) if not each.startswith(("/usr/", "/lib"))]


def run(command: list[str], lent: list[tuple[str, str]], limits: Limits, name: str) -> Ended:
    """Run a command in a sandbox and end it with all that it has started.

    lent: paths of outside that are read there, each with its place inside, beside the system's programs and
    this Python.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        root.mkdir()
        lent = [*python_folders(), *lent]
        plan = {
            "root": str(root) if name == UNSHARE else "",
            "lent": lent,
            "drop_user": os.getuid() == 0,
            "environment": ENVIRONMENT | dict.fromkeys(ONE_THREAD, "1"),
            **limits._asdict(),
        }
        start = _unshare() if name == UNSHARE else _bubblewrap(lent, limits)
        enter = str(ENTER) if name == UNSHARE else "/enter.py"
        whole = [*start, sys.executable, "-I", "-S", enter, json.dumps(plan), *command]
        process = subprocess.Popen(
            whole,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": os.environ.get("PATH", "/usr/bin:/bin")},
            start_new_session=True,
        )
        try:
            stopped, output, errors = _watched(process, limits)
        finally:
            _end(process)
        return Ended(process.returncode, stopped, output, errors.decode(errors="replace"))


def _unshare() -> list[str]:
    """Namespaces of its own; one of users where we are not root, who needs none."""
    user = [] if os.getuid() == 0 else ["--user", "--map-root-user"]
    spaces = ["--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child"]
    return [UNSHARE, *user, *spaces, "--propagation", "private", "--"]


def _bubblewrap(lent: list[tuple[str, str]], limits: Limits) -> list[str]:
    command = [BUBBLEWRAP, "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    command += ["--die-with-parent", "--new-session", "--clearenv"]
    if os.getuid() == 0:  # to become nobody
        for right in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):
            command += ["--cap-add", right]
    else:
        command.append("--unshare-user")
    for name in ("usr", "bin", "sbin", "lib", "lib32", "lib64"):
        path = Path("/", name)
        if path.is_symlink():
            command += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            command += ["--ro-bind", str(path), str(path)]
    for source, target in [*lent, (str(ENTER), "/enter.py")]:
        for parent in reversed(Path(target).parents[:-1]):  # nobody may look into those that it makes
            command += ["--perms", "0755", "--dir", str(parent)]
        command += ["--ro-bind", source, target]
    command += ["--dev", "/dev", "--proc", "/proc", "--perms", "1777", "--size", str(limits.disk_bytes)]
    return [*command, "--tmpfs", "/tmp", "--remount-ro", "/dev", "--remount-ro", "/", "--"]


def _watched(process: "subprocess.Popen[bytes]", limits: Limits) -> tuple[str, bytes, bytes]:
    """Read what it writes until it ends or a limit is met: the limit, stdout, the end of stderr."""
    assert process.stdout and process.stderr
    output, errors = bytearray(), bytearray()
    pipes = {process.stdout.fileno(): output, process.stderr.fileno(): errors}
    started = looked = time.monotonic()
    while pipes:
        now = time.monotonic()
        if now - started > limits.seconds:
            return f"{limits.seconds} seconds", bytes(output), bytes(errors)
        if now - looked > LOOK_SECONDS:
            looked = now
            if _memory_of(process.pid) > limits.memory_bytes:
                return f"{limits.memory_bytes:,} bytes of memory", bytes(output), bytes(errors)
        for pipe in select.select([*pipes], [], [], LOOK_SECONDS)[0]:
            piece = os.read(pipe, 2**16)
            pipes[pipe] += piece
            if not piece:
                del pipes[pipe]
        del errors[:-SAID_BYTES]
        if len(output) > limits.output_bytes:
            return (
                f"{limits.output_bytes:,} bytes of output",
                bytes(output[: limits.output_bytes]),
                bytes(errors),
            )
    with suppress(subprocess.TimeoutExpired):
        process.wait(max(0.1, limits.seconds - (time.monotonic() - started)))
        return "", bytes(output), bytes(errors)
    return f"{limits.seconds} seconds", bytes(output), bytes(errors)


def _memory_of(process: int) -> int:
    """Bytes in memory of a process and of all that it has started."""
    total, waiting = 0, [process]
    while waiting:
        here = Path("/proc", str(waiting.pop()))
        with suppress(OSError, ValueError, IndexError):
            total += int((here / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            for task in (here / "task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
    return total


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Kill the first process of the sandbox, and with it everything in there."""
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe:
            pipe.close()
