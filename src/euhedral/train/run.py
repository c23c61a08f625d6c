"""Start a training, go on with one, or start from a trained model."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from euhedral.errors import CheckpointError, ConfigError, EuhedralError
from euhedral.models import registry
from euhedral.models.adapted import Adapted
from euhedral.models.columns import Column
from euhedral.models.fitted import FittedModel
from euhedral.train.config import Recipe, TrainConfig, model_config, with_changes
from euhedral.train.folder import RUN, RunSpec, load_spec, prepare, wait_for, write_spec

if TYPE_CHECKING:
    from rich.console import Console

    from euhedral.data.store import CrystalStore
    from euhedral.models.base import GenerativeModel
    from euhedral.train.labels import LabelTable
    from euhedral.train.module import TrainingModule


def train(
    data: str | Path,
    out: str | Path,
    *,
    recipe: Recipe | None = None,
    val: str | Path | None = None,
    base: str | Path | None = None,
    columns: Sequence[str] = (),
    console: Console | None = None,
) -> Path:
    """Train a model and give the folder that `euhedral.load` reads.

    Args:
        data: a store, or anything that `euhedral data convert` reads; it is then converted into the run folder first.
        out: the run folder, made here; an existing run is never overwritten.
        recipe: model and settings; the default model where not given.
        val: other crystals, for a validation loss after each epoch.
        base: checkpoint folder to start from; its architecture and its scales of lattice and properties are kept.
        columns: with `base`: columns of the data that adapters learn while the model's own weights stay as they are.
        console: where progress is shown; silent without.

    Raises:
        OutputError: where the run exists already, or the disk is full.
        DataError, ConfigError, CheckpointError: on what cannot be read.
        EuhedralError: where Lightning is not installed, or the loss stays without a finite value.
    """
    chosen = recipe or Recipe()
    if issubclass(registry.lookup(chosen.family)[1], FittedModel):
        return fit_at_once(Path(data), Path(out), chosen, base, console)
    require_lightning()
    out = Path(out)
    if process_rank() == 0:
        prepare(Path(data), out, chosen, val, base, console, columns=columns)
    else:
        wait_for(out / RUN)
    return _fit(out, load_spec(out), console)


def fit_at_once(data: Path, out: Path, recipe: Recipe, base: str | Path | None, console: Console | None) -> Path:
    """Fit a family that has no loss, and save it as a training would; `base` is refused."""
    import numpy as np

    from euhedral.data.store import CrystalStore
    from euhedral.models.checkpoint import save_model
    from euhedral.train.callbacks import MODEL
    from euhedral.train.labels import LabelTable

    if base is not None:
        raise ConfigError(f"{recipe.family} is fitted to its crystals at once, so there is nothing to finetune")
    prepare(data, out, recipe, None, None, console)
    spec = load_spec(out)
    model_class: Any = registry.lookup(spec.family)[1]
    with CrystalStore.open(out / spec.data) as store:
        chosen = np.flatnonzero(store.num_atoms <= spec.train.max_atoms)
        crystals = store.crystals(chosen)
        model = model_class.fitted(model_config(recipe), crystals, LabelTable(store).conditions(chosen, crystals))
    save_model(out / MODEL, model, _meta(spec))
    if console is not None:
        console.print(f"fitted to {len(crystals):,} crystals; {out / MODEL}", highlight=False)
    return out / MODEL


def resume(out: str | Path, *, console: Console | None = None, **changes: Any) -> Path:
    """Go on with a run from its last saved state, exactly as if it had not stopped.

    Args:
        out: the run folder.
        console: where progress is shown.
        **changes: settings of `TrainConfig` to change; None leaves one as it is.

    Raises:
        CheckpointError: where there is no run, or its state is damaged or of other data.
    """
    out = Path(out)
    spec = load_spec(out)
    if issubclass(registry.lookup(spec.family)[1], FittedModel):
        raise ConfigError(f"'{out}' holds {spec.family}, which is fitted at once: there is nothing to go on with")
    require_lightning()
    changed = replace(spec, train=with_changes(spec.train, **changes))
    if changed != spec and process_rank() == 0:
        write_spec(out, changed)
    return _fit(out, changed, console)


def require_lightning() -> None:
    """Raise EuhedralError with the command that installs it where Lightning is missing."""
    if importlib.util.find_spec("lightning") is None:
        raise EuhedralError(
            "training needs the package lightning, which is not installed: pip install 'euhedral[train]'"
        )


def process_rank() -> int:
    """Number of this process among those that train together, from the launcher's environment; 0 when alone."""
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        # A SLURM job of one task, or an interactive one, has the variable too; Lightning then uses one process.
        if os.environ.get(name, "").isdigit() and not (
            name == "SLURM_PROCID" and os.environ.get("SLURM_NTASKS") == "1"
        ):
            return int(os.environ[name])
    return 0


