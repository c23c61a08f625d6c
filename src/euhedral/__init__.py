"""Euhedral: generate crystals that do not exist yet, and judge them.

`euhedral.load("default").generate(formula="LiMnO2", n=20, seed=0)` gives a `CrystalBatch`, and
`euhedral.evaluate(crystals, reference)` a report on them. Heavy packages are imported where they are used, so importing
this package costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from euhedral.crystal.batch import CrystalBatch
    from euhedral.evaluate.run import evaluate
    from euhedral.sample.generate import Generator
    from euhedral.sample.template import Template

__version__ = "0.1.0"
__all__ = ["CrystalBatch", "Generator", "Template", "__version__", "evaluate", "load"]


def load(name: str = "default", *, device: str = "auto") -> Generator:
    """Load a trained model: a shipped one by name ("default") or a checkpoint folder by path.

    Args:
        name: name of shipped weights, or path of a folder with `model.safetensors` and `config.json`.
        device: "auto" (CUDA when there is one, else CPU), "cpu", "cuda", "mps", "cuda:1", ...

    Raises:
        CheckpointError: where there is no such model or it is damaged.
        RequestError: for a device that this machine lacks.
    """
    from euhedral.sample.generate import Generator

    return Generator.load(name, device=device)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name == "CrystalBatch":
        from euhedral.crystal.batch import CrystalBatch

        return CrystalBatch
    if name == "evaluate":
        # The sub-package, which can be called: it takes this name in any case once something imports it.
        from importlib import import_module

        return import_module("euhedral.evaluate")
    if name == "Generator":
        from euhedral.sample.generate import Generator

        return Generator
    if name == "Template":
        from euhedral.sample.template import Template

        return Template
    raise AttributeError(f"module 'euhedral' has no attribute {name!r}")
