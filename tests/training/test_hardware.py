"""Devices, strategies and machines: what is refused, and what is said."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from lightning_fabric import Fabric
from lightning_fabric.utilities.rank_zero import rank_zero_only

import normgate
from normgate.training import Hardware, HardwareError, TrainingError


@pytest.mark.parametrize(
    "hardware",
    [
        Hardware("abacus"),
        Hardware("tpu"),
        Hardware("cpu", precision="8-bit"),
        Hardware("cpu", devices=0),
        Hardware("cpu", strategy="fsdp"),
        Hardware("cpu", precision="16-mixed"),
        Hardware("cpu:3"),
        Hardware("auto:1"),
        Hardware("cuda:77"),
        Hardware("cuda:x"),
        Hardware("cuda:0", devices=2),
    ],
)
def test_what_is_not_there_is_refused(hardware: Hardware) -> None:
    with pytest.raises(HardwareError, match=r"--device|whole network|--precision bf16-mixed"):
        hardware.fabric()


def test_one_of_several_devices_is_named_as_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    def made(**options: object) -> Fabric:
        asked.update(options)
        return Fabric(accelerator="cpu")

    monkeypatch.setattr("lightning_fabric.Fabric", made)
    Hardware("cuda:1").fabric()
    assert (asked["accelerator"], asked["devices"]) == ("cuda", [1])


def test_lightning_says_nothing_of_settings_that_were_chosen_here(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("lightning_fabric.utilities.rank_zero")
    logger.addHandler(caplog.handler)  # Lightning's loggers do not propagate
    try:
        with caplog.at_level(logging.INFO, logger=logger.name):
            Fabric(accelerator="cpu", precision="bf16-mixed")
            assert caplog.records
            caplog.clear()
            Hardware("cpu", precision="bf16-mixed").fabric()
            assert not caplog.records
            assert logger.level == logging.INFO
    finally:
        logger.removeHandler(caplog.handler)


def test_machines_that_cannot_find_each_other_are_told_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 0)  # which Lightning sets for the whole process
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "GROUP_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(HardwareError, match="by MASTER_PORT, NODE_RANK, which are not set"):
        Hardware("cpu", nodes=2).fabric()
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setenv("NODE_RANK", "2")
    with pytest.raises(HardwareError, match="from 0 to 1, and not '2'"):
        Hardware("cpu", nodes=2).fabric()


def test_more_processes_than_a_batch_has_pairs_are_refused_before_they_start(tmp_path: Path) -> None:
    images = (np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8), [i % 2 for i in range(60)])
    with pytest.raises(TrainingError, match="3000 processes cannot share a batch of 128 images"):
        normgate.train(
            images, tmp_path / "gate", false_alarm_rate=0.3, hardware=Hardware(accelerator="cpu", devices=3000)
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("devices", [0, -1])
def test_no_process_trains_nothing(devices: int, tmp_path: Path) -> None:
    images = (np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8), [i % 2 for i in range(60)])
    with pytest.raises(HardwareError, match="training cannot run as asked"):
        normgate.train(images, tmp_path / "gate", false_alarm_rate=0.3, hardware=Hardware("cpu", devices=devices))
