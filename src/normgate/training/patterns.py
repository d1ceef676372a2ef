"""Augmentation with generated patterns, after PixMix: no image but the training images is needed.

Hendrycks et al. (2022, arXiv 2112.05135) mix images with fractals. Here patterns are made by passing smooth noise of
random roughness through sines: marbles, bands and clouds, each in its own colours.
"""

from __future__ import annotations

import dataclasses
import math

import torch

BANK = 256
"""Patterns an epoch; each image that is mixed takes a random one of them a round."""
ROUNDS = 3
"""Most patterns in an image."""


@dataclasses.dataclass(frozen=True, eq=False)
class Patterns:
    """What an epoch's images are mixed with, drawn for all of them, so that it does not depend on batch or process.

    Attributes:
        bank: (P, H, W, 3) uint8 patterns.
        number: (N, R) pattern of each image in each round.
        weight: (N, R) of the pattern; 0 where nothing is mixed.
        multiplied: (N, R) whether image and pattern are multiplied, or else averaged.
    """

    bank: torch.Tensor
    number: torch.Tensor
    weight: torch.Tensor
    multiplied: torch.Tensor

    @classmethod
    def draw(
        cls, count: int, *, share: float, size: tuple[int, int], generator: torch.Generator, device: torch.device
    ) -> Patterns:
        """Patterns for N images.

        Args:
            count: N, of all training images.
            share: of the images that are mixed at all, in one to three rounds.
            size: height and width.
            generator: source of randomness, on the CPU.
            device: where they are to be.
        """
        bank = draw_patterns(BANK, size, generator)
        number = torch.randint(0, BANK, (count, ROUNDS), generator=generator)
        rounds = torch.randint(1, ROUNDS + 1, (count, 1), generator=generator)
        rounds[torch.rand(count, 1, generator=generator) >= share] = 0
        # Most weights are near a third, so that as a rule the image can still be recognised.
        weight = torch.rand(count, ROUNDS, 3, generator=generator).median(dim=2).values * 2 / 3
        weight = torch.where(torch.arange(ROUNDS) < rounds, weight, 0)
        multiplied = torch.randint(0, 2, (count, ROUNDS), generator=generator) == 1
        return cls(bank.to(device), number.to(device), weight.to(device), multiplied.to(device))

    def mix(self, pixels: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Mix images with their patterns.

        An average is `(1 − w) x + w p`, a product the geometric one, `x^(1 − w) p^w`.

        Args:
            pixels: (B, H, W, 3) uint8.
            numbers: (B,) of the images among all training images.

        Returns:
            (B, H, W, 3) uint8, new memory.
        """
        numbers = numbers.to(self.number.device)
        mixed = pixels.to(self.bank.device).float()
        for index in range(ROUNDS):
            pattern = self.bank[self.number[numbers, index]].float()
            w = self.weight[numbers, index][:, None, None, None]
            product = (mixed + 1) ** (1 - w) * (pattern + 1) ** w - 1
            multiplied = self.multiplied[numbers, index][:, None, None, None]
            mixed = torch.where(multiplied, product, torch.lerp(mixed, pattern, w))
        return mixed.round().clamp(0, 255).to(torch.uint8)


def draw_patterns(count: int, size: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """Sines of smooth noise in random colours, (count, H, W, 3) uint8.

    Noise with the spectrum 1/f^a is smooth for a near 3.5 and rough for a near 1.5; a sine of it makes bands where its
    amplitude spans several periods, and clouds where it spans less than one.
    """
    height, width = size
    rows, columns = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None, :]
    frequency = torch.sqrt(rows**2 + columns**2)
    frequency[0, 0] = math.inf  # no mean
    slope = 1.5 + 2 * torch.rand(count, 1, 1, 1, generator=generator)
    spectrum = torch.fft.rfft2(torch.randn(count, 2, height, width, generator=generator)) * frequency**-slope
    noise = torch.fft.irfft2(spectrum, s=size)
    noise = noise / noise.std(dim=(2, 3), keepdim=True).clamp_min(1e-12)
    periods = 0.1 * 30 ** torch.rand(count, 2, 1, 1, generator=generator)  # from 0.1 to 3
    phase = 2 * math.pi * torch.rand(count, 2, 1, 1, generator=generator)
    bands = torch.sin(2 * math.pi * periods * noise + phase)
    # Each channel its own combination of both fields around its own level.
    colours = torch.randn(count, 3, 2, generator=generator)
    level = 64 + 128 * torch.rand(count, 3, 1, 1, generator=generator)
    fields = torch.einsum("ncf,nfhw->nchw", colours, bands)
    pixels = level + 64 * fields
    return pixels.permute(0, 2, 3, 1).round().clamp(0, 255).to(torch.uint8).contiguous()
