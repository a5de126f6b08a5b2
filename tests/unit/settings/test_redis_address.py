"""Addresses of Redis, as Celery and redis-py write them."""

from __future__ import annotations

import re
import ssl
from typing import Any

import pytest
from celery import Celery

from mr_celery.errors import SettingsError
from mr_celery.settings import load
from mr_celery.settings.redis_address import RedisAddress, shown
from mr_celery.settings.worker_names import WrongValue

UNDERSTOOD = [
    # the form of Celery or of redis-py; the ledger's normalized form
    ("redis://", "redis://localhost"),
    ("redis:///3", "redis://localhost/3"),
    ("REDIS://host//", "redis://host"),
    ("redis://host:6380/3", "redis://host:6380/3"),
    ("redis://host?db=3", "redis://host/3"),
    ("redis://host/1?db=3", "redis://host/3"),
    ("redis://host?virtual_host=/3", "redis://host/3"),
    ("redis://[::1]:6380/3", "redis://[::1]:6380/3"),
    ("redis://:p@ss@host", "redis://:p%40ss@host"),
    ("redis://user%3A:p%2Fa%3Fs%23s%40%25@host/3", "redis://user%3A:p%2Fa%3Fs%23s%40%25@host/3"),
    ("redis://host?username=user&password=p%2Fq", "redis://user:p%2Fq@host"),
    ("redis://host?max_connections=10&retry_on_timeout=yes", "redis://host"),
    ("redis://host?socket_timeout=2&client_name=mr", "redis://host?socket_timeout=2.0&client_name=mr"),
    ("sentinel://a;sentinel://b:7;c:8/1?master_name=m", "sentinel://a;sentinel://b:7;sentinel://c:8/1?master_name=m"),
    ("sentinel://:p%3Bq@a:1/2;sentinel://b?master_name=m", "sentinel://:p%3Bq@a:1;sentinel://b/2?master_name=m"),
    (
        "sentinel://[::1]:7?master_name=m&sentinel_password=s&sentinel_username=u&sentinel_ssl=1&ssl_cert_reqs=none",
        "sentinel://[::1]:7?ssl_cert_reqs=none&master_name=m&sentinel_password=s&sentinel_username=u&sentinel_ssl=true",
    ),
    ("rediss://host", "rediss://host"),
    ("rediss://host?ssl_cert_reqs=CERT_NONE", "rediss://host?ssl_cert_reqs=none"),
    ("rediss://host?ssl_cert_reqs=CERT_OPTIONAL", "rediss://host?ssl_cert_reqs=optional"),
    ("rediss://host?ssl_cert_reqs=CERT_REQUIRED", "rediss://host?ssl_cert_reqs=required"),
    ("rediss://host?ssl_cert_reqs=none", "rediss://host?ssl_cert_reqs=none"),
    ("rediss://host?ssl_cert_reqs=required", "rediss://host?ssl_cert_reqs=required"),
    (
        "rediss://host/1?ssl_ca_certs=%2Fetc%2Fca.pem&ssl_certfile=/c.pem&ssl_keyfile=/k%20k.pem",
        "rediss://host/1?ssl_ca_certs=/etc/ca.pem&ssl_certfile=/c.pem&ssl_keyfile=/k%20k.pem",
    ),
    ("rediss://host?ssl_check_hostname=False", "rediss://host?ssl_check_hostname=false"),
    ("rediss://host?ssl_min_version=TLSv1_3", "rediss://host?ssl_min_version=772"),
    (
        "rediss://host?ssl_include_verify_flags=[VERIFY_X509_STRICT,VERIFY_CRL_CHECK_LEAF]",
        "rediss://host?ssl_include_verify_flags=VERIFY_X509_STRICT%2CVERIFY_CRL_CHECK_LEAF",
    ),
    ("redis://host?ssl_cert_reqs=CERT_NONE", "rediss://host?ssl_cert_reqs=none"),
    ("rediss+cluster://host?ssl_cert_reqs=CERT_NONE", "rediss+cluster://host?ssl_cert_reqs=none"),
    ("unix:///run/redis.sock", "unix:///run/redis.sock"),
    ("unix:///run/redis.sock?db=2", "unix:///run/redis.sock?db=2"),
    ("unix://user:p%2Fq@/run/redis.sock", "unix://user:p%2Fq@/run/redis.sock"),
    ("redis+socket:///run/redis.sock?virtual_host=2&password=p%40q", "unix://:p%40q@/run/redis.sock?db=2"),
    ("redis+socket://user:p%40q@/run/a%20b.sock?virtual_host=/2", "unix://user:p%40q@/run/a%20b.sock?db=2"),
]

