"""A private Dovecot that does nothing but check passwords, out of an unpacked package.

What lives here: its configuration, and running it. What does not: any test.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from .postfix import PASSWORD, USER, remove_folder
from .unpacked import Unpacked

_CONFIGURATION = """
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/log
default_internal_user = nobody
default_internal_group = nogroup
default_login_user = nobody
protocols =
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain login cram-md5 scram-sha-1 scram-sha-256
auth_failure_delay = 0
auth_verbose = yes
passdb {{
  driver = passwd-file
  args = scheme=plain {folder}/users
}}
service auth {{
  chroot =
  unix_listener auth-client {{
    mode = 0666
  }}
}}
service anvil {{
  chroot =
  # Nobody has to wait for having been wrong before.
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
"""


class Dovecot:
    """Answers SASL questions at the socket ``socket`` while inside ``with``."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="smtpcore-dovecot-"))
        self.folder.chmod(0o755)
        self.socket = self.folder / "run" / "auth-client"
        (self.folder / "users").write_text(f"{USER}:{{PLAIN}}{PASSWORD}\n")
        configuration = _CONFIGURATION.format(folder=self.folder)
        (self.folder / "configuration").write_text(configuration)
        self._process = Unpacked(
            "dovecot",
            ["dovecot", "-F", "-c", str(self.folder / "configuration")],
            self.folder,
            ready=self.socket.exists,
        )

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
