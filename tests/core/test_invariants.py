"""What is always true of a client, whatever the peer says and however its octets arrive.

What lives here: one property for each invariant, over generated conversations. What does not: examples, and an
adversary with a plan of its own.
"""

from __future__ import annotations

import base64
import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from smtpcore import (
    BeginTls,
    BodyFacts,
    Client,
    Disconnect,
    Envelope,
    Event,
    Idle,
    Limits,
    LineEnds,
    LocalProtocolError,
    Mail,
    MailRefused,
    MailSent,
    NeedBody,
    NeedMail,
    Pipelining,
    RemoteProtocolError,
    SendBody,
    SendLine,
    Timeout,
    TlsInfo,
    TlsPolicy,
    Verdict,
)
from smtpcore.sasl import Plain
from smtpcore.testing import PureDriver, ScriptedServer, converse

from .examples import examples

INFO = TlsInfo("TLSv1.3", "X", True)

#: A machine that is busy is no reason to fail.
quick = settings(deadline=None, max_examples=examples(150), suppress_health_check=[HealthCheck.too_slow])

# --- generated conversations ----------------------------------------------------------------------------------------

RECIPIENTS = tuple(f"r{n}@b.example" for n in range(5))
SMALL = Limits(commands_in_flight=4, reply_lines=8, reply_line=200, auth_steps=3)
#: With room for a whole mail. A window that fills is opened by replies, so what is said then depends on when they come.
WIDE = replace(SMALL, commands_in_flight=1024)

bodies = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"a", b"\xff", b"hello"]), max_size=12).map(b"".join)
envelopes = st.builds(
    lambda sender, recipients, repeatable, size: Envelope(
        sender, recipients, body=BodyFacts(repeatable=repeatable, size=size)
    ),
    st.sampled_from(["", "alice@a.example"]),
    st.lists(st.sampled_from(RECIPIENTS), min_size=1, max_size=5),
    st.booleans(),
    # What is known to be small does not wait for its recipients where it goes in chunks.
    st.sampled_from([None, 10]),
)
mails = st.lists(st.tuples(envelopes, bodies), max_size=3)

Wanted = list[tuple[Envelope, bytes]]
Answers = dict[str, list[str | bytes | None]]

#: Answers of a server that makes sense, mostly.
REPLIES: dict[str, list[str | bytes | None]] = {
    "connect": [None, None, None, "554 no", "421 no"],
    "EHLO": [None, None, None, "500 what", "450 hm", "250-mx\n250 PIPELINING", "421 bye"],
    "HELO": [None, "250 ok", "550 no"],
    "STARTTLS": [None, None, "454 no", "502 no"],
    "AUTH": [None, None, "334 ", "535 no", "454 later", "334 ????"],
    "AUTH answer": [None, None, "334 ", "535 no", "421 no"],
    "MAIL": [None, None, None, "550 no", "451 later", "530 who", "421 bye"],
    "RCPT": [None, None, None, "550-no\n550 such", "450 later", "452 many", "552 many", "421 bye"],
    "DATA": [None, None, None, "354 go", "554 no", "451 later", "421 bye"],
    ".": [None, None, None, "550 spam", "451 later", "421 bye"],
    "BDAT": [None, None, None, "552 large", "451 later", "421 bye"],
    "BDAT LAST": [None, None, None, "550 spam", "451 later", "421 bye"],
    "RSET": [None, None, "502 no", "421 bye"],
    "QUIT": [None, "421 bye", "500 what", b""],
}
#: Answers of a server that has lost its mind now and then.
MAD = [
    None,
    None,
    None,
    "250 ok",
    "354 go",
    "garbage",
    "220 hi",
    "550-a\n551 b",
    b"",
    b"250 half",
    b"\xff\xfe\r\n",
    "999 x",
]

sane_answers = st.fixed_dictionaries({key: st.lists(st.sampled_from(r), max_size=8) for key, r in REPLIES.items()})
mad_answers = st.fixed_dictionaries({key: st.lists(st.sampled_from(MAD), max_size=4) for key in REPLIES})
extensions = st.lists(st.sampled_from(["PIPELINING", "8BITMIME", "SIZE", "STARTTLS", "CHUNKING"]), unique=True)
policies = st.sampled_from(list(TlsPolicy))
splits = st.one_of(st.just(1), st.lists(st.integers(1, 20), max_size=40))


