"""A graph network of DiffCSP's published size, written straightforwardly: the yardstick of training speed.

Fully connected within each cell, 6 layers of width 512, 128 frequencies for each fractional difference, lattice inner
products as edge features, mean aggregation, layer norm (Jiao et al., DiffCSP, NeurIPS 2023, Section 4.2 and its
published MP-20 configuration). It is a reference for speed only and is not part of the package.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

FREQUENCIES, WIDTH, LAYERS, ELEMENTS, TIME = 128, 512, 6, 100, 256


class EdgeLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        edge_inputs = 2 * WIDTH + 9 + 6 * FREQUENCIES
        self.edge = nn.Sequential(nn.Linear(edge_inputs, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU())
        self.node = nn.Sequential(nn.Linear(2 * WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU())
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, nodes: Tensor, metric: Tensor, waves: Tensor, source: Tensor, target: Tensor) -> Tensor:
        before, nodes = nodes, self.norm(nodes)
        messages = self.edge(torch.cat([nodes[target], nodes[source], metric, waves], -1))
        total = torch.zeros_like(nodes).index_add_(0, target, messages)
        degree = torch.bincount(target, minlength=len(nodes)).to(total)[:, None]
        return before + self.node(torch.cat([nodes, total / degree], -1))


class ReferenceCSPNet(nn.Module):
    """Noisy crystals of one size in, a vector an atom (b, n, 3) and a matrix a crystal (b, 3, 3) out."""

    def __init__(self) -> None:
        super().__init__()
        self.species = nn.Embedding(ELEMENTS, WIDTH)
        self.mix = nn.Linear(WIDTH + TIME, WIDTH)
        self.layers = nn.ModuleList(EdgeLayer() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.to_frac = nn.Linear(WIDTH, 3, bias=False)
        self.to_lattice = nn.Linear(WIDTH, 9, bias=False)

    def forward(self, frac: Tensor, cell: Tensor, species: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        b, n = species.shape
        first = torch.arange(b).repeat_interleave(n * n) * n
        target = first + torch.arange(n).repeat_interleave(n).repeat(b)
        source = first + torch.arange(n).repeat(b * n)
        flat = frac.reshape(-1, 3)
        difference = (flat[source] - flat[target]) % 1.0
        phase = (2 * math.pi * difference[..., None] * torch.arange(FREQUENCIES)).flatten(1)
        waves = torch.cat([phase.sin(), phase.cos()], -1)
        metric = (cell @ cell.transpose(1, 2)).reshape(b, 9).repeat_interleave(n * n, 0)
        rate = torch.exp(torch.arange(TIME // 2) * (-math.log(10_000.0) / (TIME // 2 - 1)))
        clock = torch.cat([(time[:, None] * 1000 * rate).sin(), (time[:, None] * 1000 * rate).cos()], -1)
        nodes = self.mix(torch.cat([self.species(species.reshape(-1)), clock.repeat_interleave(n, 0)], -1))
        for layer in self.layers:
            nodes = layer(nodes, metric, waves, source, target)
        nodes = self.norm(nodes).view(b, n, WIDTH)
        lattice = self.to_lattice(nodes.mean(1)).view(b, 3, 3) @ cell
        return self.to_frac(nodes), lattice

    def loss(self, frac: Tensor, cell: Tensor, species: Tensor) -> Tensor:
        time = torch.rand(len(frac))
        noise, strain = torch.randn_like(frac), torch.randn_like(cell)
        scale = time[:, None, None]
        guess, guess_cell = self((frac + 0.5 * scale * noise) % 1.0, cell + scale * strain, species, time)
        return (guess - noise).square().mean() + (guess_cell - strain).square().mean()
