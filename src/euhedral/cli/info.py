"""`euhedral info`: the weights at hand, how they were trained, what was measured, and the devices."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer


def info(
    name: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="The same as --model.", show_default=False)
    ] = None,
    model: Annotated[str, typer.Option(help="Shipped weights by name, or a checkpoint folder.")] = "default",
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show a model's training, measured quality and limits, and what this machine offers."""
    facts = gather(model if name is None else name)
    if as_json:
        sys.stdout.write(json.dumps(facts) + "\n")
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for section, values in facts.items():
        table = Table(title=section, title_justify="left", show_header=False)
        for label, value in values.items():
            if value is not None:
                table.add_row(label.replace("_", " "), _text(value))
        console.print(table)


def gather(model: str) -> dict[str, dict[str, Any]]:
    """All that `euhedral info` says, as plain values by section."""
    import torch

    from euhedral.catalog.versions import versions
    from euhedral.crystal.elements import SYMBOLS
    from euhedral.sample.generate import Generator, cpu_multiplies_bfloat16
    from euhedral.sample.weights import shipped_weights

    generator = Generator.load(model, device="cpu")
    can = generator.capabilities
    parameters = sum(p.numel() for p in generator.model.parameters())
    unknown = sorted(set(range(1, 119)) - can.elements)
    return {
        "model": {
            "name": model,
            "family": type(generator.model).__name__,
            "parameters": parameters,
            "weights_sha256": generator.digest,
            "atoms_in_a_cell_at_most": can.max_atoms,
            "steps_of_generation": can.steps,
            "elements": len(can.elements),
            "elements_not_known": " ".join(SYMBOLS[z] for z in unknown),
            **{
                f"column_{one.name}": ", ".join(one.classes) or f"{one.mean:.3g} ± {one.std:.3g}" for one in can.columns
            },
        },
        "training": dict(generator.meta.get("training", {})),
        "measured": dict(generator.meta.get("measured", {})),
        "machine": {
            "shipped_weights": ", ".join(shipped_weights()),
            "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
            "threads": torch.get_num_threads(),
            "bfloat16_on_cpu": cpu_multiplies_bfloat16(),
            **versions(),
        },
    }


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(one)}" for name, one in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
