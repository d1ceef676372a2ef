"""Training images give the same batches whether they are kept or read anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from normgate.data.preprocessing import Preprocessing
from normgate.data.sources import Record, Records
from normgate.training.images import ResidentImages, StreamedImages

SIDE = 6
LABELS = torch.arange(10) % 3


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (10, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture
def files(pixels: np.ndarray, tmp_path: Path) -> Records:
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    return Records([Record(f"{i}.png", tmp_path / f"{i}.png") for i in range(len(pixels))])


def streamed(files: Records, workers: int | None = 2) -> StreamedImages:
    return StreamedImages(files, LABELS, Preprocessing((SIDE, SIDE)), workers)


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 10, 99])
def test_kept_and_streamed_images_are_the_same(
    batch_size: int, workers: int, pixels: np.ndarray, files: Records
) -> None:
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))[:9]  # an epoch may leave some out
    kept = ResidentImages(torch.from_numpy(pixels), LABELS).batches(order, batch_size)
    read = streamed(files, workers).batches(order, batch_size)
    seen = 0
    for (kept_pixels, kept_rows), (read_pixels, read_rows) in zip(kept, read, strict=True):
        rows = order[seen : seen + batch_size]
        assert torch.equal(kept_pixels, torch.from_numpy(pixels)[rows])
        assert torch.equal(kept_rows, rows)
        assert torch.equal(read_pixels, kept_pixels)
        assert torch.equal(read_rows, rows)
        assert read_pixels.dtype == torch.uint8
        seen += len(rows)
    assert seen == 9


def test_an_image_may_come_twice(pixels: np.ndarray, files: Records) -> None:
    order = torch.tensor([7, 7, 0])
    for images in (ResidentImages(torch.from_numpy(pixels), LABELS), streamed(files)):
        ((batch, rows),) = images.batches(order, 3)
        assert torch.equal(batch, torch.from_numpy(pixels)[order])
        assert torch.equal(rows, order)


def test_a_file_that_went_bad_leaves_a_smaller_batch(pixels: np.ndarray, files: Records, tmp_path: Path) -> None:
    images = streamed(files)
    (tmp_path / "4.png").write_bytes(b"no image")
    (tmp_path / "0.png").unlink()
    order = torch.tensor([9, 4, 1, 0, 3, 2])
    (first, first_rows), (second, second_rows) = images.batches(order, 3)
    assert torch.equal(first, torch.from_numpy(pixels)[[9, 1]])
    assert first_rows.tolist() == [9, 1]
    assert torch.equal(second, torch.from_numpy(pixels)[[3, 2]])
    assert second_rows.tolist() == [3, 2]


def test_a_batch_of_which_nothing_can_be_read_is_empty(files: Records, tmp_path: Path) -> None:
    (tmp_path / "4.png").unlink()
    ((batch, rows),) = streamed(files).batches(torch.tensor([4]), 2)
    assert batch.shape == (0, SIDE, SIDE, 3)
    assert rows.shape == (0,)
