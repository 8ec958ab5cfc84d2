"""How a session is to be held, out of settings: TLS and its files, credentials and where their secret is.

What lives here: from settings to the options of a driver. What does not: reading the settings, and routes.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Final

from smtpcore import Deadlines, Limits, LocalProtocolError, TlsPolicy
from smtpcore.drivers._configuration.reader import Reader
from smtpcore.drivers._session.options import Options
from smtpcore.drivers.tls import client_context
from smtpcore.sasl import mechanisms_for

__all__ = ["os_reason", "security_options", "session_options"]


def session_options(reader: Reader) -> Options:
    """How sessions are held, TLS and credentials left aside."""
    limits = reader.build(Limits, deadlines=reader.build(Deadlines))
    options = Options(
        limits=limits.scaled(reader["deadlines.scale"]),
        pipelining=reader["session.pipelining"],
        chunking=reader["session.chunking"],
        eight_bit=reader["session.eight_bit"],
        long_lines=reader["session.long_lines"],
        break_signatures=reader["session.break_signatures"],
    )
    if reader["identity.helo_name"] is not None:
        options["helo_name"] = reader["identity.helo_name"]
    if reader["session.source_addresses"] is not None:
        options["source_address"] = reader["session.source_addresses"]
    return options


def security_options(reader: Reader) -> Options:
    """How sessions are encrypted, and who the relay is; contradictions are noted."""
    options = Options()
    if reader["tls.server_name"] is not None:
        options["tls_server_name"] = reader["tls.server_name"]
    policy = reader["tls.policy"]
    if policy is not None:
        options["tls"] = policy
    user = reader["credentials.user"]
    if user is not None and policy is TlsPolicy.NEVER:
        reader.wrong("credentials.user", "credentials are never said without TLS; choose another TLS policy")
    password = _password(reader)
    if user is not None and password is not None:
        try:
            options["credentials"] = mechanisms_for(user, password)
        except LocalProtocolError as error:
            reader.wrong("credentials.user", error.rule)
    context = _context(reader, policy, verify=user is not None or policy in {TlsPolicy.REQUIRED, TlsPolicy.IMPLICIT})
    if context is not None:
        options["tls_context"] = context
    return options


def _password(reader: Reader) -> str | None:
    """The password, from where it is said to be; it is in no message."""
    sources = [key for key in ("credentials.password_file", "credentials.password_variable") if key in reader.given]
    if "credentials.user" not in reader.given:
        for key in sources:
            reader.wrong(key, "a password needs a user")
        return None
    if len(sources) != 1:
        many = "a password file and a variable exclude each other" if sources else "a user needs a password file"
        reader.wrong(sources[1] if sources else "credentials.user", many)
        return None
    return _PASSWORD_FROM[sources[0]](reader, sources[0])


def _password_of_file(reader: Reader, key: str) -> str | None:
    path = reader[key]
    try:
        with Path(path).open(encoding="utf-8") as file:
            line = file.readline().rstrip("\r\n")
    except (OSError, ValueError) as error:
        reader.wrong(key, f"{path}: {os_reason(error)}", unreadable=True)
        return None
    if not line:
        reader.wrong(key, f"{path}: the first line is empty", unreadable=True)
    return line or None


def _password_of_variable(reader: Reader, key: str) -> str | None:
    name = reader[key]
    password = os.environ.get(name)
    if not password:
        reader.wrong(key, f"there is no environment variable {name}, or it is empty", unreadable=True)
    return password


_PASSWORD_FROM: Final = {
    "credentials.password_file": _password_of_file,
    "credentials.password_variable": _password_of_variable,
}


def _context(reader: Reader, policy: TlsPolicy | None, *, verify: bool) -> ssl.SSLContext | None:
    """A context of one's own, if a file for it was given."""
    ca_file, certificate, key = (reader[f"tls.{name}"] for name in ("ca_file", "certificate_file", "key_file"))
    if ca_file is not None and not verify:
        reader.wrong("tls.ca_file", "certificates are judged with the TLS policies required and implicit only")
        return None
    if key is not None and certificate is None:
        reader.wrong("tls.key_file", "a key needs a certificate_file")
    if certificate is not None and not verify and policy is not TlsPolicy.OPPORTUNISTIC:
        words = "the TLS policy is never" if policy else "a certificate needs a TLS policy"
        reader.wrong("tls.certificate_file", words)
        return None
    if ca_file is None and certificate is None:
        return None
    try:
        context = ssl.create_default_context(cafile=ca_file) if verify else client_context(verify=False)
    except (OSError, ValueError) as error:
        reader.wrong("tls.ca_file", f"{ca_file}: {os_reason(error)}", unreadable=True)
        return None
    if certificate is not None:
        _show_certificate(reader, context, certificate, key)
    return context


def _show_certificate(reader: Reader, context: ssl.SSLContext, certificate: str, key: str | None) -> None:
    for name, path in (("tls.certificate_file", certificate), ("tls.key_file", key)):
        if path is not None and not os.access(path, os.R_OK):
            reader.wrong(name, f"{path}: {_why_not_readable(path)}", unreadable=True)
            return
    try:
        # Without a password given, an encrypted key would be asked for on the terminal.
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        words = f"{certificate}: this is not a certificate with its key ({os_reason(error)})"
        reader.wrong("tls.certificate_file", words, unreadable=True)


def _why_not_readable(path: str) -> str:
    try:
        Path(path).open("rb").close()
    except OSError as error:
        return os_reason(error)
    return "it cannot be read"


def os_reason(error: Exception) -> str:
    """Why a file could not be used, in the words of the system."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not in PEM form").lower().replace("_", " ")
    return error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
