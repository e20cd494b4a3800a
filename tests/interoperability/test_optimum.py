"""Optimum, with the older transformers that it asks for, and this project read each other's files."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from demo.messages import DEV
from export.adoption import adopt
from export.exporting import export
from serve.engine import Engine
from tests.conftest import INTENTS, export_bundle, make_model, messages

pytestmark = pytest.mark.usefixtures("optimum_python")  # first, so that nothing is made for tests that are skipped

SCRIPT = Path(__file__).with_name("optimum_logits.py")
BUNDLES = ("bert", "multi-label", "roberta", "xlnet", "extra-token")
TEXTS = [
    *(row["text"] for row in messages(DEV)[:8]),
    "Where IS my Café order?",
    "special [SEP] and </s> tokens [MASK] inside",
    ("My parcel is broken.", "Please send another one."),
    ("word " * 200, "a long text before a short one"),
    "over the limit " * 100,
]


@pytest.fixture(scope="module")
def bundles(bundle: Path, multi_label_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    others = {
        family: export_bundle(tmp_path_factory.mktemp(family), family, INTENTS, "single_label_classification")
        for family in ("roberta", "xlnet")
    }
    extra = _bundle_with_extra_token(tmp_path_factory.mktemp("extra-token"))
    return {"bert": bundle, "multi-label": multi_label_bundle, "extra-token": extra, **others}


def _bundle_with_extra_token(directory: Path) -> Path:
    """A bundle whose tokenizer has a special token beyond the usual ones, as those of XLNet and CamemBERT do."""
    model = make_model(directory / "model", "bert", 2)
    AutoTokenizer.from_pretrained(model, extra_special_tokens=["order"]).save_pretrained(model)
    export(model, directory / "bundle", checked_on=str(DEV))
    return directory / "bundle"


@pytest.fixture(scope="module")
def read_by_optimum(bundles: dict[str, Path], optimum_python: Path) -> dict[str, Any]:
    """Inputs and logits of `TEXTS` for each bundle, all from one process, since importing Optimum takes seconds."""
    asked = json.dumps({"bundles": {name: str(path) for name, path in bundles.items()}, "texts": TEXTS})
    done = subprocess.run([optimum_python, SCRIPT], input=asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", BUNDLES)
def test_optimum_reads_a_bundle_as_the_engine_does(
    name: str, bundles: dict[str, Path], read_by_optimum: dict[str, Any]
) -> None:
    engine, theirs = Engine.load(bundles[name]), read_by_optimum[name]
    ours = engine.encoder.pad(engine.encoder.encode(TEXTS))
    mask = ours["attention_mask"]
    assert {"input_ids", "attention_mask"} <= set(theirs["inputs"]) <= set(ours)
    for key, values in theirs["inputs"].items():
        # What padding holds is of no account, and XLNet's segment of it differs.
        np.testing.assert_array_equal(np.multiply(values, mask), ours[key] * mask, err_msg=key)
    logits = [prediction.logits for prediction in engine.classify(TEXTS)]
    np.testing.assert_allclose(theirs["logits"], logits, rtol=0, atol=1e-5)


def test_optimum_exports_what_transformers_5_wrote(optimum_export: Path) -> None:
    files = {path.name for path in optimum_export.iterdir()}
    assert {"model.onnx", "config.json", "tokenizer.json", "tokenizer_config.json"} <= files
    model, texts = optimum_export.with_name("model"), TEXTS[:10]
    inputs = AutoTokenizer.from_pretrained(model)(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        expected = AutoModelForSequenceClassification.from_pretrained(model).eval()(**inputs).logits
    session = onnxruntime.InferenceSession(optimum_export / "model.onnx", providers=["CPUExecutionProvider"])
    given = {input_.name: inputs[input_.name].numpy() for input_ in session.get_inputs()}
    np.testing.assert_allclose(session.run(["logits"], given)[0], expected, rtol=0, atol=1e-5)


def test_what_optimum_exports_is_adopted(optimum_export: Path, tmp_path: Path) -> None:
    adopt(optimum_export, tmp_path / "bundle", checked_on=str(DEV), model_dir=optimum_export.with_name("model"))
    texts = TEXTS[:10]
    model = optimum_export.with_name("model")
    inputs = AutoTokenizer.from_pretrained(model)(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        expected = AutoModelForSequenceClassification.from_pretrained(model).eval()(**inputs).logits
    logits = [prediction.logits for prediction in Engine.load(tmp_path / "bundle").classify(texts)]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)
