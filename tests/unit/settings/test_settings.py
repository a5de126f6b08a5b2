"""Settings: their sources, their allowed values and the errors for invalid ones."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, fields
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from mr_celery.errors import SettingsError
from mr_celery.settings import DEFAULT_URL, Settings, load, options, require

NAMES = [item.name for item in fields(Settings)]


def read(
    configuration: Mapping[str, Any] | None = None,
    *,
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Load settings without this machine's environment."""
    return load(configuration, flags=flags, environment=environment or {})


@pytest.fixture(autouse=True)
def no_broker_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CELERY_BROKER_URL", "CELERY_BROKER_WRITE_URL", "CELERY_BROKER_READ_URL", "CELERY_RESULT_BACKEND"):
        monkeypatch.delenv(name, raising=False)


class TestDefaults:
    def test_are_the_documented_ones(self) -> None:
        assert read() == Settings(
            token="",
            url=DEFAULT_URL,
            name=socket.gethostname(),
            ledger_url="",
            poll_interval=5.0,
            heartbeat_interval=5.0,
            max_inflight=None,
            max_deferred=1000,
            lease=30.0,
            delivery="worker",
            unrouted="fail",
            max_attempts=3,
            timeout=10.0,
            shutdown_timeout=30.0,
            log_format="text",
            show_output=False,
            history=86400.0,
            app_version="",
        )

    def test_cannot_be_changed_afterwards(self) -> None:
        with pytest.raises(FrozenInstanceError):
            read().lease = 5.0  # type: ignore[misc]


class TestPrecedence:
    @pytest.mark.parametrize(
        ("flag", "environment", "configuration", "used"),
        [
            (7, "8", 9, 7.0),
            (None, "8", 9, 8.0),
            (None, None, 9, 9.0),
            (None, None, None, 30.0),
            (7, None, 9, 7.0),
            (None, "", 9, 9.0),
            (None, "", None, 30.0),
        ],
    )
    def test_is_flag_environment_configuration_default(
        self, flag: int | None, environment: str | None, configuration: int | None, used: float
    ) -> None:
        settings = read(
            {} if configuration is None else {"modelreins_lease": configuration},
            flags={"lease": flag},
            environment={} if environment is None else {"MODELREINS_LEASE": environment},
        )

        assert settings.lease == used

    @pytest.mark.parametrize("name", [name for name in NAMES if name not in ("max_inflight", "workers")])
    def test_holds_for_every_setting(self, name: str) -> None:
        first, second, third = VALUES[name]
        configuration = {f"modelreins_{name}": third}
        environment = {f"MODELREINS_{name.upper()}": str(second)}

        assert getattr(read(configuration), name) == third
        assert getattr(read(configuration, environment=environment), name) == second
        assert getattr(read(configuration, environment=environment, flags={name: first}), name) == first

    def test_uses_the_environment_of_the_process_by_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MODELREINS_LEASE", "12")

        assert load().lease == 12.0

    def test_an_overridden_wrong_value_is_ignored(self) -> None:
        assert read({"modelreins_lease": "nonsense"}, flags={"lease": 5}).lease == 5.0

    def test_a_configured_none_counts_as_not_set(self) -> None:
        assert read({"modelreins_lease": None}).lease == 30.0


VALUES: dict[str, tuple[Any, Any, Any]] = {
    "token": ("one", "two", "three"),
    "token_file": ("/run/one", "two", "/three/token"),
    "url": ("http://one", "http://two:8000", "https://three/base"),
    "name": ("one", "two", "three"),
    "ledger_url": ("redis://one/1", "rediss://two/2", "unix:///three"),
    "ledger_prefix": ("one:", "{two}", "3"),
    "ledger_replicas": (1, 2, 3),
    "tags": ("one", "two,2", "three"),
    "provider": ("ollama", "openai", "anthropic"),
    "poll_interval": (1.0, 2.0, 3.0),
    "heartbeat_interval": (1.0, 2.0, 3.0),
    "lease": (4.0, 5.0, 6.0),
    "delivery": ("bridge", "worker", "bridge"),
    "spool_url": ("/one", "file:///two", "s3://bucket/three"),
    "spool_limit": (2**20, 2**30, 2**40),
    "result_limit": (1024, 2048, 4096),
    "without_artifacts": ("close", "fail", "close"),
    "unrouted": ("leave", "fail", "leave"),
    "undeclared": ("run", "refuse", "run"),
    "max_attempts": (1, 2, 4),
    "max_deferred": (1, 2, 4),
    "timeout": (1.0, 2.0, 3.0),
    "shutdown_timeout": (1.0, 2.0, 3.0),
    "http": ("127.0.0.1:9464", "0.0.0.0:1", "[::1]:65535"),
    "http_token": ("one" * 6, "two" * 6, "three" * 6),
    "http_token_file": ("/run/one", "two", "/three/token"),
    "log_format": ("json", "text", "json"),
    "show_output": (True, False, True),
    "history": (60.0, 61.0, 62.0),
    "app_version": ("7", "2026.11", "a1b2c3d"),
}


