"""A private Dovecot out of an unpacked package: one checks passwords for other servers, one takes mail over LMTP.

What lives here: their configurations, and running them. What does not: any test.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .postfix import DOMAIN, HOST, PASSWORD, USER, accepts, free_ports
from .unpacked import Unpacked

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
_LMTP = """
protocols = lmtp
ssl = yes
ssl_cert = <{folder}/chain.pem
ssl_key = <{folder}/chain.pem
hostname = mx.{domain}
postmaster_address = postmaster@{domain}
# Who may say XCLIENT.
login_trusted_networks = {host}
first_valid_uid = 1
mail_location = maildir:{folder}/maildirs/%n
mail_plugins = quota
plugin {{
  quota = maildir:User quota
}}
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

    It listens on ``port`` and at the socket ``socket``, both with STARTTLS.
    """

    def __init__(self, chain: bytes, *, mailboxes: Sequence[str]) -> None:
        super().__init__()
        self.socket = self.folder / "run" / "lmtp"
        (self.port,) = free_ports(1)
        (self.folder / "chain.pem").write_bytes(chain)
        users = "".join(f"{name}:{{PLAIN}}{PASSWORD}::::::\n" for name in mailboxes)
        users += f"{FULL}:{{PLAIN}}{PASSWORD}::::::userdb_quota_rule=*:bytes=1B\n"
        self._configure(_LMTP, users, domain=DOMAIN, host=HOST, port=self.port)

    def _ready(self) -> bool:
        return self.socket.exists() and accepts(self.port)
