"""Running a server whose packages are unpacked into a folder and not installed, as if they were.

What lives here: the process with its own view of the file system and of processes. It sees the unpacked /usr over the
real one, users of its own, and empty /run, /var/lib and /var/spool; nobody else sees any of that, and what it starts
ends with it. What does not: any server's configuration, and the unpacking (`unpack-servers`).
"""

from __future__ import annotations

import abc
import functools
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .postfix import PATIENCE, Running, program, remove_folder, wait_until

SERVERS = Path(__file__).resolve().parents[2] / "build" / "servers"
#: Users of packages have low numbers; these are in nobody's way.
FIRST_USER = 64_800

_VIEW = """
set -e
mount -t overlay overlay -o "ro,lowerdir=$1:/usr" /usr
mount --bind "$2/passwd" /etc/passwd
mount --bind "$2/group" /etc/group
for folder in /run /var/lib /var/spool; do mount -t tmpfs -o mode=755 tmpfs "$folder"; done
"""


def unpacked_missing(name: str) -> str | None:
    """What is missing to run the server ``name``, or ``None``."""
    if not (SERVERS / name).is_dir():
        return f"{name} is missing: run tests/interop/unpack-servers"
    if os.geteuid() != 0:
        return f"{name} needs root for a view of the file system of its own"
    return _view_missing()


@functools.cache
def _view_missing() -> str | None:
    if program("unshare") is None:
        return "unshare is missing"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "usr").mkdir()
        for name in ("passwd", "group"):
            (Path(folder) / name).write_bytes(Path("/etc", name).read_bytes())
        tried = _in_view("true", Path(folder) / "usr", Path(folder), ["true"], stderr=subprocess.PIPE)
        words = tried.communicate()[1].decode("utf-8", "replace").strip()
    return f"this system allows no view of the file system of one's own: {words}" if tried.returncode else None


def _in_view(
    prepare: str, usr: Path, folder: Path, command: Sequence[str], stdout: int | None = None, stderr: int | None = None
) -> subprocess.Popen[bytes]:
    unshare = program("unshare")
    assert unshare is not None
    # The shell stays and is the first process in the view: it inherits what the server leaves behind.
    script = f'{_VIEW}{prepare}\nshift 2\n"$@"\nexit $?\n'
    return subprocess.Popen(
        [
            unshare,
            "--mount",
            "--pid",
            "--fork",
            "--mount-proc",
            "--kill-child",
            "sh",
            "-c",
            script,
            "sh",
            str(usr),
            str(folder),
            *command,
        ],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
    )


class Unpacked(Running):
    """The server ``name`` in the foreground while inside ``with``, with all it keeps in ``folder``.

    ``users`` are created for its eyes only, each with a group of the same name. ``prepare`` is shell that runs in its
    view just before. Its configuration is the file ``configuration`` in the folder. ``logs`` is the file there that it
    logs to, and ``started`` how it says there which version it is.
    """

    def __init__(
        self, name: str, *, users: Sequence[str] = (), prepare: str = "", logs: str = "output", started: str
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"smtpcore-{name}-"))
        self.folder.chmod(0o755)
        self._name = name
        self._users = users
        self._prepare = prepare
        self._logs = self.folder / logs
        self._started = started
        self._process: subprocess.Popen[bytes] | None = None

    @abc.abstractmethod
    def _command(self, configuration: Path) -> Sequence[str]:
        """What runs it in the foreground."""

    @abc.abstractmethod
    def _ready(self) -> bool:
        """Whether it serves."""

    @property
    def version(self) -> str:
        """Its version, once it has logged it."""
        started = re.search(self._started, self.log)
        return started[1] if started else "?"

    @property
    def maildirs(self) -> Path:
        """Where it delivers to, if it does."""
        return self.folder / "maildirs"

    @property
    def log(self) -> str:
        """Its log so far."""
        return self._logs.read_text("utf-8", "backslashreplace") if self._logs.exists() else ""

    def start(self) -> None:
        users = [(name, number) for number, name in enumerate(self._users, FIRST_USER)]
        passwd = "".join(f"{name}:x:{number}:{number}::/:/usr/sbin/nologin\n" for name, number in users)
        group = "".join(f"{name}:x:{number}:\n" for name, number in users)
        for file, more in (("passwd", passwd), ("group", group)):
            (self.folder / file).write_text(Path("/etc", file).read_text() + more)
        with (self.folder / "output").open("wb") as output:
            self._process = _in_view(
                self._prepare,
                SERVERS / self._name / "usr",
                self.folder,
                self._command(self.folder / "configuration"),
                stdout=output.fileno(),
                stderr=output.fileno(),
            )
        wait_until(self._serves, f"{self._name} to serve")

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            process = self._process.pid
            for first in Path(f"/proc/{process}/task/{process}/children").read_text().split():
                # The system ends all others in the view before this one is gone.
                os.kill(int(first), signal.SIGKILL)
            self._process.wait(PATIENCE)
        remove_folder(self.folder)

    def _serves(self) -> object:
        assert self._process is not None
        if self._process.poll() is not None:
            raise OSError(f"{self._name} ended with code {self._process.returncode}\n{self.log}")
        # Its version may stand in the log a moment after it listens.
        return self._ready() and self.version != "?"