HIDDEN = re.compile("hush|topsecret")

REFUSED = {
    "redis://:hush/topsecret@host/0": "percent-encoded",
    "redis://:12/topsecret@host/0": "percent-encoded",
    "redis://:hush?topsecret@host/0": "percent-encoded",
    "redis://:12?topsecret=1@host/0": "percent-encode it",
    "redis://:12?topsecret@host/0": "percent-encoded",
    "redis://:hush#topsecret@host/0": "percent-encoded",
    "redis://:12#topsecret@host/0": "percent-encoded",
    "redis://:hush[topsecret@host/0": "percent-encoded",
    "redis://:hush℀topsecret@host/0": "percent-encoded",
    "redis://hush:topsecret@host:port/0": "percent-encoded",
    "redis://hush:topsecret@host:0/0": "percent-encoded",
    "redis://hush:topsecret@host/hush": "the database must be a whole number",
    "redis://hush:topsecret@host?db=-1": "the database must be a whole number",
    "redis://hush:topsecret@host?hush=topsecret": "has an unknown option; known are db, virtual_host",
    "redis://host?credential_provider=hush": "has an unknown option; known are",
    "rediss://hush:topsecret@host?ssl_cert_reqs=hush": "ssl_cert_reqs has an invalid value",
    "rediss://hush:topsecret@host?ssl_check_hostname=hush": "ssl_check_hostname has an invalid value",
    "rediss://hush:topsecret@host?ssl_min_version=hush": "ssl_min_version has an invalid value",
    "rediss://hush:topsecret@host?ssl_include_verify_flags=hush": "ssl_include_verify_flags has an invalid value",
    "redis://hush:topsecret@host?socket_timeout=hush": "socket_timeout has an invalid value",
    "redis+cluster://hush:topsecret@host/1": "only database 0",
    "unix://hush:topsecret@run/redis.sock": "three slashes",
    "unix://hush:topsecret@": "three slashes",
    "unix:///run/redis.sock?password=topsecret&ssl_keyfile=hush": "options of TLS",
}


@pytest.mark.parametrize(("text", "url"), UNDERSTOOD)
def test_each_spelling_has_one_form(text: str, url: str) -> None:
    address = RedisAddress.parse(text)
    assert address.url == url
    assert RedisAddress.parse(url) == address


@pytest.mark.parametrize("text", REFUSED)
def test_an_address_that_cannot_be_used_is_refused_in_one_line_without_its_secrets(text: str) -> None:
    with pytest.raises(WrongValue, match=REFUSED[text]) as refused:
        RedisAddress.parse(text)
    assert not HIDDEN.search(str(refused.value))
    assert "\n" not in str(refused.value)
    for sources in ({"broker_url": text}, {"result_backend": text}, {"modelreins_ledger_url": text}):
        if text.startswith("redis+cluster") and "modelreins_ledger_url" not in sources:
            continue
        with pytest.raises(SettingsError, match=REFUSED[text]) as refused_setting:
            load(sources, environment={})
        assert str(refused_setting.value).startswith(f"{next(iter(sources))}: ")
        assert not HIDDEN.search(str(refused_setting.value))


def test_the_arguments_of_a_connection() -> None:
    address = RedisAddress.parse("rediss://u%2F:p%25@host/3?ssl_cert_reqs=CERT_NONE&ssl_min_version=771")
    assert address.connection == {
        "host": "host",
        "port": 6379,
        "db": 3,
        "username": "u/",
        "password": "p%",
        "ssl_cert_reqs": "none",
        "ssl_min_version": 771,
    }
    assert RedisAddress.parse("redis+socket:///r.sock?virtual_host=1").connection == {
        "path": "/r.sock",
        "db": 1,
        "username": None,
        "password": None,
    }


