"""Random settings: values are valid or refused by name, and no message repeats a password or a token."""

from __future__ import annotations

import json
import string
from typing import Any
from urllib.parse import quote

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st

from mr_celery.errors import MrCeleryError, SettingsError
from mr_celery.settings import load, options, secret_settings
from mr_celery.settings.redis_address import SCHEMES, RedisAddress, shown
from support.fuzzing import examples

SECRET = "S3cr3tW0rd"
RESERVED = st.sampled_from(
    [*":/?#[]@!$&'()*+,;=%\\ |^`<>{}\"\t\n", "://", "@@", "%2", "%40", "//", "é", "日", "\ud800"]
)
AROUND = st.lists(RESERVED | st.sampled_from(["x", "redis", "0", "6379"]), max_size=3).map("".join)
PASSWORDS = st.tuples(AROUND, AROUND).map(lambda around: f"{around[0]}{SECRET}{around[1]}")
PLACES = st.sampled_from(
    [
        "redis.example",
        "redis.example:6379",
        "[::1]:6379",
        "[::1",
        "h:x",
        "h:99999",
        "",
        "a,b",
        "h:6379,i:6379",
        "/run/r.sock",
    ]
)
SCHEMES_TRIED = st.sampled_from([*SCHEMES, "REDIS", "amqp", "sentinel", "", "redis+", "http"])
ENDS = st.sampled_from(
    ["", "/0", "/x", "/99999999999", "/0/1", "?db=1", "?ssl_cert_reqs=maybe", "?password=", "/0#x", "?a"]
)
SEPARATORS = st.sampled_from(["://", ":/", "//", ":", ":///"])


@st.composite
def addresses(draw: st.DrawFn) -> str:
    """Addresses with a password, as one might write or mistype them."""
    password = draw(PASSWORDS)
    form = draw(st.integers(0, 5))
    start = draw(SCHEMES_TRIED) + draw(SEPARATORS)
    user = draw(st.sampled_from(["", "user", "us:er", "u@s"]))
    if form == 0:
        return f"{start}{user}:{password}@{draw(PLACES)}{draw(ENDS)}"
    if form == 1:
        return f"{start}{user}:{quote(password, safe='', errors='replace')}@{draw(PLACES)}{draw(ENDS)}"
    if form == 2:
        return f"{start}{draw(PLACES)}/0?password={password}"
    if form == 3:
        return f"{start}{draw(PLACES)}/0?ssl_password={password}&{password}"
    if form == 4:
        return f"{start}host;{start}{user}:{password}@{draw(PLACES)}"
    return f"{start}{password}@{draw(PLACES)}{draw(ENDS)}"


@examples(600)
@given(url=addresses())
def test_a_shown_address_has_no_password(url: str) -> None:
    assert SECRET not in shown(url)


@examples(600)
@given(url=addresses())
def test_an_address_is_usable_or_refused_without_its_password(url: str) -> None:
    try:
        address = RedisAddress.parse(url)
    except ValueError as error:
        said = f"{error} {error!r} {error.__cause__}"
    else:
        said = repr(address)
        assert RedisAddress.parse(address.url) == address
    assert SECRET not in said


PARTS = st.text(string.printable + "é日😀", max_size=12)


@examples(600)
@given(
    scheme=st.sampled_from(["redis", "rediss", "redis+cluster", "rediss+cluster"]),
    user=PARTS,
    password=PARTS,
    host=st.sampled_from(["redis.example", "10.0.0.1", "[::1]"]),
    port=st.none() | st.integers(1, 65535),
)
def test_an_encoded_address_reads_back(scheme: str, user: str, password: str, host: str, port: int | None) -> None:
    where = f"{host}:{port}" if port else host
    address = RedisAddress.parse(f"{scheme}://{quote(user, safe='')}:{quote(password, safe='')}@{where}/0")
    assert (address.username, address.password, address.port) == (user, password, port)
    assert RedisAddress.parse(address.url) == address
    assert shown(f"{scheme}://{quote(user, safe='')}:{quote(password, safe='')}@{where}/0") == f"{scheme}://{where}/0"


OPTIONS = options()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.just(SECRET),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6) | st.just("token"), inner, max_size=3)
    ),
    max_leaves=6,
)
TEXTS = (
    st.text(st.characters(exclude_characters="\0"), max_size=10)
    | addresses()
    | st.floats().map(str)
    | st.integers().map(str)
    | JSON.map(json.dumps)
    | st.sampled_from(["9" * 5000, "nan", "-inf", "1e999", "1_000", "٣", "\udc80", "redis://\udcff@h"])
)
SECRET_NAMES = set(secret_settings())


@examples(600)
@given(option=st.sampled_from(OPTIONS), text=TEXTS)
def test_a_setting_in_the_environment_is_valid_or_refused_by_name(option: Any, text: str) -> None:
    _load({}, {option.environment: text}, option)


@examples(600)
@given(option=st.sampled_from(OPTIONS), value=JSON | addresses() | st.binary(max_size=5))
def test_a_setting_in_the_configuration_is_valid_or_refused_by_name(option: Any, value: Any) -> None:
    _load({option.configuration: value}, {}, option)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "a.:" * 100_000, "9" * 100_000, "redis://" * 10_000]
)
@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_a_very_long_setting_is_valid_or_refused_at_once(option: Any, text: str) -> None:
    _load({}, {option.environment: text}, option)


def _load(configuration: dict[str, Any], environment: dict[str, str], option: Any) -> None:
    app = Celery(set_as_current=False)
    app.conf.update(configuration)
    try:
        said = repr(load(app.conf, environment=environment))
    except SettingsError as error:
        said = str(error)
        assert "modelreins" in said.lower()
    assert option.configuration not in SECRET_NAMES or SECRET not in said


@examples(300)
@given(key=st.sampled_from(["broker_url", "result_backend"]), url=addresses())
def test_the_broker_s_address_is_never_shown(key: str, url: str) -> None:
    app = Celery(set_as_current=False)
    app.conf.update({key: url})
    try:
        said = repr(load(app.conf, environment={}))
    except MrCeleryError as error:
        said = str(error)
    assert SECRET not in said
