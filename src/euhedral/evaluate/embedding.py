"""Energies and embeddings of crystals by CHGNet, in batches and worker processes, each failure with its reason.

CHGNet (Deng et al., Nature Machine Intelligence 2023) predicts the energy of a crystal from a graph of its atoms within
6 Å and its bonds within 3 Å. The checkpoint is the one named 0.3.0, trained on MPtrj (GGA and GGA+U energies corrected
as in the Materials Project), which the chgnet package carries, so that nothing is downloaded; `describe_model` names it.
The embedding of a crystal is the mean over its atoms of the 64 features that the energy is read from, taken after the
last normalisation; it does not grow with the cell.

Nothing is relaxed. The network runs in processes of its own, which are ended where a crystal takes too long. A crystal
that no graph can be made of within bounds (atoms at most 0.5 Å apart, an atom without any neighbour within 6 Å, an element
that it was not trained on, more than MAX_ANGLES angles between bonds) fails.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from euhedral.crystal.elements import SYMBOLS
from euhedral.data.worker import Unanswered, Worker
from euhedral.data.worker_process import reason_of
from euhedral.data.workers import Crew, ask_each, filled_chunks
from euhedral.errors import ConfigError, EuhedralError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from euhedral.crystal.batch import CrystalBatch
    from euhedral.evaluate.comparison import PlainCrystal, Progress

CHECKPOINT = "0.3.0"
"""Name of the checkpoint within the chgnet package."""
FEATURES = 64
"""Length of an embedding."""
KNOWN_ELEMENTS = frozenset({*range(1, 84), *range(89, 95)})
"""The 89 elements of MPtrj: H to Bi and Ac to Pu. The network has weights for Po to Ra that were never trained."""
MAX_ANGLES = 2_000_000
"""Angles between bonds within 3 Å in one crystal above which it fails: memory would not hold them."""
ANGLES_PER_BATCH = 200_000
"""Crystals are evaluated together up to this many angles, about half a GiB."""
CRYSTALS_PER_CHUNK = 64
"""Crystals handed to a worker at a time."""
ATOMS_PER_CHUNK = 1024
"""Atoms of these crystals, but for one that has more: a chunk should take a second or two, well within its time."""
_BOND_SPHERE = 4 / 3 * math.pi * 3.0**3


@dataclass(frozen=True, kw_only=True, eq=False)
class ChgnetPredictions:
    """Energy and embedding of each crystal.

    Attributes:
        energies: eV/atom, (crystals,), NaN where they could not be had.
        embeddings: mean features, (crystals, 64), rows of NaN where they could not be had.
        reasons: why not, or None; one a crystal.
        model: which model and checkpoint.
    """

    energies: NDArray[np.float64]
    embeddings: NDArray[np.float64]
    reasons: tuple[str | None, ...]
    model: str


def describe_model() -> str:
    """Package, version and checkpoint; belongs beside every figure.

    Raises:
        EuhedralError: if chgnet is not installed.
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"chgnet {version('chgnet')}, checkpoint {CHECKPOINT} (MPtrj)"
    except PackageNotFoundError as error:
        raise EuhedralError("energies and embeddings need CHGNet: pip install 'euhedral[evaluate]'") from error


def chgnet_crew(workers: int) -> Crew[Worker]:
    """Processes for several calls of `chgnet_predictions`, each of which loads the network once, when first needed."""
    return Crew(partial(Worker, predict_crystals, prepare=_Model.load), workers)


def chgnet_predictions(
    batch: CrystalBatch,
    *,
    workers: int = 1,
    seconds_per_crystal: float = 30.0,
    progress: Progress | None = None,
    crew: Crew[Worker] | None = None,
) -> ChgnetPredictions:
    """Energy and embedding of each crystal.

    Args:
        batch: crystals.
        workers: processes, one thread each.
        seconds_per_crystal: a crystal that takes longer is ended and gets that reason.
        progress: called with (crystals done, crystals) as chunks end.
        crew: of `chgnet_crew`, in place of `workers` processes for this call alone.

    Raises:
        ConfigError: on no workers, or a time that is not positive.
        EuhedralError: if chgnet is not installed, or worker processes cannot be started.
    """
    from euhedral.evaluate.comparison import plain_crystals

    if not seconds_per_crystal > 0:
        raise ConfigError(f"seconds_per_crystal must be positive, not {seconds_per_crystal}")
    model = describe_model()
    reasons = _reasons_not_to_try(batch)
    energies = np.full(len(batch), math.nan)
    embeddings = np.full((len(batch), FEATURES), math.nan)
    crystals = plain_crystals(batch)
    tried = [i for i, reason in enumerate(reasons) if reason is None]
    limits = {"crystals_at_once": CRYSTALS_PER_CHUNK, "atoms_at_once": ATOMS_PER_CHUNK}
    chunks = list(filled_chunks(tried, batch.num_atoms.tolist(), **limits))
    jobs = [partial(ask_each, items=[crystals[i] for i in chunk], seconds=seconds_per_crystal) for chunk in chunks]
    done = len(batch) - sum(len(chunk) for chunk in chunks)
    if progress is not None and done:
        progress(done, len(batch))
    with chgnet_crew(workers) if crew is None else nullcontext(crew) as members:
        for position, answers in members.run(jobs):
            for i, answer in zip(chunks[position], answers, strict=True):
                if isinstance(answer, Unanswered):
                    reasons[i] = str(answer)
                elif isinstance(answer, str):
                    reasons[i] = answer
                else:
                    energies[i], embeddings[i] = answer
            done += len(answers)
            if progress is not None:
                progress(done, len(batch))
    return ChgnetPredictions(energies=energies, embeddings=embeddings, reasons=tuple(reasons), model=model)


