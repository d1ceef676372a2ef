"""What a network sees in an epoch does not depend on how many batches are made ready at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from normgate.data.preprocessing import Preprocessing
from normgate.data.sources import Record
from normgate.network_input import network_input
from normgate.training import inputs
from normgate.training.augmentation import draw_moves, flip_and_shift
from normgate.training.images import ResidentImages, StreamedImages
from normgate.training.inputs import Batch, input_batches
from normgate.training.patterns import Patterns
from normgate.training.radial import draw_probes

COUNT, SIDE = 23, 8
PREPROCESSING = Preprocessing((SIDE, SIDE), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
CPU = torch.device("cpu")


def kept() -> ResidentImages:
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 256, (COUNT, SIDE, SIDE, 3), dtype=torch.uint8, generator=generator)
    return ResidentImages(pixels, torch.arange(COUNT) % 3)


def moves() -> torch.Tensor:
    return draw_moves(COUNT, flip=True, shift=2, generator=torch.Generator().manual_seed(6))


def batches(together: int | None, *, mixed: bool, probed: bool, preprocessing: Preprocessing) -> list[Batch]:
    generator = torch.Generator().manual_seed(7)
    order = torch.randperm(COUNT, generator=generator)[:20]
    size = preprocessing.size
    return list(
        input_batches(
            kept(),
            order,
            4,
            moves=moves(),
            patterns=Patterns.draw(COUNT, share=0.5, size=size, generator=generator, device=CPU) if mixed else None,
            probes=np.random.default_rng(8) if probed else None,
            preprocessing=preprocessing,
            device=CPU,
            together=together,
        )
    )


@pytest.mark.parametrize("together", [2, 3, 5, 16])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("preprocessing", [PREPROCESSING, Preprocessing((SIDE, SIDE), standardize=True)])
def test_batches_are_the_same_however_many_are_made_at_once(
    together: int, mixed: bool, preprocessing: Preprocessing
) -> None:
    for probed in (False, True):
        alone = batches(None, mixed=mixed, probed=probed, preprocessing=preprocessing)
        at_once = batches(together, mixed=mixed, probed=probed, preprocessing=preprocessing)
        for one, other in zip(alone, at_once, strict=True):
            torch.testing.assert_close(one.x, other.x, rtol=0, atol=1e-6)
            assert torch.equal(one.labels, other.labels)
            assert (one.probes is not None) == probed == (other.probes is not None)
            if one.probes is not None and other.probes is not None:
                torch.testing.assert_close(one.probes, other.probes, rtol=0, atol=1e-6)


def test_batches_are_moved_and_normalised_images_with_their_labels() -> None:
    images = kept()
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(7))[:20]
    found = batches(3, mixed=False, probed=False, preprocessing=PREPROCESSING)
    assert [len(batch.x) for batch in found] == [4] * 5
    assert torch.equal(torch.cat([batch.labels for batch in found]), images.labels[order])
    moved = flip_and_shift(images.pixels[order], moves()[order])
    expected = (moved.double() / 255 - torch.tensor(PREPROCESSING.mean)) / torch.tensor(PREPROCESSING.std)
    x = torch.cat([batch.x for batch in found])
    torch.testing.assert_close(x.permute(0, 2, 3, 1).double(), expected, rtol=0, atol=1e-5)
    assert all(batch.x.is_contiguous(memory_format=torch.channels_last) for batch in found)


def test_probes_are_made_of_the_images_before_they_are_moved() -> None:
    images, rng = kept(), np.random.default_rng(8)
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(7))[:20]
    for batch, rows in zip(
        batches(2, mixed=False, probed=True, preprocessing=PREPROCESSING), order.split(4), strict=True
    ):
        expected = network_input(draw_probes(images.pixels[rows], images.labels[rows], rng), PREPROCESSING)
        assert batch.probes is not None
        assert torch.equal(batch.probes, expected)


def test_what_is_made_at_once_on_a_gpu_has_a_bound() -> None:
    assert inputs._together(256, (32, 32)) == inputs.TOGETHER
    assert inputs._together(256, (224, 224)) == 1
    for batch_size, side in ((32, 224), (2, 1000), (4096, 32)):
        many = inputs._together(batch_size, (side, side))
        assert 1 <= many <= inputs.TOGETHER
        assert many == 1 or many * batch_size * side * side * 3 <= inputs.VALUES


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("probes", [None, np.random.default_rng(8)])
def test_a_batch_of_which_nothing_can_be_read_is_empty(
    standardize: bool, probes: np.random.Generator | None, recwarn: pytest.WarningsRecorder
) -> None:
    preprocessing = Preprocessing((SIDE, SIDE), standardize=standardize)
    gone = [Record(str(row), Path("gone")) for row in range(COUNT)]
    images = StreamedImages(gone, torch.arange(COUNT) % 3, preprocessing)
    settings = {"moves": moves(), "patterns": None, "probes": probes, "preprocessing": preprocessing, "device": CPU}
    found = list(input_batches(images, torch.arange(8), 4, **settings))
    assert [batch.x.shape for batch in found] == [(0, 3, SIDE, SIDE)] * 2
    assert [batch.labels.shape for batch in found] == [(0,)] * 2
    assert not recwarn
