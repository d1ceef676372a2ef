"""Gates on disk, images as files, and applications that serve the ones with the others."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

import normgate
from normgate import Gate
from normgate.serving import Options, create_application
from samples import PREPROCESSING, random_records

SLIM = normgate.Backbone("resnet18", 3, 2, 1, {"layers": [1, 1, 1, 1]})


def calibrated(score: str = "mahalanobis", **options: Any) -> Gate:
    """A gate whose network timm can rebuild."""
    torch.manual_seed(0)
    sets = {"train": random_records(60, 1), "tuning": random_records(60, 2), "calibration": random_records(200, 3)}
    given = {"preprocessing": PREPROCESSING, "false_alarm_rate": 0.3, "workers": 0, "backbone": SLIM, **sets, **options}
    return Gate.calibrate(SLIM.build(), score=score, **given)


@pytest.fixture(scope="session")
def gate_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "gate"
    calibrated().save(folder)
    return folder


@pytest.fixture(scope="session")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network with another score."""
    folder = tmp_path_factory.mktemp("served") / "other"
    calibrated("knn").save(folder)
    return folder


@pytest.fixture(scope="session")
def files() -> list[bytes]:
    """33 images as PNG."""
    found = []
    for record in random_records(33, 9):
        encoded = io.BytesIO()
        Image.fromarray(record.payload).save(encoded, "PNG")
        found.append(encoded.getvalue())
    return found


Serve = Callable[..., TestClient]


@pytest.fixture
def serve(gate_folder: Path) -> Iterator[Serve]:
    """Serves a gate with some options, and gives a client."""
    with contextlib.ExitStack() as stack:

        def served(folder: Path = gate_folder, **options: Any) -> TestClient:
            application = create_application(folder, Options(**{"runtime": "torch", **options}))
            return stack.enter_context(TestClient(application, raise_server_exceptions=False))

        yield served


@pytest.fixture
def photo_gate(class_folders: Path, tmp_path: Path) -> Path:
    """A gate that was trained on the class folders."""
    calibrated(train=str(class_folders)).save(tmp_path / "photo-gate")
    return tmp_path / "photo-gate"
