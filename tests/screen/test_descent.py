import pytest
import torch

from euhedral.screen.descent import Descent, Fire, Lbfgs


def _bowl(size: int, seed: int) -> torch.Tensor:
    """A symmetric positive definite Hessian."""
    root = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.T + torch.eye(size, dtype=torch.float64)


class _Walkers:
    """Rows in bowls of their own, which a descent moves towards 0."""

    def __init__(self, descent: Descent) -> None:
        self.descent, self.bowls = descent, []
        self.places: list[torch.Tensor] = []

    def add(self, bowls: list[torch.Tensor], guesses: list[torch.Tensor] | None = None) -> None:
        self.bowls += bowls
        self.places += [torch.ones(len(bowl), dtype=torch.float64) for bowl in bowls]
        self.descent.add(guesses or [torch.eye(len(bowl), dtype=torch.float64) / 10 for bowl in bowls])

    def keep(self, rows: list[int]) -> None:
        mask = torch.zeros(len(self.bowls), dtype=torch.bool)
        mask[rows] = True
        self.descent.keep(mask)
        self.bowls, self.places = [self.bowls[i] for i in rows], [self.places[i] for i in rows]

    def step(self) -> None:
        gradient = torch.zeros(len(self.bowls), self.descent.width, dtype=torch.float64)
        for row, bowl, place in zip(gradient, self.bowls, self.places, strict=True):
            row[: len(place)] = bowl @ place
        step = self.descent.step(gradient)
        scale = 1 / (torch.linalg.norm(step, dim=1) / 0.5).clamp(min=1)
        step = step * scale[:, None]
        self.descent.taken(step)
        for row, place in zip(step, self.places, strict=True):
            assert not row[len(place) :].any()
            place += row[: len(place)]


def test_the_inverse_hessian_as_guess_leads_there_in_one_step():
    bowl = _bowl(6, 0) / 100
    walkers = _Walkers(Lbfgs())
    walkers.add([bowl], [torch.linalg.inv(bowl)])
    walkers.places[0] *= 0.1
    walkers.step()
    assert walkers.places[0].norm() < 1e-9


@pytest.mark.parametrize(("make", "steps"), [(Lbfgs, 40), (Fire, 400)])
def test_comes_down(make: type[Descent], steps: int):
    walkers = _Walkers(make())
    walkers.add([_bowl(4, 1), _bowl(12, 2)])
    for _ in range(steps):
        walkers.step()
    assert all(place.norm() < 1e-4 for place in walkers.places)


@pytest.mark.parametrize("make", [Lbfgs, Fire])
def test_rows_know_nothing_of_each_other(make: type[Descent]):
    alone, crowd = _Walkers(make()), _Walkers(make())
    alone.add([_bowl(5, 3)])
    crowd.add([_bowl(3, 4), _bowl(5, 3)])
    for _ in range(3):
        alone.step()
        crowd.step()
    crowd.add([_bowl(9, 5)])
    for _ in range(3):
        alone.step()
        crowd.step()
    crowd.keep([1, 2])
    for _ in range(3):
        alone.step()
        crowd.step()
    assert torch.allclose(alone.places[0], crowd.places[0], rtol=0, atol=1e-9)


def test_steps_uphill_in_curvature_teach_nothing():
    descent = Lbfgs()
    descent.add([torch.eye(2, dtype=torch.float64)])
    descent.taken(descent.step(torch.tensor([[1.0, 0.0]], dtype=torch.float64)))
    # The gradient grew along the step: no minimum lies there, and the guess alone decides.
    assert torch.equal(
        descent.step(torch.tensor([[2.0, 0.5]], dtype=torch.float64)),
        torch.tensor([[-2.0, -0.5]], dtype=torch.float64),
    )


def test_old_pairs_are_forgotten():
    walkers = _Walkers(Lbfgs(memory=3))
    walkers.add([_bowl(4, 1)])
    for _ in range(6):
        walkers.step()
    assert walkers.descent.steps.shape[0] == 3
