"""Log lines: every record on one line, with all its fields, whatever is in them.

What lives here: records in, lines out. What does not: who logs what.
"""

from __future__ import annotations

import io
import json
import logging

import pytest

from smtpcore.drivers._relaying.log_lines import logging_to

LOG = logging.getLogger("smtpcore.drivers.test")


def lines(form: str, level: str = "info") -> tuple[list[str], logging.Handler]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    with logging_to(handler, level, form):
        fields = {
            "queue_id": 7,
            "recipient": "u@a.example",
            "seconds": 0.25,
            "words": '250 "fine"\nreally',
            "none": None,
        }
        LOG.info("mail %d", 7, extra={**fields, "in_doubt": True})
        LOG.debug("not this one")
        logging.getLogger("somebody.else").info("nor this one")
        try:
            raise ValueError("unforeseen")
        except ValueError:
            LOG.exception("broken")
    LOG.error("not any more")
    return stream.getvalue().splitlines(), handler


def test_text_is_key_and_value() -> None:
    first, second = lines("text")[0]
    assert first.split(" ", 1)[1] == (
        "level=info logger=smtpcore.drivers.test queue_id=7 recipient=u@a.example seconds=0.250 "
        'words="250 \\"fine\\"\\nreally" in_doubt=true message="mail 7"'
    )
    assert 'message=broken exception="Traceback' in second


def test_json_is_one_object_a_line() -> None:
    first, second = (json.loads(line) for line in lines("json")[0])
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "info",
        "logger": "smtpcore.drivers.test",
        "queue_id": 7,
        "recipient": "u@a.example",
        "seconds": 0.25,
        "words": '250 "fine"\nreally',
        "in_doubt": True,
        "message": "mail 7",
    }
    assert "unforeseen" in second["exception"]


@pytest.mark.parametrize(("level", "count"), [("debug", 3), ("info", 2), ("error", 1)])
def test_the_level_is_the_least_that_is_written(level: str, count: int) -> None:
    assert len(lines("text", level)[0]) == count


def test_nothing_is_left_behind() -> None:
    before = logging.getLogger("smtpcore").level
    handler = lines("text")[1]
    assert handler not in logging.getLogger().handlers
    assert logging.getLogger("smtpcore").level == before