class TestCeleryConfiguration:
    def test_is_read_under_its_own_name(self) -> None:
        app = Celery(set_as_current=False)
        app.conf.modelreins_lease = 9

        assert read(app.conf).lease == 9.0

    def test_is_read_from_keyword_arguments_of_the_app(self) -> None:
        app = Celery(set_as_current=False)
        app.conf.update(modelreins_token="secret", modelreins_delivery="bridge")

        settings = read(app.conf)

        assert (settings.token, settings.delivery) == ("secret", "bridge")

    def test_is_read_from_django_settings(self) -> None:
        django = SimpleNamespace(
            CELERY_BROKER_URL="redis://django:6379/3", CELERY_MODELREINS_LEASE=9, CELERY_MODELREINS_TOKEN="secret"
        )
        app = Celery(set_as_current=False)
        app.config_from_object(django, namespace="CELERY")

        settings = read(app.conf)

        assert (settings.lease, settings.token, settings.ledger_url) == (9.0, "secret", "redis://django:6379/3")

    def test_may_be_missing(self) -> None:
        assert read(Celery(set_as_current=False).conf).lease == 30.0


ACCEPTED = [
    ("token", " abc ", "abc"),
    ("url", "https://host/", "https://host"),
    ("url", "http://host:8000/base//", "http://host:8000/base"),
    ("url", "http://[::1]:8000", "http://[::1]:8000"),
    ("name", " studio ", "studio"),
    ("name", "ü" * 100, "ü" * 100),
    ("ledger_url", "redis://host:6379/0", "redis://host:6379/0"),
    ("ledger_url", "rediss://:pw@host:6379/0", "rediss://:pw@host:6379/0"),
    ("ledger_url", "unix:///run/redis.sock?db=1", "unix:///run/redis.sock?db=1"),
    ("ledger_url", "redis+cluster://host", "redis+cluster://host"),
    ("ledger_url", "rediss+cluster://host", "rediss+cluster://host"),
    ("ledger_prefix", "", ""),
    ("tags", " code, draft ,code", "code,draft"),
    ("tags", ["code", "eu"], "code,eu"),
    ("poll_interval", "0.1", 0.1),
    ("poll_interval", 3600, 3600.0),
    ("heartbeat_interval", 0.5, 0.5),
    ("lease", " 3 ", 3.0),
    ("delivery", " Bridge ", "bridge"),
    ("unrouted", "LEAVE", "leave"),
    ("max_attempts", "5", 5),
    ("max_attempts", 1.0, 1),
    ("max_inflight", "auto", None),
    ("max_inflight", " AUTO ", None),
    ("max_inflight", 1, 1),
    ("max_inflight", "250", 250),
    ("timeout", 600, 600.0),
    ("shutdown_timeout", 1, 1.0),
    ("history", "60", 60.0),
]


@pytest.mark.parametrize(("name", "given", "used"), ACCEPTED)
def test_value_is_accepted(name: str, given: object, used: object) -> None:
    value = getattr(read({f"modelreins_{name}": given}), name)

    assert value == used
    assert type(value) is type(used)


def test_max_inflight_can_be_set_back_to_auto_by_a_stronger_source() -> None:
    assert read({"modelreins_max_inflight": 5}, environment={"MODELREINS_MAX_INFLIGHT": "auto"}).max_inflight is None


SECONDS = {
    "poll_interval": (0.09, 3601),
    "heartbeat_interval": (0.4, 3601),
    "lease": (2.9, 3601),
    "timeout": (0.9, 601),
    "shutdown_timeout": (0.9, 3601),
    "history": (59, 31_536_001),
}
NO_NUMBER = ("", "soon", "5s", True, False, [], {}, float("nan"), float("inf"), "nan", "-inf", -1, 0, 10**400)

