"""`euhedral train` and `euhedral finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from euhedral.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from euhedral.train.config import Recipe

FINETUNE_RATE = 2e-4
QUICK_STEPS = 100
"""Steps along the path of a model that take seconds a crystal at most on a laptop."""

Seed = Annotated[int | None, typer.Option(min=0, help="Seed of the data's order and of all random numbers.")]
MaxMinutes = Annotated[float | None, typer.Option(help="End after this many minutes of training, over all resumes.")]
MaxEpochs = Annotated[int | None, typer.Option(help="End after this many passes over the data.")]
BatchSize = Annotated[
    int | None, typer.Option(help="Most crystals in a step of one device; those of a step have one atom count.")
]
LearningRate = Annotated[float | None, typer.Option(help="Rate between warm-up and decay.")]
CheckpointMinutes = Annotated[float | None, typer.Option(help="Minutes between two saves of the whole state.")]
Devices = Annotated[int | None, typer.Option(help="How many devices; 0 takes all GPUs, or one CPU process.")]
Accelerator = Annotated[str | None, typer.Option(help="auto, cpu, gpu, ...")]
Precision = Annotated[str | None, typer.Option(help="auto, float32 or bfloat16 (mixed).")]
Compile = Annotated[
    bool | None,
    typer.Option("--compile/--no-compile", help="Compile the network first; takes minutes, pays in runs of hours."),
]
RecipeName = Annotated[
    str | None,
    typer.Option(
        "--recipe", "--config", help="One of `euhedral recipes`, or a YAML file with family, model and train."
    ),
]
Published = Annotated[
    bool, typer.Option("--published", help="Take the recipe's published size; most recipes are smaller, for a laptop.")
]
Validation = Annotated[Path | None, typer.Option("--val", help="Other crystals, for a validation loss.")]


def train(
    data: Annotated[Path | None, typer.Option(help="A store, CSV, or file, folder or zip of structures.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; it must not hold one already.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")] = None,
    val: Validation = None,
    recipe: RecipeName = None,
    seed: Seed = None,
    max_minutes: MaxMinutes = None,
    max_epochs: MaxEpochs = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    checkpoint_minutes: CheckpointMinutes = None,
    devices: Devices = None,
    accelerator: Accelerator = None,
    precision: Precision = None,
    compile_network: Compile = None,
    published: Published = False,
) -> None:
    """Train a model on your crystals, or go on with a run that stopped."""
    changes: dict[str, Any] = {
        "max_minutes": max_minutes,
        "max_epochs": max_epochs,
        "learning_rate": learning_rate,
        "checkpoint_minutes": checkpoint_minutes,
        "devices": devices,
        "accelerator": accelerator,
        "precision": precision,
        "compile": compile_network,
    }
    from euhedral.train import run

    if resume is not None:
        fixed = {
            "--data": data,
            "--out": out,
            "--val": val,
            "--recipe": recipe,
            "--seed": seed,
            "--batch-size": batch_size,
            "--published": True if published else None,
        }
        given = [name for name, value in fixed.items() if value is not None]
        if given:
            raise ConfigError(f"--resume goes on with the run as it was started; leave out {', '.join(given)}")
        console = _console()
        _finished(run.resume(resume, console=console, **changes), console)
        return
    if data is None or out is None:
        raise ConfigError("give --data PATH and --out RUN to start a run, or --resume RUN to go on with one")
    console = _console()
    chosen = _recipe(recipe, {**changes, "seed": seed, "batch_size": batch_size}, published=published)
    _finished(run.train(data, out, recipe=chosen, val=val, console=console), console)


def finetune(
    data: Annotated[Path, typer.Option(help="A store, CSV, or file, folder or zip of structures.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; it must not hold one already.")],
    base: Annotated[
        str, typer.Option("--from", help="Shipped weights by name, a checkpoint or a run folder.")
    ] = "default",
    val: Validation = None,
    recipe: RecipeName = None,
    seed: Seed = None,
    max_minutes: MaxMinutes = None,
    max_epochs: MaxEpochs = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    checkpoint_minutes: CheckpointMinutes = None,
    devices: Devices = None,
    accelerator: Accelerator = None,
    precision: Precision = None,
    compile_network: Compile = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="A column of the data, numbers or classes, that adapters learn while the model's own weights stay as they "
            "are; repeatable. `generate --property COLUMN=VALUE` then asks for it.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Start from a trained model and go on training on your crystals; resume with `euhedral train --resume`."""
    from euhedral.sample.weights import find_weights
    from euhedral.train import run

    changes: dict[str, Any] = {
        "seed": seed,
        "max_minutes": max_minutes,
        "max_epochs": max_epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate if learning_rate is not None or recipe is not None else FINETUNE_RATE,
        "checkpoint_minutes": checkpoint_minutes,
        "devices": devices,
        "accelerator": accelerator,
        "precision": precision,
        "compile": compile_network,
    }
    console = _console()
    chosen = _recipe(recipe, changes)
    _finished(
        run.train(data, out, recipe=chosen, val=val, base=find_weights(base), columns=column or (), console=console),
        console,
    )


def _recipe(name: str | None, changes: dict[str, Any], *, published: bool = False) -> Recipe:
    from euhedral.recipes import shipped
    from euhedral.train.config import Recipe

    recipe = Recipe() if name is None else shipped.find(name)
    if published:
        recipe = recipe.at_published_size()
    return recipe.with_changes(**changes)


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def _finished(model: Path, console: Console) -> None:
    from euhedral.train.run import process_rank

    if process_rank() == 0:
        console.print(f"model: {model}", highlight=False, soft_wrap=True)
        console.print(f"try it: {_trial(model)}", highlight=False, soft_wrap=True)


def _trial(folder: Path) -> str:
    """A command that generates crystals of a model in a short time."""
    from euhedral.sample.generate import Generator

    generator = Generator.load(str(folder), device="cpu")
    words = [f"euhedral generate --model {folder}"]
    if not generator.model.chooses_species:
        words.append("--formula FORMULA")
    steps = generator.capabilities.steps
    if steps > QUICK_STEPS:
        words.append(f"-n 4 --steps {QUICK_STEPS}  (its recipe says {steps} steps: finer, and slower)")
    return " ".join(words)
