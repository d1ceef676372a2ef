"""The gather against a loop over images."""

import numpy as np
import torch

from normgate.training.augmentation import draw_moves, flip_and_shift


def test_each_image_is_a_shift_and_perhaps_a_flip_of_itself() -> None:
    pixels = torch.randint(0, 256, (40, 9, 7, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = pixels.clone()
    moves = draw_moves(40, flip=True, shift=2, generator=torch.Generator().manual_seed(1))
    result = flip_and_shift(pixels, moves)
    assert torch.equal(pixels, before)
    seen = set()
    for image, changed in zip(pixels.numpy(), result.numpy(), strict=True):
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="edge")
        crops = {(r, c): padded[r : r + 9, c : c + 7] for r in range(5) for c in range(5)}
        found = [
            (place, flipped)
            for place, crop in crops.items()
            for flipped in (False, True)
            if np.array_equal(crop[:, ::-1] if flipped else crop, changed)
        ]
        assert found
        seen.add(found[0])
    assert len(seen) > 15
    rows = torch.tensor([31, 2, 2, 17])
    assert torch.equal(flip_and_shift(pixels[rows], moves[rows]), result[rows])  # whatever batch an image is in


def test_every_move_is_as_likely() -> None:
    moves = draw_moves(60_000, flip=True, shift=1, generator=torch.Generator().manual_seed(0))
    values, counts = moves.unique(dim=0, return_counts=True)
    assert values.tolist() == [[down, right, side] for down in (-1, 0, 1) for right in (-1, 0, 1) for side in (0, 1)]
    assert 0.9 < counts.min() / (60_000 / 18) < counts.max() / (60_000 / 18) < 1.1  # 6 standard deviations


def test_nothing_asked_nothing_changed() -> None:
    pixels = torch.randint(0, 256, (5, 4, 4, 3), dtype=torch.uint8)
    moves = draw_moves(5, flip=False, shift=0, generator=torch.Generator())
    assert torch.equal(flip_and_shift(pixels, moves), pixels)
