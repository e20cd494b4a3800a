"""FastAPI and ONNX Runtime without batching, as most people begin: `python -m ... MODEL PORT`."""

import sys
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.servers.apps.plain_model import PlainModel

app = FastAPI()
model = PlainModel(Path(sys.argv[1]))


class Query(BaseModel):
    """One text."""

    text: str


class Answer(BaseModel):
    """The best label and its probability."""

    label: str
    score: float


@app.post("/classify")
def classify(query: Query) -> Answer:
    """FastAPI runs this on one of its threads."""
    return Answer(**model.classify([query.text])[0])


@app.get("/health")
def health() -> dict[str, Any]:
    """Answers once the model is loaded."""
    return {"status": "ready"}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
