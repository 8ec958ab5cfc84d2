"""Broken drivers that are made of the blocking one, as the conformance suite sees them.

What lives here: a module out of the blocking driver's text, changed, and its adapter. What does not: what must come of
them, and the driver as it is (``tests/drivers``).
"""

from __future__ import annotations

import types
from dataclasses import replace
from pathlib import Path

from smtpcore import BodyFacts, BodyForm, Pipelining
from smtpcore.drivers import blocking
from smtpcore.testing.conformance import Adapter

TEXT = Path(blocking.__file__).read_text(encoding="utf-8")


def adapter_for(text: str) -> Adapter:
    module = types.ModuleType("blocking_driver")
    # What changes may need, and the driver does not.
    module.__dict__.update(BodyFacts=BodyFacts, BodyForm=BodyForm, Pipelining=Pipelining, replace=replace)
    exec(compile(text, "blocking_driver.py", "exec"), module.__dict__)
    return Adapter(connect=module.connect, files=True, conversion=True, across=True, commands=True)
