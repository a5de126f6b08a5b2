"""Certificates for a server with TLS and its clients."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import trustme

from .ports import free_port


class Certificates:
    """A certificate authority, and certificates for ``localhost`` and for a client, as files.

    Args:
        folder: the folder of the files. Its name may contain any characters.
        also: further hosts that the certificate of ``localhost`` covers.
    """

    def __init__(self, folder: Path, *also: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        authority = trustme.CA()
        self.authority = folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.authority))
        self.files: dict[str, tuple[Path, Path]] = {}
        for name in ("localhost", "client"):
            issued = authority.issue_cert(name, *(also if name == "localhost" else ()))
            chain, key = folder / f"{name}.pem", folder / f"{name}.key"
            issued.cert_chain_pems[0].write_to_path(str(chain))
            issued.private_key_pem.write_to_path(str(key))
            self.files[name] = chain, key
        self.port = free_port()

    @property
    def server_options(self) -> tuple[str, ...]:
        """The Redis options that enable TLS on :attr:`port` and require a client certificate."""
        chain, key = self.files["localhost"]
        files = ("--tls-cert-file", str(chain), "--tls-key-file", str(key), "--tls-ca-cert-file", str(self.authority))
        return "--tls-port", str(self.port), *files

    @property
    def celery_options(self) -> dict[str, Any]:
        """The options of ``broker_use_ssl``."""
        chain, key = self.files["client"]
        return {
            "ssl_cert_reqs": ssl.CERT_REQUIRED,
            "ssl_ca_certs": str(self.authority),
            "ssl_certfile": str(chain),
            "ssl_keyfile": str(key),
        }
