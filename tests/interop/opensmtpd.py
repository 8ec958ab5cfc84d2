"""A private OpenSMTPD, out of an unpacked package.

What lives here: its configuration, and running it. What does not: any test.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from .postfix import BROKEN, DOMAIN, DOMAINS, HOST, PASSWORD, USER, accepts, free_ports
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


class OpenSmtpd(Unpacked):
    """An OpenSMTPD that delivers into the maildirs of ``mailboxes`` at :data:`~.postfix.DOMAIN` and refuses all others.

    ``clear``, ``starttls`` and ``auth`` are its ports: in clear only; with STARTTLS; with STARTTLS and AUTH, both
    required.
    """

    def __init__(self, chain: bytes, key: bytes, *, mailboxes: Sequence[str]) -> None:
        super().__init__(
            "opensmtpd",
            users=["opensmtpd", "opensmtpq"],
            prepare='mkdir -m 711 /var/spool/smtpd; mkdir -p /var/lib/opensmtpd/empty; mkdir -m 777 "$2/maildirs"',
            started=r"OpenSMTPD (\S+) starting",
        )
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

    def _command(self, configuration: Path) -> Sequence[str]:
        return ["smtpd", "-d", "-f", str(configuration)]

    def _ready(self) -> bool:
        return all(accepts(port) for port in (self.clear, self.starttls, self.auth))
