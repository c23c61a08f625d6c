"""The options of `euhedral screen`, as types of its arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Samples = Annotated[
    Path, typer.Argument(help="Crystals: CIF, extxyz, CSV, JSON, zip, folder, store, or a run.", show_default=False)
]
Out = Annotated[Path, typer.Option(help="Folder; the same command goes on where it ended.", show_default=False)]
Chosen = Annotated[
    str | None, typer.Option("--stages", help="With commas; prefilter,relax,hull,novelty where not given.")
]
Skip = Annotated[str | None, typer.Option(help="Stages to leave out, with commas.")]
Calculator = Annotated[
    str, typer.Option(help="chgnet, chgnet-r2scan, mace, sevenn, orb, mattersim, or module:function.")
]
ForceLimit = Annotated[float, typer.Option(help="Converged below this force, eV/Å.")]
StressLimit = Annotated[float | None, typer.Option(help="And below this stress, GPa.")]
MaxSteps = Annotated[int, typer.Option(help="Steps of a relaxation.")]
TimeLimit = Annotated[float, typer.Option(help="Seconds for the relaxation of a crystal.")]
Reference = Annotated[
    Path | None, typer.Option(help="Energies of known phases for the hull; the shipped CHGNet ones of MP-20.")
]
ReferenceMethod = Annotated[
    str | None, typer.Option(help="Of these, e.g. 'model=DFT, functional=PBE, corrections=none'.")
]
EnergyMethod = Annotated[str | None, typer.Option(help="Of the calculator, likewise; CHGNet's is known.")]
AboveHull = Annotated[float, typer.Option(help="Reject above this distance to the hull, eV/atom.")]
Known = Annotated[
    Path | None, typer.Option(help="Crystals that count as known; none are shipped, so novelty stays open without.")
]
Predict = Annotated[
    str | None,
    typer.Option(
        help="Model with a property head (name or run folder) that predicts band gap and energies, as further columns.",
        show_default=False,
    ),
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="STAGE.SETTING=VALUE, repeatable, for all other settings.")
]
Where = Annotated[str | None, typer.Option(help="Keep of the list: 'e_above_hull < 0.05 and num_atoms <= 8'.")]
Sort = Annotated[str | None, typer.Option(help="Columns, - for falling; the score where not given.")]
Dft = Annotated[str | None, typer.Option(help="Inputs of the best: vasp, espresso or both with a comma.")]
Top = Annotated[int, typer.Option(help="How many of the best get these inputs.", min=1)]
Database = Annotated[
    str | None, typer.Option(help="Catalogue elsewhere, e.g. postgresql://user@host/name.", show_default=False)
]
Redo = Annotated[bool, typer.Option(help="Forget stages whose settings have changed, and those after them.")]
Workers = Annotated[
    int, typer.Option(help="Processes; 0 for one a core. With --cluster slurm those to ask for.", min=0)
]
Cluster = Annotated[
    str | None,
    typer.Option(help="Where stages work: a Dask scheduler (tcp://host:8786), local or slurm.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")]
