"""The demo's mail: at least 500 messages of the shapes that real mail has, the same at every run.

What lives here: messages and who they are for. What does not: sending them, and comparing what arrived.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTP

__all__ = ["Letter", "letters"]

_WORDS = (
    "harbour",
    "ledger",
    "window",
    "quiet",
    "river",
    "engine",
    "morning",
    "paper",
    "garden",
    "signal",
    "copper",
    "letter",
    "bridge",
    "winter",
    "answer",
    "market",
    "silver",
    "cloud",
    "number",
    "island",
    "basket",
    "wheel",
    "lantern",
    "meadow",
    "corner",
    "thunder",
    "orchard",
    "compass",
)
_PEOPLE = (
    "anna",
    "boris",
    "chen",
    "dora",
    "emil",
    "fatma",
    "george",
    "hana",
    "ivan",
    "julia",
    "kofi",
    "lena",
    "marta",
    "nils",
    "olga",
    "pavel",
)
_DOMAINS = ("north.example", "south.example", "east.example", "west.example")


@dataclass(frozen=True, slots=True)
class Letter:
    """One message: its envelope, and its octets as a program would hand them in."""

    shape: str
    sender: str
    recipients: tuple[str, ...]
    octets: bytes


def letters(seed: int = 1) -> Iterator[Letter]:
    """The whole corpus; ``seed`` fixes every octet."""
    chance = random.Random(seed)
    for number in range(150):
        yield _letter("plain text", chance, number, _plain)
    for number in range(70):
        yield _letter("multipart with html", chance, number, _html)
    for number in range(60):
        yield _letter("8-bit text", chance, number, _eight_bit)
    for number in range(60):
        yield _letter("leading dots", chance, number, _dots)
    for number in range(40):
        yield _letter("lines of 998 octets", chance, number, _long_lines)
    for number in range(40):
        yield _letter("bare line feeds, no last line end", chance, number, _unix)
    for number in range(20):
        yield _letter("attachment", chance, number, _attachment)
    for number in range(6):
        yield _letter("attachment of several MiB", chance, number, _large)
    for number in range(20):
        yield _letter("many recipients", chance, number, _plain, recipients=40)
    for number in range(24):
        yield _letter("deferred at first", chance, number, _plain, to=f"later{number}@grey.example")
    for number in range(16):
        yield _letter("refused for good", chance, number, _plain, to=f"nobody{number}@south.example")
    for number in range(4):
        yield _letter("no mail from nobody", chance, number, _plain, to=f"nobody{number}@west.example", sender="")
    yield Letter("empty", "anna@home.example", ("boris@north.example",), b"")
    yield Letter("only a dot", "anna@home.example", ("boris@north.example",), b".")
    yield Letter("only line ends", "anna@home.example", ("boris@north.example",), b"\n\n\r\n\r")


def _letter(
    shape: str,
    chance: random.Random,
    number: int,
    body: Callable[[random.Random, EmailMessage], bytes],
    *,
    to: str | None = None,
    recipients: int = 1,
    sender: str | None = None,
) -> Letter:
    sender = f"{chance.choice(_PEOPLE)}@home.example" if sender is None else sender
    if to is not None:
        forward: tuple[str, ...] = (to,)
    elif recipients == 1:
        forward = (f"{chance.choice(_PEOPLE)}@{chance.choice(_DOMAINS)}",)
    else:
        forward = tuple(f"member{i}@{_DOMAINS[i % len(_DOMAINS)]}" for i in range(recipients))
    message = EmailMessage(policy=SMTP.clone(cte_type="8bit", max_line_length=998))
    message["From"] = sender or "MAILER-DAEMON@home.example"
    message["To"] = forward[0] if len(forward) == 1 else "The list <list@home.example>"
    message["Subject"] = f"{shape.capitalize()} {number}: {_sentence(chance, 4)}"
    message["Date"] = f"Sat, 21 Nov 2026 {number // 60 % 24:02}:{number % 60:02}:00 +0000"
    message["Message-ID"] = f"<{shape.replace(' ', '-')}.{number}@home.example>"
    octets = body(chance, message)
    return Letter(shape, sender, forward, octets)


def _sentence(chance: random.Random, words: int = 8) -> str:
    return " ".join(chance.choice(_WORDS) for _ in range(words)).capitalize() + "."


def _paragraphs(chance: random.Random, lines: int) -> str:
    return "\n".join(_sentence(chance, chance.randint(3, 12)) for _ in range(lines)) + "\n"


def _plain(chance: random.Random, message: EmailMessage) -> bytes:
    message.set_content(_paragraphs(chance, chance.randint(1, 60)), cte="7bit")
    return message.as_bytes()


def _html(chance: random.Random, message: EmailMessage) -> bytes:
    text = _paragraphs(chance, 12)
    message.set_content(text, cte="7bit")
    message.add_alternative(f"<html><body><p>{text}</p></body></html>\n", subtype="html", cte="quoted-printable")
    return message.as_bytes()


def _eight_bit(chance: random.Random, message: EmailMessage) -> bytes:
    lines = "\n".join(f"Grüße, привет, 你好 {_sentence(chance)}" for _ in range(chance.randint(2, 40)))
    message.set_content(lines + "\n", charset="utf-8", cte="8bit")
    return message.as_bytes()


def _dots(chance: random.Random, message: EmailMessage) -> bytes:
    lines = [chance.choice((".", "..", "...", ".hidden", "")) + _sentence(chance, 3) for _ in range(20)]
    message.set_content("\n".join([".", *lines, "..", "."]) + "\n", cte="7bit")
    return message.as_bytes()


def _long_lines(chance: random.Random, message: EmailMessage) -> bytes:
    lines = [(_sentence(chance, 200) * 2)[: chance.choice((997, 998))] for _ in range(10)]
    message.set_content("\n".join(lines) + "\n", cte="7bit")
    return message.as_bytes()


def _unix(chance: random.Random, message: EmailMessage) -> bytes:
    return _plain(chance, message).replace(b"\r\n", b"\n").rstrip(b"\n")


def _attachment(chance: random.Random, message: EmailMessage, size: int = 60_000) -> bytes:
    message.set_content(_paragraphs(chance, 3), cte="7bit")
    message.add_attachment(chance.randbytes(size), maintype="application", subtype="octet-stream", filename="data.bin")
    return message.as_bytes()


def _large(chance: random.Random, message: EmailMessage) -> bytes:
    return _attachment(chance, message, size=chance.randint(1_500_000, 4_000_000))
