"""The whole contest, in a folder from which it goes on after any stop.

| in the folder | what |
|---|---|
| `settings.json` | what the contest was begun with |
| `train.arrow` | the crystals that are trained on |
| `NAME/run/` | a recipe's training run |
| `NAME/prediction/`, `NAME/generation/` | its crystals, and the evaluator's reports of them |
| `NAME/row.json` | its row, once it has been through |
| `leaderboard.md`, `leaderboard.csv` | the table of all that have been through |
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from euhedral.catalog.folder_lock import locked
from euhedral.contest.entrant import Ground, enter, enter_trivial, entrants_of
from euhedral.contest.settings import ContestSettings
from euhedral.contest.standing import Standing, to_csv, to_markdown
from euhedral.contest.trivial import RANDOM, TEMPLATE
from euhedral.crystal.batch import CrystalBatch
from euhedral.data.convert import convert
from euhedral.data.store import CrystalStore
from euhedral.errors import DataError, OutputError
from euhedral.models.checkpoint import replace_file

if TYPE_CHECKING:
    from euhedral.train.config import Recipe

SETTINGS, TRAIN, VALIDATION = "settings.json", "train.arrow", "val.arrow"
TABLES = {"leaderboard.md": to_markdown, "leaderboard.csv": to_csv}


def hold_contest(
    data: str | Path,
    val: str | Path,
    out: str | Path,
    *,
    recipes: Sequence[str] = (),
    settings: ContestSettings | None = None,
    workers: int | None = None,
    say: Callable[[str], None] = lambda text: None,
    on_standing: Callable[[Standing], None] = lambda standing: None,
) -> list[Standing]:
    """Train, sample and judge recipes, and the trivial baselines; entrants that have been through are not run again.

    Args:
        data: crystals to train on, in any form that `euhedral data convert` reads.
        val: crystals to predict, and to compare with what is generated, in the same forms.
        out: folder of the contest; one that was stopped goes on.
        recipes: names of shipped recipes or paths of YAML files; all shipped ones where there are none.
        settings: the same for all.
        workers: processes of conversion and evaluator; one a core where not given.
        say: told what is being done.
        on_standing: told each row as it is there.

    Raises:
        ConfigError: for an unknown recipe or a setting out of range.
        DataError: where data cannot be read, or hold no crystal of at most `max_atoms` atoms.
        OutputError: where the folder is of another contest, in use, or cannot be written.
    """
    settings, out = settings or ContestSettings(), Path(out)
    entrants = entrants_of(recipes)
    for path in (data, val):
        if not Path(path).exists():
            raise DataError(f"no data at '{path}'; give a store, a CSV, or a file, folder or zip of structures")
    _claim(out, {**asdict(settings), "data": str(Path(data).resolve()), "val": str(Path(val).resolve())})
    workers = workers or os.cpu_count() or 1
    with locked(out):
        return _hold(_ground(Path(data), Path(val), out, settings, workers, say), entrants, out, on_standing)


def _hold(
    ground: Ground, entrants: Mapping[str, Recipe], out: Path, on_standing: Callable[[Standing], None]
) -> list[Standing]:
    standings: list[Standing] = []
    for name in (RANDOM, TEMPLATE):
        standings.append(enter_trivial(name, out / name.replace(" ", "_"), ground))
        on_standing(standings[-1])
        _write_tables(out, standings)
    for name, recipe in entrants.items():
        standings.append(enter(name, recipe, out / name, ground))
        on_standing(standings[-1])
        _write_tables(out, standings)
    return standings


def _claim(out: Path, document: dict[str, Any]) -> None:
    """Make the folder with its settings, or see that those of an earlier start are the same."""
    path = out / SETTINGS
    try:
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            if before != document:
                changed = sorted(key for key in {*before, *document} if before.get(key) != document.get(key))
                raise OutputError(
                    f"{out} holds a contest of other settings (different: {', '.join(changed)}); choose another --out"
                )
            return
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise OutputError(f"{out} exists and is no contest (no {SETTINGS} in it); choose another --out")
        out.mkdir(parents=True, exist_ok=True)
        replace_file(path, (json.dumps(document, indent=1) + "\n").encode())
    except ValueError as error:
        raise OutputError(f"{path} cannot be read ({error}); choose another --out") from None
    except OSError as error:
        raise OutputError(f"cannot write to {out}: {error.strerror or error}") from error


def _ground(
    data: Path, val: Path, out: Path, settings: ContestSettings, workers: int, say: Callable[[str], None]
) -> Ground:
    train = _store(data, out / TRAIN, workers, say)
    validation = _store(val, out / VALIDATION, workers, say)
    return Ground(
        settings=settings,
        train=train,
        known=_small_enough(train, settings, None),
        reference=_small_enough(validation, settings, settings.predictions),
        workers=workers,
        say=say,
    )


def _store(source: Path, target: Path, workers: int, say: Callable[[str], None]) -> Path:
    if not target.is_file():
        say(f"converting {source}")
        report = convert(source, target, workers=workers, overwrite=True)
        say(f"{report.kept} of {report.rows} rows of {source} converted")
    return target


def _small_enough(path: Path, settings: ContestSettings, most: int | None) -> CrystalBatch:
    """Crystals of at most `max_atoms` atoms, `most` of them drawn with the seed, in the order of the store."""
    with CrystalStore.open(path) as store:
        rows = np.flatnonzero(np.asarray(store.num_atoms) <= settings.max_atoms)
        if not len(rows):
            raise DataError(f"'{path}' has no crystal of at most {settings.max_atoms} atoms; raise --max-atoms")
        if most is not None:
            rows = np.sort(np.random.default_rng(settings.seed).permutation(rows)[:most])
        return store.crystals(rows)


def _write_tables(out: Path, standings: Sequence[Standing]) -> None:
    for name, text in TABLES.items():
        replace_file(out / name, text(standings).encode())
