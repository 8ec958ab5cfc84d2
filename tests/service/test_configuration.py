"""The configuration of a relay: what is read, what is refused and where, and the texts that document it.

What lives here: files and flags in, settings or problems out. What does not: a relay at work.
"""

from __future__ import annotations

import dataclasses
import re
import ssl
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from smtpcore import Conversion, Deadlines, Limits, Pipelining, TlsPolicy, Verdict
from smtpcore.drivers._configuration.kinds import DURATION, OCTETS
from smtpcore.drivers._configuration.settings import ROUTE_SETTINGS, SECTIONS, SETTINGS
from smtpcore.drivers._configuration.texts import reference, sample
from smtpcore.drivers.cli import run
from smtpcore.drivers.configuration import Configuration, ConfigurationError, load
from smtpcore.drivers.resolver import ResolverSettings
from smtpcore.relay import FixedHosts, Host, Lmtp, Mx, RelaySettings, Schedule, SmartHost, Unroutable

REFERENCE = Path(__file__).parents[2] / "docs" / "configuration.md"
MINIMAL = 'spool = "spool"\n[routing]\ndefault = "relay.example:587"\n'
RELAY = Host("relay.example", None, 587)
SECRET = "correct horse battery"

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "relay.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def problems(path: Path, **flags: tuple[str, object]) -> list[str]:
    """What is wrong with a configuration, without the directory that it is in."""
    with pytest.raises(ConfigurationError) as caught:
        load(path, flags)
    return [str(problem).replace(f"{path.parent}/", "") for problem in caught.value.problems]


# --- what is read -----------------------------------------------------------------------------------------------------


def test_two_settings_are_enough(write: Write) -> None:
    configuration = load(write(MINIMAL))
    assert configuration.spool == Path("spool")
    assert configuration.routing.table.way("a.example") == SmartHost("relay.example", 587)
    assert configuration.resolver == ResolverSettings()
    assert configuration.backend == "asyncio"
    assert configuration.settings == RelaySettings(reporting_mta=configuration.settings.reporting_mta)
    assert configuration.options_for(RELAY) == {
        "limits": Limits(),
        "pipelining": Pipelining.WITHIN,
        "chunking": True,
        "eight_bit": Conversion.CONVERT,
        "long_lines": Conversion.AS_IS,
        "break_signatures": False,
    }


