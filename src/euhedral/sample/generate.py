"""The generator: a trained model that carries out requests."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.elements import SYMBOLS
from euhedral.crystal.geometry import smallest_distance
from euhedral.crystal.idealize import idealized
from euhedral.data.symmetry_worker import SymmetryWorker
from euhedral.errors import CheckpointError, RequestError
from euhedral.models.adapted import Adapted
from euhedral.models.base import SampleRequest
from euhedral.models.conditions import PROPERTIES
from euhedral.models.steering import Steering
from euhedral.models.symmetric import SymmetricModel
from euhedral.sample.plan import PlannedBatch, halves, plan, sample_request
from euhedral.sample.predictor import load_predictor
from euhedral.sample.request import Capabilities, GenerationRequest, ResolvedRequest, resolve
from euhedral.sample.space_groups import within_space_group
from euhedral.sample.weights import find_weights, pick_device, portable_name

if TYPE_CHECKING:
    from euhedral.models.base import GenerativeModel

DEFAULT_BATCH = 64
OVERLAP = 0.5
"""Distance in Å below which two atoms overlap: the bound of the field's structural validity (CDVAE)."""
LARGEST_VOLUME = 1000.0
"""Å³ an atom beyond which nothing holds together."""
REDRAWS = 5
"""How often a crystal with overlapping atoms is drawn again before it is given as it is."""


