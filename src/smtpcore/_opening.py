"""The opening of a session: from the greeting to the first mail.

What lives here: EHLO, STARTTLS, XCLIENT and AUTH, when each is said and what its reply means, and what is known of the
peer afterwards. What does not: mails and the end of the session (:mod:`smtpcore._client`), and the inside of an
authentication (:mod:`smtpcore._authentication`).

Where the opening stands is not stored: it follows from the state of the connection and from what is known
(capabilities, TLS, authentication).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from smtpcore._authentication import Authentication, check_mechanisms
from smtpcore._connection import Connection
from smtpcore._errors import EhloRequired, LocalProtocolError, ServiceRefused, TlsRequired, XclientRequired
from smtpcore._events import Command, Reply, TlsInfo, Verb
from smtpcore._extensions import Capabilities
from smtpcore._grammar import check_host_name
from smtpcore._kinds import check_kind
from smtpcore._limits import Limits
from smtpcore._peer_limits import PeerLimits
from smtpcore._planner import NO_OFFER, Offer, attribute_commands
from smtpcore._policy import Pipelining, TlsPolicy
from smtpcore._state import State
from smtpcore._xclient import XClient
from smtpcore.sasl import Mechanism

__all__ = ["Opening"]


class Opening:
    """The way to an open session. ``speak`` and ``hear`` raise the ``SessionError`` for which it cannot be opened."""

    def __init__(
        self,
        connection: Connection,
        helo_name: str,
        *,
        lmtp: bool,
        tls: TlsPolicy,
        credentials: Sequence[Mechanism],
        xclient: XClient | None,
        pipelining: Pipelining,
        chunking: bool,
        limits: Limits,
        nonce: Callable[[], str] | None,
    ) -> None:
        check_host_name(helo_name)
        check_mechanisms(credentials)
        if credentials and tls is TlsPolicy.NEVER:
            raise LocalProtocolError("credentials are never said without TLS; choose another TlsPolicy", tls)
        self._connection = connection
        self._helo_name = helo_name
        self._lmtp = lmtp
        self._tls_policy = TlsPolicy.REQUIRED if credentials and tls is TlsPolicy.OPPORTUNISTIC else tls
        self._tls_given_up = tls in {TlsPolicy.NEVER, TlsPolicy.SECURED}
        self._pipelining = pipelining
        self._chunking = chunking
        self._needs_auth = bool(credentials)
        self._authentication = Authentication(credentials, limits, nonce)
        #: The challenge that waits for its answer.
        self._challenge: Reply | None = None
        self._xclient = xclient
        #: XCLIENT with all its attributes, in one command or several.
        self._introductions = deque[Command]()
        if xclient is not None:
            check_kind("xclient", xclient, XClient)
            self._introductions.extend(attribute_commands(Verb.XCLIENT, xclient.attributes, limits))
        #: What the TLS handshake agreed on, or ``None`` in clear.
        self.tls: TlsInfo | None = None
        #: Whether mail may be said.
        self.done = False
        self._forget_offer()

    def _forget_offer(self) -> None:
        """What the peer offers is to be asked for anew."""
        self._hello = Verb.LHLO if self._lmtp else Verb.EHLO
        self.offer = NO_OFFER
        self.peer_limits: PeerLimits | None = None
        #: Whether commands may run ahead across mails.
        self.across = False

    @property
    def authenticated(self) -> bool:
        """Whether the peer accepted the credentials."""
        return self._authentication.succeeded

    @property
    def introductions(self) -> int:
        """XCLIENT commands yet to be accepted."""
        return len(self._introductions)

    def tls_started(self, info: TlsInfo) -> None:
        """TLS has begun: all that was known is forgotten (RFC 3207 §4.2)."""
        self.tls = info
        self._forget_offer()

    # --- speaking --------------------------------------------------------------------------------------------------

    def speak(self) -> bool:
        """Take one step, if one may be taken now."""
        if self._challenge is not None:
            return self._say_answer(self._challenge)
        if self._connection.can_send(self._hello) and self._connection.state is State.GREETED:
            self._connection.send(Command(self._hello, f"{self._hello.value} {self._helo_name}".encode("ascii")))
        elif not self._connection.can_send(Verb.MAIL):
            return False
        elif self.tls is None and not self._tls_given_up:
            self._say_starttls()
        elif self._introductions:
            self._say_xclient()
        elif self._needs_auth and not self.authenticated:
            self._say_auth()
        else:
            self.done = True
        return True

    def _say_starttls(self) -> None:
        if "STARTTLS" in self.offer.capabilities:
            self._connection.send(Command(Verb.STARTTLS, b"STARTTLS"))
        elif self._tls_policy is TlsPolicy.REQUIRED:
            raise TlsRequired("TLS is required, and the peer does not offer STARTTLS")
        else:
            self._tls_given_up = True

    def _say_xclient(self) -> None:
        """Say for whom the session is held, whole or not at all: what were left out would be this client's own."""
        assert self._xclient is not None
        taken = {keyword.upper() for keyword in self.offer.capabilities.extensions.get("XCLIENT", ())}
        missing = [keyword for keyword, _ in self._xclient.attributes if keyword not in taken]
        if missing:
            raise XclientRequired(f"the peer does not offer XCLIENT with {' '.join(missing)}")
        self._connection.send(self._introductions[0])

    def _say_auth(self) -> None:
        end_point = None if self.tls is None else self.tls.server_end_point
        self._connection.send(self._authentication.begin(self.offer.capabilities.auth_mechanisms, end_point))

    def _say_answer(self, challenge: Reply) -> bool:
        """Answer a challenge, once nothing more has come behind it."""
        if not self._connection.can_send(Verb.AUTH_ANSWER):
            return False
        self._challenge = None
        self._connection.send(self._authentication.answer(challenge))
        return True

    # --- hearing ---------------------------------------------------------------------------------------------------

    def hear(self, verb: Verb | None, reply: Reply) -> None:
        """The reply to a command of the opening, or to the connection itself."""
        if verb is Verb.EHLO or verb is Verb.LHLO:
            self._hear_ehlo(reply)
        elif verb is Verb.STARTTLS:
            self._hear_starttls(reply)
        elif verb is Verb.AUTH or verb is Verb.AUTH_ANSWER:
            self._hear_auth(reply)
        elif verb is Verb.XCLIENT:
            self._hear_xclient(reply)
        elif not reply.positive:
            # The greeting or HELO: without it nothing can go on.
            raise refusal(reply)

    def _hear_ehlo(self, reply: Reply) -> None:
        if reply.positive:
            capabilities = Capabilities.from_reply(reply)
            offered = "PIPELINING" in capabilities
            self._connection.allow_pipelining(offered and self._pipelining is not Pipelining.NONE)
            self.across = offered and self._pipelining is Pipelining.ACROSS
            self.peer_limits = PeerLimits.announced(capabilities)
            self.offer = Offer(
                capabilities=capabilities,
                chunking=self._chunking and "CHUNKING" in capabilities,
                tls_verified=self.tls is not None and self.tls.verified,
            )
        elif not reply.permanent or self._lmtp:
            raise refusal(reply)
        elif self._needs_ehlo:
            raise EhloRequired(f"TLS, AUTH or XCLIENT needs EHLO, and the peer refused it: {reply}", reply=reply)
        else:
            self._hello = Verb.HELO

    @property
    def _needs_ehlo(self) -> bool:
        return self._tls_policy is TlsPolicy.REQUIRED or self._needs_auth or self._xclient is not None

    def _hear_starttls(self, reply: Reply) -> None:
        if reply.positive:
            return
        if self._tls_policy is TlsPolicy.REQUIRED:
            raise TlsRequired(f"TLS is required, and the peer refused STARTTLS: {reply}", reply=reply)
        self._tls_given_up = True

    def _hear_auth(self, reply: Reply) -> None:
        if self._connection.state is State.AUTH:
            self._challenge = reply
        elif (error := self._authentication.conclude(reply)) is not None:
            raise error

    def _hear_xclient(self, reply: Reply) -> None:
        if not reply.positive:
            raise XclientRequired(f"the peer refused XCLIENT: {reply}", reply=reply)
        self._introductions.popleft()
        self._connection.allow_pipelining(False)
        self._forget_offer()


def refusal(reply: Reply) -> ServiceRefused:
    return ServiceRefused(f"the peer refuses service: {reply}", reply=reply)
