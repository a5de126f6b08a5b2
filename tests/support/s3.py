"""A real S3 server (moto) in a separate process on a free port."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from typing import Any

import boto3

from .ports import free_port, listens, until

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
"""Environment variables with its credentials."""


class S3Server:
    """An S3 server with one bucket, ``bucket``."""

    def __init__(self) -> None:
        self.port = free_port()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - stays open as long as the server runs
        self.process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        until(lambda: listens(self.port), seconds=60, what="the S3 server listens")
        self.client().create_bucket(Bucket="bucket")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables with which fsspec uses the server."""
        return {**KEYS, "FSSPEC_S3_ENDPOINT_URL": self.url}

    def client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
            region_name=KEYS["AWS_DEFAULT_REGION"],
        )

    def objects(self) -> list[str]:
        """The names of all objects."""
        return [item["Key"] for item in self.client().list_objects_v2(Bucket="bucket").get("Contents", [])]

    def unfinished(self) -> list[str]:
        """The names of objects with unfinished multipart uploads."""
        return [item["Key"] for item in self.client().list_multipart_uploads(Bucket="bucket").get("Uploads", [])]

    def clear(self) -> None:
        """Remove everything."""
        client = self.client()
        for name in self.objects():
            client.delete_object(Bucket="bucket", Key=name)
        for upload in client.list_multipart_uploads(Bucket="bucket").get("Uploads", []):
            client.abort_multipart_upload(Bucket="bucket", Key=upload["Key"], UploadId=upload["UploadId"])

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        self._log.close()
