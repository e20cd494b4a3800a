"""LitServe with its batching: `python -m ... MODEL PORT BATCH_SIZE BATCH_TIMEOUT`, the timeout in seconds."""

import sys
from pathlib import Path
from typing import Any

import litserve

from benchmarks.servers.apps.plain_model import PlainModel


class StudentApi(litserve.LitAPI):
    """One text a request; LitServe hands `predict` as many as wait."""

    def setup(self, device: str) -> None:
        del device  # the CPU
        self.model = PlainModel(Path(sys.argv[1]))

    def decode_request(self, request: dict[str, Any]) -> str:
        return str(request["text"])

    def predict(self, x: list[str]) -> list[dict[str, Any]]:
        return self.model.classify(x)

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


if __name__ == "__main__":
    api = StudentApi(max_batch_size=int(sys.argv[3]), batch_timeout=float(sys.argv[4]))
    server = litserve.LitServer(api, accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="warning")
