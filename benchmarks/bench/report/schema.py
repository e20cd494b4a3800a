"""What `results.json` holds: its classes, its JSON Schema (docs/bench.schema.json), and the reading of one.

`python -m benchmarks.bench.report.schema` prints the schema.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmarks.bench.report.schema_parts import (
    Agreement,
    Cost,
    Count,
    MultiStream,
    Offline,
    Part,
    Quality,
    Roofline,
    Server,
    SingleStream,
)
from common.errors import InputError, shown
from common.files import MADE_BY, read_json

FORMAT_VERSION = 2
RESULTS_FILE = "results.json"


class Task(Part):
    """What the models answer: their labels in the order of their scores."""

    problem_type: Literal["single_label_classification", "multi_label_classification", "regression"]
    labels: list[str]


class Tokens(Part):
    """Lengths of the texts in tokens of the teacher's tokenizer."""

    median: float
    p90: float
    max: Count


class Data(Part):
    """The texts that everything was measured on."""

    name: str
    sha256: str
    rows: Count
    labelled: bool
    tokens: Tokens


class Model(Part):
    """A model that took part; null is what a server does not tell."""

    id: str = Field(description="the model's key in all that follows")
    role: Literal["teacher", "student"]
    where: str = Field(description="in-process, or the server's URL")
    name: str
    engine: str | None
    device: str | None
    precision: str | None
    layers: Count | None
    parameters: Count | None
    max_length: Count | None = Field(description="tokens that the model reads at most")
    sha256: str | None = Field(description="of the model's file")
    manifest_sha256: str | None
    bytes: Count | None = Field(description="of all the bundle's files")
    truncated_rows: Count | None = Field(description="texts of the data that lost tokens at max_length")
    dialect: str | None = Field(default=None, description="the protocol of a server")
    requests: Count | None = Field(default=None, description="sent to a server, all scenarios together")
    errors: dict[str, Count] | None = Field(default=None, description="of these requests, by kind")


class Noise(Part):
    """Whether the machine was steady enough for a verdict on speed."""

    verdict: Literal["steady", "noisy"]
    spread: float = Field(description="robust relative spread of the rounds' medians")
    limit: float = Field(description="the greatest spread that counts as steady")
    reasons: list[str]
    warm_up: dict[str, Count] = Field(description="by model, the rounds or calls that were discarded")
    rounds: dict[str, list[float]] = Field(
        description="by model, and for the reference work by `machine`: the rounds' medians over their own median"
    )


class Machine(BaseModel):
    """What it was measured on; further entries are versions of libraries and what the system tells."""

    model_config = ConfigDict(extra="allow", frozen=True)

    cpu: str
    cores: Count

    def facts(self) -> dict[str, Any]:
        """All entries that are known, by name."""
        return {name: value for name, value in self.model_dump().items() if value is not None}


class Settings(BaseModel):
    """How it was asked for."""

    model_config = ConfigDict(extra="allow", frozen=True)

    rounds: Count
    threads: Count
    seed: int
    scenarios: list[str]


class Results(Part):
    """A whole run of `understudy bench`. A scenario that was not asked for is null."""

    made_by: str
    format_version: Literal[2]
    created: str = Field(description="ISO 8601, UTC")
    command: list[str]
    seconds: float
    machine: Machine
    settings: Settings
    task: Task
    data: Data
    models: list[Model] = Field(min_length=1, description="the teacher first")
    noise: Noise
    quality: Quality | None = Field(description="null without labels")
    agreement: Agreement | None
    single_stream: SingleStream | None
    multi_stream: MultiStream | None
    server: Server | None
    offline: Offline | None
    cost: Cost | None
    roofline: Roofline | None

    @property
    def teacher(self) -> Model:
        """The model that the others are measured against."""
        return self.models[0]

    @property
    def students(self) -> list[Model]:
        """All the others, in the order given."""
        return self.models[1:]


def parse_results(results: dict[str, Any]) -> Results:
    """The results as classes.

    Raises:
        ValueError: they do not keep to the schema (pydantic's ValidationError).
    """
    return Results.model_validate(results)


def read_results(path: Path) -> Results:
    """An earlier run's results.

    Args:
        path: a `results.json`, or the directory that holds one.

    Raises:
        InputError: the file cannot be read, is no results of `bench`, or is of another version.
    """
    path = path / RESULTS_FILE if path.is_dir() else path
    content = read_json(path)
    if content.get("made_by") != MADE_BY["made_by"] or "format_version" not in content:
        raise InputError(f"{path} holds no results of understudy bench")
    if content["format_version"] != FORMAT_VERSION:
        version = shown(content["format_version"])
        raise InputError(f"{path} is of format version {version}, and {FORMAT_VERSION} is needed: run bench anew")
    try:
        return parse_results(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = shown(".".join(map(str, first["loc"])))
        raise InputError(f"{path} does not keep to the schema of bench's results: {place}: {first['msg']}") from None


def json_schema() -> str:
    """The schema as JSON text."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Results.model_json_schema()}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(json_schema(), end="")