def test_its_secrets_are_not_in_its_repr() -> None:
    assert not HIDDEN.search(repr(RedisAddress.parse("rediss://hush:topsecret@host?ssl_password=hush")))


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://hush:topsecret@host:6380/3?ssl_password=hush", "redis://host:6380/3"),
        ("redis://hush:topsecret@[::1]:6380/3", "redis://[::1]:6380/3"),
        ("unix://hush:topsecret@/run/redis.sock?db=1", "unix:///run/redis.sock"),
        ("amqp://hush:topsecret@host//", "amqp://host//"),
        ("sentinel://:topsecret@host:26379", "sentinel://host:26379"),
        ("memory://", "memory://"),
        ("localhost", "localhost"),
        ("redis://:hush/topsecret@host", "redis://…"),
        ("redis://:12/topsecret@host", "redis://…"),
        ("redis://:12?topsecret@host", "redis://…"),
        ("redis://:12#topsecret@host", "redis://…"),
        ("redis://:hush[@host", "redis://…"),
        ("redis:/:hush://topsecret@host", "…"),
        ("redis:/host?password=hush://", "…"),
    ],
)
def test_an_address_is_shown_without_its_secrets(url: str, address: str) -> None:
    assert shown(url) == address


# -- the TLS options of Celery -----------------------------------------------------------------------------

USE_SSL = {
    "ssl_cert_reqs": ssl.CERT_REQUIRED,
    "ssl_ca_certs": "/ca.pem",
    "ssl_certfile": "/c.pem",
    "ssl_keyfile": "/k.pem",
    "ssl_check_hostname": True,
    "ssl_min_version": ssl.TLSVersion.TLSv1_2,
    "ssl_ciphers": None,
}
FILES = "ssl_ca_certs=/ca.pem&ssl_certfile=/c.pem&ssl_keyfile=/k.pem"
ALL = f"ssl_cert_reqs=required&{FILES}&ssl_check_hostname=true&ssl_min_version=771"
NONE = {"ssl_cert_reqs": ssl.CERT_NONE}
BROKER = {"broker_url": "redis://host/0", "broker_use_ssl": USE_SSL}


@pytest.mark.parametrize(
    ("configuration", "address"),
    [
        # derived from the broker or the result backend
        (BROKER, f"rediss://host/0?{ALL}"),
        ({"broker_url": "rediss://host/0", "broker_use_ssl": NONE}, "rediss://host/0?ssl_cert_reqs=none"),
        (
            {"broker_url": "rediss://host/0", "broker_use_ssl": {"ssl_cert_reqs": None}},
            "rediss://host/0?ssl_cert_reqs=none",
        ),
        (
            {"broker_url": "rediss://host/0", "broker_use_ssl": {"ssl_cert_reqs": "CERT_NONE"}},
            "rediss://host/0?ssl_cert_reqs=none",
        ),
        (
            {"broker_url": "rediss://host/0?ssl_cert_reqs=required", "broker_use_ssl": NONE},
            "rediss://host/0?ssl_cert_reqs=required",
        ),
        ({"broker_url": "redis://host/0", "broker_use_ssl": True}, "redis://host/0"),
        ({"broker_url": "redis://host/0", "broker_use_ssl": False}, "redis://host/0"),
        ({"broker_url": "redis://host/0", "redis_backend_use_ssl": NONE}, "redis://host/0"),
        ({"broker_url": "redis+socket:///r.sock", "broker_use_ssl": NONE}, "unix:///r.sock"),
        (
            {
                "broker_url": "amqp://host",
                "broker_use_ssl": {"ca_certs": "/amqp.pem"},
                "result_backend": "rediss://host/1",
                "redis_backend_use_ssl": NONE,
            },
            "rediss://host/1?ssl_cert_reqs=none",
        ),
        # only the ledger's address is given; on the same server it has the same options
        ({**BROKER, "modelreins_ledger_url": "redis://host:6379/1"}, f"rediss://host:6379/1?{ALL}"),
        ({**BROKER, "modelreins_ledger_url": "rediss://:pw@host/1"}, f"rediss://:pw@host/1?{ALL}"),
        (
            {"broker_url": "rediss://host/0?ssl_cert_reqs=CERT_NONE", "modelreins_ledger_url": "rediss://host/1"},
            "rediss://host/1?ssl_cert_reqs=none",
        ),
        (
            {
                "result_backend": "redis://host/0",
                "redis_backend_use_ssl": NONE,
                "modelreins_ledger_url": "redis://host",
            },
            "rediss://host?ssl_cert_reqs=none",
        ),
        (
            {**BROKER, "modelreins_ledger_url": "rediss://host/1?ssl_cert_reqs=none"},
            "rediss://host/1?ssl_cert_reqs=none",
        ),
        # on another server it has the certificates, and its verification is not weakened
        ({**BROKER, "modelreins_ledger_url": "rediss://other/1"}, f"rediss://other/1?{FILES}"),
        ({**BROKER, "modelreins_ledger_url": "rediss+cluster://other"}, f"rediss+cluster://other?{FILES}"),
        ({**BROKER, "modelreins_ledger_url": "redis://other/1"}, "redis://other/1"),
        ({**BROKER, "modelreins_ledger_url": "unix:///r.sock"}, "unix:///r.sock"),
        (
            {"broker_url": "redis://host", "broker_use_ssl": NONE, "modelreins_ledger_url": "rediss://other"},
            "rediss://other",
        ),
        (
            {"broker_url": "amqp://host", "broker_use_ssl": NONE, "modelreins_ledger_url": "rediss://host"},
            "rediss://host",
        ),
        ({"broker_url": "redis://host/x", "modelreins_ledger_url": "rediss://host"}, "rediss://host"),
    ],
)
def test_the_ledger_has_the_tls_options_of_celery(configuration: dict[str, Any], address: str) -> None:
    assert load(configuration, environment={}).ledger_url == address
    app = Celery(set_as_current=False)
    app.conf.update(configuration)
    assert load(app.conf, environment={}).ledger_url == address