def make(policy: TlsPolicy, credentials: bool, **options: Any) -> Client:
    wanted = [Plain("user", "hunter2")] if credentials and policy is not TlsPolicy.NEVER else []
    return Client("client.example", tls=policy, credentials=wanted, **options)


def server(answers: Answers, offered: Sequence[str] = ("PIPELINING", "8BITMIME", "SIZE", "CHUNKING")) -> ScriptedServer:
    return ScriptedServer(answers, extensions=offered, users={"user": "hunter2"})


def without_waiting(events: list[Event]) -> list[str]:
    """What happened, in a form that compares by value; when the client waited is left out."""
    return [repr(event) for event in events if not isinstance(event, Timeout)]


def check_answers(driver_mails: Iterable[Mail], events: list[Event]) -> None:
    """The law of answers: one report for each mail, one outcome for each recipient, all before the end."""
    reports = [e for e in events if isinstance(e, (MailSent, MailRefused))]
    assert sorted(map(id, driver_mails)) == sorted(id(report.mail) for report in reports)
    for report in reports:
        assert tuple(o.recipient for o in report.outcomes) == report.mail.envelope.recipients
        assert isinstance(report, MailSent) is any(o.verdict is Verdict.DELIVERED for o in report.outcomes)
    assert isinstance(events[-1], Disconnect)
    assert sum(isinstance(e, Disconnect) for e in events) == 1


# --- 1: any split of the input gives the same events ----------------------------------------------------------------


@quick
@given(sane_answers, extensions, mails, policies, st.booleans(), splits)
def test_any_split_of_the_input_gives_the_same_events(
    answers: Answers,
    offered: Sequence[str],
    wanted: Wanted,
    policy: TlsPolicy,
    credentials: bool,
    split: int | list[int],
) -> None:
    whole_server, split_server = server(answers, offered), server(answers, offered)
    whole = converse(make(policy, credentials, limits=WIDE), whole_server, wanted)
    pieces = converse(make(policy, credentials, limits=WIDE), split_server, wanted, split=split)
    assert without_waiting(whole) == without_waiting(pieces)
    assert whole_server.commands == split_server.commands
    assert whole_server.mails == split_server.mails


@quick
@given(mad_answers, mails, splits)
def test_any_split_of_nonsense_gives_the_same_outcomes(
    answers: Answers, wanted: Wanted, split: int | list[int]
) -> None:
    def outcomes(events: list[Event]) -> tuple[object, ...]:
        found = [
            [(o.recipient, o.verdict, o.code, o.in_doubt) for o in e.outcomes]
            for e in events
            if isinstance(e, (MailSent, MailRefused))
        ]
        end = events[-1]
        assert isinstance(end, Disconnect)
        return found, end.reason, type(end.error)

    whole = converse(make(TlsPolicy.NEVER, False, limits=WIDE), server(answers), wanted)
    pieces = converse(make(TlsPolicy.NEVER, False, limits=WIDE), server(answers), wanted, split=split)
    assert outcomes(whole) == outcomes(pieces)


# --- 2 and 9: arbitrary octets never raise, and the end is the end --------------------------------------------------

noise = st.lists(
    st.one_of(
        st.binary(max_size=20),
        st.sampled_from(
            [
                b"250 ok\r\n",
                b"220 hi\r\n",
                b"250-PIPELINING\r\n",
                b"250 AUTH PLAIN\r\n",
                b"334 \r\n",
                b"235 ok\r\n",
                b"354 go\r\n",
                b"421 bye\r\n",
                b"550 no\r\n",
                b"250-STARTTLS\r\n250 mx\r\n",
                b"25",
                b"0 ok\r\n",
                b"\n",
                b"250-mx\r\n250-PIPELINING\r\n250 AUTH PLAIN\r\n",
            ]
        ),
    ),
    max_size=25,
)


