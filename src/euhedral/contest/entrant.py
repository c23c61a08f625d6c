"""One entrant's way: it is trained, sampled and judged, and each stage that is done is not done again."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from euhedral.contest.settings import ContestSettings
from euhedral.contest.standing import GENERATION, PREDICTION, Standing
from euhedral.contest.trivial import RANDOM, TEMPLATE, TrivialPredictor
from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import EuhedralError, RequestError
from euhedral.models.checkpoint import load_model, replace_file
from euhedral.sample.generate import Generator, holds_together
from euhedral.train.clock import seconds_by

if TYPE_CHECKING:
    from euhedral.train.config import Recipe

ROW, RUN = "row.json", "run"


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What all entrants share.

    Attributes:
        settings: of the contest.
        train: the store that they are trained on.
        known: its crystals.
        reference: the crystals to predict.
        workers: processes of the evaluator.
        say: told what is being done.
    """

    settings: ContestSettings
    train: Path
    known: CrystalBatch
    reference: CrystalBatch
    workers: int
    say: Callable[[str], None]

    @property
    def contents(self) -> list[list[int]]:
        """Atomic numbers of the cells to predict."""
        return [crystal.species.tolist() for crystal in self.reference]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Drawn:
    """Crystals and how long they took."""

    crystals: CrystalBatch
    seconds: float

    @property
    def per_second(self) -> float:
        return len(self.crystals) / max(self.seconds, 1e-9)


def enter_trivial(name: str, folder: Path, ground: Ground) -> Standing:
    """A trivial baseline: for generation, the contents are those of training crystals drawn at random."""
    if (done := read_row(folder)) is not None:
        return done
    predictor = TrivialPredictor(ground.known)
    draw = {RANDOM: predictor.random, TEMPLATE: predictor.template}[name]
    rng = torch.Generator().manual_seed(ground.settings.seed)
    predicted = draw(ground.contents, rng=rng)
    generated = draw(predictor.draw_contents(ground.settings.samples, rng=rng), rng=rng)
    standing = Standing(name=name)
    standing = _judged(standing, "csp", predicted, folder / "prediction", ground)
    standing = _judged(standing, "cdvae", generated, folder / "generation", ground)
    return _kept(standing, folder)


def enter(name: str, recipe: Recipe, folder: Path, ground: Ground) -> Standing:
    """Train, sample and judge a recipe; what goes wrong on the way becomes a problem of its standing.

    Training goes on where it was stopped. An interrupt by the user is passed on.
    """
    if (done := read_row(folder)) is not None:
        return done
    settings, problems = ground.settings, []
    standing = Standing(
        name=name,
        family=recipe.family,
        steps=settings.steps_of(recipe),
        evaluations=settings.evaluations_of(recipe),
    )
    with _noting(problems, "training"):
        standing = _trained(standing, recipe, folder, ground)
    if not problems:
        generator = Generator.load(str(folder / RUN))
        with _noting(problems, "prediction"):
            drawn = _predict(generator, standing, ground)
            standing = replace(standing, predicted_per_second=drawn.per_second)
            standing = _judged(standing, "csp", drawn.crystals, folder / "prediction", ground)
        with _noting(problems, "generation"):
            drawn = _generate(generator, standing, ground)
            standing = replace(standing, generated_per_second=drawn.per_second)
            standing = _judged(standing, "cdvae", drawn.crystals, folder / "generation", ground)
    return _kept(replace(standing, problems=tuple(problems)), folder)