def _fit(out: Path, spec: RunSpec, console: Console | None) -> Path:
    """Train from the last saved state, or from the beginning where there is none."""
    from euhedral.data.store import CrystalStore
    from euhedral.train.callbacks import MODEL, RunKeeper
    from euhedral.train.labels import LabelTable
    from euhedral.train.loader import ValidationData, batches_of
    from euhedral.train.module import TrainingModule
    from euhedral.train.show import ProgressDisplay
    from euhedral.train.state import STATE, Progress, load_state

    config, display = spec.train, ProgressDisplay(console if process_rank() == 0 else None)
    store = CrystalStore.open(out / spec.data)
    state = load_state(out / STATE) if (out / STATE).is_file() else None
    progress = state.progress if state is not None else Progress()
    model = _initial_model(spec, store)
    if config.compile:
        compile_networks(model, on_cpu=not _has_gpu(config))
    with _quiet():
        trainer = _trainer(config, out)
        batches = batches_of(
            store,
            config.batch_size,
            seed=config.seed,
            max_atoms=config.max_atoms,
            rank=trainer.global_rank,
            replicas=trainer.world_size,
        )
        module = TrainingModule(model, config, progress, total_steps=config.max_epochs * len(batches))
        if state is not None:
            module.begin_from(state)
        if module.share_done >= 1 and (out / MODEL).is_dir():
            display.say("this run is finished; a larger --max-epochs or --max-minutes goes on with it")
            return out / MODEL
        data = _matching_data(store, LabelTable(store, adapter_columns(model)), batches, progress, out)
        validation = None
        if spec.val is not None:
            held_out = CrystalStore.open(out / spec.val)
            validation = ValidationData(
                held_out,
                LabelTable(held_out, adapter_columns(model)),
                batch_size=config.batch_size,
                max_atoms=config.max_atoms,
            )
        keeper = RunKeeper(out, meta=_meta(spec), validation=validation, batches=len(batches), display=display)
        trainer.callbacks.append(keeper)
        with _stop_on_interrupt(module):
            trainer.fit(module, train_dataloaders=data)
    done = f"{progress.step:,} steps, {progress.crystals:,} crystals seen"
    if module.share_done < 1:
        display.say(f"stopped after {done}; go on with: euhedral train --resume {out}")
    else:
        display.say(f"finished: {done}")
    return out / MODEL


def _trainer(config: TrainConfig, out: Path) -> Any:
    import lightning.pytorch as lightning
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

    # Lightning's requeueing would save by pickle; a requeued job resumes from our own state.
    plugins: Any = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else None
    return lightning.Trainer(
        accelerator=config.accelerator,
        devices=config.devices or ("auto" if _has_gpu(config) else 1),
        precision="bf16-mixed" if _in_bfloat16(config) else "32-true",
        plugins=plugins,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=out,
    )


def _has_gpu(config: TrainConfig) -> bool:
    import torch

    return config.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def _in_bfloat16(config: TrainConfig) -> bool:
    """Whether to compute in bfloat16; `auto` does where the hardware multiplies it faster."""
    import torch

    from euhedral.sample.generate import cpu_multiplies_bfloat16

    if config.precision != "auto":
        return config.precision == "bfloat16"
    if _has_gpu(config):
        return torch.cuda.is_bf16_supported()
    return config.accelerator in ("auto", "cpu") and cpu_multiplies_bfloat16()


def _initial_model(spec: RunSpec, store: CrystalStore) -> GenerativeModel:
    import numpy as np
    import torch

    from euhedral.models.symmetric import SymmetricModel

    torch.manual_seed(spec.train.seed)
    config_class, model_class = registry.lookup(spec.family)
    if issubclass(model_class, SymmetricModel) and spec.base is None:
        crystals = store.crystals(np.flatnonzero(store.num_atoms <= spec.train.max_atoms))
        return model_class.informed(registry.parse_config(config_class, spec.config), crystals).train()
    model = registry.build(spec.family, spec.config)
    if spec.base is not None:
        from euhedral.models.checkpoint import load_model

        base = load_model(spec.base).model
        if isinstance(model, Adapted):
            model.begin_from(base)
        else:
            model.load_state_dict(base.state_dict())
    return model.train()


def adapter_columns(model: GenerativeModel) -> tuple[Column, ...]:
    """Columns that a model's adapters read, none of a model without."""
    return model.config.columns if isinstance(model, Adapted) else ()


def compile_networks(model: GenerativeModel, *, on_cpu: bool) -> None:
    """Compile the networks of a model where they are; weights and their names stay as they are.

    Sizes of batches and cells are left open, so that it happens once and not for each atom count.

    Raises:
        ConfigError: on a CPU without a C++ compiler.
    """
    if isinstance(model, Adapted):
        raise ConfigError("adapters are not compiled; train them without --compile")
    compilers = [os.environ.get("CXX"), "g++", "clang++"]
    if on_cpu and not any(name and shutil.which(name) for name in compilers):
        raise ConfigError(
            "compiling the network takes a C++ compiler; install g++ or clang++, or train without --compile"
        )
    for network in model.children():
        # Scales and the like learn nothing and are never called.
        if next(network.parameters(), None) is not None:
            network.compile(dynamic=True)


def _matching_data(store: CrystalStore, labels: LabelTable, batches: Any, progress: Any, out: Path) -> Any:
    from euhedral.train.loader import TrainingData

    try:
        return TrainingData(store, labels, batches, progress)
    except ConfigError as error:
        raise CheckpointError(f"the run at '{out}' cannot go on: {error}") from None


def _meta(spec: RunSpec) -> dict[str, Any]:
    from euhedral import __version__

    return {
        "statistics": dict(spec.statistics),
        "steps": spec.steps,
        "training": {
            "data": Path(spec.source).name,
            "crystals": spec.statistics["crystals"],
            "base": None if spec.base is None else Path(spec.base).name,
            "settings": asdict(spec.train),
            "euhedral": __version__,
        },
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's remarks are not for the users of Euhedral; its errors are raised as ever."""
    names = ("lightning", "lightning.pytorch", "lightning.fabric")
    levels = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


@contextmanager
def _stop_on_interrupt(module: TrainingModule) -> Iterator[None]:
    """The first Ctrl-C ends training after the running step, with everything saved; the second one at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def request_stop(number: int, frame: Any) -> None:
        module.stop_requested = True
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, request_stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
