"""Draws the law of a session from its tables: ``python docs/machine/draw.py``.

What lives here: where the states and arrows stand in the picture, and how tables become Markdown. What does not: any
rule; LEGAL, LEADS and MAY_FOLLOW have them. An arrow of the tables without a place here is an error, and so is a place
without an arrow.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path

from smtpcore import LEADS, LEGAL, State, Verb
from smtpcore._state import ENDS_GROUP, MAY_FOLLOW

HERE = Path(__file__).parent

#: What is answered in a state without having been said in it.
ANSWERED = {State.CONNECTED: {Verb.CONNECT}, State.DATA: {Verb.END_OF_DATA}}
#: Shown as a line of text: arrows from nearly everywhere would cross all others.
AS_TEXT = {Verb.QUIT}

#: The middle of each box.
BOXES = {
    State.CONNECTED: (85, 250),
    State.GREETED: (290, 250),
    State.READY: (540, 250),
    State.MAIL: (800, 250),
    State.RCPT: (1010, 250),
    State.DATA: (1240, 250),
    State.TLS: (290, 90),
    State.AUTH: (540, 90),
    State.FAILED: (880, 90),
    State.CHUNK: (1180, 90),
    State.CLOSED: (85, 480),
}
WIDTH, HEIGHT = 150, 64
#: The way of each arrow, and where the last line of its label stands.
ROUTES = {
    (State.CONNECTED, State.GREETED): ("M160 250 L215 250", (187, 243)),
    (State.GREETED, State.READY): ("M365 250 L465 250", (415, 243)),
    (State.READY, State.GREETED): ("M490 282 Q415 340 340 282", (415, 338)),
    (State.READY, State.TLS): ("M480 218 L360 122", (405, 182)),
    (State.READY, State.AUTH): ("M520 218 L520 122", (496, 178)),
    (State.AUTH, State.READY): ("M560 122 L560 218", (604, 150)),
    (State.READY, State.MAIL): ("M615 240 L725 240", (670, 234)),
    (State.MAIL, State.READY): ("M725 262 L615 262", (670, 312)),
    (State.MAIL, State.RCPT): ("M875 250 L935 250", (905, 243)),
    (State.RCPT, State.DATA): ("M1085 250 L1165 250", (1125, 243)),
    (State.RCPT, State.READY): ("M990 282 Q770 420 570 282", (775, 356)),
    (State.DATA, State.READY): ("M1230 282 Q890 540 545 282", (889, 416)),
    (State.RCPT, State.FAILED): ("M985 218 L905 122", (940, 178)),
    (State.RCPT, State.CHUNK): ("M1035 218 L1145 122", (1095, 178)),
    (State.CHUNK, State.FAILED): ("M1105 90 L955 90", (1030, 84)),
    (State.FAILED, State.READY): ("M805 105 L612 222", (715, 172)),
    (State.CHUNK, State.READY): ("M1180 58 Q830 -80 600 218", (749, 82)),
}


def codes(key: int) -> str:
    return str(key) if key > 9 else f"{key}yz"


def named(rows: Mapping[Verb, list[int]]) -> list[tuple[str, str]]:
    """All verbs with the same codes, and the codes."""
    gathered: dict[tuple[int, ...], list[Verb]] = {}
    for verb, keys in rows.items():
        gathered.setdefault(tuple(keys), []).append(verb)
    return [(", ".join(v.value for v in verbs), " ".join(map(codes, keys))) for keys, verbs in gathered.items()]


def arrows() -> dict[tuple[State, State], dict[Verb, list[int]]]:
    """Every move of the stored state: from where to where, by which verbs, with which codes."""
    found: dict[tuple[State, State], dict[Verb, list[int]]] = {}
    for state in State:
        for verb in Verb:
            if verb in LEGAL[state] | ANSWERED.get(state, set()):
                for key, target in LEADS[verb].items():
                    found.setdefault((state, target or state), {}).setdefault(verb, []).append(key)
    return found


def text(x: float, y: float, lines: list[str], kind: str) -> str:
    spans = "".join(f'<tspan x="{x}" dy="{0 if n == 0 else 14}">{escape(line)}</tspan>' for n, line in enumerate(lines))
    return f'<text class="{kind}" x="{x}" y="{y}">{spans}</text>'


def label(x: float, y: float, rows: Mapping[Verb, list[int]]) -> str:
    lines = [line for both in named(rows) for line in both]
    return text(x, y - 14 * (len(lines) - 1), lines, "arrow")


def box(state: State, stays: list[str]) -> str:
    x, y = BOXES[state]
    frame = f'<rect x="{x - WIDTH / 2:g}" y="{y - HEIGHT / 2:g}" width="{WIDTH}" height="{HEIGHT}" rx="8"/>'
    return frame + text(x, y - 12, [state.name], "state") + text(x, y + 4, stays, "stays")


def picture() -> str:
    moves = arrows()
    stays = {s: {v: k for v, k in moves.pop((s, s), {}).items() if None not in LEADS[v].values()} for s in State}
    parting = [s.name for s in State if any(AS_TEXT & rows.keys() for (a, _), rows in moves.items() if a is s)]
    moves = {way: rows for way, rows in moves.items() if not AS_TEXT & rows.keys()}
    if moves.keys() != ROUTES.keys():
        raise SystemExit(f"arrows without a place, or places without an arrow: {moves.keys() ^ ROUTES.keys()}")
    neutral = ", ".join(v.value for v, rows in LEADS.items() if None in rows.values())
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1330 530" font-family="sans-serif" role="img">',
        "<title>The states of a session and what moves it</title>",
        "<style>rect{fill:#f4f6f8;stroke:#345} path{fill:none;stroke:#345;stroke-width:1.3} text{text-anchor:middle}"
        " .state{font-size:14px;font-weight:bold} .stays{font-size:9px;fill:#555}"
        " .arrow{font-size:11px;stroke:#fff;stroke-width:4px;paint-order:stroke}"
        " .note{font-size:12px;text-anchor:start}"
        "</style>",
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto">'
        '<polygon points="0,1 10,5 0,9" fill="#345"/></marker></defs>',
        '<rect x="0" y="0" width="1330" height="530" style="fill:#fff;stroke:none"/>',
    ]
    parts += [f'<path d="{path}" marker-end="url(#tip)"/>' for path, _ in ROUTES.values()]
    parts += [box(state, [f"{verbs}: {codes}" for verbs, codes in named(stays[state])]) for state in State]
    parts += [label(*ROUTES[way][1], rows) for way, rows in moves.items()]
    notes = [
        "What is written in a box leaves the state as it is.",
        f"{State.CLOSED.name} is where any answer to QUIT leads, out of {', '.join(parting)};",
        f"and 421, or the end of the connection, at any time. {neutral} leave the state as it is, and so",
        "does a refusal (4yz, 5yz) of which no arrow speaks. Any other answer breaks the protocol.",
    ]
    parts += [text(180, 466, notes, "note"), "</svg>"]
    return "\n".join(parts) + "\n"


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def verbs(found: frozenset[Verb]) -> str:
    return ", ".join(verb.value for verb in Verb if verb in found) or "nothing"


def tables() -> str:
    legal = [[f"`{state.name}`", verbs(LEGAL[state])] for state in State]
    rows = [
        [verb.value, codes(key), f"`{target.name}`" if target else "stays"]
        for verb, row in LEADS.items()
        for key, target in row.items()
    ]
    follow = [
        [verb.value, "nothing: it ends a group" if verb in ENDS_GROUP else verbs(MAY_FOLLOW[verb])]
        for verb in Verb
        if verb is not Verb.HELP
    ]
    follow.append([Verb.HELP.value, "what may follow those before it"])
    return "\n\n".join(
        [
            "<!-- Written by docs/machine/draw.py from the tables of the code. -->",
            "### `LEGAL`: what may be said in a state",
            table(["state", "commands"], legal),
            "### `LEADS`: where a reply leads",
            table(["answered", "code", "state"], rows),
            "### `MAY_FOLLOW`: what may be said behind a command before its reply",
            table(["command", "may be followed by"], follow),
        ]
    )


def drawn() -> dict[str, str]:
    """Each file that belongs beside this one, with what it has to hold."""
    return {"states.svg": picture(), "tables.txt": tables() + "\n"}


if __name__ == "__main__":
    for name, content in drawn().items():
        (HERE / name).write_text(content, encoding="utf-8")