@settings(quick, max_examples=examples(400))
@given(noise, policies, st.booleans(), st.booleans())
@example(
    [b"220 hi\r\n", b"250-mx\r\n250-PIPELINING\r\n250 AUTH PLAIN\r\n", b"334 \r\n250 ok\r\n"],
    TlsPolicy.SECURED,
    True,
    True,
)
def test_arbitrary_octets_never_raise_and_the_end_is_the_end(
    octets: list[bytes], policy: TlsPolicy, credentials: bool, closes: bool
) -> None:
    client = make(policy, credentials, limits=SMALL)
    driver = PureDriver(client, [(Envelope("", RECIPIENTS), b"one\n"), (Envelope("", RECIPIENTS[:1]), b"two\n")])
    driver.run()
    for piece in octets:
        if isinstance(driver.last, BeginTls):
            client.tls_started(INFO)
            driver.run()
        driver.hear(piece)
        if isinstance(driver.last, Disconnect):
            break
        snapshot = client.snapshot()
        assert snapshot.connection.unread_octets <= max(SMALL.reply_line, len(piece))
    if not isinstance(driver.last, Disconnect):
        client.receive_eof() if closes else client.abort()
        driver.run()
    check_answers(driver.mails, driver.events)
    for piece in octets[:3]:
        if not closes:
            client.receive_data(piece)
        assert client.next_event() is driver.last


# --- 3: a refused call changes nothing ------------------------------------------------------------------------------


@quick
@given(sane_answers, mails, st.integers(0, 60), st.data())
def test_a_refused_call_changes_nothing(answers: Answers, wanted: Wanted, steps: int, data: st.DataObject) -> None:
    client = make(
        TlsPolicy.OPPORTUNISTIC, False, limits=Limits(recipients=3, commands_in_flight=4), line_ends=LineEnds.REFUSE
    )
    peer = server(answers, ("PIPELINING", "STARTTLS"))
    calls: list[Callable[[], object]] = [
        lambda: client.send(Envelope("", RECIPIENTS)),
        lambda: client.send_body(b"bare\rcr"),
        lambda: client.send_body(b"\n"),
        lambda: client.body_failed("broken"),
        lambda: client.tls_started(INFO),
    ]
    to_client = peer.connected()
    todo = [(mail, b"hello\r\n") for mail, _ in wanted if len(mail.recipients) <= 3]
    for _ in range(steps):
        event = client.next_event()
        # Two of the calls are right where they are asked for, and then they are made for good.
        due = {NeedBody: 3, BeginTls: 4}.get(type(event))
        call = data.draw(st.sampled_from([c for number, c in enumerate(calls) if number != due]))
        before = client.snapshot()
        with contextlib.suppress(LocalProtocolError):
            call()
            assert call is calls[3]
            return
        assert client.snapshot() == before
        if isinstance(event, (SendLine, SendBody)):
            to_client += peer.receive_data(event.data)
        elif isinstance(event, NeedMail):
            client.send(todo.pop()[0]) if todo else client.no_mail()
        elif isinstance(event, NeedBody):
            client.send_body(b"" if event.offset else b"hello\r\n")
        elif isinstance(event, BeginTls):
            client.tls_started(INFO)
            peer.tls_started()
        elif isinstance(event, Idle):
            client.quit()
        elif to_client:
            client.receive_data(to_client)
            to_client = b""
        elif isinstance(event, Timeout):
            client.receive_timeout()


# --- 4: the law of answers, and 5: replies + in flight = said -------------------------------------------------------


@quick
@given(
    st.one_of(sane_answers, mad_answers), extensions, mails, policies, st.booleans(), st.sampled_from([1, 2, 7, 65536])
)
def test_the_law_of_answers_and_the_account_of_replies(
    answers: Answers, offered: Sequence[str], wanted: Wanted, policy: TlsPolicy, credentials: bool, piece: int
) -> None:
    client = make(policy, credentials, limits=SMALL)
    peer = server(answers, offered)
    events = converse(client, peer, wanted, piece=piece)
    mails_asked = {id(e.mail): e.mail for e in events if isinstance(e, (MailSent, MailRefused))}.values()
    check_answers(mails_asked, events)
    assert len(mails_asked) <= len(wanted)
    assert sum(isinstance(e, NeedMail) for e in events) >= len(mails_asked)
    account = client.snapshot().connection
    assert account.replied + len(account.in_flight) == account.said
    # Nothing counts as delivered that the server did not take.
    reports = [e for e in events if isinstance(e, (MailSent, MailRefused))]
    delivered = Counter(o.recipient for e in reports for o in e.outcomes if o.verdict is Verdict.DELIVERED)
    assert delivered <= Counter(r for mail in peer.mails for r in mail.recipients)


