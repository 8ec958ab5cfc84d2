"""Hypothesis strategies for what a server says: legal replies, illegal ones, adversaries' octets, divisions of octets.

What lives here: the choice of octets, for tests of whatever reads replies; it needs the extra ``smtpcore[testing]``.
What does not: any judgement of what must come of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from hypothesis import strategies as st

__all__ = ["adversarial_octets", "divided", "illegal_replies", "legal_replies", "reply_codes", "reply_texts"]

#: Codes that mean something somewhere in a session, more often than chance would have them.
_KNOWN: Final = (211, 214, 220, 221, 235, 250, 251, 252, 334, 354, 421, 450, 451, 452, 454, 500, 501, 502, 503, 504)
_KNOWN_REFUSALS: Final = (530, 534, 535, 538, 550, 551, 552, 553, 554, 555)


def reply_codes(first_digits: Iterable[int] = (2, 3, 4, 5)) -> st.SearchStrategy[int]:
    """Codes of replies that begin with one of the digits: those that are known, and those that nobody has seen yet."""
    digits = sorted(set(first_digits))
    known = [code for code in _KNOWN + _KNOWN_REFUSALS if code // 100 in digits]
    any_code = st.tuples(st.sampled_from(digits), st.integers(0, 99)).map(lambda pair: 100 * pair[0] + pair[1])
    return st.sampled_from(known) | any_code


def reply_texts(longest: int = 200) -> st.SearchStrategy[str]:
    """Text of a reply line, up to ``longest`` octets of UTF-8: all but CR, LF and NUL (RFC 5321 §4.2, RFC 6531)."""
    letters = st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"])
    usual = st.sampled_from(["", "ok", "2.0.0 ok", "4.7.1 greylisted", "5.1.1 no such user", "8BITMIME", "STARTTLS"])
    return usual | st.text(letters, max_size=longest // 4)


@st.composite
def legal_replies(
    draw: st.DrawFn, codes: st.SearchStrategy[int] | None = None, lines: int = 6, longest: int = 200
) -> bytes:
    """One whole reply of up to ``lines`` lines: multi-line, code alone, enhanced codes, UTF-8."""
    code = draw(reply_codes() if codes is None else codes)
    texts = draw(st.lists(reply_texts(longest), min_size=1, max_size=lines))
    *first, last = texts
    # A last line may be the bare code; a line before it needs its hyphen.
    ending = f"{code} {last}" if last or draw(st.booleans()) else f"{code}"
    return "".join(f"{line}\r\n" for line in (*(f"{code}-{text}" for text in first), ending)).encode()


def illegal_replies() -> st.SearchStrategy[bytes]:
    """Octets that no server may say in place of a reply: each has at least one whole line, and breaks the grammar."""
    code = reply_codes().map(str)
    text = reply_texts()
    no_digits = st.sampled_from(["", "2", "25", "2xx", "25O", "+50", " 250", "٢٥٠", "SSH-2.0-OpenSSH", "HTTP/1.1 400"])
    out_of_range = st.integers(0, 199) | st.integers(600, 999)
    two = st.lists(reply_codes(), min_size=2, max_size=2, unique=True)
    broken = st.sampled_from("\r\n\0")
    return st.one_of(
        st.builds("{} {}\r\n".format, no_digits, text),
        st.builds("{:03} {}\r\n".format, out_of_range, text),
        st.builds("{}{}{}\r\n".format, code, st.sampled_from(["0", "x", "_", "\t", "."]), text),
        two.map(lambda codes: f"{codes[0]}-one\r\n{codes[1]} two\r\n"),
        st.builds("{} {}{}{}x\r\n".format, code, text, broken, text),
    ).map(str.encode)


def adversarial_octets(longest: int = 20) -> st.SearchStrategy[bytes]:
    """What an adversary might say: replies of all kinds in any number, floods, halves, records of TLS, noise."""
    floods = st.sampled_from([b"250-" + b"x" * 70_000, b"220-hello\r\n" * 600, b"250 ok\r\n" * 1000, b"\r\n" * 1000])
    halves = legal_replies().flatmap(lambda reply: st.integers(0, len(reply)).map(lambda end: reply[:end]))
    tls = st.sampled_from([b"\x16\x03\x03\x40\x00" + bytes(100), b"\x15\x03\x03\x00\x02\x02\x28"])
    piece = st.one_of(legal_replies(), legal_replies(), illegal_replies(), halves, floods, tls, st.binary(max_size=100))
    return st.lists(piece, min_size=1, max_size=longest).map(b"".join)


@st.composite
def divided(draw: st.DrawFn, octets: st.SearchStrategy[bytes] | bytes, pieces: int = 8) -> Sequence[bytes]:
    """The octets in up to ``pieces`` pieces, divided anywhere: within a code, between CR and LF, within a letter."""
    whole = octets if isinstance(octets, bytes) else draw(octets)
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(whole) - 1)), max_size=pieces - 1)))
    return [piece for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True) if (piece := whole[start:end])]
