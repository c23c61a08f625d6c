"""Masked (absorbing) discrete process for species (Austin et al., D3PM, NeurIPS 2021; Sahoo et al., MDLM, NeurIPS 2024)."""

from __future__ import annotations

import torch
from torch import Tensor

from euhedral.noise.base import Corrupted, expand_time

MASKED = 0


class MaskedSpecies:
    """Each species is known with probability s, independently, and masked otherwise; s = 1 is the clean crystal.

    Values are atomic numbers (crystals, atoms), `MASKED` = 0 where not known.
    """

    def prior(self, shape: tuple[int, ...], *, rng: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
        """All masked; `rng` is not used."""
        return torch.full(shape, MASKED, dtype=torch.int64, device=device)

    def corrupt(self, clean: Tensor, t: Tensor, *, rng: torch.Generator) -> Corrupted:
        """Masked species, and as target the clean species with -100 (ignored) where nothing is masked."""
        known = torch.rand(clean.shape, generator=rng, device=clean.device) < expand_time(t, clean.float())
        return Corrupted(
            noisy=torch.where(known, clean, torch.full_like(clean, MASKED)),
            target=torch.where(known, torch.full_like(clean, -100), clean),
        )

    def reveal(self, noisy: Tensor, logits: Tensor, count: int, *, rng: torch.Generator) -> Tensor:
        """Give `count` randomly chosen masked atoms of each crystal a species drawn from the logits.

        With count 1 this is exact any-order autoregressive sampling of the masked model.

        Args:
            noisy: species with 0 where masked, (crystals, atoms).
            logits: unnormalised log-probabilities by atomic number, (crystals, atoms, 119); -inf where forbidden.
            count: how many masked atoms become known; fewer where fewer are masked.
            rng: source of randomness.
        """
        device = noisy.device
        draws = torch.rand(logits.shape, generator=rng, device=device, dtype=torch.float64).clamp_min(1e-300)
        drawn = (logits.double() - torch.log(-torch.log(draws))).argmax(-1)
        order = torch.rand(noisy.shape, generator=rng, device=device).masked_fill(noisy != MASKED, 2.0)
        rank = order.argsort(1).argsort(1)
        chosen = (rank < count) & (noisy == MASKED)
        return torch.where(chosen, drawn, noisy)
