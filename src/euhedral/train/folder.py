"""The folder of a run and the record in it that says what is trained on what.

| in the folder | what |
|---|---|
| `run.json` | model, settings, data; written once the data is ready |
| `data.arrow`, `val.arrow` | the data, where it was not a store already |
| `state.safetensors` | the whole state, to resume from; replaced in one step |
| `log.csv`, `tensorboard/` | the record |
| `model/` | averaged weights that `euhedral.load` reads, as of the last save |
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from euhedral.errors import CheckpointError, ConfigError, DataError, OutputError
from euhedral.models import registry
from euhedral.models.adapted import ADAPTED, AdaptedConfig
from euhedral.models.columns import Column
from euhedral.train.config import Recipe, TrainConfig, model_config

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA_VERSION = 1
RUN, DATA, VALIDATION = "run.json", "data.arrow", "val.arrow"
_ARROW_MAGIC = b"ARROW1"
_SMALL_SOURCE = 20 * 2**20
_SECONDS_TO_WAIT = 3600.0


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """What `run.json` holds.

    Attributes:
        family: of the model.
        config: of the model, as plain values.
        train: settings.
        data: the store that is trained on.
        val: the store of the validation loss, or None.
        source: what `data` was made from.
        base: folder of the model that training starts from, or None.
        statistics: of the data; they become the `statistics` of the checkpoint.
        steps: along the path of the model where nothing else is asked, as its recipe says; 0 where it does not.
    """

    family: str
    config: Mapping[str, Any]
    train: TrainConfig
    data: str
    val: str | None
    source: str
    base: str | None
    statistics: Mapping[str, Any]
    steps: int = 0


def load_spec(out: Path) -> RunSpec:
    """Read `run.json`. Raises CheckpointError where there is none, or it is damaged or of another version."""
    path = out / RUN
    if not path.is_file():
        raise CheckpointError(f"no training run at '{out}'; start one with `euhedral train --data PATH --out {out}`")
    try:
        document = json.loads(path.read_bytes())
        version = document.pop("schema_version")
        if version != SCHEMA_VERSION:
            raise CheckpointError(f"'{path}' has schema version {version!r}, this version reads {SCHEMA_VERSION}")
        return registry.parse_config(RunSpec, document)
    except (ValueError, KeyError, AttributeError, TypeError, ConfigError) as error:
        raise CheckpointError(f"'{path}' is damaged ({error}); start a new run") from None


def prepare(
    data: Path,
    out: Path,
    recipe: Recipe,
    val: str | Path | None,
    base: str | Path | None,
    console: Console | None,
    *,
    columns: Sequence[str] = (),
) -> None:
    """Make the run folder: convert, count, decide the model, and write `run.json` last; see `train` in `train.run`."""
    from euhedral.data.store import CrystalStore
    from euhedral.train.labels import LabelTable, columns_of, statistics_of

    if base is not None and recipe.model:
        raise ConfigError("a model that is finetuned keeps its architecture: leave 'model' out of the recipe")
    if base is None and columns:
        raise ConfigError(
            "adapters are made for a trained model: name it (`euhedral finetune --from MODEL --column NAME`)"
        )
    if base is None:
        model_config(recipe)  # so that mistakes are told before a long conversion
    if (out / RUN).exists():
        raise OutputError(
            f"'{out}' holds a run already; go on with `euhedral train --resume {out}` or choose another --out"
        )
    if out.exists() and (not out.is_dir() or any(not _is_ours(path) for path in out.iterdir())):
        raise OutputError(f"'{out}' exists and is not an empty folder; choose another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder '{out}': {error.strerror or error}") from error
    store_path = _as_store(data, out / DATA, console)
    val_path = None if val is None else _as_store(Path(val), out / VALIDATION, console)
    with CrystalStore.open(store_path) as store:
        statistics = statistics_of(store, LabelTable(store), max_atoms=recipe.train.max_atoms)
        left_out = len(store) - statistics.crystals
        adapted = columns_of(store, columns)
    if console is not None:
        note = f" ({left_out} of more than {recipe.train.max_atoms} atoms left out)" if left_out else ""
        console.print(f"{statistics.crystals} crystals{note}", highlight=False)
    family, config, meta, steps = recipe.family, recipe.model, statistics.to_meta(), recipe.about.steps
    if base is None:
        config = registry.plain_config(model_config(recipe, **statistics.config_values()))
    else:
        family, config, known = _begun(base, adapted)
        steps = known.get("steps", 0)
        meta = _with_known(meta, known.get("statistics", {}), adapted=bool(adapted))
    spec = RunSpec(
        family=family,
        config=config,
        train=recipe.train,
        data=_stored(store_path, out),
        val=None if val_path is None else _stored(val_path, out),
        source=str(data),
        base=None if base is None else str(Path(base).resolve()),
        statistics=meta,
        steps=steps,
    )
    write_spec(out, spec)


def _begun(base: str | Path, columns: tuple[Column, ...]) -> tuple[str, Mapping[str, Any], Mapping[str, Any]]:
    """Family and configuration of what training makes of a model, with adapters where there are columns, and what is known
    of the model.

    Raises:
        CheckpointError: where there is no such model, or adapters would lack the statistics of its training.
        ConfigError: where it takes no adapters.
    """
    from euhedral.models.checkpoint import load_model

    checkpoint = load_model(base)
    family, config = registry.name_of(checkpoint.model), registry.plain_config(checkpoint.model.config)
    if not columns:
        return family, config, checkpoint.meta
    if not checkpoint.meta.get("statistics"):
        raise CheckpointError(f"'{base}' lacks the statistics of its training, which adapters keep; give another model")
    config = asdict(AdaptedConfig(family=family, model=config, columns=columns))
    registry.build(ADAPTED, config)
    return ADAPTED, config, checkpoint.meta


def _with_known(new: Mapping[str, Any], known: Mapping[str, Any], *, adapted: bool) -> Mapping[str, Any]:
    """Statistics of a model that was trained before.

    With adapters what it knows stays known: elements and atom counts are those that it was trained on. Without, they are
    those of the new data, but for the properties, which are not forgotten.
    """
    if adapted:
        return {**known, "crystals": new["crystals"]}
    before = known.get("property_known", {})
    counts = {name: count + before.get(name, 0) for name, count in new["property_known"].items()}
    return {**new, "property_known": counts}


def _as_store(source: Path, target: Path, console: Console | None) -> Path:
    """The source itself where it is a store, else a store made from it in the run folder."""
    if not source.exists():
        raise DataError(f"no data at '{source}'; give a store, a CSV, or a file, folder or zip of structures")
    if source.is_file():
        with source.open("rb") as file:
            if file.read(len(_ARROW_MAGIC)) == _ARROW_MAGIC:
                return source.resolve()
    from euhedral.data.convert import convert

    small = source.is_dir() or source.stat().st_size < _SMALL_SOURCE
    workers = 1 if small else min(8, os.cpu_count() or 1)
    report = convert(source, target, workers=workers, overwrite=True, progress=_conversion_lines(console, source))
    if console is not None:
        broken = f", {report.failed} could not be (reasons: {report.report})" if report.failed else ""
        console.print(
            f"{report.kept} of {report.rows} rows of {source} converted{broken}", highlight=False, soft_wrap=True
        )
    return target


def _conversion_lines(console: Console | None, source: Path) -> Callable[[int, int], None] | None:
    if console is None:
        return None
    last = time.monotonic()

    def show(rows: int, failures: int) -> None:
        nonlocal last
        if time.monotonic() - last > 10:
            last = time.monotonic()
            console.print(f"converting {source}: {rows} rows, {failures} broken", highlight=False, soft_wrap=True)

    return show


def _stored(path: Path, out: Path) -> str:
    """A path for `run.json`: relative inside the run folder, so that the folder can be moved."""
    return path.name if path.parent == out else str(path)


def _is_ours(path: Path) -> bool:
    """Whether a file in a run folder is left over from a start that was killed before `run.json` was written."""
    return path.name.startswith((DATA, VALIDATION, f".{DATA}", f".{VALIDATION}", f".{RUN}"))


def write_spec(out: Path, spec: RunSpec) -> None:
    """Write `run.json` in one step. Raises OutputError where it cannot be written."""
    from euhedral.models.checkpoint import replace_file

    document = {"schema_version": SCHEMA_VERSION, **asdict(spec)}
    try:
        replace_file(out / RUN, (json.dumps(document, indent=1) + "\n").encode())
    except OSError as error:
        raise OutputError(f"cannot write '{out / RUN}': {error.strerror or error}") from error


def wait_for(path: Path) -> None:
    """Wait until the first process has prepared the run."""
    begun = time.monotonic()
    while not path.is_file():
        if time.monotonic() - begun > _SECONDS_TO_WAIT:
            raise OutputError(f"the first process did not make '{path}' within an hour; look at its output")
        time.sleep(0.5)
