"""Real servers for tests and benchmarks: a private Postfix, and Postfix's `smtp-sink`.

What lives here: starting them on ports of their own on the loopback address, looking at what they did, ending them. No
system-wide instance is read, changed or stopped. What does not: any test, and any measuring.
"""

from __future__ import annotations

import abc
import contextlib
import functools
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple, Self

HOST = "127.0.0.1"
DOMAIN = "interop.example"
#: A domain beyond ASCII, and its A-labels (RFC 5890 §2.3.2.1).
UTF8_DOMAIN, A_LABELS = "bücher.example", "xn--bcher-kva.example"
#: Every domain that servers keep mail for where they keep it for more than one.
DOMAINS = (DOMAIN, UTF8_DOMAIN, A_LABELS)
#: The local part whose mail a server takes and then gives back.
BROKEN = "broken"
#: The one who may authenticate, wherever AUTH is offered.
USER, PASSWORD = "alice", "correct horse"
#: Administrators' programs are often outside the path of other users.
PROGRAMS = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
#: Below the ports that the system hands out for outgoing connections, so that none is taken between test and use.
PORTS = range(20_000, 32_000)
#: How long a server may take for what it does in a moment when it is well.
PATIENCE = 30.0

SERVICES = (
    "cleanup unix n - n - 0 cleanup",
    "qmgr unix n - n 300 1 qmgr",
    "rewrite unix - - n - - trivial-rewrite",
    "bounce unix - - n - 0 bounce",
    "defer unix - - n - 0 bounce",
    "trace unix - - n - 0 bounce",
    "tlsmgr unix - - n 1000? 1 tlsmgr",
    "anvil unix - - n - 1 anvil",
    "virtual unix - n n - - virtual",
    "smtp unix - - n - - smtp",
    "error unix - - n - - error",
    "retry unix - - n - - error",
    "scache unix - - n - 1 scache",
    "postlog unix-dgram n - n - 1 postlogd",
)


def program(name: str) -> str | None:
    """The path of a program, or ``None``."""
    return shutil.which(name, path=PROGRAMS)


def sink_missing() -> str | None:
    """What is missing for :class:`Sink`, or ``None``."""
    return None if program("smtp-sink") else "smtp-sink is missing (it comes with Postfix)"


def postfix_missing() -> str | None:
    """What is missing for :class:`Postfix`, or ``None``."""
    if program("postfix") is None:
        return "Postfix is missing"
    try:
        pwd.getpwnam("postfix")
    except KeyError:
        return "the user 'postfix' is missing"
    return None if os.geteuid() == 0 else "a private Postfix can only be started by root"


def wait_until(condition: Callable[[], object], what: str, *, seconds: float = PATIENCE, every: float = 0.002) -> None:
    """Return as soon as ``condition`` holds; raises ``TimeoutError`` that names ``what`` was waited for."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} seconds for {what}")
        time.sleep(every)


def remove_folder(folder: Path) -> None:
    """Remove a server's folder, into which its last processes may still be writing."""

    def removed() -> bool:
        shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()

    wait_until(removed, f"{folder} to be removable")


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address on which nobody listens."""
    first = os.getpid() * 16 % len(PORTS)
    free: list[int] = []
    for port in (*PORTS[first:], *PORTS[:first]):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((HOST, port))
                free.append(port)
        if len(free) == count:
            return free
    raise OSError("too few free ports on the loopback address")


def accepts(port: int) -> bool:
    """Whether somebody listens on ``port``."""
    with socket.socket() as probe:
        probe.settimeout(PATIENCE)
        return probe.connect_ex((HOST, port)) == 0


def _ended(process: int) -> bool:
    """Whether a process has ended; its parent may be in no hurry to take note of it."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in {"Z", "X"}
    except OSError:
        return True


