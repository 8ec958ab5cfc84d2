"""The texts that document the settings: a commented sample, and a reference page.

What lives here: writing them out of the declarations. What does not: the declarations.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from smtpcore.drivers._configuration.settings import Setting, settings_by_section

__all__ = ["reference", "sample"]

_WIDTH = 100

_SAMPLE_HEAD = """\
# A configuration of `smtpcore relay --config FILE`, with every setting at its default.
# Durations are seconds, or text such as "90s", "5m", "1h 30m", "2d"; octets a number, or text such as "50KiB".
"""

_REFERENCE_HEAD = """\
# Settings of the relay

Every setting that `smtpcore relay --config FILE` knows. The file is TOML. `smtpcore relay --print-config` prints a
commented file to begin with; `smtpcore relay --config FILE --check` says what is wrong with one, and does nothing else.

Durations are seconds, or text such as `"90s"`, `"5m"`, `"1h 30m"`, `"2d"` (units: ms, s, m, h, d, w). Octets are a
number, or text such as `"50KiB"` (units: B, KiB, MiB, GiB). Files are relative to the directory that the relay is
started in.

This page is written by `smtpcore config reference`.
"""


def sample() -> str:
    """A TOML text with every setting, its meaning and its default, the settings commented out."""
    return "\n".join((_SAMPLE_HEAD, *_sample_lines()))


def _sample_lines() -> Iterator[str]:
    for header, about, settings in settings_by_section():
        if header:
            # A route that is empty makes no sense; a section may be.
            yield f"#{header}" if header.startswith("[[") else header
        yield _comment(about)
        yield ""
        for setting in settings:
            yield _comment(setting.meaning)
            yield f"#{_name(setting, header)} = {_shown(setting)}"
            yield ""


def _name(setting: Setting, header: str) -> str:
    """The key below the header of its section."""
    return setting.key.removeprefix(f"{header.strip('[]')}.")


def _comment(text: str) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent="# ", subsequent_indent="# ")


def _shown(setting: Setting) -> str:
    """The default as TOML, or an example where there is none."""
    value = setting.kind.example if setting.default is None else setting.default
    return setting.kind.show(value)


def reference() -> str:
    """A Markdown page with one table for each section."""
    return "\n".join((_REFERENCE_HEAD, *_reference_lines()))


def _reference_lines() -> Iterator[str]:
    for header, about, settings in settings_by_section():
        yield f"## {f'`{header}`' if header else 'At the top'}"
        yield ""
        yield about
        yield ""
        yield "| setting | kind | default | meaning |"
        yield "|---|---|---|---|"
        for setting in settings:
            default = "" if setting.default is None else f"`{setting.kind.show(setting.default)}`"
            yield f"| `{_name(setting, header)}` | {setting.kind.name} | {default} | {setting.meaning} |"
        yield ""
