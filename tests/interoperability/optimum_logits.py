"""What Optimum makes of bundles; run by the interpreter of its own environment, without this project's code.

Reads from standard input, as JSON, the bundles' directories and the texts (a pair is a list of two); writes, as JSON,
for each bundle the model's inputs by name and its logits, both as lists by text.
"""

import json
import sys

from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer


def main() -> None:
    asked = json.load(sys.stdin)
    texts = [tuple(text) if isinstance(text, list) else text for text in asked["texts"]]
    answers = {}
    for name, directory in asked["bundles"].items():
        tokenizer = AutoTokenizer.from_pretrained(directory)
        model = ORTModelForSequenceClassification.from_pretrained(directory)
        inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        logits = model(**inputs).logits
        answers[name] = {"inputs": {key: value.tolist() for key, value in inputs.items()}, "logits": logits.tolist()}
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
