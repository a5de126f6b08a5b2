"""The ledger over TLS, over a Unix socket and with a password of reserved characters, on a real Redis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from celery import Celery

from mr_celery.errors import LedgerUnavailable
from mr_celery.ledger import Ledger
from mr_celery.operations.check import Finding, check
from mr_celery.settings import load
from support.certificates import Certificates
from support.ports import free_port, until
from support.servers import RedisServer

PASSWORD = "p/a?s#s@w%o:r+d [x]&=;é"
QUOTED = quote(PASSWORD, safe="")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("files of TLS 100%"))


@pytest.fixture(scope="module")
def server(certificates: Certificates) -> Iterator[RedisServer]:
    """A Redis with TLS, a Unix socket, a password and a user."""
    socket = certificates.authority.with_name("redis.sock")
    made = RedisServer(
        *certificates.server_options, "--unixsocket", str(socket), "--requirepass", PASSWORD,
        "--user", "u/s:er", "on", f">{PASSWORD}", "~*", "&*", "+@all",
    )  # fmt: skip
    yield made
    made.stop()


def in_flight(url: str) -> int:
    """Use an address as written in the setting."""
    return Ledger(load({"modelreins_ledger_url": url}, environment={}).ledger_url, "w").survey().in_flight


def failure(url: str) -> str:
    with pytest.raises(LedgerUnavailable) as caught:
        in_flight(url)
    assert PASSWORD not in str(caught.value)
    assert QUOTED not in str(caught.value)
    return str(caught.value)


def tls_url(certificates: Certificates, **options: str) -> str:
    """The address of the Redis with TLS, in Celery's form, for a client with a certificate."""
    chain, key = certificates.files["client"]
    given = {
        "ssl_cert_reqs": "CERT_REQUIRED",
        "ssl_ca_certs": str(certificates.authority),
        "ssl_certfile": str(chain),
        "ssl_keyfile": str(key),
        **options,
    }
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in given.items() if value)
    return f"rediss://:{QUOTED}@localhost:{certificates.port}/2?{query}"


@pytest.mark.parametrize("user", [f":{QUOTED}", f"u%2Fs%3Aer:{QUOTED}"], ids=["password", "user"])
def test_reserved_characters_are_percent_encoded(server: RedisServer, user: str) -> None:
    assert in_flight(f"redis://{user}@127.0.0.1:{server.port}/1") == 0


@pytest.mark.parametrize(
    "address",
    [
        f"redis+socket://PATH?virtual_host=3&password={QUOTED}",
        f"redis+socket://u%2Fs%3Aer:{QUOTED}@PATH?virtual_host=3",
        f"unix://PATH?db=3&password={QUOTED}",
        f"unix://:{QUOTED}@PATH?db=3",
    ],
    ids=["Celery", "Celery, user", "redis-py", "redis-py, user"],
)
def test_a_unix_socket_has_a_password_and_a_database(
    server: RedisServer, certificates: Certificates, address: str
) -> None:
    path = quote(str(certificates.authority.with_name("redis.sock")))
    url = address.replace("PATH", path)
    own = {"broker_url": url} if url.startswith("redis+socket") else {"modelreins_ledger_url": url}
    ledger = Ledger(load(own, environment={}).ledger_url, "w")
    ledger.mark_in_use()
    with ledger._redis.client() as client:
        assert client.exists("modelreins:{w}:founded")
        assert client.connection_pool.connection_kwargs["db"] == 3
        client.flushdb()


@pytest.mark.parametrize("required", ["CERT_REQUIRED", "CERT_OPTIONAL", "CERT_NONE", "required", "none"])
def test_each_form_of_the_options_of_tls(server: RedisServer, certificates: Certificates, required: str) -> None:
    assert in_flight(tls_url(certificates, ssl_cert_reqs=required)) == 0


def test_the_host_of_the_certificate_is_verified(server: RedisServer, certificates: Certificates) -> None:
    wrong_host = tls_url(certificates).replace("localhost", "127.0.0.1")
    assert "CERTIFICATE_VERIFY_FAILED" in failure(f"{wrong_host}&ssl_check_hostname=true")
    assert in_flight(f"{wrong_host}&ssl_check_hostname=false") == 0


def findings(url: str) -> dict[str, Finding]:
    app = Celery("proj", set_as_current=False, broker="memory://")
    app.conf.update(modelreins_ledger_url=url, modelreins_name="w")
    return {each.what: each for each in check(app, {})}


def test_the_check_names_what_is_wrong_with_tls(server: RedisServer, certificates: Certificates) -> None:
    found = findings(tls_url(certificates, ssl_ca_certs=""))["ledger"]
    assert not found.ok
    assert "CERTIFICATE_VERIFY_FAILED" in found.detail
    assert "?ssl_ca_certs=FILE" in found.hint
    # Without a client's certificate: the error depends on whether Redis closes before or after the first command.
    assert not findings(tls_url(certificates, ssl_certfile="", ssl_keyfile=""))["ledger"].ok
    found = findings(tls_url(certificates, ssl_cert_reqs="CERT_NONE"))["TLS"]
    assert (found.ok, found.warning) == (True, True)
    whole = findings(tls_url(certificates))
    assert whole["ledger"].ok
    assert "TLS" not in whole


@pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile"])
def test_a_file_that_does_not_exist_is_named_by_its_option(certificates: Certificates, option: str) -> None:
    assert failure(tls_url(certificates, **{option: "/none/hidden.pem"})) == (
        f"the ledger at rediss://localhost:{certificates.port}/2: "
        f"the file in {option} does not exist or is not readable"
    )


def test_a_cluster_has_tls(certificates: Certificates, tmp_path: Path) -> None:
    own = Certificates(tmp_path)
    options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--tls-cluster", "yes")
    server = RedisServer(*own.server_options, *options, "--cluster-announce-hostname", "localhost")
    try:
        client: Any = server.client()
        client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        until(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok", what="the Cluster is up")
        chain, key = own.files["client"]
        url = (
            f"rediss+cluster://localhost:{own.port}?ssl_ca_certs={own.authority}&ssl_certfile={chain}&ssl_keyfile={key}"
        )
        assert in_flight(f"{url}&ssl_check_hostname=false") == 0
    finally:
        server.stop()
