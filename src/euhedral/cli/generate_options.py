"""The options of `euhedral generate`, as types of its arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Number = Annotated[int, typer.Option("-n", "--number", help="Number of crystals.")]
Formula = Annotated[str | None, typer.Option(help="Predict structures of this composition, e.g. LiMnO2.")]
FormulaUnits = Annotated[int | None, typer.Option("--z", help="Formula units per cell; all that fit where not given.")]
ChemicalSystem = Annotated[
    str | None, typer.Option(help="Exactly these elements, e.g. Li-Mn-O; * leaves a place open.")
]
Elements = Annotated[str | None, typer.Option(help="Only these elements may occur, e.g. Li,Mn,O.")]
ExcludeElements = Annotated[str | None, typer.Option(help="These elements may not occur, e.g. Pb,Cd.")]
NumAtoms = Annotated[str | None, typer.Option(help="Atoms in a cell: a number or a range such as 4-12.")]
SpaceGroup = Annotated[
    int | None,
    typer.Option(
        help="Space-group number 1-230; met by construction by models made of Wyckoff positions (diffcsp_pp), a soft "
        "condition of the others."
    ),
]
PropertyTargets = Annotated[
    list[str] | None,
    typer.Option(
        "--property",
        help="NAME=VALUE, repeatable: formation_energy_per_atom, e_above_hull, band_gap, or a column that adapters of the "
        "model learned.",
        show_default=False,
    ),
]
ChargeNeutral = Annotated[
    bool | None,
    typer.Option(
        help="Only compositions that pass the charge-neutrality rule (SMACT; alloys of metals and single elements pass "
        "it too), or as the network draws them; as many as in the training data where neither is given.",
        show_default=False,
    ),
]
TemplateFile = Annotated[
    Path | None,
    typer.Option(
        "--template",
        help="A file with one structure of which every crystal keeps what --fix says: seeds, motifs, host lattices.",
        show_default=False,
    ),
]
Fix = Annotated[
    list[str] | None,
    typer.Option(
        help="What is kept of --template, repeatable: lattice, sites, positions or species, the last three of all atoms "
        "or of some (sites:Ti,O or positions:1-4).",
        show_default=False,
    ),
]
Idealize = Annotated[bool, typer.Option(help="Move crystals onto the symmetry that they nearly have.")]
Guidance = Annotated[float, typer.Option(help="Strength toward soft conditions; 1 is plain conditioning.")]
Steer = Annotated[
    str | None,
    typer.Option(
        help="A trained model with a property head (recipe cdvae), by folder, whose gradient leads the crystals toward "
        "--property.",
        show_default=False,
    ),
]
SteerStrength = Annotated[float, typer.Option(help="Strength of the gradient of --steer; 0 is off.")]
Steps = Annotated[
    int | None,
    typer.Option(
        help="Steps along the path of each crystal, at least one evaluation of the network each; as many as the model's "
        "recipe says where not given (`euhedral recipes`; 7 for the default model, of each of its candidates).",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option(help="The same seed on the same machine gives the same crystals.")]
Model = Annotated[str, typer.Option(help="Shipped weights by name, or a checkpoint folder.")]
Out = Annotated[
    Path | None, typer.Option(help="Output folder; a new numbered one where not given.", show_default=False)
]
Overwrite = Annotated[bool, typer.Option(help="Replace an earlier run in --out.")]
Resume = Annotated[bool, typer.Option(help="Go on with an interrupted run in --out.")]
Batch = Annotated[int, typer.Option(help="Crystals at once; halved when memory runs out.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, mps, ...")]
Workers = Annotated[
    int | None,
    typer.Option(
        help="Processes; where not given one a core, for many crystals on a CPU. With --cluster slurm those to ask for.",
        min=1,
        show_default=False,
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        help="Where crystals are drawn: a Dask scheduler (tcp://host:8786), local or slurm.", show_default=False
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")]
Screen = Annotated[
    bool, typer.Option("--screen", help="Screen them too, as `euhedral screen OUT --out OUT/screen` does by default.")
]
