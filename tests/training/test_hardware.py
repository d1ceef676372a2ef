"""Devices, strategies and machines: what is refused, and what is said."""

from __future__ import annotations

import logging

import pytest
from lightning_fabric import Fabric

from normgate.training import Hardware, HardwareError


@pytest.mark.parametrize(
    "hardware",
    [
        Hardware("abacus"),
        Hardware("tpu"),
        Hardware("cpu", precision="8-bit"),
        Hardware("cpu", devices=0),
        Hardware("cpu", strategy="fsdp"),
    ],
)
def test_what_is_not_there_is_refused(hardware: Hardware) -> None:
    with pytest.raises(HardwareError, match=r"--device|whole network"):
        hardware.fabric()


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
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "GROUP_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(HardwareError, match="by MASTER_PORT, NODE_RANK, which are not set"):
        Hardware("cpu", nodes=2).fabric()
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setenv("NODE_RANK", "2")
    with pytest.raises(HardwareError, match="from 0 to 1, and not '2'"):
        Hardware("cpu", nodes=2).fabric()
