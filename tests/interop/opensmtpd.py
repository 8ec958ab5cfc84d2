"""A private OpenSMTPD, out of an unpacked package.

What lives here: its configuration, and running it. What does not: any test.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from .postfix import BROKEN, DOMAIN, DOMAINS, HOST, PASSWORD, USER, accepts, free_ports, remove_folder
from .unpacked import SERVERS, Unpacked

_CONFIGURATION = """
pki interop cert "{folder}/chain.pem"
pki interop key "{folder}/key.pem"
table credentials {{ {user} = "{hashed}" }}
table mailboxes {{ {mailboxes} }}
listen on {host} port {clear} hostname mx.{domain}
listen on {host} port {starttls} hostname mx.{domain} tls pki interop
listen on {host} port {auth} hostname mx.{domain} tls-require pki interop auth <credentials>
action "keep" maildir "{folder}/maildirs/%{{rcpt.user}}" virtual <mailboxes>
action "give back" mda "exit 70" virtual <mailboxes>
match from any for domain "{domain}" rcpt-to "{broken}@{domain}" action "give back"
match from any for domain {{ {domains} }} action "keep"
"""


class OpenSmtpd:
    """An OpenSMTPD that delivers into the maildirs of ``mailboxes`` at :data:`~.postfix.DOMAIN` and refuses all others.

    ``clear``, ``starttls`` and ``auth`` are its ports: in clear only; with STARTTLS; with STARTTLS and AUTH, both
    required.
    """

    def __init__(self, chain: bytes, key: bytes, *, mailboxes: Sequence[str]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="smtpcore-opensmtpd-"))
        self.folder.chmod(0o755)
        self.clear, self.starttls, self.auth = free_ports(3)
        (self.folder / "chain.pem").write_bytes(chain)
        (self.folder / "key.pem").write_bytes(key)
        # It takes no key that others may read.
        (self.folder / "key.pem").chmod(0o600)
        encrypt = SERVERS / "opensmtpd" / "usr" / "libexec" / "opensmtpd" / "encrypt"
        configuration = _CONFIGURATION.format(
            folder=self.folder,
            domain=DOMAIN,
            domains=", ".join(f'"{domain}"' for domain in DOMAINS if domain.isascii()),
            broken=BROKEN,
            host=HOST,
            clear=self.clear,
            starttls=self.starttls,
            auth=self.auth,
            user=USER,
            hashed=subprocess.run([encrypt, PASSWORD], capture_output=True, check=True, text=True).stdout.strip(),
            mailboxes=", ".join(
                f'"{name}@{domain}" = nobody' for domain in DOMAINS if domain.isascii() for name in (*mailboxes, BROKEN)
            ),
        )
        (self.folder / "configuration").write_text(configuration)
        self._process = Unpacked(
            "opensmtpd",
            ["smtpd", "-d", "-f", str(self.folder / "configuration")],
            self.folder,
            users=["opensmtpd", "opensmtpq"],
            prepare='mkdir -m 711 /var/spool/smtpd; mkdir -p /var/lib/opensmtpd/empty; mkdir -m 777 "$2/maildirs"',
            ready=lambda: all(accepts(port) for port in (self.clear, self.starttls, self.auth)),
        )

    @property
    def version(self) -> str:
        started = re.search(r"OpenSMTPD (\S+) starting", self.log)
        return started[1] if started else "?"

    @property
    def maildirs(self) -> Path:
        return self.folder / "maildirs"

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self._process.log

    def __enter__(self) -> Self:
        try:
            self._process.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.stop()
        remove_folder(self.folder)