Prediction = tuple[float, "NDArray[np.float64]"]
"""Energy and embedding."""


def predict_crystals(crystals: Sequence[PlainCrystal]) -> list[Prediction | str]:
    """Prediction of each crystal, or why there is none; the body of a worker process."""
    model = _Model.load()
    outcomes: list[Prediction | str] = [""] * len(crystals)
    graphs: list[tuple[int, Any]] = []
    for i, crystal in enumerate(crystals):
        graph = model.graph(crystal)
        if isinstance(graph, str):
            outcomes[i] = graph
        else:
            graphs.append((i, graph))
    for group in _groups(graphs):
        found = model.evaluate([graph for _, graph in group])
        for (i, _), outcome in zip(group, found, strict=True):
            outcomes[i] = outcome
    return outcomes


class _Model:
    """CHGNet with its graph converter, loaded once a process."""

    _loaded: _Model | None = None

    def __init__(self, network: Any) -> None:
        self.network = network

    @classmethod
    def load(cls) -> _Model:
        if cls._loaded is None:
            cls._loaded = cls(_load_network())
        return cls._loaded

    def graph(self, crystal: PlainCrystal) -> Any | str:
        """The graph of a crystal, or why there is none."""
        from pymatgen.core import Structure

        species: list[Any] = list(crystal.species)
        structure = Structure(crystal.cell, species, crystal.frac)
        # On an error the converter writes a CIF file into the working folder; evaluation must leave none.
        structure.to = lambda *_, **__: ""  # type: ignore[method-assign]
        try:
            graph = self.network.graph_converter(structure)
        # Whatever the converter raises is the outcome of this crystal, with its reason.
        except Exception as error:
            return f"no graph: {error}"[:300]
        if len(graph.bond_graph) > MAX_ANGLES:
            return f"{len(graph.bond_graph)} angles between bonds; at most {MAX_ANGLES} are tried"
        return graph

    def evaluate(self, graphs: list[Any]) -> list[Prediction | str]:
        """Predictions of graphs together, or why there are none; one by one if they fail together."""
        import torch

        try:
            with torch.no_grad():
                found = self.network(graphs, task="e", return_crystal_feas=True)
        # As above: a failure of a group is tried one by one, and that of one is its outcome.
        except Exception as error:
            if len(graphs) == 1:
                return [reason_of(error)]
            return [outcome for graph in graphs for outcome in self.evaluate([graph])]
        outcomes: list[Prediction | str] = []
        for graph, energy, summed in zip(graphs, found["e"], found["crystal_fea"], strict=True):
            embedding = summed.double() / len(graph.atomic_number)
            finite = bool(torch.isfinite(energy)) and bool(torch.isfinite(embedding).all())
            outcomes.append((float(energy), embedding.numpy()) if finite else "the prediction is not finite")
        return outcomes


def _load_network() -> Any:
    """The network with the packaged weights, read without executing anything that a file could hold."""
    import contextlib
    import io
    from pathlib import Path

    import chgnet
    import torch
    from chgnet.model.model import CHGNet

    folder = Path(chgnet.__file__).parent / "pretrained" / CHECKPOINT
    files = sorted(folder.glob("*.pth.tar"))
    if len(files) != 1:
        raise EuhedralError(f"expected one CHGNet checkpoint in {folder}, found {len(files)}; reinstall chgnet")
    state = torch.load(files[0], map_location="cpu", weights_only=True)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints how many parameters it has
        network = CHGNet.from_dict(state["model"], mlp_out_bias=False, version=CHECKPOINT)
    return network.eval()


def _reasons_not_to_try(batch: CrystalBatch) -> list[str | None]:
    """Problems of structures, and of those too dense or of unknown elements, before any graph is made."""
    from euhedral.evaluate.validity import structure_problems

    reasons = structure_problems(batch)
    species = batch.species.tolist()
    volumes, start = batch.cell.double().det().abs().tolist(), 0
    for i, atoms in enumerate(batch.num_atoms.tolist()):
        if reasons[i] is None:
            bonds = _BOND_SPHERE * atoms / volumes[i]
            if unknown := sorted(set(species[start : start + atoms]) - KNOWN_ELEMENTS):
                reasons[i] = f"CHGNet was not trained on {', '.join(SYMBOLS[z] for z in unknown)}"
            elif atoms * bonds * bonds > MAX_ANGLES:
                reasons[i] = f"about {atoms * bonds * bonds:.3g} angles between bonds; at most {MAX_ANGLES} are tried"
        start += atoms
    return reasons


def _groups(graphs: list[tuple[int, Any]]) -> Iterator[list[tuple[int, Any]]]:
    """Crystals of similar size together, up to ANGLES_PER_BATCH angles."""
    group: list[tuple[int, Any]] = []
    angles = 0
    for item in sorted(graphs, key=lambda pair: len(pair[1].bond_graph)):
        if group and angles + len(item[1].bond_graph) > ANGLES_PER_BATCH:
            yield group
            group, angles = [], 0
        group.append(item)
        angles += len(item[1].bond_graph)
    if group:
        yield group