@quick
@given(noise)
def test_replies_and_commands_in_flight_are_the_commands_said(octets: list[bytes]) -> None:
    client = make(TlsPolicy.NEVER, False, limits=SMALL)
    driver = PureDriver(client, [(Envelope("", RECIPIENTS), b"x\n")] * 3)
    driver.run()
    for piece in octets:
        driver.hear(piece)
        if isinstance(driver.last, Disconnect):
            return
        account = client.snapshot().connection
        assert account.replied + len(account.in_flight) == account.said
        lines = sum(isinstance(e, SendLine) for e in driver.events)
        # The end of data counts from the 354 on, though its line is said later; the connection itself has no line.
        assert account.said - 1 - lines == account.body_open


# --- 6: same outcomes with and without pipelining; the body arrives whole -------------------------------------------


def content_on_arrival(body: bytes) -> bytes:
    """Octet by octet: what a body is when every line end is CRLF."""
    content = bytearray()
    previous = -1
    for octet in body:
        if octet == 0x0D:
            content += b"\r\n"
        elif octet == 0x0A:
            if previous != 0x0D:
                content += b"\r\n"
        else:
            content.append(octet)
        previous = octet
    if content and content[-2:] != b"\r\n":
        content += b"\r\n"
    return bytes(content)


@settings(quick, max_examples=examples(300))
@given(bodies, st.integers(1, 9))
def test_the_body_arrives_whole_however_it_is_cut(body: bytes, piece: int) -> None:
    peer = server({})
    converse(make(TlsPolicy.NEVER, False), peer, [(Envelope("", RECIPIENTS), body)], piece=piece)
    (mail,) = peer.mails
    assert mail.content == content_on_arrival(body)
    assert not peer.complaints


#: Answers by what a line says, so that they do not depend on how many lines came before.
per_line = st.fixed_dictionaries(
    {
        **{f"RCPT TO:<{r}>": st.sampled_from(["250 ok", "550 no", "450 later", "452 many"]) for r in RECIPIENTS},
        "MAIL FROM:<>": st.sampled_from(["250 ok", "250 ok", "550 no", "451 later"]),
        ".": st.sampled_from(["250 ok", "250 ok", "550 no", "451 later"]),
    }
)


@quick
@given(per_line, mails, st.sampled_from([1, 2, 1024]))
def test_same_outcomes_with_and_without_pipelining(answers: Answers, wanted: Wanted, window: int) -> None:
    def run(pipelining: Pipelining) -> tuple[object, ...]:
        peer = server(answers, ("PIPELINING",))
        client = make(TlsPolicy.NEVER, False, pipelining=pipelining, limits=Limits(commands_in_flight=window))
        events = converse(client, peer, wanted)
        reports = [e for e in events if isinstance(e, (MailSent, MailRefused))]
        # 452 to a first recipient is final in a transaction, so nothing here depends on the order of replies.
        return [[(o.recipient, o.verdict, o.code) for o in r.outcomes] for r in reports], peer.mails

    assert run(Pipelining.NONE) == run(Pipelining.WITHIN)


# --- 7: bounds ------------------------------------------------------------------------------------------------------


@quick
@given(sane_answers, st.integers(1, 6), st.integers(1, 40), splits)
def test_commands_in_flight_and_orders_are_bounded(
    answers: Answers, window: int, count: int, split: int | list[int]
) -> None:
    client = make(TlsPolicy.NEVER, False, limits=Limits(commands_in_flight=window, reply_line=100, reply_lines=8))
    peer = server(answers)
    recipients = tuple(f"r{n}@b.example" for n in range(count))
    todo = [Envelope("", recipients)] * 2
    sizes = iter(split if isinstance(split, list) else [])
    to_client = peer.connected()
    while not isinstance(event := client.next_event(), Disconnect):
        account = client.snapshot().connection
        # An end of data joins when 354 is read, and is not counted against the window.
        assert len(account.in_flight) <= window + 1
        assert account.unsent_orders <= window
        assert account.unread_octets <= 100
        if isinstance(event, (SendLine, SendBody)):
            to_client += peer.receive_data(event.data)
        elif isinstance(event, NeedMail):
            client.send(todo.pop()) if todo else client.no_mail()
        elif isinstance(event, NeedBody):
            client.send_body(b"" if event.offset else b"x" * 1000)
        elif isinstance(event, Idle):
            client.quit()
        elif isinstance(event, Timeout):
            if not to_client:
                client.receive_timeout()
                continue
            size = min(next(sizes, 100), 100)
            client.receive_data(to_client[:size])
            to_client = to_client[size:]