REFUSED: list[tuple[str, object]] = [
    *((name, value) for name, limits in SECONDS.items() for value in (*limits, *NO_NUMBER)),
    *((name, value) for name in ("max_attempts", "max_deferred") for value in (*NO_NUMBER, 1.5, "auto", 1_000_001)),
    *(("max_inflight", value) for value in (*NO_NUMBER, 1.5, "all", 1_000_001)),
    *(("delivery", value) for value in ("", "both", True, 1, [], ["worker"])),
    *(("unrouted", value) for value in ("", "ignore", False, 0, [])),
    *(("undeclared", value) for value in ("", "ask", True, [])),
    *(("show_output", value) for value in ("", "maybe", 2, [])),
    *(("ledger_prefix", value) for value in ("a b", "a\nb", "ü", "n" * 101)),
    *(("ledger_replicas", value) for value in ("", "all", True, -1, 1.5)),
    *(("tags", value) for value in ("", "a,,b", "a\nb", ["a,b"], [7], 7)),
    *(("name", value) for value in ("", "   ", "a\nb", "a\x00", "n" * 201, "ü" * 101)),
    *(
        ("url", value)
        for value in (
            "",
            "host",
            "//host",
            "ftp://host",
            "https://",
            "https://host?key=1",
            "http://[::1",
            "https://host:port",
            "https://host:99999",
            True,
            7,
            [],
            "https://ho\nst",
        )
    ),
]


@pytest.mark.parametrize(("name", "value"), REFUSED, ids=lambda value: str(value)[:30])
def test_wrong_value_is_refused_with_its_source_and_the_allowed_values(name: str, value: object) -> None:
    allowed = next(option.allowed for option in options() if option.name == name)

    with pytest.raises(SettingsError) as refused:
        read({f"modelreins_{name}": value})

    assert str(refused.value) == f"modelreins_{name}: {value!r} is invalid: it must be {allowed}"


@pytest.mark.parametrize(
    ("arguments", "source"),
    [
        ({"flags": {"poll_interval": "soon"}}, "--poll-interval"),
        ({"environment": {"MODELREINS_POLL_INTERVAL": "soon"}}, "MODELREINS_POLL_INTERVAL"),
        ({"configuration": {"modelreins_poll_interval": "soon"}}, "modelreins_poll_interval"),
    ],
)
def test_error_has_the_name_that_the_setting_has_in_its_source(arguments: dict[str, Any], source: str) -> None:
    with pytest.raises(SettingsError, match=f"^{source}: 'soon' is invalid: it must be seconds from 0.1 to 3600$"):
        read(**arguments)


@pytest.mark.parametrize(
    ("url", "is_local"),
    [
        ("http://localhost:8000", True),
        ("http://sandbox.localhost", True),
        ("http://LOCALHOST./base", True),
        ("http://127.0.0.1:8000", True),
        ("http://127.8.9.10", True),
        ("http://[::1]:8000", True),
        ("https://app.modelreins.com", False),
        ("http://localhost.example.com", False),
        ("http://127.0.0.1.example.com", False),
        ("http://notlocalhost", False),
        ("http://10.0.0.1", False),
        ("http://0.0.0.0", False),
        ("http://[::2]", False),
    ],
)
def test_outputs_are_logged_only_for_a_server_on_this_machine(url: str, is_local: bool) -> None:
    settings = read({"modelreins_show_output": True, "modelreins_url": url})
    assert settings.logs_output is is_local
    assert bool(settings.output_warning) is not is_local
    assert not read({"modelreins_url": url}).logs_output
    assert read({"modelreins_url": url}).output_warning == ""


def test_a_cluster_cannot_wait_for_replicas() -> None:
    with pytest.raises(SettingsError, match=r"^modelreins_ledger_replicas: a ledger on a Redis Cluster cannot wait"):
        read({"modelreins_ledger_url": "redis+cluster://host", "modelreins_ledger_replicas": 1})


def test_error_hides_its_cause() -> None:
    with pytest.raises(SettingsError) as refused:
        read({"modelreins_lease": "soon"})

    assert refused.value.__suppress_context__


