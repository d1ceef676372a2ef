"""The same application on Ray Serve, on one machine."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from typing import Any

import pytest

import normgate
from normgate.serving import Options, ServingError, ray_application


@pytest.fixture
def ray_port() -> Iterator[int]:
    """Where a Ray Serve of this machine alone listens."""
    ray = pytest.importorskip("ray", reason="needs Ray Serve: pip install 'normgate[ray]'")
    serve = pytest.importorskip("ray.serve", reason="needs Ray Serve: pip install 'normgate[ray]'")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    source = str(Path(normgate.__file__).parent.parent)
    places = {"env_vars": {"PYTHONPATH": source, "OMP_NUM_THREADS": "1"}}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=places)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    yield port
    serve.shutdown()
    ray.shutdown()


def asked(port: int, body: bytes) -> tuple[int, Any]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/verdicts", body, {"Content-Type": "image/png"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_replicas_answer_as_the_gate_does(ray_port: int, gate_folder: Path, files: list[bytes]) -> None:
    from ray import serve

    options = Options(runtime="torch", max_bytes=10_000, shift_delta=0.01)
    serve.run(ray_application(gate_folder, options, num_replicas=2, ray_actor_options={"num_cpus": 0.5}))
    for image, verdict in zip(files[:6], normgate.Gate.load(gate_folder, device="cpu")(files[:6]), strict=True):
        status, answer = asked(ray_port, image)
        assert (status, answer["verdicts"][0]["label"]) == (200, verdict.label)
        assert answer["verdicts"][0]["score"] == pytest.approx(verdict.score, rel=1e-5)
    assert asked(ray_port, bytes(10_001))[0] == 413
    assert asked(ray_port, b"no image")[0] == 422


def test_replicas_keep_no_alarm_in_one_file(tmp_path: Path) -> None:
    options = Options(shift_delta=0.1, shift_state=tmp_path / "state.json")
    for settings in ({"num_replicas": 2}, {"num_replicas": "auto"}, {"autoscaling_config": {}}):
        with pytest.raises(ServingError, match="shift_state"):
            ray_application(tmp_path, options, **settings)


def test_without_ray_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch, gate_folder: Path) -> None:
    found: Any = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == "ray" else found(name))
    with pytest.raises(ServingError, match=r"pip install 'normgate\[ray\]'"):
        ray_application(gate_folder)