def test_every_section_is_read(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_PASSWORD", SECRET)
    text = """
        spool = "/var/spool/mail"
        backend = "trio"
        identity = { helo_name = "out.example", reporting_mta = "mail.example" }
        routing.default = "[::1]:2525"
        reports.whole_message_up_to = "1.5KiB"
        [tls]
        server_name = "other.example"
        [credentials]
        user = "anna"
        password_variable = "RELAY_PASSWORD"
        [dns]
        name_servers = ["192.0.2.1", "2001:db8::1"]
        query = 1
        [session]
        pipelining = "none"
        source_addresses = ["127.0.0.1", "::1"]
        [schedule]
        delays = [90, "1h 30m"]
        warn_after = "never"
        give_up_after = "2d"
        spread = 0
        rest = "500ms"
        [concurrency]
        sessions = 3
        idle = 0.5
        [limits]
        reply_line = 2000
        [deadlines]
        mail = "1m"
        scale = 0.5
        [logging]
        level = "debug"
        file = "relay.log"
        format = "json"
        summary_every = "10s"
    """
    configuration = load(write(text))
    assert configuration.routing.table.way("a.example") == SmartHost("::1", 2525)
    assert configuration.resolver == ResolverSettings(name_servers=("192.0.2.1", "2001:db8::1"), query_seconds=1.0)
    assert configuration.backend == "trio"
    assert configuration.settings == RelaySettings(
        reporting_mta="mail.example",
        schedule=Schedule(delays=(90.0, 5400.0), warn_after=None, give_up_after=172_800.0, spread=0.0),
        rest=0.5,
        sessions=3,
        idle_seconds=0.5,
        whole_message_in_reports=1536,
    )
    options = configuration.options_for(Host("::1", None, 2525))
    assert options["limits"] == Limits(reply_line=2000, deadlines=Deadlines(mail=60.0)).scaled(0.5)
    assert "tls" not in options  # with credentials it is required
    assert options["helo_name"] == "out.example"
    assert options["source_address"] == ("127.0.0.1", "::1")
    assert options["tls_server_name"] == "other.example"
    assert options["pipelining"] is Pipelining.NONE
    assert options["credentials"]
    assert configuration.logging.file == Path("relay.log")
    assert (configuration.logging.level, configuration.logging.format) == ("debug", "json")
    assert configuration.logging.summary_every == 10.0
    assert SECRET not in repr(configuration)


def test_flags_override_the_file(write: Write) -> None:
    flags = {"routing.default": ("--smarthost", SmartHost("flag.example", 25)), "tls.policy": ("--tls", "never")}
    configuration = load(write(MINIMAL + '[tls]\npolicy = "required"\n'), flags)
    assert configuration.routing.table.way("a.example") == SmartHost("flag.example", 25)
    assert configuration.options_for(Host("flag.example", None, 25))["tls"] is TlsPolicy.NEVER


def test_flags_alone_are_enough() -> None:
    configuration = load(None, {"spool": ("--spool", "x"), "routing.default": ("--smarthost", "a.example")})
    assert configuration.spool == Path("x")
    assert configuration.routing.table.way("b.example") == SmartHost("a.example", 25)


def test_the_files_of_tls_are_read(write: Write, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate = authority.issue_cert("client.example")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    text = f'{MINIMAL}[tls]\npolicy = "implicit"\nca_file = "{tmp_path}/ca.pem"\n'
    context = load(write(f'{text}certificate_file = "{tmp_path}/both.pem"\n')).options_for(RELAY)["tls_context"]
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert len(context.get_ca_certs()) == 1
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    text = f'{MINIMAL}[tls]\npolicy = "opportunistic"\ncertificate_file = "{tmp_path}/cert.pem"\n'
    text += f'key_file = "{tmp_path}/key.pem"\n'
    assert load(write(text)).options_for(RELAY)["tls_context"].verify_mode is ssl.CERT_NONE
    assert (
        problems(write(text.replace("key.pem", "ca.pem")))
        == [f"relay.toml:5: tls.certificate_file: {'cert.pem'}: this is not a certificate with its key (no start line)"]
        or "this is not a certificate with its key" in problems(write(text.replace("key.pem", "ca.pem")))[0]
    )


# --- routes -----------------------------------------------------------------------------------------------------------

ROUTES = """
    spool = "spool"
    tls = { policy = "never" }
    routing = { fallback = ["last.example"] }
    [[route]]
    domains = ["North.example", ".south.example"]
    to = "mx"
    [[route]]
    domains = ["east.example"]
    to = ["one.example:26", "two.example"]
    tls.policy = "required"
    credentials = { user = "anna", password_variable = "EAST" }
    [[route]]
    domains = ["here.example"]
    to = "[::1]:24"
    [[route]]
    domains = ["gone.example"]
    refuse = "5.1.10 We take no mail from there."
    [[route]]
    domains = ["soon.example"]
    refuse = "4.3.2 Not yet."
    [[route]]
    domains = ["no.example"]
    refuse = "Never."
"""


def test_routes_lead_somewhere_or_refuse(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EAST", SECRET)
    configuration = load(write(ROUTES))
    last = SmartHost("last.example")
    expected = {
        "north.example": Mx(fallback=(last,)),
        "x.south.example": Mx(fallback=(last,)),
        "elsewhere.example": Mx(fallback=(last,)),
        "east.example": FixedHosts((SmartHost("one.example", 26), SmartHost("two.example")), (last,)),
        "here.example": FixedHosts((SmartHost("::1", 24),), (last,)),
        "gone.example": Unroutable("We take no mail from there.", Verdict.NEVER, "5.1.10"),
        "soon.example": Unroutable("Not yet.", Verdict.LATER, "4.3.2"),
        "no.example": Unroutable("Never."),
    }
    assert {domain: configuration.routing.table.way(domain) for domain in expected} == expected
    assert SECRET not in repr(configuration)


def test_a_store_of_mailboxes_is_named_by_lmtp(write: Write) -> None:
    text = """
        spool = "spool"
        routing.default = "lmtp:/run/dovecot/lmtp"
        routing.fallback = ["backup.example"]
        [[route]]
        domains = ["a.example"]
        to = "lmtp:store.example"
        tls.policy = "required"
        [[route]]
        domains = ["b.example"]
        to = "lmtp:[::1]:2424"
    """
    configuration = load(write(text))
    way = configuration.routing.table.way
    assert way("other.example") == Lmtp(path="/run/dovecot/lmtp")
    assert way("a.example") == Lmtp("store.example", 24)
    assert way("b.example") == Lmtp("::1", 2424)
    assert configuration.options_for(Host("store.example", None, 24, lmtp=True))["tls"] is TlsPolicy.REQUIRED
    assert not configuration.routing.asks_the_dns


def test_stores_of_mailboxes_are_written_as_they_are_read() -> None:
    (kind,) = (setting.kind for setting in SETTINGS if setting.key == "routing.default")
    for text in ("lmtp:/run/lmtp", "lmtp:store.example:24", "lmtp:[::1]:2424", "relay.example:25"):
        assert kind.show(kind.read(text)) == f'"{text}"'


def test_each_route_holds_its_sessions_in_its_own_way(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EAST", SECRET)
    configuration = load(write(ROUTES))
    for name, port in (("One.example", 26), ("two.example", 25)):
        options = configuration.options_for(Host(name, "192.0.2.1", port))
        assert options["tls"] is TlsPolicy.REQUIRED
        assert options["credentials"]
    for name, port in (("one.example", 25), ("::1", 24), ("last.example", 25), ("mx.north.example", 25)):
        options = configuration.options_for(Host(name, None, port))
        assert options["tls"] is TlsPolicy.NEVER
        assert "credentials" not in options


def test_credentials_of_the_default_are_for_its_hosts_only(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSWORD", SECRET)
    text = MINIMAL + 'fallback = ["last.example"]\n[credentials]\nuser = "a"\npassword_variable = "PASSWORD"\n'
    text += '[[route]]\ndomains = ["b.example"]\nto = "b.example"\n'
    configuration = load(write(text))
    assert "credentials" in configuration.options_for(RELAY)
    for name in ("relay.example", "last.example", "b.example", "mx.example"):
        assert "credentials" not in configuration.options_for(Host(name, None, 25))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[route]\n", "4: route is written [[route]], once for each"),
        ("[[route]]\nto = 'mx'\n", "4: domains: this must be given"),
        ("[[route]]\ndomains = ['a.example']\n", "4: to: this must be given, or refuse"),
        ("[[route]]\ndomains = ['a.example']\nto = ['x', 5]\n", "6: to: text in quotes is expected, not a number"),
        ("[[route]]\ndomains = ['a.example']\nto = 'a:b'\n", "6: to: 'a:b' is not HOST:PORT"),
        (
            "[[route]]\ndomains = ['a.example']\nto = 'mx'\nrefuse = 'x'\n",
            "7: refuse: a route leads somewhere or refuses, not both",
        ),
        (
            "[[route]]\ndomains = ['a.example']\nto = 'mx'\n"
            "[[route]]\nto = 'mx'\ndomains = [\n'b.example',\n'A.example']\n",
            "11: domains: A.example has a route already: relay.toml:5",
        ),
        (
            "[[route]]\ndomains = ['*']\nto = 'mx'\n",
            "5: domains: for all that no route speaks of there is routing.default",
        ),
        (
            "[[route]]\ndomains = ['*.example']\nto = 'mx'\n",
            "5: domains: '*.example': a pattern is a domain, .domain for all below it, or *",
        ),
        (
            "[[route]]\ndomains = ['a.example']\nto = 'mx'\ntls.policy = 'required'\n",
            "7: tls.policy: this is for routes that name their hosts",
        ),
        (
            "[[route]]\ndomains = ['a.example']\nto = 'lmtp:a b'\n",
            "6: to: 'a b' is not a domain or address literal (RFC 5321 §4.1.2)",
        ),
        (
            "[[route]]\ndomains = ['a.example']\nto = 'lmtp:h:25'\n",
            "6: to: LMTP may not be spoken on port 25 (RFC 2033 §5)",
        ),
        ("[[route]]\ndomains = ['a.example']\nto = 'lmtp:h:x'\n", "6: to: 'h:x' is not HOST:PORT"),
        (
            "[[route]]\ndomains = ['a.example']\nto = ['h', 'lmtp:/run/lmtp']\n",
            "6: to: a store of mailboxes is no member of a list",
        ),
        (
            "[[route]]\ndomains = ['a.example']\nto = 'lmtp:/run/lmtp'\ntls.policy = 'required'\n",
            "7: tls.policy: a unix socket is spoken to in clear and without credentials",
        ),
        (
            "default = 'lmtp:/run/lmtp'\n[credentials]\nuser = 'x'\npassword_variable = 'PATH'\n",
            "6: credentials.user: a unix socket is spoken to in clear and without credentials",
        ),
        (
            "[[route]]\ndomains = ['a.example']\nto = 'h'\ntls.polcy = 'required'\n",
            "7: there is no tls.polcy; did you mean tls.policy?",
        ),
        (
            "[[route]]\ndomains = ['a.example']\nto = 'h'\n[route.credentials]\nuser = 'x'\n",
            "8: credentials.user: a user needs a password file",
        ),
        (
            "[[route]]\ndomains = ['a']\nto = 'h'\n[[route]]\ndomains = ['b']\nto = 'H:25'\ntls.policy = 'required'\n",
            "9: to: sessions with H:25 are held otherwise: relay.toml:6",
        ),
        (
            "default = 'mx'\n[credentials]\nuser = 'me'\npassword_variable = 'HOME'\n",
            "6: credentials.user: these would be said to every host of the world; give them to a route",
        ),
    ],
)
def test_what_is_wrong_with_a_route_is_said_with_its_line(write: Write, text: str, expected: str) -> None:
    beginning = MINIMAL if not text.startswith("default") else 'spool = "spool"\n\n[routing]\n'
    assert problems(write(beginning + text)) == [f"relay.toml:{expected}"]


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[routin]\n", "4: there is no routin; did you mean routing?"),
        ("[schedule]\n\n# x\nrests = 5\n", "7: there is no schedule.rests; did you mean schedule.rest?"),
        ("[session]\nhelo_name = 'x'\n", "5: there is no session.helo_name; did you mean identity.helo_name?"),
        ("zzz = 1\n", "4: there is no routing.zzz"),
        ('"tls.policy" = "never"\n', "4: there is no routing.tls.policy; did you mean tls.policy?"),
        ("[tls]\npolicy = 5\n", "5: tls.policy: text in quotes is expected, not a number"),
        (
            "[tls]\npolicy = 'maybe'\n",
            "5: tls.policy: 'maybe' is none of opportunistic, never, required, implicit",
        ),
        ("[tls]\npolicy = ''\n", "5: tls.policy: it may not be empty"),
        ("[concurrency]\nsessions = true\n", "5: concurrency.sessions: a whole number is expected, not true or false"),
        ("[concurrency]\nsessions = 1.5\n", "5: concurrency.sessions: a whole number is expected, not a number"),
        ("[concurrency]\nsessions = 0\n", "5: concurrency.sessions: sessions must be more than 0"),
        ("[concurrency]\nsessions = -4\n", "5: concurrency.sessions: -4 is out of range"),
        ("[concurrency.sessions]\n", "4: concurrency.sessions: a whole number is expected, not a table"),
        ("[concurrency]\nidle = inf\n", "5: concurrency.idle: inf is out of range: more than 0, at most 10 years"),
        (
            "[concurrency]\nidle = '5 parsecs'\n",
            "5: concurrency.idle: 'parsecs' is not a unit; there are ms, s, m, h, d, w",
        ),
        ("[concurrency]\nidle = '5m x'\n", "5: concurrency.idle: '5m x' is not a number with a unit"),
        (
            "[concurrency]\nidle = 1979-05-27\n",
            '5: concurrency.idle: seconds, or text such as "5m", are expected, not a date or time',
        ),
        (
            "[reports]\nwhole_message_up_to = []\n",
            '5: reports.whole_message_up_to: octets, or text such as "50KiB", are expected, not a list',
        ),
        ("[schedule]\ndelays = []\n", "5: schedule.delays: a list is expected, not an empty one"),
        ("[schedule]\ndelays = '5m'\n", "5: schedule.delays: a list is expected, not text"),
        ("[schedule]\ndelays = [\n 5,\n '10', # no unit\n]\n", "7: schedule.delays: '10' is not a number with a unit"),
        (
            "[schedule]\nwarn_after = '1h'\ndelays = [2, 1]\n",
            "6: schedule.delays: the delays of a schedule may not shrink",
        ),
        ("[schedule]\nspread = 1\n", "5: schedule.spread: 1 is out of range: at least 0, less than 1"),
        ("[schedule]\nrest = '2h'\n", "5: schedule.rest: longest_rest may not be shorter than rest"),
        ("[deadlines]\nscale = 0\n", "5: deadlines.scale: 0 is out of range: more than 0, at most 1000"),
        ("[deadlines]\nscale = '1'\n", "5: deadlines.scale: a number is expected, not text"),
        ("[limits]\npath = 0\n", "5: limits.path: limit 'path' must be at least 1"),
        (
            "[identity]\nhelo_name = 'a b'\n",
            "5: identity.helo_name: 'a b' is not a domain or address literal (RFC 5321 §4.1.2)",
        ),
        ("default = 'a'\n", "4: not TOML: Cannot overwrite a value (it is given twice)"),
        ("x = word\n", "4: not TOML: Invalid value (text stands in quotes)"),
        ("[logging]\nspool = 'x'\n", "5: there is no logging.spool; did you mean spool, before all sections?"),
        ("[logging]\nlevle = 'info'\n", "5: there is no logging.levle; did you mean logging.level?"),
        ("x = \n", "4: not TOML: Invalid value"),
        ("[x]\ny = [1,\n", "6: not TOML: Invalid value"),
        (
            "[tls]\nca_file = 'x'\n",
            "5: tls.ca_file: certificates are judged with the TLS policies required and implicit only",
        ),
        ("[tls]\npolicy = 'required'\nca_file = '/none/ca'\n", "6: tls.ca_file: /none/ca: No such file or directory"),
        (
            "[tls]\npolicy = 'required'\nca_file = '/dev/null'\n",
            "6: tls.ca_file: /dev/null: no certificate or crl found",
        ),
        ("[tls]\ncertificate_file = 'x'\n", "5: tls.certificate_file: a certificate needs a TLS policy"),
        ("[tls]\npolicy='never'\ncertificate_file = 'x'\n", "6: tls.certificate_file: the TLS policy is never"),
        (
            "[tls]\npolicy = 'required'\ncertificate_file = '/none/c'\n",
            "6: tls.certificate_file: /none/c: No such file or directory",
        ),
        ("[tls]\nkey_file = 'x'\n", "5: tls.key_file: a key needs a certificate_file"),
        ("[credentials]\nuser = 'me'\n", "5: credentials.user: a user needs a password file"),
        ("[credentials]\npassword_file = 'x'\n", "5: credentials.password_file: a password needs a user"),
        (
            "[credentials]\nuser = 'me'\npassword_file = '/none/p'\n",
            "6: credentials.password_file: /none/p: No such file or directory",
        ),
        (
            "[credentials]\nuser = 'me'\npassword_file = '/dev/null'\n",
            "6: credentials.password_file: /dev/null: the first line is empty",
        ),
        (
            "[credentials]\nuser = 'me'\npassword_variable = 'NOT_THERE'\n",
            "6: credentials.password_variable: there is no environment variable NOT_THERE, or it is empty",
        ),
        ("[logging]\nfile = '/none/here/log'\n", "5: logging.file: /none/here/log: there is no such directory"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(write: Write, text: str, expected: str) -> None:
    assert problems(write(MINIMAL + text)) == [f"relay.toml:{expected}"]


def test_all_problems_are_said_at_once_in_the_order_of_their_lines(write: Write) -> None:
    text = "[concurrency]\nwindow = 0\nsessions = 0\nidle = 'x'\n[identity]\nhelo_name = 5\n"
    assert [problem.partition(": ")[0] for problem in problems(write(text))] == [
        "relay.toml",
        "relay.toml:2",
        "relay.toml:3",
        "relay.toml:4",
        "relay.toml:6",
    ]


def test_what_must_be_given_is_missed(write: Write) -> None:
    assert problems(write("")) == ["relay.toml: spool: this must be given, or --spool"]


def test_a_flag_is_named_and_not_its_setting(write: Write) -> None:
    path = write(MINIMAL)
    assert problems(path, **{"identity.helo_name": ("--helo", "a b")}) == [
        "--helo: 'a b' is not a domain or address literal (RFC 5321 §4.1.2)"
    ]
    flags = {"credentials.user": ("--user", "me"), "tls.policy": ("--tls", "never")}
    assert problems(path, **flags)[0] == "--user: credentials are never said without TLS; choose another TLS policy"


def test_octets_that_are_not_utf_8(write: Write) -> None:
    path = write(MINIMAL)
    path.write_bytes(MINIMAL.encode() + b"# caf\xe9\n")
    assert problems(path) == ["relay.toml:4: this is not UTF-8"]


def test_brackets_without_end(write: Write) -> None:
    assert problems(write("x = " + "[" * 100_000)) == ["relay.toml: brackets are nested too deeply"]


# --- kinds ------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 10_000_000))
def test_durations_and_octets_are_written_as_they_are_read(number: int) -> None:
    for kind in (DURATION, OCTETS):
        shown = tomllib.loads(f"x = {kind.show(number)}")["x"]
        assert kind.read(shown) == number


# --- the texts --------------------------------------------------------------------------------------------------------


def test_every_field_of_the_settings_can_be_configured() -> None:
    configured = {setting.field for setting in SETTINGS}
    nested = {(RelaySettings, "schedule"), (Limits, "deadlines")}
    for owner in (RelaySettings, Schedule, Limits, Deadlines, ResolverSettings):
        fields = {(owner, field.name) for field in dataclasses.fields(owner)} - nested
        assert fields <= configured


def test_every_setting_has_its_section_and_its_sentence() -> None:
    assert {setting.section for setting in SETTINGS} == set(SECTIONS)
    assert len({setting.key for setting in SETTINGS}) == len(SETTINGS)
    for setting in (*SETTINGS, *ROUTE_SETTINGS):
        assert setting.meaning.endswith("."), setting.key


def test_the_sample_changes_nothing(write: Write) -> None:
    assert all(not value for value in tomllib.loads(sample()).values())


def test_the_sample_without_its_comments_is_every_setting_at_its_default(write: Write) -> None:
    text = re.sub(r"(?m)^#(?=[\w\[])", "", sample())
    data = tomllib.loads(text)
    (route,) = data.pop("route")
    assert {setting.key for setting in ROUTE_SETTINGS} == set(_keys(route))
    assert {setting.key for setting in SETTINGS} == set(_keys(data))
    defaults = {setting.key for setting in SETTINGS if setting.default is not None}
    plain, examples = load(write(MINIMAL)), _without(data, defaults | {"spool", "routing.default"})
    (path := write(MINIMAL)).write_text(examples, encoding="utf-8")
    full = load(path)
    for field in dataclasses.fields(Configuration):
        if field.name not in {"spool", "routing"}:
            assert getattr(full, field.name) == getattr(plain, field.name), field.name
    assert full.routing.table.way("a.example") == Mx()


def _keys(data: dict[str, Any], path: str = "") -> list[str]:
    found: list[str] = []
    for name, value in data.items():
        found += _keys(value, f"{path}{name}.") if isinstance(value, dict) else [f"{path}{name}"]
    return found


def _without(data: dict[str, Any], kept: set[str]) -> str:
    """The settings of ``kept`` alone, as TOML."""
    lines: list[str] = []
    for setting in SETTINGS:
        if setting.key in kept:
            value: Any = data
            for part in setting.path:
                value = value[part]
            lines.append(f"{setting.key} = {value!r}".replace("True", "true").replace("False", "false"))
    return "\n".join(lines) + "\n"


def test_the_reference_is_fresh() -> None:
    assert REFERENCE.read_text(encoding="utf-8") == reference(), (
        "run: smtpcore config reference > docs/configuration.md"
    )


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_shows_and_checks(write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["relay", "--print-config"]) == 0
    assert capsys.readouterr().out == sample()
    assert run(["config", "sample"]) == 0
    assert capsys.readouterr().out == sample()
    assert run(["config", "reference"]) == 0
    assert capsys.readouterr().out == reference()
    assert run(["relay", "--check", "--config", str(write(MINIMAL))]) == 0
    assert "sound" in capsys.readouterr().out
    path = write(MINIMAL + "x = 1\ny = 2\n")
    assert run(["relay", "--check", "--config", str(path)]) == 78
    assert capsys.readouterr().err.splitlines() == [
        f"smtpcore: {path}:4: there is no routing.x",
        f"smtpcore: {path}:5: there is no routing.y",
    ]
    assert run(["relay", "--config", str(tmp_path / "none.toml")]) == 66
    assert run(["relay", "--smarthost", "localhost"]) == 64
    assert "--spool" in capsys.readouterr().err
