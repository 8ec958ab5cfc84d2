"""The driver of ``docs/custom-driver.md``, and broken ones made of it, as the conformance suite sees them.

What lives here: the text of the driver, a module out of a text, and its adapter. What does not: what must come of them.
"""

from __future__ import annotations

import threading
import types
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import gevent

from smtpcore.testing.conformance import Adapter, run_blocking

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "examples" / "gevent_driver.py").read_text(encoding="utf-8")


def adapter_for(text: str, **names: object) -> Adapter:
    module = types.ModuleType("gevent_driver")
    module.__dict__.update(names)
    exec(compile(text, "gevent_driver.py", "exec"), module.__dict__)

    def wait(event: threading.Event) -> Any:
        return gevent.get_hub().threadpool.apply(event.wait, (10,))

    def run_cancelled(play: Coroutine[Any, Any, None], when: threading.Event) -> None:
        greenlet = gevent.spawn(run_blocking, play)
        wait(when)
        greenlet.kill()

    return Adapter(
        connect=module.connect, run_cancelled=run_cancelled, wait=wait, lmtp=True, credentials=True, xclient=True
    )
