"""A private Dovecot out of an unpacked package: it checks passwords for others, takes mail over LMTP, or submits it.

What lives here: their configurations, and running them. What does not: any test.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .postfix import DOMAIN, HOST, PASSWORD, USER, accepts, free_ports
from .unpacked import SERVERS, Unpacked, unpacked_missing

#: The local part whose mailbox has no room for any message.
FULL = "full"

_CONFIGURATION = """
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/log
default_internal_user = nobody
default_internal_group = nogroup
default_login_user = nobody
passdb {{
  driver = passwd-file
  args = scheme=plain username_format=%n {folder}/users
}}
service anvil {{
  chroot =
  # Nobody has to wait for having been wrong before.
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
"""
_PASSWORDS = """
protocols =
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain login cram-md5 scram-sha-1 scram-sha-256
auth_failure_delay = 0
auth_verbose = yes
service auth {{
  chroot =
  unix_listener auth-client {{
    mode = 0666
  }}
}}
"""
#: What both that know mailboxes share.
_MAILBOXES = """
ssl = yes
ssl_cert = <{folder}/chain.pem
ssl_key = <{folder}/chain.pem
hostname = mx.{domain}
first_valid_uid = 1
mail_location = maildir:{folder}/maildirs/%n
userdb {{
  driver = passwd-file
  args = username_format=%n {folder}/users
  default_fields = uid=nobody gid=nogroup home={folder}/homes/%n
}}
service auth {{
  chroot =
}}
service stats {{
  chroot =
}}
"""
_LMTP = """
protocols = lmtp
# Who may say XCLIENT.
login_trusted_networks = {host}
postmaster_address = postmaster@{domain}
mail_plugins = quota
plugin {{
  quota = maildir:User quota
}}
service lmtp {{
  chroot =
  user = nobody
  inet_listener lmtp {{
    address = {host}
    port = {port}
  }}
  unix_listener lmtp {{
    mode = 0666
  }}
}}
"""
_SUBMISSION = """
protocols = submission
auth_mechanisms = plain login cram-md5 scram-sha-1 scram-sha-256
auth_failure_delay = 0
submission_relay_host = {host}
submission_relay_port = {backend}
service submission {{
  chroot =
}}
service submission-login {{
  chroot =
  inet_listener submission {{
    address = {host}
    port = {port}
  }}
}}
"""


def submission_missing() -> str | None:
    """What is missing for :class:`DovecotSubmission`, or ``None``."""
    missing = unpacked_missing("dovecot")
    if missing is None and not (SERVERS / "dovecot" / "usr" / "lib" / "dovecot" / "submission-login").exists():
        return "dovecot-submissiond is missing: run tests/interop/unpack-servers"
    return missing


class _Dovecot(Unpacked):
    """A Dovecot of whatever kind."""

    def __init__(self) -> None:
        prepare = 'mkdir -m 777 "$2/maildirs" "$2/homes"'
        super().__init__("dovecot", prepare=prepare, logs="log", started=r"Dovecot v(\S+)")

    def _command(self, configuration: Path) -> Sequence[str]:
        return ["dovecot", "-F", "-c", str(configuration)]

    def _configure(self, configuration: str, users: str, **values: object) -> None:
        (self.folder / "users").write_text(users, "utf-8")
        text = (_CONFIGURATION + configuration).format(folder=self.folder, **values)
        (self.folder / "configuration").write_text(text)


class Dovecot(_Dovecot):
    """Answers SASL questions at the socket ``socket`` while inside ``with``."""

    def __init__(self) -> None:
        super().__init__()
        self.socket = self.folder / "run" / "auth-client"
        self._configure(_PASSWORDS, f"{USER}:{{PLAIN}}{PASSWORD}\n")

    def _ready(self) -> bool:
        return self.socket.exists()


class DovecotLmtp(_Dovecot):
    """Delivers into the maildirs of ``mailboxes``, at whatever domain, and refuses all others; so :data:`FULL` is.

    It listens on ``port`` and at the socket ``socket``, both with STARTTLS, and takes XCLIENT from this machine.
    """

    def __init__(self, chain: bytes, *, mailboxes: Sequence[str]) -> None:
        super().__init__()
        self.socket = self.folder / "run" / "lmtp"
        (self.port,) = free_ports(1)
        (self.folder / "chain.pem").write_bytes(chain)
        users = "".join(f"{name}:{{PLAIN}}{PASSWORD}::::::\n" for name in mailboxes)
        users += f"{FULL}:{{PLAIN}}{PASSWORD}::::::userdb_quota_rule=*:bytes=1B\n"
        self._configure(_MAILBOXES + _LMTP, users, domain=DOMAIN, host=HOST, port=self.port)

    def _ready(self) -> bool:
        return self.socket.exists() and accepts(self.port)


class DovecotSubmission(_Dovecot):
    """Takes mail with STARTTLS and AUTH on ``port`` and passes it on to the SMTP server on the port ``backend``."""

    def __init__(self, chain: bytes, *, backend: int) -> None:
        super().__init__()
        (self.port,) = free_ports(1)
        (self.folder / "chain.pem").write_bytes(chain)
        users = f"{USER}:{{PLAIN}}{PASSWORD}::::::\n"
        values = {"domain": DOMAIN, "host": HOST, "port": self.port, "backend": backend}
        self._configure(_MAILBOXES + _SUBMISSION, users, **values)

    def _ready(self) -> bool:
        return accepts(self.port)
