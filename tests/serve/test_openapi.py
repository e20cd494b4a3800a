"""Requests made up from the OpenAPI document, against the real server: what it promises of each route is so."""

from __future__ import annotations

import os
from pathlib import Path

import schemathesis
from hypothesis import HealthCheck, given, settings

from tests.serve_process import ServerProcess

EXAMPLES = 1000 if os.environ.get("UNDERSTUDY_SOAK") else 15


def test_each_route_answers_as_documented(student_bundle: Path, teacher_bundle: Path) -> None:
    options = ("--teacher", f"teacher={teacher_bundle}", "--escalate-below", "0.6", "--shadow", "1")
    tested = set()
    with ServerProcess(student_bundle, *options) as server:
        document = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
        for found in document.get_all_operations():
            operation = found.ok()

            @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
            @given(case=operation.as_strategy())
            def answers_as_documented(case: schemathesis.Case) -> None:
                case.call_and_validate(timeout=20)

            answers_as_documented()
            tested.add(operation.path)
    assert {"/v1/classify", "/predict", "/v2/models/{name}/infer", "/v1/agreement", "/metrics"} <= tested