@quick
@given(st.sampled_from([b"x", b"2", b"250-", b"250-x\r\n", b"421-x\r\n", b"220 " + b"x" * 30]), st.integers(0, 4))
def test_what_is_unread_is_bounded_whatever_comes_without_end(octets: bytes, heard: int) -> None:
    limits = Limits(reply_line=100, reply_lines=8)
    driver = PureDriver(make(TlsPolicy.NEVER, False, limits=limits), [(Envelope("", RECIPIENTS), b"x")])
    driver.run()
    for reply in [b"220 hi\r\n", b"250-mx\r\n250 PIPELINING\r\n", b"250 ok\r\n", b"250 ok\r\n"][:heard]:
        driver.hear(reply)
    for _ in range(300):
        driver.hear(octets)
        assert driver.client.snapshot().connection.unread_octets <= 100 + len(octets)
    assert isinstance(driver.last, Disconnect)


# --- 8: the border of TLS, and secrets ------------------------------------------------------------------------------


@quick
@given(
    st.binary(min_size=1, max_size=40), st.booleans(), st.sampled_from([TlsPolicy.OPPORTUNISTIC, TlsPolicy.REQUIRED])
)
def test_nothing_crosses_the_border_of_starttls(injected: bytes, together: bool, policy: TlsPolicy) -> None:
    driver = PureDriver(make(policy, policy is TlsPolicy.REQUIRED), [(Envelope("", RECIPIENTS), b"")])
    driver.run()
    driver.hear(b"220 hi\r\n")
    driver.hear(b"250-mx\r\n250-AUTH PLAIN\r\n250 STARTTLS\r\n")
    if together:
        driver.client.receive_data(b"220 go\r\n" + injected)
    else:
        driver.hear(b"220 go\r\n")
        assert isinstance(driver.last, BeginTls)
        assert driver.client.capabilities.extensions
        driver.client.receive_data(injected)
        driver.client.tls_started(INFO)
    assert driver.run() == b""
    assert isinstance(driver.last, Disconnect)
    assert isinstance(driver.last.error, RemoteProtocolError)
    assert driver.events[-1] is driver.last
    said = [e.data for e in driver.events if isinstance(e, SendLine)]
    assert said == [b"EHLO client.example\r\n", b"STARTTLS\r\n"]


SECRET = base64.b64encode(b"\0user\0hunter2").decode()
echoes = st.lists(
    st.sampled_from(
        [
            "250 ok",
            "334 ",
            "535 no",
            "235 ok",
            f"535 {SECRET}",
            f"334 {SECRET}",
            f"535-{SECRET}\r\n535 x{SECRET}y",
            f"AUTH PLAIN {SECRET}",
            SECRET,
            f"{'y' * 70}{SECRET}",
            f"535 {SECRET}\n",
            f"\0{SECRET}",
            f"421 {SECRET}",
        ]
    ),
    min_size=1,
    max_size=6,
)


@quick
@given(echoes)
def test_no_secret_is_shown_even_if_the_peer_echoes_it(replies: list[str]) -> None:
    client = make(TlsPolicy.SECURED, True)
    driver = PureDriver(client, [(Envelope("", RECIPIENTS), b"")])
    driver.run()
    driver.hear(b"220 hi\r\n")
    driver.hear(b"250-mx\r\n250 AUTH PLAIN\r\n")
    for reply in replies:
        driver.hear(f"{reply}\r\n".encode())
    client.abort()
    driver.run()
    assert isinstance(driver.last, Disconnect)
    shown = [repr(event) for event in driver.events] + [repr(client), repr(client.snapshot()), str(client.transcript)]
    shown += [e.shown for e in driver.events if isinstance(e, SendLine)]
    for report in driver.reports:
        shown += [str(report.transcript), *map(str, report.outcomes), *(o.text for o in report.outcomes)]
    error: BaseException | None = driver.last.error
    while error is not None:
        shown += [str(error), repr(error), repr(error.args), str(getattr(error, "transcript", "")), repr(vars(error))]
        error = error.__cause__ or error.__context__
    secret_parts = [SECRET[i : i + 8] for i in range(len(SECRET) - 7)] + ["hunter2"]
    # The octets to be written are the one place where it stands.
    assert any(SECRET.encode() in e.data for e in driver.events if isinstance(e, SendLine))
    assert not [text for text in shown if any(part in text for part in secret_parts)]