IDEALIZATION = (0.5, 0.3, 0.2, 0.1)
"""Tolerances in Å at which generated crystals are searched for the symmetry that they nearly have."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Chunk:
    """Crystals as they come.

    Attributes:
        indices: position of each in the run.
        crystals: the crystals, float32, on the CPU.
        redrawn: how many draws were thrown away since atoms overlapped.
    """

    indices: range
    crystals: CrystalBatch
    redrawn: int = 0


class Generator:
    """A trained model on a device, with what it can be asked for.

    Attributes:
        model: the generative model.
        meta: what training recorded in the checkpoint.
        digest: SHA-256 of the weights.
        capabilities: what can be asked.
        device: where it runs.
        source: name of shipped weights, or path of the checkpoint folder, that it was loaded from; None for another model.
    """

    source: str | None = None

    def __init__(self, model: GenerativeModel, meta: Mapping[str, Any], *, digest: str = "", device: str = "auto"):
        self.device = pick_device(device)
        self.model = model.to(self.device).eval()
        if fast_precision_wanted(self.device):
            # What autocast would do at every step, once: its cache of cast weights does not work in inference mode.
            for layer in self.model.modules():
                if isinstance(layer, torch.nn.Linear):
                    layer.to(torch.bfloat16)
        self.meta = meta
        self.digest = digest
        self._symmetry = SymmetryWorker()
        try:
            # A model with adapters can do what the one that it was made from can, and answers to its columns too.
            plain = model.base if isinstance(model, Adapted) else model
            columns = model.config.columns if isinstance(model, Adapted) else ()
            known = Capabilities.from_meta(
                meta, config=getattr(plain, "config", None), columns=columns, steps=model.steps
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"the checkpoint lacks the training statistics that requests need ({error!r})"
            ) from None
        # A model that draws at once has no steps, whatever its recipe says.
        known = replace(known, steps=known.steps if model.steps else 0)
        learned = known.properties if model.reads_properties else frozenset[str]()
        self.capabilities = replace(
            known, properties=learned, space_group=model.reads_space_group, steers=model.can_be_steered
        )

    @classmethod
    def load(cls, name: str = "default", *, device: str = "auto") -> Generator:
        """Load shipped weights by name or a checkpoint folder by path; see `euhedral.load`."""
        from euhedral.models.checkpoint import load_model

        checkpoint = load_model(find_weights(name))
        made = cls(checkpoint.model, checkpoint.meta, digest=checkpoint.digest, device=device)
        made.source = portable_name(name)
        return made

    def generate(self, request: GenerationRequest | None = None, /, **fields: Any) -> CrystalBatch:
        """All crystals of a request, in order.

        Args:
            request: a request, or nothing and the fields of `GenerationRequest` by keyword.
            **fields: e.g. formula="LiMnO2", n=20, seed=0.

        Raises:
            RequestError: where the request cannot be met.
        """
        asked = GenerationRequest.of(fields) if request is None else request
        chunks = sorted(self.stream(asked), key=lambda chunk: chunk.indices.start)
        return CrystalBatch.concat([chunk.crystals for chunk in chunks])

    def predict(
        self,
        contents: Sequence[Sequence[int]],
        *,
        steps: int | None = None,
        seed: int = 0,
        batch: int = DEFAULT_BATCH,
        idealize: bool = False,
    ) -> CrystalBatch:
        """Predict one structure for each cell content, in order: structure prediction over a whole benchmark.

        Args:
            contents: atomic numbers of all atoms of each cell.
            steps: steps along the path of the model; as many as its recipe says where None.
            seed: seed of the run.
            batch: crystals at once.
            idealize: move each crystal onto the symmetry that it nearly has; a symmetric model's has its own.

        Raises:
            RequestError: for an empty cell, one larger than the model was trained on, or an unknown element.
        """
        for index, species in enumerate(contents):
            if not 1 <= len(species) <= self.capabilities.max_atoms or not set(species) <= self.capabilities.elements:
                raise RequestError(
                    f"content {index} cannot be predicted: it needs 1 to {self.capabilities.max_atoms} atoms of elements "
                    f"seen in training, and has {len(species)} atoms of {sorted(set(species))}"
                )
        steps = self.capabilities.steps if steps is None else steps
        order = sorted(range(len(contents)), key=lambda i: len(contents[i]))
        rng = torch.Generator().manual_seed(seed)
        parts: list[CrystalBatch] = []
        for rows in _equal_runs(order, [len(c) for c in contents], batch):
            species = torch.tensor([contents[i] for i in rows], dtype=torch.int64)
            crystals = self.sample(SampleRequest.of(species, steps=steps), rng=rng)
            parts.append(self._onto_symmetry(crystals) if idealize and not self.symmetric else crystals)
        position = torch.empty(len(order), dtype=torch.int64)
        position[torch.tensor(order, dtype=torch.int64)] = torch.arange(len(order))
        return CrystalBatch.concat(parts)[position]

    def sample(self, request: SampleRequest, *, rng: torch.Generator) -> CrystalBatch:
        """What the model draws, on the CPU, in the fastest precision of its device."""
        with fast_precision(self.device):
            return self.model.sample(request, rng=rng).to("cpu")

    def unselected(self, *, batch: int = DEFAULT_BATCH, **fields: Any) -> CrystalBatch:
        """Crystals as the model draws them: none is drawn again, moved onto a symmetry or chosen for its charges.

        What an evaluation of the model wants; some may not hold together (`holds_together`).

        Args:
            batch: crystals at once.
            **fields: of `GenerationRequest`, without `idealize` and `charge_neutral`.

        Raises:
            RequestError: where the request cannot be met.
        """
        resolved = self.resolve(GenerationRequest.of({**fields, "idealize": False, "charge_neutral": False}))
        parts = []
        for planned in plan(resolved, crystals_per_batch=batch):
            rng = torch.Generator().manual_seed(planned.seed)
            parts.append(self.sample(self._asked(resolved, planned), rng=rng))
        return CrystalBatch.concat(parts)

    def resolve(self, request: GenerationRequest) -> ResolvedRequest:
        """Check a request.

        Raises:
            RequestError: where it cannot be met.
            CheckpointError: where the property model that is to lead the crystals is not there.
            ConfigError: where that has no property head.
        """
        if request.template is not None and not self.model.holds_parts:
            raise RequestError(
                "this model cannot keep parts of a structure: leave --template out, or take one of a family that can, such "
                "as the default model or a recipe of joint_process (`euhedral recipes`)"
            )
        resolved = resolve(request, self.capabilities)
        if request.steer is not None:
            self._check_steering(resolved)
        asked = request.space_group is not None and request.guidance > 0
        return within_space_group(resolved, self.model) if asked and self.symmetric else resolved

    @property
    def symmetric(self) -> bool:
        """Whether the model's crystals have the space group that is asked for by construction."""
        return isinstance(self.model, SymmetricModel)

    def stream(
        self,
        request: GenerationRequest,
        *,
        batch: int = DEFAULT_BATCH,
        skip: Collection[int] = (),
        on_halved: Callable[[int], None] | None = None,
    ) -> Iterator[Chunk]:
        """Crystals batch by batch, as soon as they are there.

        A batch that does not fit in memory is halved, as often as needed. The crystals of a batch are fixed by the
        request, the batch size and the position of the batch, so an interrupted run can go on.

        Args:
            request: what to generate.
            batch: crystals at once.
            skip: positions that exist already; batches all of whose positions are in it are left out.
            on_halved: told the new size when memory ran out.
        """
        resolved, done = self.resolve(request), frozenset(skip)
        waiting = list(reversed(plan(resolved, crystals_per_batch=batch)))
        while waiting:
            planned = waiting.pop()
            if done.issuperset(planned.indices):
                continue
            try:
                yield self.draw(resolved, planned)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error) or planned.size == 1:
                    raise
                first, second = halves(planned)
                waiting += [second, first]
                if on_halved is not None:
                    on_halved(first.size)

    def draw(self, resolved: ResolvedRequest, planned: PlannedBatch) -> Chunk:
        """One batch of the plan of a request; crystals that are not sound are drawn again, with the seed's next numbers.

        After `REDRAWS` times, those whose atoms still overlap are given as they are.

        Raises:
            RequestError: where numbers went out of range or crystals fell apart, as conditions far from all data make them.
        """
        rng = torch.Generator().manual_seed(planned.seed)
        request, redrawn = self._asked(resolved, planned), 0
        crystals = self.sample(request, rng=rng)
        for _ in range(REDRAWS):
            bad = torch.nonzero(~is_sound(crystals))[:, 0]
            if not len(bad):
                break
            redrawn += len(bad)
            again = self.sample(request.rows(bad), rng=rng)
            place = torch.arange(len(crystals))
            place[bad] = len(crystals) + torch.arange(len(bad))
            crystals = CrystalBatch.concat([crystals, again])[place]
        if not bool(holds_together(crystals).all()):
            raise RequestError(
                "what was asked for is so far from the training data that no crystals come of it, or the steps are too few for "
                f"it: {_gentler(resolved)}choose targets that known crystals have"
            )
        if resolved.request.idealize and not self.symmetric and resolved.request.template is None:
            crystals = self._onto_symmetry(crystals)
        return Chunk(indices=planned.indices, crystals=crystals, redrawn=redrawn)

    def _check_steering(self, resolved: ResolvedRequest) -> None:
        """Raise where a property model cannot lead the crystals of a request; see `resolve`."""
        request = resolved.request
        assert request.steer is not None
        if not self.model.can_be_steered:
            raise RequestError(
                "this model cannot be led by a property model: leave --steer out, or take the default model"
            )
        predictor = load_predictor(request.steer, self.device)
        placed = request.template is not None and len(request.template.positions) > 0
        undecided = request.template is not None and request.template.undecided
        if undecided or (resolved.composition is None and (placed or not self.model.species_first)):
            advice = "keep sites, not positions alone" if undecided else "ask for a --formula"
            raise RequestError(
                "--steer leads structures whose species are known from the start, and here they are chosen on the way: "
                + advice
            )
        if unknown := [name for name in request.properties if name in PROPERTIES and name not in predictor.known]:
            raise RequestError(
                f"the model {request.steer!r} has learned {', '.join(sorted(predictor.known))}, and not {', '.join(unknown)}; "
                "leave --steer out or train one that has (euhedral train --recipe cdvae)"
            )
        if strange := sorted(set(resolved.composition or resolved.required) - predictor.elements):
            symbols = ", ".join(SYMBOLS[z] for z in strange)
            raise RequestError(
                f"the model {request.steer!r} has seen no crystal with {symbols} in training, so that it leads nowhere; leave "
                "--steer out"
            )

    def _asked(self, resolved: ResolvedRequest, planned: PlannedBatch) -> SampleRequest:
        """What the model is asked for in one batch, with what leads it."""
        request = sample_request(resolved, planned)
        return (
            request if resolved.request.steer is None else replace(request, steering=self._steering(resolved.request))
        )

    def _steering(self, request: GenerationRequest) -> Steering | None:
        """What leads the crystals of a request that was checked; None at strength 0."""
        assert request.steer is not None
        if request.steer_strength == 0:
            return None
        targets = torch.tensor([float(request.properties.get(name, math.nan)) for name in PROPERTIES])
        return Steering(
            predict=load_predictor(request.steer, self.device).model.properties_of,
            targets=targets,
            scale=torch.tensor([self.capabilities.property_scale.get(name, (0.0, 1.0))[1] for name in PROPERTIES]),
            strength=request.steer_strength,
        )

    def _onto_symmetry(self, crystals: CrystalBatch) -> CrystalBatch:
        """Crystals with the symmetry that they nearly have, those left alone in which atoms would come to overlap."""
        symmetric = idealized(crystals, IDEALIZATION, search=self._symmetry.search)
        keep = (smallest_distance(symmetric) > OVERLAP) | ~(smallest_distance(crystals) > OVERLAP)
        place = torch.arange(len(crystals)) + len(crystals) * keep
        return CrystalBatch.concat([crystals, symmetric])[place]