def cpu_seconds(process: int) -> float:
    """Processor time of a process, of its children, and of those that have ended."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            parent, user, system, of_ended = int(fields[1]), int(fields[11]), int(fields[12]), fields[13:15]
            if stat.parent.name == str(process):
                ticks += user + system + sum(map(int, of_ended))
            elif parent == process:
                ticks += user + system
    return ticks / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def on_processor(number: int | None) -> Iterator[None]:
    """Processes begun inside run on one processor only; with ``None`` where the system likes."""
    if number is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {number})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Running(abc.ABC):
    """A server that runs while inside ``with``."""

    @abc.abstractmethod
    def start(self) -> None:
        """Start it, and wait until it serves."""

    @abc.abstractmethod
    def stop(self) -> None:
        """End it, however far it got, and remove what it left."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Counts(NamedTuple):
    """What a sink has counted."""

    sessions: int
    quits: int
    messages: int


class Sink(Running):
    """`smtp-sink`: takes every mail and throws it away.

    With ``counting`` it writes its counters after each message, and :meth:`counts` tells them; that costs it a system
    call per message.
    """

    def __init__(self, *, counting: bool = False, processor: int | None = None, options: Sequence[str] = ()) -> None:
        self.port = 0
        self._counting = counting
        self._processor = processor
        self._options = options
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed by stop()
        self._process: subprocess.Popen[bytes] | None = None
        self._before = Counts(0, 0, 0)

    def start(self) -> None:
        path = program("smtp-sink")
        assert path is not None, sink_missing()
        (self.port,) = free_ports(1)
        command = [path, *self._options]
        if self._counting:
            command.append("-c")
        if os.geteuid() == 0:
            command += ["-u", "nobody"]
        with on_processor(self._processor):
            self._process = subprocess.Popen([*command, f"{HOST}:{self.port}", "256"], stdout=self._output)
        wait_until(self._listening, "smtp-sink to listen")
        if self._counting:
            # Asking whether it listens was a session too.
            wait_until(lambda: self._read().sessions == 1, "smtp-sink to count")
            self._before = self._read()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(PATIENCE)
        self._output.close()

    def counts(self) -> Counts:
        """What came since the start."""
        return Counts(*(now - before for now, before in zip(self._read(), self._before, strict=True)))

    def _listening(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise OSError(f"smtp-sink ended with code {self._process.returncode}")
        return accepts(self.port)

    def _read(self) -> Counts:
        size = os.fstat(self._output.fileno()).st_size
        tail = os.pread(self._output.fileno(), 256, max(0, size - 256))
        lines = re.findall(rb"sess=(\d+) quit=(\d+) mesg=(\d+)\r", tail)
        return Counts(*map(int, lines[-1])) if lines else Counts(0, 0, 0)


class Postfix(Running):
    """A Postfix instance with configuration, queue and log in a folder of its own.

    ``settings`` are lines of main.cf beside those that make it private. ``mailboxes`` are local parts at each of
    ``domains`` that virtual(8) delivers into maildirs; every other local part is refused. ``listeners`` are the
    options of its SMTP servers, each on a port of its own: ``ports`` has them in the same order. ``services`` are the
    other lines of master.cf. With ``screened`` the first listener is postscreen(8), which lets clients through to
    smtpd(8) as it sees fit. ``within`` is where its folder is made.
    """

    def __init__(
        self,
        settings: Mapping[str, str],
        *,
        mailboxes: Sequence[str] = (),
        domains: Sequence[str] = (DOMAIN,),
        listeners: Sequence[Mapping[str, str]] = ({},),
        services: Sequence[str] = SERVICES,
        screened: bool = False,
        within: Path | None = None,
    ) -> None:
        # Its processes run as several users, and all of them must get through to the folder.
        self.folder = Path(tempfile.mkdtemp(prefix="smtpcore-postfix-", dir=within))
        self.folder.chmod(0o755)
        self._settings = settings
        self._mailboxes = mailboxes
        self._domains = domains
        self._listeners = listeners
        self._services = (*services, "smtpd pass - - n - - smtpd") if screened else services
        self._screened = screened
        self.ports: list[int] = []
        self._master = 0

    @property
    def port(self) -> int:
        """The port of the first listener."""
        return self.ports[0]

    def start(self) -> None:
        """Write the configuration, start the instance, wait until it serves."""
        for name in ("config", "queue", "data", "maildirs"):
            (self.folder / name).mkdir()
        shutil.chown(self.folder / "data", "postfix")
        shutil.chown(self.maildirs, "nobody")
        settings = {**self._private_settings(), **self._delivery_settings(), **self._settings}
        lines = [f"{name} = {value}\n" for name, value in settings.items()]
        (self.folder / "config" / "main.cf").write_text("".join(lines))
        self.ports = free_ports(len(self._listeners))
        self.write_services(self._services)
        self._command("start")
        self._master = int((self.folder / "queue" / "pid" / "master.pid").read_text())
        for port in self.ports:
            wait_until(functools.partial(accepts, port), f"Postfix to listen on port {port}")

    def _private_settings(self) -> dict[str, str]:
        return {
            "compatibility_level": "3.6",
            "queue_directory": str(self.folder / "queue"),
            "data_directory": str(self.folder / "data"),
            "maillog_file": str(self._log_file),
            "maillog_file_prefixes": str(self.folder),
            "myhostname": f"mx.{DOMAIN}",
            "mydestination": "",
            "alias_maps": "",
            "alias_database": "",
            "local_recipient_maps": "",
            "inet_interfaces": HOST,
            "inet_protocols": "ipv4",
            "mynetworks": f"{HOST}/32",
            "disable_dns_lookups": "yes",
            "smtpd_peername_lookup": "no",
            # Mail is passed on as it came: nothing is added to its header but the trace.
            "local_header_rewrite_clients": "",
        }

    def _delivery_settings(self) -> dict[str, str]:
        if not self._mailboxes:
            return {}
        nobody = pwd.getpwnam("nobody")
        maps = " ".join(f"{{ {name}@{domain} = {name}/ }}" for domain in self._domains for name in self._mailboxes)
        return {
            "virtual_mailbox_domains": " ".join(self._domains),
            "virtual_mailbox_base": str(self.maildirs),
            "virtual_mailbox_maps": f"inline:{{ {maps} }}",
            "virtual_uid_maps": f"static:{nobody.pw_uid}",
            "virtual_gid_maps": f"static:{nobody.pw_gid}",
        }

    def write_services(self, services: Sequence[str]) -> None:
        """Write master.cf: the listeners and ``services``."""
        listeners = []
        for number, (port, options) in enumerate(zip(self.ports, self._listeners, strict=True)):
            program = "1 postscreen" if self._screened and not number else "- smtpd"
            settings = [f"-o {{ {name} = {value} }}" for name, value in options.items()]
            listeners.append(" ".join([f"{HOST}:{port} inet n - n - {program}", *settings]))
        (self.folder / "config" / "master.cf").write_text("".join(f"{line}\n" for line in [*listeners, *services]))

    def reload(self) -> None:
        """Have the master read its configuration again, without the shell scripts in between."""
        os.kill(self._master, signal.SIGHUP)

    def stop(self) -> None:
        """End the instance and remove its folder."""
        if self._master:
            # The master ends the processes that it started.
            os.kill(self._master, signal.SIGTERM)
            wait_until(lambda: _ended(self._master), "Postfix to end")
            self._master = 0
        remove_folder(self.folder)

    @property
    def log(self) -> str:
        """Its log so far."""
        return self._log_file.read_text("utf-8", "backslashreplace") if self._log_file.exists() else ""

    def queued(self, queue: str) -> int:
        """How many mails are in a queue: ``incoming``, ``active``, ``deferred``, ..."""
        return sum(len(files) for _, _, files in os.walk(self.folder / "queue" / queue))

    def delivered(self, mailbox: str) -> list[bytes]:
        """The mails in a maildir, in no particular order."""
        return [path.read_bytes() for path in (self.maildirs / mailbox).glob("new/*")]

    def cpu_seconds(self) -> float:
        """Processor time of the master and all of its processes, those that have ended included."""
        return cpu_seconds(self._master)

    @property
    def maildirs(self) -> Path:
        return self.folder / "maildirs"

    @property
    def _log_file(self) -> Path:
        return self.folder / "maillog"

    def _command(self, name: str) -> None:
        path = program("postfix")
        assert path is not None, postfix_missing()
        done = subprocess.run(
            [path, "-c", str(self.folder / "config"), name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise OSError(f"postfix {name}: code {done.returncode}\n{done.stdout}\n{self.log}")
