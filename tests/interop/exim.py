"""A private Exim, out of an unpacked package.

What lives here: its configuration, and running it. What does not: any test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from .postfix import BROKEN, DOMAIN, DOMAINS, HOST, PASSWORD, USER, accepts, free_ports
from .unpacked import SERVERS, Unpacked

#: Its user, whose number the package has compiled in by name.
OWNER = "Debian-exim"

_CONFIGURATION = """
spool_directory = {folder}/spool
log_file_path = {folder}/log/%slog
pid_file_path = {folder}/pid
primary_hostname = mx.{domain}
local_interfaces = {host}
daemon_smtp_ports = {ports}
domainlist local_domains = {domains}
host_lookup =
rfc1413_query_timeout = 0s
keep_environment =
never_users =
smtp_accept_max = 100
smtp_accept_queue_per_connection = 0
tls_advertise_hosts = ${{if eq{{$received_port}}{{{clear}}}{{}}{{*}}}}
tls_certificate = {folder}/chain.pem
auth_advertise_hosts = ${{if and{{{{def:tls_in_cipher}}{{eq{{$received_port}}{{{auth}}}}}}}{{*}}{{}}}}
acl_smtp_rcpt = check_rcpt
{settings}

begin acl
check_rcpt:
  deny condition = ${{if eq{{$received_port}}{{{auth}}}}}
       !authenticated = *
       message = authenticate first
  deny !domains = +local_domains
       message = relaying is not permitted
  deny !local_parts = {mailboxes} : {broken}
       message = no such user
  accept

begin routers
broken:
  driver = redirect
  local_parts = {broken}
  allow_fail
  data = :fail: it is broken

mailboxes:
  driver = accept
  local_parts = {mailboxes}
  transport = maildir

begin transports
maildir:
  driver = appendfile
  directory = {folder}/maildirs/$local_part_data
  maildir_format
  create_directory
  return_path_add
  user = {owner}

begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_condition = ${{if and{{{{eq{{$auth2}}{{{user}}}}}{{eq{{$auth3}}{{{password}}}}}}}}}
  server_set_id = $auth2

login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = <| Username: | Password:
  server_condition = ${{if and{{{{eq{{$auth1}}{{{user}}}}}{{eq{{$auth2}}{{{password}}}}}}}}}
  server_set_id = $auth1

cram_md5:
  driver = cram_md5
  public_name = CRAM-MD5
  server_secret = ${{if eq{{$auth1}}{{{user}}}{{{password}}}fail}}
  server_set_id = $auth1
"""
#: A mechanism that Dovecot checks.
_ASKING_DOVECOT = """
{name}:
  driver = dovecot
  public_name = {mechanism}
  server_socket = {socket}
  server_set_id = $auth1
"""


def exim_asks_dovecot() -> bool:
    """Whether the unpacked Exim can have Dovecot check passwords: Debian has one that cannot."""
    return b"dovecot" in (SERVERS / "exim" / "usr" / "sbin" / "exim4").read_bytes()


class Exim(Unpacked):
    """An Exim that delivers into the maildirs of ``mailboxes`` at :data:`~.postfix.DOMAINS` and refuses all others.

    Mail to :data:`~.postfix.BROKEN` it takes and gives back. ``clear``, ``starttls`` and ``auth`` are its ports: in
    clear only; with STARTTLS; with STARTTLS and AUTH, and without AUTH no mail. ``settings`` are more lines of its
    configuration. Where there is a socket of Dovecot's, Dovecot checks the ``mechanisms`` that Exim does not know.
    """

    def __init__(
        self,
        chain: bytes,
        *,
        mailboxes: Sequence[str],
        settings: Mapping[str, str] | None = None,
        dovecot: Path | None = None,
        mechanisms: Sequence[str] = ("SCRAM-SHA-1", "SCRAM-SHA-256"),
    ) -> None:
        super().__init__(
            "exim",
            users=[OWNER],
            prepare=f'cd "$2"; mkdir spool log maildirs; chown {OWNER} spool log maildirs chain.pem',
            logs="log/mainlog",
            started=r"exim ([\d.]+) daemon started",
        )
        self.clear, self.starttls, self.auth = free_ports(3)
        (self.folder / "chain.pem").write_bytes(chain)
        configuration = _CONFIGURATION.format(
            folder=self.folder,
            domain=DOMAIN,
            domains=" : ".join(DOMAINS),
            broken=BROKEN,
            host=HOST,
            ports=f"{self.clear} : {self.starttls} : {self.auth}",
            clear=self.clear,
            auth=self.auth,
            mailboxes=" : ".join(mailboxes),
            owner=OWNER,
            user=USER,
            password=PASSWORD,
            settings="".join(f"{name} = {value}\n" for name, value in (settings or {}).items()),
        )
        for mechanism in mechanisms if dovecot is not None else ():
            name = mechanism.lower().replace("-", "_")
            configuration += _ASKING_DOVECOT.format(name=name, mechanism=mechanism, socket=dovecot)
        (self.folder / "configuration").write_text(configuration)
        (self.folder / "configuration").chmod(0o644)

    def _command(self, configuration: Path) -> Sequence[str]:
        return ["exim4", "-C", str(configuration), "-bdf"]

    def _ready(self) -> bool:
        return all(accepts(port) for port in (self.clear, self.starttls, self.auth))
