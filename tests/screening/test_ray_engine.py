"""Screening through Ray Data: the table of the local engine, whatever happens to a worker."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import os
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from PIL import Image
from torch import nn

from normgate import Gate, screen
from normgate.screening import ScreeningError, ray_engine
from samples import PREPROCESSING, random_records, small_network

OPTIONS = {"engine": "ray", "batch_size": 8, "runtime": "torch"}


class DyingOnce(nn.Module):
    """A network whose process ends, without a word, at its first batch."""

    def __init__(self, network: nn.Sequential) -> None:
        super().__init__()
        self.body, self.head = network[:-1], network[-1]
        self.mark: str | None = None

    def forward(self, images):
        if self.mark is not None and not os.path.exists(self.mark):  # noqa: PTH110
            Path(self.mark).touch()
            os._exit(1)
        return self.head(self.body(images))


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    tests = str(Path(__file__).parents[1])
    paths = os.pathsep.join(filter(None, [tests, str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": paths}})
    yield
    ray.shutdown()


def calibrated(network: nn.Module) -> Gate:
    calibration = random_records(40, 3)
    return Gate.calibrate(
        network, preprocessing=PREPROCESSING, calibration=calibration, classes=["a", "b", "c"], false_alarm_rate=0.3
    )


@pytest.fixture(scope="module")
def gate() -> Gate:
    return calibrated(small_network())


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    root = tmp_path / "in coming"
    (root / "ünter").mkdir(parents=True)
    for i, record in enumerate(random_records(60, 4)):
        Image.fromarray(record.payload).save(root / ("ünter" if i % 2 else ".") / f"{i:02d} ☃.png")
    (root / "broken.png").write_bytes(b"no image")
    (root / "notes.txt").touch()
    Image.fromarray(random_records(1, 5)[0].payload).save(root / "odd.png")
    os.rename(root / "odd.png", os.fsencode(root) + b"/\xff\n.png")  # noqa: PTH104
    return root


def test_the_table_is_the_local_engines_and_what_was_done_is_not_done_again(
    gate: Gate, incoming: Path, tmp_path: Path
) -> None:
    def stop(task: str, done: int, total: int | None, /, **figures: float) -> None:
        if done >= 16:
            raise KeyboardInterrupt

    options = {"batch_size": 8, "runtime": "onnx", "rejected": "copy", "part_rows": 8}
    own = screen(gate, incoming, tmp_path / "own.parquet", rejected_to=tmp_path / "own", **options)
    # Begun here and gone on with there.
    with pytest.raises(KeyboardInterrupt):
        screen(gate, incoming, tmp_path / "ray.parquet", rejected_to=tmp_path / "out", progress=stop, **options)
    there = screen(gate, incoming, tmp_path / "ray.parquet", rejected_to=tmp_path / "out", engine="ray", **options)
    assert there.resumed == 16
    assert (there.images, there.accepted, there.unreadable, there.skipped) == (
        own.images,
        own.accepted,
        own.unreadable,
        own.skipped,
    )
    assert len([path for path in (tmp_path / "out").rglob("*") if path.is_file()]) == there.rejected > 0
    here, away = pq.read_table(tmp_path / "own.parquet"), pq.read_table(tmp_path / "ray.parquet")
    for name in ("id", "label", "accepted", "error"):
        assert here[name].equals(away[name]), name
    scores = [table["score"].drop_null().to_numpy() for table in (here, away)]
    np.testing.assert_allclose(*scores, rtol=1e-5)


@pytest.fixture
def website(tmp_path: Path) -> Iterator[str]:
    """The test's folder, served."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_tables_lists_tars_and_addresses(gate: Gate, incoming: Path, tmp_path: Path, website: str) -> None:
    paths = sorted(path for path in incoming.rglob("*.png") if path.name.isascii() or "☃" in path.name)
    rows = [{"bytes": path.read_bytes(), "path": None} for path in paths]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array([*rows, None], kind)}), tmp_path / "t.parquet", row_group_size=20)
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for i, path in enumerate(paths):
            tar.add(path, f"{i}.png")
    (tmp_path / "cut.tar").write_bytes((tmp_path / "t.tar").read_bytes()[:20_000])
    web = f"{website}/in%20coming/17%20%E2%98%83.png"
    options = {"overwrite": True, "runtime": "onnx", "batch_size": 8}
    for images in (tmp_path / "t.parquet", tmp_path / "*.tar", [*paths, web, "unknown://x"]):
        screen(gate, images, tmp_path / "own", **options)
        screen(gate, images, tmp_path / "ray", engine="ray", **options)
        own, there = pq.read_table(tmp_path / "own"), pq.read_table(tmp_path / "ray")
        assert own.drop_columns(["score", "probability"]).equals(there.drop_columns(["score", "probability"]))


def test_a_lost_worker_costs_no_row(incoming: Path, tmp_path: Path) -> None:
    dying = calibrated(DyingOnce(small_network()))
    screen(dying, incoming, tmp_path / "own", runtime="torch", batch_size=8)
    dying.extractor.model.mark = str(tmp_path / "died")
    screen(dying, incoming, tmp_path / "ray", **OPTIONS)
    assert (tmp_path / "died").exists()
    assert pq.read_table(tmp_path / "own").equals(pq.read_table(tmp_path / "ray"))


def test_what_cannot_be_done_is_said(
    gate: Gate, incoming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = [record.payload for record in random_records(5, 4)]
    with pytest.raises(ScreeningError, match="not images in memory"):
        screen(gate, arrays, tmp_path / "v.parquet", **OPTIONS)
    with pytest.raises(ScreeningError, match="local, ray"):
        screen(gate, incoming, tmp_path / "v.parquet", engine="spark")
    with pytest.raises(ScreeningError, match="--engine ray"):
        screen(gate, incoming, tmp_path / "v.parquet", address="auto")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ScreeningError, match=r"pip install 'normgate\[ray\]'"):
        ray_engine.check_ray()
    assert not (tmp_path / "v.parquet").exists()
