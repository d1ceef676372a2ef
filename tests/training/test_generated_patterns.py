"""Mixing with patterns against a loop over images."""

from __future__ import annotations

import numpy as np
import torch

from normgate.training.patterns import BANK, ROUNDS, Patterns, draw_patterns

CPU = torch.device("cpu")


def drawn(count: int, share: float, seed: int = 0, size: tuple[int, int] = (9, 7)) -> Patterns:
    generator = torch.Generator().manual_seed(seed)
    return Patterns.draw(count, share=share, size=size, generator=generator, device=CPU)


def images(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 9, 7, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


def test_each_image_is_mixed_by_averages_and_products() -> None:
    patterns, pixels = drawn(40, share=0.7), images(40)
    mixed = patterns.mix(pixels, torch.arange(40))
    for row in range(40):
        expected = pixels[row].double().numpy()
        for index in range(ROUNDS):
            pattern = patterns.bank[patterns.number[row, index]].double().numpy()
            w = float(patterns.weight[row, index])
            if patterns.multiplied[row, index]:
                expected = np.exp((1 - w) * np.log(expected + 1) + w * np.log(pattern + 1)) - 1
            else:
                expected = (1 - w) * expected + w * pattern
        assert np.abs(mixed[row].double().numpy() - expected).max() < 0.51


def test_a_share_of_the_images_is_mixed_and_the_others_stay() -> None:
    patterns = drawn(4000, share=0.25)
    touched = (patterns.weight > 0).any(dim=1)
    assert abs(float(touched.float().mean()) - 0.25) < 0.03  # 4 standard deviations
    rounds = (patterns.weight[touched] > 0).sum(dim=1)
    assert set(rounds.tolist()) == {1, 2, 3}
    assert float(patterns.weight.max()) < 2 / 3
    pixels = images(50)
    mixed = patterns.mix(pixels, torch.arange(50))
    same = (mixed == pixels).flatten(1).all(dim=1)
    assert torch.equal(same, ~touched[:50])
    assert torch.equal(drawn(50, share=0.0).mix(pixels, torch.arange(50)), pixels)


def test_what_an_image_is_mixed_with_does_not_depend_on_its_batch() -> None:
    patterns, pixels = drawn(40, share=1.0), images(40)
    before = pixels.clone()
    rows = torch.tensor([31, 2, 2, 17])
    assert torch.equal(patterns.mix(pixels[rows], rows), patterns.mix(pixels, torch.arange(40))[rows])
    assert torch.equal(pixels, before)


def test_patterns_differ_and_have_colours_and_structure() -> None:
    patterns = draw_patterns(BANK, (16, 16), torch.Generator().manual_seed(0)).float()
    assert patterns.shape == (BANK, 16, 16, 3)
    assert (patterns.std(dim=(1, 2)) > 5).all(dim=1).float().mean() > 0.5
    assert len(patterns.flatten(1).unique(dim=0)) == BANK
    # Neighbours are alike in some patterns (clouds) and not in others (rough ones).
    steps = (patterns[:, 1:] - patterns[:, :-1]).abs().mean(dim=(1, 2, 3)) / patterns.std(dim=(1, 2, 3))
    assert float(steps.min()) < 0.3
    assert float(steps.max()) > 0.9


def test_odd_sizes() -> None:
    assert draw_patterns(2, (1, 5), torch.Generator().manual_seed(0)).shape == (2, 1, 5, 3)