class TestSecrets:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("token", "hush\nhush"),
            ("token", "hush\x00"),
            ("ledger_url", "amqp://user:hush@host"),
            ("ledger_url", "hush"),
            ("ledger_url", "redis://:hush\n@host"),
            ("url", "https://user:hush@host"),
            ("url", "https://:hush@host"),
            ("url", "https://hush@host"),
            ("url", "https://user:hush@ho\nst"),
            ("url", "https://user:hush@[::1"),
            ("url", "user:hush@host"),
        ],
    )
    @pytest.mark.parametrize("source", ["flags", "environment", "configuration"])
    def test_refused_value_is_not_shown(self, name: str, value: str, source: str) -> None:
        sources: dict[str, Any] = {
            "flags": {"flags": {name: value}},
            "environment": {"environment": {f"MODELREINS_{name.upper()}": value}},
            "configuration": {"configuration": {f"modelreins_{name}": value}},
        }[source]

        with pytest.raises(SettingsError, match="is invalid: it must be") as refused:
            read(**sources)

        assert "hush" not in str(refused.value)
        assert "hush" not in repr(refused.value)

    def test_is_not_in_the_repr(self) -> None:
        settings = read(
            {"modelreins_token": "hush", "modelreins_ledger_url": "redis://:hush@host", "modelreins_name": "n"}
        )

        assert "hush" not in repr(settings)
        assert "hush" not in str(settings)
        assert "name='n'" in repr(settings)

    def test_ledger_address_of_the_broker_is_not_in_the_repr(self) -> None:
        assert "hush" not in repr(read({"broker_url": "redis://:hush@host"}))


SOCKET = "redis+socket:///run/redis.sock"

LEDGER_DEFAULTS = [
    ({"broker_url": "redis://host/1"}, "redis://host/1"),
    ({"broker_url": "rediss://host/1?ssl_cert_reqs=none"}, "rediss://host/1?ssl_cert_reqs=none"),
    ({"broker_url": SOCKET}, "unix:///run/redis.sock"),
    ({"broker_url": f"{SOCKET}?virtual_host=2"}, "unix:///run/redis.sock?db=2"),
    ({"broker_url": ["redis://first", "redis://second"]}, "redis://first"),
    ({"broker_url": ("redis://first", "redis://second")}, "redis://first"),
    ({"broker_url": "redis://first;redis://second"}, "redis://first"),
    ({"broker_url": "amqp://host", "result_backend": "redis://results"}, "redis://results"),
    ({"broker_url": ["amqp://host"], "result_backend": SOCKET}, "unix:///run/redis.sock"),
    ({"broker_url": "redis://broker", "result_backend": "redis://results"}, "redis://broker"),
    ({"broker_write_url": "redis://write"}, "redis://write"),
    ({"broker_url": "amqp://host", "result_backend": "rpc://"}, ""),
    (
        {"broker_url": "sentinel://host", "broker_transport_options": {"master_name": "m"}},
        "sentinel://host?master_name=m",
    ),
    ({"broker_url": "memory://"}, ""),
    ({"broker_url": []}, ""),
    ({"broker_url": ""}, ""),
    ({"broker_url": None}, ""),
    ({}, ""),
]


class TestLedgerDefault:
    @pytest.mark.parametrize(("configuration", "address"), LEDGER_DEFAULTS)
    def test_is_the_first_redis_of_the_configuration(self, configuration: dict[str, Any], address: str) -> None:
        assert read(configuration).ledger_url == address

    @pytest.mark.parametrize(
        ("configuration", "address"), [case for case in LEDGER_DEFAULTS if case[0].get("broker_url", True)]
    )
    def test_is_the_first_redis_of_a_real_application(self, configuration: dict[str, Any], address: str) -> None:
        app = Celery(set_as_current=False)
        app.conf.update(configuration)

        assert read(app.conf).ledger_url == address

    @pytest.mark.parametrize(
        "arguments", [{"broker": "redis://host/1"}, {"broker": "amqp://host", "backend": "redis://host/1"}]
    )
    def test_is_read_from_the_arguments_of_the_application(self, arguments: dict[str, str]) -> None:
        assert read(Celery(set_as_current=False, **arguments).conf).ledger_url == "redis://host/1"

    def test_is_the_broker_in_celerys_environment_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CELERY_BROKER_URL", "redis://environment/1")

        assert read(Celery(set_as_current=False).conf).ledger_url == "redis://environment/1"

    def test_is_overridden_by_the_setting(self) -> None:
        configuration = {"broker_url": "redis://broker", "modelreins_ledger_url": "redis://own"}

        assert read(configuration).ledger_url == "redis://own"


