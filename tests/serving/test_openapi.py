"""The OpenAPI document: what it says is what the application does, for requests that schemathesis makes up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from starlette.testclient import TestClient

from normgate.serving import Options, create_application

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
]


@pytest.fixture
def api(gate_folder: Path) -> Any:
    """An application of its own for each test: schemathesis closes it in the end."""
    options = Options(runtime="torch", max_bytes=10_000, max_images=3, shift_delta=0.01)
    return schemathesis.openapi.from_asgi("/openapi.json", create_application(gate_folder, options))


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@settings(
    max_examples=60, deadline=None, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(data=st.data())
def test_requests_that_are_made_up(api: Any, mode: GenerationMode, data: Any) -> None:
    operations = [result.ok() for result in api.get_all_operations()]
    assert len(operations) == 7  # all but that of the document itself
    operation = data.draw(st.sampled_from(operations))
    case = data.draw(operation.as_strategy(generation_mode=mode))
    case.call_and_validate(checks=CHECKS)


def test_with_a_token_the_document_says_where(gate_folder: Path) -> None:
    with TestClient(create_application(gate_folder, Options(runtime="torch", token="a" * 20))) as client:
        paths = client.get("/openapi.json").json()["paths"]
    asked = {path for path, item in paths.items() for operation in item.values() if "security" in operation}
    assert asked == {"/verdicts", "/gate", "/reload", "/metrics"}