def holds_together(crystals: CrystalBatch) -> torch.Tensor:
    """Whether all numbers are finite and the volume per atom is between 0.1 and `LARGEST_VOLUME` Å³, (crystals,)."""
    owner = torch.repeat_interleave(torch.arange(len(crystals)), crystals.num_atoms)
    finite = crystals.cell.isfinite().all(2).all(1)
    finite = finite.index_fill(0, owner[~crystals.frac.isfinite().all(1)], False)
    per_atom = crystals.volume / crystals.num_atoms
    return finite & (per_atom > 0.1) & (per_atom < LARGEST_VOLUME)


def is_sound(crystals: CrystalBatch) -> torch.Tensor:
    """Whether crystals hold together and no two atoms are within `OVERLAP`, (crystals,)."""
    sound = holds_together(crystals)
    place = torch.nonzero(sound)[:, 0]
    sound[place] = smallest_distance(crystals[place]) > OVERLAP
    return sound


def _equal_runs(order: Sequence[int], sizes: Sequence[int], most: int) -> Iterator[list[int]]:
    """Cut positions sorted by size into runs of one size, each of at most `most`."""
    run: list[int] = []
    for index in order:
        if run and (sizes[index] != sizes[run[0]] or len(run) == most):
            yield run
            run = []
        run.append(index)
    if run:
        yield run


def fast_precision(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Autocast to bfloat16 where the hardware multiplies it faster than float32, else nothing.

    The environment variable EUHEDRAL_PRECISION (bf16 or fp32) overrides.
    """
    if fast_precision_wanted(device):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def fast_precision_wanted(device: torch.device) -> bool:
    """Whether `fast_precision` autocasts on a device."""
    choice = os.environ.get("EUHEDRAL_PRECISION", "auto")
    fast = device.type == "cuda" or (device.type == "cpu" and cpu_multiplies_bfloat16())
    return choice == "bf16" or (choice == "auto" and fast)


def cpu_multiplies_bfloat16() -> bool:
    """Whether this processor has bfloat16 matrix or vector instructions (AMX or AVX512-BF16)."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was too small, which each library does in its own words."""
    text = str(error).lower()
    return (
        isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "out of memory" in text or "can't allocate" in text
    )


def _gentler(resolved: ResolvedRequest) -> str:
    """What a request that led too far may do, where the model has a path to be led along."""
    if not resolved.steps:
        return ""
    strength = "--guidance" if resolved.request.steer is None else "--steer-strength or --guidance"
    return f"lower {strength}, raise --steps above {resolved.steps}, or "
