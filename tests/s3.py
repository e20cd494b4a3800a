"""A real S3 server on this machine, for tests that read and write there."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pyarrow.fs as pafs
import pytest

_NUMBERS = itertools.count()


@dataclass(frozen=True)
class Bucket:
    """An empty bucket on the local server.

    Attributes:
        endpoint: the server's host and port.
        filesystem: pyarrow's, for looking at what is there behind the project's back.
    """

    name: str
    endpoint: str
    filesystem: Any

    def uri(self, key: str, bucket: str | None = None) -> str:
        """`key` in this bucket or another, as a user has to write it."""
        return f"s3://{bucket or self.name}/{key}?scheme=http&endpoint_override={self.endpoint}"

    def shown(self, key: str) -> str:
        """How messages name it."""
        return f"s3://{self.name}/{key}"

    def put(self, key: str, data: bytes) -> str:
        with self.filesystem.open_output_stream(f"{self.name}/{key}", compression=None) as stream:
            stream.write(data)
        return self.uri(key)

    def get(self, key: str) -> bytes:
        with self.filesystem.open_input_stream(f"{self.name}/{key}", compression=None) as stream:
            return bytes(stream.read())

    def keys(self) -> list[str]:
        found = self.filesystem.get_file_info(pafs.FileSelector(self.name, recursive=True))
        return sorted(entry.path.removeprefix(f"{self.name}/") for entry in found if entry.is_file)

    def refuse_from_now(self) -> None:
        """The server asks for credentials that it knows, and knows none."""
        self._configure("0")

    def admit_again(self) -> None:
        self._configure("inf")

    def _configure(self, free_requests: str) -> None:
        address = f"http://{self.endpoint}/moto-api/reset-auth"
        httpx.post(address, content=free_requests, headers={"Content-Type": "text/plain"}).raise_for_status()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Host and port of the server; the environment has credentials for it, and no instance is asked for others."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield "{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def s3(s3_server: str) -> Bucket:
    """An empty bucket of the test's own."""
    name = f"bucket-{next(_NUMBERS)}"
    filesystem = pafs.S3FileSystem(endpoint_override=s3_server, scheme="http", allow_bucket_creation=True)
    filesystem.create_dir(name)
    return Bucket(name, s3_server, filesystem)
