"""The gather against a loop over images."""

import numpy as np
import torch

from normgate.training.augmentation import flip_and_shift


def test_each_image_is_a_shift_and_perhaps_a_flip_of_itself() -> None:
    pixels = torch.randint(0, 256, (40, 9, 7, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = pixels.clone()
    result = flip_and_shift(pixels, flip=True, shift=2, generator=torch.Generator().manual_seed(1))
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
    again = flip_and_shift(pixels, flip=True, shift=2, generator=torch.Generator().manual_seed(1))
    assert torch.equal(again, result)


def test_nothing_asked_nothing_changed() -> None:
    pixels = torch.randint(0, 256, (5, 4, 4, 3), dtype=torch.uint8)
    assert torch.equal(flip_and_shift(pixels, flip=False, shift=0, generator=torch.Generator()), pixels)