def test_an_option_of_celery_that_the_ledger_does_not_have_is_named() -> None:
    with pytest.raises(SettingsError, match=r"^broker_use_ssl: unknown TLS option keyfile; known are"):
        load({"broker_url": "redis://host", "broker_use_ssl": {"keyfile": "/hush"}}, environment={})
    with pytest.raises(
        SettingsError, match=r"^broker_use_ssl: the option ssl_cert_reqs has an invalid value"
    ) as refused:
        load({"broker_url": "redis://host", "broker_use_ssl": {"ssl_cert_reqs": "hush"}}, environment={})
    assert not HIDDEN.search(str(refused.value))


# -- the prefix of the keys ----------------------------------------------------------------------------------

SHOP = {"global_keyprefix": "shop:"}
REDIS_BROKER = {"broker_url": "redis://host/0", "broker_transport_options": SHOP}
REDIS_BACKEND = {"result_backend": "redis://host/1", "result_backend_transport_options": SHOP}


@pytest.mark.parametrize(
    ("configuration", "prefix"),
    [
        (REDIS_BROKER, "shop:"),
        ({**REDIS_BROKER, "broker_transport_options": {}}, ""),
        ({**REDIS_BROKER, "broker_transport_options": {"global_keyprefix": None}}, ""),
        ({"broker_url": "amqp://host", **REDIS_BACKEND}, "shop:"),
        ({"broker_url": "redis://host/0", **REDIS_BACKEND}, ""),
        # the address or the prefix of the ledger is given
        ({**REDIS_BROKER, "modelreins_ledger_url": "redis://host/0"}, ""),
        ({**REDIS_BROKER, "modelreins_ledger_prefix": "own:"}, "own:"),
        ({**REDIS_BROKER, "modelreins_ledger_prefix": ""}, ""),
    ],
)
def test_the_ledger_has_the_prefix_of_celery_with_its_address(configuration: dict[str, Any], prefix: str) -> None:
    assert load(configuration, environment={}).ledger_prefix == prefix
    app = Celery(set_as_current=False)
    app.conf.update(configuration)
    assert load(app.conf, environment={}).ledger_prefix == prefix


