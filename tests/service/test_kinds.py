"""Whoever gives a session, a pool or a service something of a wrong kind is told what, and at once.

What lives here: one table of arguments for all constructors of the drivers. What does not: values that contradict each
other, and the settings of the core.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from smtpcore import LocalProtocolError
from smtpcore.drivers import asyncio as asyncio_driver
from smtpcore.drivers import blocking, blocking_pool, pool, service, threads
from smtpcore.drivers._session.options import Options
from smtpcore.drivers.spool import Spool
from smtpcore.relay import RelaySettings, SmartHost

SETTINGS = RelaySettings(reporting_mta="relay.example")
ROUTE = SmartHost("127.0.0.1", 25)

#: What no option takes.
NO_OPTION = {"credentials": ("anna", "secret"), "source_address": 5}


def connect_blocking(host: Any = "127.0.0.1", port: Any = 25, **options: Any) -> object:
    return blocking.connect(host, port, **options)


def connect_asyncio(host: Any = "127.0.0.1", port: Any = 25, **options: Any) -> object:
    return asyncio.run(asyncio_driver.connect(host, port, **options))


def make_pool(made: Any, host: Any = "127.0.0.1", port: Any = 25, **options: Any) -> object:
    return made(host, port, options)


MAKERS: list[Any] = [
    pytest.param(connect_blocking, id="blocking"),
    pytest.param(connect_asyncio, id="asyncio"),
    pytest.param(partial(make_pool, pool.Pool), id="pool"),
    pytest.param(partial(make_pool, blocking_pool.Pool), id="blocking_pool"),
]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("option", sorted(Options.__annotations__))
def test_each_option_of_a_session(make: Callable[..., object], option: str) -> None:
    for wrong in (NO_OPTION.get(option, 5), object(), None):
        with pytest.raises(LocalProtocolError, match=option.replace("_", "[_ ]")):
            make(**{option: wrong})


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    ("host", "port", "named"),
    [(5, 25, "host"), (None, 25, "host"), ("", 25, "host"), ("h", "25", "port"), ("h", 0, "port"), ("h", True, "port")],
)
def test_where_to(make: Callable[..., object], host: object, port: object, named: str) -> None:
    with pytest.raises(LocalProtocolError, match=f"a {named} is"):
        make(host, port)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    "host", ["localhost:8025", "smtp://localhost", "[::1]", "[::1]:25", "localhost/", "1.2.3.4:25"]
)
def test_more_than_a_host(make: Callable[..., object], host: str) -> None:
    with pytest.raises(LocalProtocolError, match="the port is given apart"):
        make(host)


@pytest.mark.parametrize("made", [pool.Pool, blocking_pool.Pool])
@pytest.mark.parametrize("host", ["::1", "2001:db8::1", "fe80::1%eth0", "192.0.2.1", "mail.example.", "under_score"])
def test_names_and_addresses_are_hosts(made: Any, host: str) -> None:
    made(host)


@pytest.mark.parametrize("made", [pool.Pool, blocking_pool.Pool])
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sessions": "4"}, "sessions must be a whole number"),
        ({"retries": 5}, "retries must be a Retries"),
        ({"idle_seconds": "30"}, "idle_seconds must be a number"),
        ({"session": 4, "retry": 1}, "no such setting of a pool: retry, session"),
        ({"options": [1]}, "options are a dict"),
    ],
)
def test_each_setting_of_a_pool(made: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(LocalProtocolError, match=words):
        made("127.0.0.1", **settings)


@pytest.mark.parametrize("made", [service.RelayService, threads.RelayService])
@pytest.mark.parametrize(
    ("argument", "wrong", "words"),
    [
        ("spool", ["spool"], "the spool must be"),
        ("route", ["127.0.0.1:25", SmartHost, None], "the route must be"),
        ("settings", [{}, None], "the settings must be"),
        ("options", [5, "helo", [1]], "options are"),
        ("notice", [5, []], "notice must be"),
        ("grace", [-1, math.nan, "10", None, True], "grace must be"),
        ("resolver", [5, "8.8.8.8"], "the resolver must"),
    ],
)
def test_each_argument_of_a_service(made: Any, argument: str, wrong: list[Any], words: str, tmp_path: Path) -> None:
    with Spool(tmp_path / "spool") as spool:
        right = {"spool": spool, "route": ROUTE, "settings": SETTINGS}
        for one in wrong:
            with pytest.raises(LocalProtocolError, match=words):
                made(**{**right, argument: one})
        assert made(**right, grace=math.inf)
