"""An installation whose broker, result backend and ledger are Redis servers with TLS, and one with a Unix socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from mr_celery.sandbox import Sandbox
from support import fork_server
from support.certificates import Certificates
from support.fleet import BIN, Fleet
from support.ports import free_port
from support.servers import RedisServer, SentinelServer

PASSWORD = quote("p/a?s#s@w%o:rd", safe="")


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path / "certificates", "127.0.0.1")  # Sentinels name Redis by its address


@pytest.fixture
def server(certificates: Certificates) -> Iterator[RedisServer]:
    """A Redis that requires a password, and over TCP also TLS with a client's certificate."""
    socket = certificates.authority.with_name("redis.sock")
    made = RedisServer(*certificates.server_options, "--unixsocket", str(socket), "--requirepass", "p/a?s#s@w%o:rd")
    yield made
    made.stop()


def start(sandbox: Sandbox, broker: str, folder: Path, **configuration: object) -> Fleet:
    """An installation that gets the address of its ledger from Celery's settings."""
    fleet = Fleet(sandbox, broker=broker, ledger="", folder=folder, app="support.proj_upper")
    fleet.environment["PROJ_CONF"] = json.dumps(configuration)
    return fleet


def in_the_url(certificates: Certificates) -> tuple[str, dict[str, object]]:
    chain, key = certificates.files["client"]
    query = f"ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs={certificates.authority}&ssl_certfile={chain}&ssl_keyfile={key}"
    url = f"rediss://:{PASSWORD}@localhost:{certificates.port}"
    return f"{url}/0?{query}", {"result_backend": f"{url}/1?{query}"}


def in_settings(certificates: Certificates) -> tuple[str, dict[str, object]]:
    options = {**certificates.celery_options, "ssl_cert_reqs": "required"}  # JSON has no constants of ssl
    url = f"rediss://:{PASSWORD}@localhost:{certificates.port}"
    settings = {"broker_use_ssl": options, "redis_backend_use_ssl": options}
    return f"{url}/0", {"result_backend": f"{url}/1", **settings, "modelreins_ledger_url": f"{url}/2"}


def on_a_socket(certificates: Certificates) -> tuple[str, dict[str, object]]:
    path = certificates.authority.with_name("redis.sock")
    backend = f"redis+socket://{path}?virtual_host=1&password={PASSWORD}"
    return f"redis+socket://:{PASSWORD}@{path}?virtual_host=3", {"result_backend": backend}


def test_sentinels_and_their_master_have_tls_and_passwords(
    sandbox: Sandbox, server: RedisServer, certificates: Certificates, tmp_path: Path
) -> None:
    """Sentinels and Redis require a client certificate and different passwords, all set by Celery's options."""
    chain, key = certificates.files["localhost"]
    options: dict[str, object] = {**certificates.celery_options, "ssl_cert_reqs": "required"}
    port = free_port()
    sentinel = SentinelServer(
        *("port 0", f"tls-port {port}", "tls-replication yes", "requirepass hush"),
        *(f"tls-cert-file {chain}", f"tls-key-file {key}", f"tls-ca-cert-file {certificates.authority}"),
        f"sentinel monitor main 127.0.0.1 {certificates.port} 1",
        "sentinel auth-pass main p/a?s#s@w%o:rd",
        port=port,
    )
    url = f"sentinel://:{PASSWORD}@localhost:{port}"
    transport = {"master_name": "main", "sentinel_kwargs": {"password": "hush", "ssl": True, **options}}
    fleet = start(
        sandbox,
        f"{url}/0",
        tmp_path,
        broker_transport_options=transport,
        broker_use_ssl=options,
    )
    try:
        fleet.worker("-c", "1")
        fleet.bridge()
        assert [job["result"] for job in fleet.ended(fleet.dispatch("one"), fleet.dispatch("two"))] == ["ONE", "TWO"]
    finally:
        fleet.stop()
        sentinel.stop()


@pytest.mark.parametrize("settings", [in_the_url, in_settings, on_a_socket], ids=lambda each: each.__name__)
def test_jobs_run_with_the_addresses_that_celery_has(
    sandbox: Sandbox, server: RedisServer, certificates: Certificates, tmp_path: Path, settings: object
) -> None:
    assert callable(settings)
    broker, configuration = settings(certificates)
    fleet = start(sandbox, broker, tmp_path, **configuration)
    try:
        fleet.worker("-c", "1")
        fleet.bridge()
        jobs = fleet.ended(*[fleet.dispatch(f"job {n}") for n in range(4)])
        assert [(job["status"], job["result"]) for job in jobs] == [("done", f"JOB {n}") for n in range(4)]
        command = [str(BIN / "celery"), "-A", fleet.app, "modelreins", "check"]
        checked = fork_server.run(command, env=fleet.environment, timeout=60)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        outputs = [checked.stdout, checked.stderr, *(each.output for each in fleet.processes)]
        assert not any(PASSWORD in text or "p/a?s#s" in text for text in outputs)
    finally:
        fleet.stop()
