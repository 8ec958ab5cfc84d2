"""How log records are written: one line each, ``key=value`` or JSON, with everything that the record carries.

What lives here: two formats, and setting one up for a while. What does not: any event.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
from collections.abc import Generator, Mapping
from typing import Any, Final

__all__ = ["FORMATS", "JsonLines", "TextLines", "logging_to", "plain"]

#: What every record has; the rest are the fields that the event brought along.
_OWN: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


#: The loggers of the wire drivers.
_SESSIONS: Final = ("smtpcore.drivers.blocking", "smtpcore.drivers.asyncio", "smtpcore.drivers.trio")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """Everything about a record, in the order in which it is written."""
    moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
    fields: dict[str, Any] = {
        "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": record.levelname.lower(),
        "logger": record.name,
    }
    # An event whose text repeats its fields says what it is in one word.
    word = getattr(record.msg, "word", None)
    if word is not None:
        fields["event"] = word
    fields |= {name: value for name, value in record.__dict__.items() if name not in _OWN and value is not None}
    if word is None:
        fields["message"] = record.getMessage()
    if record.exc_info:
        fields["exception"] = logging.Formatter().formatException(record.exc_info)
    return fields


class TextLines(logging.Formatter):
    """``key=value`` pairs; what holds blanks, quotes or control characters is quoted as in JSON."""

    def format(self, record: logging.LogRecord) -> str:
        return " ".join(f"{name}={plain(value)}" for name, value in _fields(record).items())


class JsonLines(logging.Formatter):
    """One JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(_fields(record), default=str)


def plain(value: object) -> str:
    """A value as it stands behind ``key=``; quoted as in JSON if it holds blanks, quotes or control characters."""
    if isinstance(value, bool):
        return str(value).lower()
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    bare = text and text.isprintable() and not set(' "=\\') & set(text)
    return text if bare else json.dumps(text)


FORMATS: Final[Mapping[str, type[logging.Formatter]]] = {"text": TextLines, "json": JsonLines}


@contextlib.contextmanager
def logging_to(handler: logging.Handler, level: str, form: str) -> Generator[None]:
    """Write what smtpcore logs from ``level`` on, and what others warn of, to ``handler`` while the block runs.

    Sessions are written from debug on: what they say of each mail at info, its fates and attempts say as well.
    """
    handler.setFormatter(FORMATS[form]())
    everything, ours = logging.getLogger(), logging.getLogger("smtpcore")
    levels = {ours: level, **{logging.getLogger(name): "warning" for name in _SESSIONS if level == "info"}}
    before = {logger: logger.level for logger in levels}
    everything.addHandler(handler)
    for logger, least in levels.items():
        logger.setLevel(least.upper())
    try:
        yield
    finally:
        for logger, least_before in before.items():
            logger.setLevel(least_before)
        everything.removeHandler(handler)
        handler.close()