def read_row(folder: Path) -> Standing | None:
    """The standing of an entrant that has been through, or None."""
    try:
        return Standing.from_json(json.loads((folder / ROW).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _trained(standing: Standing, recipe: Recipe, folder: Path, ground: Ground) -> Standing:
    from euhedral.train.folder import RUN as SPEC
    from euhedral.train.run import resume, train

    settings, run = ground.settings, folder / RUN
    changed = recipe.with_changes(
        max_minutes=settings.minutes,
        max_epochs=10**9,
        max_atoms=settings.max_atoms,
        seed=settings.seed,
        clock=settings.clock,
    )
    started = seconds_by(settings.clock)
    learns = not (run / "model" / "config.json").is_file() or (run / "state.safetensors").is_file()
    ground.say(f"{standing.name}: training")
    if not (run / SPEC).is_file():
        train(ground.train, run, recipe=changed)
    elif learns:
        resume(run)
    checkpoint = load_model(run / "model")
    made = checkpoint.meta.get("training", {})
    if "crystals_seen" in made and not made["finished"]:
        raise KeyboardInterrupt
    hours = made.get("hours")
    return replace(
        standing,
        parameters=sum(parameter.numel() for parameter in checkpoint.model.parameters()),
        trained=int(made.get("crystals_seen", 0)),
        training_seconds=seconds_by(settings.clock) - started if hours is None else 3600 * float(hours),
    )


def _predict(generator: Generator, standing: Standing, ground: Ground) -> _Drawn:
    ground.say(f"{standing.name}: predicting {len(ground.reference)} structures{_in_steps(standing)}")
    settings, steps = ground.settings, standing.steps or None
    started = seconds_by(settings.clock)
    crystals = generator.predict(ground.contents, steps=steps, seed=settings.seed, batch=settings.batch)
    return _Drawn(crystals=crystals, seconds=seconds_by(settings.clock) - started)


def _generate(generator: Generator, standing: Standing, ground: Ground) -> _Drawn:
    settings, steps = ground.settings, standing.steps or None
    ground.say(f"{standing.name}: generating {settings.samples} crystals{_in_steps(standing)}")
    started = seconds_by(settings.clock)
    crystals = generator.unselected(n=settings.samples, steps=steps, seed=settings.seed, batch=settings.batch)
    return _Drawn(crystals=crystals, seconds=seconds_by(settings.clock) - started)


def _in_steps(standing: Standing) -> str:
    return f" in {standing.steps} steps each" if standing.steps else ""


def _judged(standing: Standing, protocol: str, crystals: CrystalBatch, folder: Path, ground: Ground) -> Standing:
    """The standing with the figures of a protocol; the report and the crystals stay in the folder."""
    from euhedral.evaluate.run import evaluate

    ground.say(f"{standing.name}: judging by protocol {protocol}")
    reference = ground.reference
    crystals = crystals.to(reference.cell.dtype)
    folder.parent.mkdir(parents=True, exist_ok=True)
    report = evaluate(
        crystals,
        reference,
        protocol=protocol,
        folder=folder,
        overwrite=(folder / "metrics.json").is_file(),
        workers=ground.workers,
        potential=False,
    )
    (folder / "crystals.extxyz").unlink(missing_ok=True)
    # A file of structures cannot hold what is none; the report says how many there are, and why.
    crystals[torch.nonzero(holds_together(crystals))[:, 0]].write(folder / "crystals.extxyz")
    wanted = PREDICTION if protocol == "csp" else GENERATION
    found = {figure.name: figure.value for result in report.results for figure in result.figures}
    return replace(standing, figures={**standing.figures, **{name: found.get(name) for name in wanted}})


@contextlib.contextmanager
def _noting(problems: list[str], stage: str) -> Iterator[None]:
    """What a recipe raises is its problem and not that of the others, whoever wrote its model."""
    try:
        yield
    except RequestError as error:
        problems.append(f"{stage}: {error}")
    except (EuhedralError, RuntimeError, ValueError, ArithmeticError, LookupError, TypeError, AssertionError) as error:
        problems.append(f"{stage} failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}")


def _kept(standing: Standing, folder: Path) -> Standing:
    folder.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = standing.to_json()
    replace_file(folder / ROW, (json.dumps(document, indent=1) + "\n").encode())
    return standing


def entrants_of(names: Sequence[str]) -> dict[str, Recipe]:
    """Recipes by name, or by the path of a YAML file under its stem.

    Raises ConfigError where one cannot be found, is of an unknown family, or has the name of another.
    """
    from euhedral.errors import ConfigError
    from euhedral.recipes import shipped

    found: dict[str, Recipe] = {}
    for name in names or shipped.names():
        short = Path(name).stem
        if short in found or short in (RANDOM, TEMPLATE):
            raise ConfigError(f"two entrants are called {short!r}; name their files differently")
        found[short] = shipped.find(name)
    return found
