"""The door of the sandbox: its mounts, its limits, then the command. Needs nothing but Python's own library.

Started by `box.run` in namespaces of its own: `python enter.py PLAN COMMAND...`, PLAN is JSON.
"""

import ctypes
import json
import os
import resource
import socket
import struct
import sys
from fcntl import ioctl
from pathlib import Path

NOBODY = 65534
RECURSIVE, READ_ONLY, HERE = 0x8000, 1, -100
MOVE, BIND, WITH_ALL_BELOW, NO_SETUID = 8192, 4096, 16384, 2 | 4
SET_ATTRIBUTES = 442  # the number of mount_setattr, Linux 5.12 and later
DROP_BOUND, NO_NEW_PRIVILEGES = 24, 38
SET_FLAGS, UP_AND_RUNNING = 0x8914, 0x41
LIBC = ctypes.CDLL(None, use_errno=True)


def done(status: int, what: str) -> None:
    """Raise OSError for a call that failed."""
    if status != 0:
        raise OSError(ctypes.get_errno(), what)


def mount(source: str, target: Path, kind: str, flags: int, options: str = "") -> None:
    """The system's mount."""
    done(
        LIBC.mount(source.encode(), str(target).encode(), kind.encode(), flags, options.encode()),
        f"mount {target}",
    )


def bind(source: Path, target: Path, read_only: bool) -> None:
    """A folder or a file of outside, at a place inside."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.mkdir(exist_ok=True) if source.is_dir() else target.touch()
    mount(str(source), target, "", BIND | WITH_ALL_BELOW)
    if read_only:
        attributes = struct.pack("QQQQ", READ_ONLY, 0, 0, 0)
        done(
            LIBC.syscall(SET_ATTRIBUTES, HERE, str(target).encode(), RECURSIVE, attributes, len(attributes)),
            f"read-only {target}",
        )


def enter(plan: dict) -> None:
    """A root of its own: the system's programs and what is lent, read-only, and little memory to write to."""
    root = Path(plan["root"])
    mount("tmpfs", root, "tmpfs", NO_SETUID, f"size={plan['disk_bytes']},mode=755")
    for name in ("usr", "bin", "sbin", "lib", "lib32", "lib64"):
        if Path("/", name).is_symlink():
            (root / name).symlink_to(Path("/", name).readlink())
        elif Path("/", name).is_dir():
            bind(Path("/", name), root / name, True)
    for source, target in plan["lent"]:
        bind(Path(source), root / target.lstrip("/"), True)
    for name in ("null", "zero", "urandom", "random"):
        bind(Path("/dev", name), root / "dev" / name, False)
    for name in ("proc", "tmp", "dev/shm"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    (root / "dev/shm").symlink_to("/tmp") if not (root / "dev/shm").exists() else None
    mount("proc", root / "proc", "proc", NO_SETUID)
    os.chdir(root)
    done(LIBC.mount(b".", b"/", None, MOVE, None), "move the root")
    os.chroot(".")
    with socket.socket() as any_socket:  # processes of one script may talk to each other
        ioctl(any_socket, SET_FLAGS, struct.pack("16sh14x", b"lo", UP_AND_RUNNING))


def limit(plan: dict) -> None:
    """Limits that no child can lift, and no rights."""
    for kind, most in (
        (resource.RLIMIT_DATA, plan["memory_bytes"]),
        (resource.RLIMIT_FSIZE, plan["disk_bytes"]),
        (resource.RLIMIT_CPU, plan["seconds"] * 2),
        (resource.RLIMIT_NPROC, plan["processes"]),
        (resource.RLIMIT_NOFILE, 512),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (most, most))
    done(LIBC.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0), "no new privileges")
    for right in range(64):
        LIBC.prctl(DROP_BOUND, right, 0, 0, 0)
    if plan["drop_user"]:  # the real root: its number of processes is limited for nobody else
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)


def main() -> None:
    """The first process stays what it is: when it ends, everything in here ends."""
    plan, command = json.loads(sys.argv[1]), sys.argv[2:]
    if plan["root"]:
        enter(plan)
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) % 256)
    limit(plan)
    os.chdir("/tmp")
    os.execve(command[0], command, plan["environment"])


if __name__ == "__main__":
    main()
