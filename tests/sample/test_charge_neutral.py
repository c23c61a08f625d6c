"""Compositions that pass the charge-neutrality rule: all of them, as many as in the data, or as the model draws them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from euhedral.errors import RequestError
from euhedral.evaluate.validity import content_validity
from euhedral.models.base import CompositionTest
from euhedral.sample.constraints import verify
from euhedral.sample.generate import Generator, fast_precision
from euhedral.sample.plan import plan, sample_request
from euhedral.sample.request import GenerationRequest, resolve

PALETTE = {"elements": "Na,Cl,O,F,S", "num_atoms": 3, "steps": 1, "idealize": False}


def neutral_share(generator: Generator, **fields: object) -> float:
    crystals = generator.generate(GenerationRequest(**{**PALETTE, "n": 60, **fields}))  # type: ignore[arg-type]
    return sum(content_validity(c.species.tolist()).valid for c in crystals) / 60


def test_all_of_them_are_neutral_when_asked_for(tiny_generator: Generator) -> None:
    assert neutral_share(tiny_generator, charge_neutral=False) < 0.9
    assert neutral_share(tiny_generator, charge_neutral=True) == 1
    request = GenerationRequest(**PALETTE, n=5, charge_neutral=True)  # type: ignore[arg-type]
    share = verify(tiny_generator.resolve(request), tiny_generator.generate(request), [0] * 5)["charge_neutral"]
    assert (share.met, share.total, share.kind) == (5, 5, "drawn again until met")


def test_the_share_of_the_training_data_is_drawn_toward(
    tiny_generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = neutral_share(tiny_generator)
    assert free == neutral_share(tiny_generator, charge_neutral=False)  # this model does not know the share
    known = replace(tiny_generator.capabilities, neutral_share=0.97)
    monkeypatch.setattr(tiny_generator, "capabilities", known)
    assert free < neutral_share(tiny_generator)
    assert neutral_share(tiny_generator, charge_neutral=False) == free


def test_what_is_wanted_follows_the_share_and_the_seed(tiny_generator: Generator) -> None:
    capabilities = replace(tiny_generator.capabilities, neutral_share=0.25)
    resolved = resolve(GenerationRequest(n=4000, num_atoms=4), capabilities)
    (batch,) = plan(resolved, crystals_per_batch=4000)
    test, again = (sample_request(resolved, batch).composition_test for _ in range(2))
    assert test is not None and again is not None
    assert torch.equal(test.wanted, again.wanted)
    assert abs(float(test.wanted.double().mean()) - 0.25) < 0.03


def test_only_what_missed_is_drawn_again_and_never_forever(tiny_generator: Generator) -> None:
    resolved = tiny_generator.resolve(GenerationRequest(n=8, num_atoms=2, steps=1))
    (batch,) = plan(resolved, crystals_per_batch=8)
    sizes: list[int] = []

    def never(species: torch.Tensor) -> torch.Tensor:
        sizes.append(len(species))
        assert (species > 0).all()
        return torch.arange(len(species)) < len(species) // 2

    test = CompositionTest(test=never, wanted=torch.ones(8, dtype=torch.bool), redraws=3)
    request = replace(sample_request(resolved, batch), composition_test=test)
    with fast_precision(tiny_generator.device):
        crystals = tiny_generator.model.sample(request, rng=torch.Generator().manual_seed(0))
    assert len(crystals) == 8
    assert sizes == [8, 8, 8]
    assert request.rows(torch.tensor([1, 5])).composition_test is not None


def test_a_formula_that_is_not_neutral_is_refused_where_neutral_ones_are_asked_for(tiny_generator: Generator) -> None:
    with pytest.raises(RequestError, match="NaCl2 is not charge-neutral"):
        tiny_generator.resolve(GenerationRequest(formula="NaCl2", charge_neutral=True))
    assert tiny_generator.resolve(GenerationRequest(formula="NaCl2")).neutral_share is None
    assert tiny_generator.resolve(GenerationRequest(formula="NaCl", charge_neutral=True)).neutral_share is None
