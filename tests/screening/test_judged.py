"""The batch function of all engines: in order, and by a portable gate in every thread that decodes."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from normgate import Gate
from normgate.judging import choose_judge
from normgate.runtime import PortableGate, RuntimeFileError
from normgate.screening.judged import judged
from normgate.verdicts import Verdicts
from samples import CLASSES, PREPROCESSING, random_records, small_network

IMAGES = random_records(75, 4)


@pytest.fixture
def gate() -> Gate:
    return Gate.calibrate(
        small_network(), preprocessing=PREPROCESSING, calibration=random_records(80, 3), classes=CLASSES
    )


def test_a_portable_gate_judges_in_the_threads_that_decode(
    gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = choose_judge(gate, "onnx", graphs=tmp_path, threads=1).judge
    assert isinstance(judge, PortableGate)
    assert judge.session.get_session_options().intra_op_num_threads == 1
    seen: list[tuple[str, int]] = []
    whole = PortableGate.judge

    def noted(self: PortableGate, pixels: np.ndarray) -> Verdicts:
        seen.append((threading.current_thread().name, len(pixels)))
        return whole(self, pixels)

    monkeypatch.setattr(PortableGate, "judge", noted)
    expected = gate(IMAGES).score
    for workers, batch_size, share in ((0, 20, 20), (2, 20, 10), (4, 20, 5), (2, 5, 2), (2, 200, 38), (4, 1, 1)):
        seen.clear()
        found = list(judged(judge, IMAGES, batch_size=batch_size, workers=workers, max_pixels=10**6))
        scores = np.concatenate([table["score"].to_numpy() for _, table in found])
        np.testing.assert_allclose(scores, expected, rtol=1e-5)
        payloads = [payload for batch, _ in found for payload in batch]
        assert all(payload is record.payload for payload, record in zip(payloads, IMAGES, strict=True))
        assert max(size for _, size in seen) == share
        assert all(name.startswith("normgate-decode") == (workers > 0) for name, _ in seen)


def test_in_torch_batches_are_as_large_as_asked(gate: Gate) -> None:
    found = list(judged(gate, IMAGES, batch_size=20, workers=2, max_pixels=10**6))
    assert [len(table) for _, table in found] == [20, 20, 20, 15]
    assert np.concatenate([table["score"].to_numpy() for _, table in found]).tolist() == gate(IMAGES).score.tolist()


def test_an_error_of_the_judge_comes_after_what_was_judged_before(
    gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = choose_judge(gate, "onnx", graphs=tmp_path, threads=1).judge
    assert isinstance(judge, PortableGate)
    batches, whole = iter(range(100)), PortableGate.judge

    def third_fails(self: PortableGate, pixels: np.ndarray) -> Verdicts:
        if next(batches) == 2:
            raise RuntimeFileError("scores are not finite")
        return whole(self, pixels)

    monkeypatch.setattr(PortableGate, "judge", third_fails)
    found = judged(judge, IMAGES, batch_size=8, workers=1, max_pixels=10**6)
    assert [len(table) for _, table in (next(found), next(found))] == [8, 8]
    with pytest.raises(RuntimeFileError, match="not finite"):
        next(found)
