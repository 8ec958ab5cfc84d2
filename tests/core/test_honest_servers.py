"""Clients and servers that keep the protocol, but refuse at will: nothing is lost, told twice, or told wrong.

What lives here: whole dialogues, with every way of transfer, any limits and any division of what is heard. What does
not: servers that break the protocol (``test_adversary``, ``test_lives``).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from smtpcore import BodyFacts, Client, Envelope, Limits, NeedMail, Pipelining, Report, TlsPolicy, Verdict
from smtpcore.testing import ScriptedServer, converse

from .examples import examples

BODY = b"one\r\n.two\r\n"
#: What a server may say instead of yes, by verb; no answer is yes.
REFUSALS = {
    "MAIL": ["450 no", "550 no"],
    "RCPT": ["452 enough", "450 no", "550 no"],
    "DATA": ["451 no"],
    "BDAT": ["452 full", "554 no"],
    "BDAT LAST": ["451 no", "554 no"],
    ".": ["451 no", "554 no"],
}


def answers_of(refused: dict[str, list[int]]) -> dict[str, list[str | None]]:
    """For each verb its answers one after the other, out of numbers: most of them yes."""
    return {
        verb: [REFUSALS[verb][number] if number < len(REFUSALS[verb]) else None for number in numbers]
        for verb, numbers in refused.items()
    }


dialogues = st.fixed_dictionaries(
    {
        "refused": st.fixed_dictionaries(
            {}, optional={verb: st.lists(st.integers(0, 5), max_size=8) for verb in REFUSALS}
        ),
        "announced": st.dictionaries(
            st.sampled_from(["MAILMAX", "RCPTMAX", "RCPTDOMAINMAX"]), st.integers(1, 3), max_size=2
        ),
        "extensions": st.sets(st.sampled_from(["PIPELINING", "CHUNKING", "8BITMIME"])),
        "pipelining": st.sampled_from(Pipelining),
        "mails": st.lists(st.tuples(st.integers(1, 4), st.booleans(), st.booleans()), min_size=1, max_size=5),
        "limits": st.builds(
            Limits,
            commands_in_flight=st.sampled_from([2, 5, 1024]),
            mails_kept_back=st.sampled_from([2, 64]),
            chunks_in_flight=st.sampled_from([1, 8]),
        ),
        "piece": st.sampled_from([4, 100]),
        "split": st.sampled_from([(), 1, 30]),
    }
)


@settings(max_examples=examples(1000))
@given(dialogues)
@example(
    {
        "refused": {"MAIL": [1]},
        "announced": {"RCPTMAX": 1},
        "extensions": {"PIPELINING", "CHUNKING"},
        "pipelining": Pipelining.ACROSS,
        "mails": [(2, True, True)] * 3,
        "limits": Limits(),
        "piece": 100,
        "split": (),
    }
)
def test_what_is_told_is_what_the_server_took(dialogue: dict[str, Any]) -> None:
    announced = [f"{name}={number}" for name, number in dialogue["announced"].items()]
    server = ScriptedServer(
        answers_of(dialogue["refused"]),
        extensions=[*sorted(dialogue["extensions"]), *([f"LIMITS {' '.join(announced)}"] if announced else [])],
    )
    client = Client(
        "client.example", tls=TlsPolicy.SECURED, pipelining=dialogue["pipelining"], limits=dialogue["limits"]
    )
    mails = [
        (
            Envelope(
                f"m{number}@a.example",
                tuple(f"r{n}@{'cd'[n % 2]}.example" for n in range(recipients)),
                body=BodyFacts(size=len(BODY) if sized else None, eight_bit=False, repeatable=repeatable),
            ),
            BODY,
        )
        for number, (recipients, sized, repeatable) in enumerate(dialogue["mails"])
    ]
    events = converse(client, server, mails, split=dialogue["split"], piece=dialogue["piece"])
    assert not server.complaints
    reports = [event for event in events if isinstance(event, Report)]
    # A session that ends early asks for no more mails; those that it was given are answered, in order.
    given = mails[: sum(isinstance(event, NeedMail) for event in events)]
    assert [report.mail.envelope for report in reports] == [envelope for envelope, _ in given]
    told = Counter(
        (report.mail.envelope.reverse_path, outcome.recipient)
        for report in reports
        for outcome in report.outcomes
        if outcome.verdict is Verdict.DELIVERED
    )
    took = Counter((mail.reverse_path, recipient) for mail in server.mails for recipient in mail.recipients)
    assert told == took
    assert max(took.values(), default=1) == 1
    assert {mail.content for mail in server.mails} <= {BODY}
    assert not any(outcome.in_doubt for report in reports for outcome in report.outcomes)