@pytest.mark.parametrize("prefix", ["a b", "{}", 7 * "long" * 100])
def test_a_prefix_of_celery_that_the_ledger_cannot_have_is_named(prefix: str) -> None:
    configuration = {**REDIS_BROKER, "broker_transport_options": {"global_keyprefix": prefix}}
    with pytest.raises(SettingsError, match=r"^broker_transport_options: its global_keyprefix: "):
        load(configuration, environment={})
    assert load({**configuration, "modelreins_ledger_prefix": "own:"}, environment={}).ledger_prefix == "own:"


# -- Sentinels -----------------------------------------------------------------------------------------------

HOSTS = "sentinel://:hush@a:1;sentinel://b:2"


def test_the_sentinels_of_an_address() -> None:
    address = RedisAddress.parse("sentinel://:p@a;b:7/3?master_name=m&sentinel_password=s&sentinel_ssl=yes")
    assert address.sentinels == [("a", 26379), ("b", 7)]
    assert (address.master_name, address.connection) == ("m", {"username": None, "password": "p", "db": 3})
    assert address.sentinel_connection == {"username": None, "password": "s", "ssl": True}
    own = address.with_tls({"ssl_ca_certs": "/ca", "ssl_certfile": "/c"}).with_sentinel({"sentinel_ssl_ca_certs": "/s"})
    assert own.sentinel_connection.items() >= {"ssl_ca_certs": "/s", "ssl_certfile": "/c"}.items()
    assert RedisAddress.parse(own.url) == own
    assert not RedisAddress.parse("redis://a").sentinels


def test_the_address_of_sentinels_is_shown_without_its_secrets() -> None:
    assert shown(f"{HOSTS}/1?master_name=m&sentinel_password=hush") == "sentinel://a:1;sentinel://b:2/1"
    assert shown("sentinel://:hu;sh;x@a") == "sentinel://…;…;…"
    assert shown("amqp://u:hu;hush;x@host") == "amqp://host"


@pytest.mark.parametrize(
    "text", [f"{HOSTS};redis://c", "sentinel://a:x;b", "sentinel://a;b#c", "sentinel://a;b:hush@c/d@e"]
)
def test_an_address_of_sentinels_that_cannot_be_read_is_not_shown(text: str) -> None:
    with pytest.raises(WrongValue) as caught:
        RedisAddress.parse(text)
    assert "hush" not in str(caught.value)


def test_the_options_of_celery_s_sentinels_are_those_of_the_ledger() -> None:
    app = Celery("sentinels", broker=f"{HOSTS}/5", set_as_current=False)
    app.conf.broker_transport_options = {"master_name": "main", "sentinel_kwargs": {"password": "hush", "ssl": True}}
    url = load(app.conf, environment={}).ledger_url
    assert url == f"{HOSTS}/5?master_name=main&sentinel_password=hush&sentinel_ssl=true"
    app.conf.broker_transport_options["sentinel_kwargs"] = {"ssl": True, "ssl_cert_reqs": None, "ssl_ca_certs": "/ca"}
    query = "sentinel_ssl=true&sentinel_ssl_cert_reqs=none&sentinel_ssl_ca_certs=/ca"
    assert load(app.conf, environment={}).ledger_url == f"{HOSTS}/5?master_name=main&{query}"
    app.conf.broker_transport_options["sentinel_kwargs"] = {"password": "hush", "ssl": True}
    given = load(app.conf, environment={"MODELREINS_LEDGER_URL": f"{HOSTS}/6"}).ledger_url
    assert given == url.replace("/5", "/6")
    other = load(app.conf, environment={"MODELREINS_LEDGER_URL": "sentinel://c?master_name=x"}).ledger_url
    assert other == "sentinel://c?master_name=x"


@pytest.mark.parametrize("where", ["broker_url", "environment"])
def test_sentinels_need_the_name_of_the_master(where: str) -> None:
    app = Celery("nameless", broker=HOSTS if where == "broker_url" else "memory://", set_as_current=False)
    environment = {"MODELREINS_LEDGER_URL": "sentinel://c"} if where == "environment" else {}
    with pytest.raises(SettingsError, match="master_name") as caught:
        load(app.conf, environment=environment)
    assert "hush" not in str(caught.value)
