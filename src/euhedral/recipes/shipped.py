"""The recipes that are shipped: their names, and each as a `Recipe`."""

from __future__ import annotations

from pathlib import Path

from euhedral.errors import ConfigError
from euhedral.models import registry
from euhedral.train.config import Recipe, load_recipe, model_config

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Names of the shipped recipes: their files without the ending."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find(name: str) -> Recipe:
    """A shipped recipe by name, or one in a file by its path.

    Raises:
        ConfigError: where there is neither, naming the nearest shipped one, or the file is no recipe.
    """
    is_file = name not in names() and (Path(name).exists() or Path(name).suffix in (".yaml", ".yml"))
    return load_recipe(name if is_file else path_of(name))


def path_of(name: str) -> Path:
    """File of a shipped recipe. Raises ConfigError where there is none, naming the nearest."""
    if name not in names():
        raise ConfigError(
            f"no recipe {name!r}{registry.nearest(name, names())}; give a YAML file or one of {', '.join(names())}"
        )
    return FOLDER / f"{name}.yaml"


def count_parameters(recipe: Recipe) -> int:
    """Numbers that its model learns."""
    import torch

    _, model_class = registry.lookup(recipe.family)
    with torch.random.fork_rng(devices=[]):
        model = model_class(model_config(recipe))
    return sum(parameter.numel() for parameter in model.parameters())