class TestRequire:
    def test_returns_the_value(self) -> None:
        assert require(read(environment={"MODELREINS_TOKEN": "secret"}), "token") == "secret"

    def test_refuses_an_empty_value_and_explains_how_to_set_it(self) -> None:
        nothing = read({"modelreins_name": "w"})

        with pytest.raises(SettingsError, match=r"^worker name 'w' has no token: set MODELREINS_TOKEN to the token "):
            require(nothing, "token")
        with pytest.raises(SettingsError, match=r"^modelreins_ledger_url is not set: set MODELREINS_LEDGER_URL to "):
            require(nothing, "ledger_url")


class TestOptions:
    def test_list_every_setting_in_order(self) -> None:
        assert [option.name for option in options()] == NAMES

    @pytest.mark.parametrize("option", options(), ids=lambda option: option.name)
    def test_name_the_sources_that_are_read(self, option: Any) -> None:
        wrong = "\n"

        for source, arguments in (
            (option.environment, {"environment": {option.environment: wrong}}),
            (option.configuration, {"configuration": {option.configuration: wrong}}),
        ):
            with pytest.raises(SettingsError, match=f"^{source}: "):
                read(**arguments)

    @pytest.mark.parametrize("option", options(), ids=lambda option: option.name)
    def test_show_the_default(self, option: Any) -> None:
        stated = next(item.default for item in fields(Settings) if item.name == option.name)

        if option.default:
            assert getattr(read({option.configuration: option.default}), option.name) == stated
        else:
            assert not stated

    @pytest.mark.parametrize("option", options(), ids=lambda option: option.name)
    def test_show_allowed_values_and_description(self, option: Any) -> None:
        assert option.allowed
        assert option.about.endswith(".")

    def test_show_auto_for_a_limit_that_depends_on_the_fleet(self) -> None:
        assert {option.name: option.default for option in options()}["max_inflight"] == "auto"


class TestTheAddressOfMetrics:
    @pytest.mark.parametrize(
        ("given", "address"),
        [(9464, "127.0.0.1:9464"), ("9464", "127.0.0.1:9464"), ("0.0.0.0:80", "0.0.0.0:80"), ("[::]:80", "[::]:80")],
    )
    def test_is_a_port_or_a_host_and_a_port(self, given: Any, address: str) -> None:
        assert load({"modelreins_http": given}, environment={}).http == address

    @pytest.mark.parametrize("given", ["no", "", ":80", "0", "65536", "host:", "http://host:80", True])
    def test_other_values_are_refused(self, given: Any) -> None:
        with pytest.raises(SettingsError, match=r"modelreins_http: .* is invalid: it must be a port, or host:port"):
            load({"modelreins_http": given}, environment={})


@pytest.mark.parametrize("value", ['"secret"', "'secret'", "“secret”", "secret'"])
def test_quotes_around_a_token_are_named(value: str) -> None:
    with pytest.raises(SettingsError, match=r"^MODELREINS_TOKEN: the token is in quotes") as refused:
        read({}, environment={"MODELREINS_TOKEN": value})
    assert "secret" not in str(refused.value)


def test_a_token_with_its_scheme_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"^MODELREINS_TOKEN: the token begins with 'Bearer '") as refused:
        read({}, environment={"MODELREINS_TOKEN": "Bearer secret"})
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "value", ["localhost", "localhost:8765", "app.modelreins.com", "127.0.0.1:8765/base", "[::1]:80"]
)
def test_an_address_without_scheme_is_named(value: str) -> None:
    with pytest.raises(SettingsError, match="has no scheme: write http:// or https:// before it") as refused:
        read({"modelreins_url": value})
    assert repr(value) in str(refused.value)


def test_a_ledger_without_scheme_is_refused_without_its_password() -> None:
    with pytest.raises(SettingsError, match="has no scheme: write redis:// before it") as refused:
        read({"modelreins_ledger_url": ":secret@localhost:6379/0"})
    assert "secret" not in str(refused.value)
