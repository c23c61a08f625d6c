"""The stage of synthesis: whether a crystal is like those that were made, and what it could be made of."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from euhedral.errors import DataError
from euhedral.evaluate.validity import composition_counts
from euhedral.screen.hull_stage import HullConfig, HullStage
from euhedral.screen.precursors import CAVEAT, PrecursorConfig, Route, find_routes
from euhedral.screen.stage import FAILED, NOTHING, PASSED, Column, Stage, StageRecord, Value, finite
from euhedral.screen.synthesizability import Judge, default_judge, load_judge, synthesizability

if TYPE_CHECKING:
    from euhedral.crystal.batch import CrystalBatch

_AT_ZERO = "at 0 K, without entropy and kinetics"
"""Stands behind every reaction, wherever the text of it goes."""
_RANKING = "reactions that release energy first, then driving force less that of the best competing phase"


@dataclass(frozen=True, kw_only=True)
class SynthesisConfig:
    """What a synthesis is looked for with.

    Attributes:
        judge: weights that `load_judge` reads; the shipped ones where not given.
        reference: whose phases are precursors and competitors, as of the stage `hull`.
        reference_method: as of the stage `hull`.
        energy_method: of the candidates, as of the stage `hull`.
        allow_other_model: as of the stage `hull`.
        most_precursors: of a reaction, gases not counted, 1 to 4.
        kept: routes in the file `precursors.json`.

    Raises:
        ConfigError: on a value out of range.
    """

    judge: str | None = None
    reference: str | None = None
    reference_method: str | None = None
    energy_method: str | None = None
    allow_other_model: bool = False
    most_precursors: int = 3
    kept: int = 5

    def __post_init__(self) -> None:
        self.reactions()

    def reactions(self) -> PrecursorConfig:
        """Which reactions are looked at."""
        return PrecursorConfig(most_precursors=self.most_precursors, kept=self.kept)

    def hull(self) -> HullConfig:
        """The reference as the stage `hull` takes it."""
        return HullConfig(
            reference=self.reference,
            reference_method=self.reference_method,
            energy_method=self.energy_method,
            allow_other_model=self.allow_other_model,
        )


class SynthesisStage(Stage):
    """Likeness to crystals that were made, and the best reaction to the crystal from simple phases of the reference."""

    name = "synthesis"
    version = 2
    columns: ClassVar[Mapping[str, Column]] = {
        "synthesizability": Column(
            meaning="likeness to crystals reported by experiment, 0 to 1; no probability, and low is no proof against"
        ),
        "precursors": Column(meaning=f"best reaction from simple phases ({CAVEAT})"),
        "reaction_energy": Column(
            unit="eV/atom", meaning="energy of that reaction, negative where it is released, at 0 K"
        ),
        "reaction_energy_molar": Column(unit="kJ/mol", meaning="the same for a mole of formula units of the crystal"),
        "competing_product": Column(meaning="phase with the highest driving force among others of the same precursors"),
        "competing_driving_force": Column(
            unit="eV/atom", meaning="energy that its reaction releases at 0 K, 0 where nothing competes"
        ),
    }
    stops: ClassVar[frozenset[str]] = frozenset()
    needs = ("energy_per_atom", "calculator")
    config: SynthesisConfig

    @cached_property
    def judge(self) -> Judge:
        """Raises CheckpointError where it cannot be read."""
        return default_judge() if self.config.judge is None else load_judge(self.config.judge)

    @cached_property
    def stability(self) -> HullStage:
        """Has the hull of the reference, and knows the methods of calculators."""
        return HullStage(self.config.hull())

    def check(self, foretold: Mapping[str, Value] = NOTHING) -> None:
        """See `Stage`. Weights, table of the elements and reference are read."""
        from euhedral.evaluate.magpie import magpie_table

        magpie_table()
        _ = self.judge
        self.stability.check(foretold)

    def portable_config(self) -> SynthesisConfig:
        """See `Stage`."""
        paths = {name: getattr(self.config, name) for name in ("judge", "reference")}
        return replace(
            self.config, **{n: None if path is None else str(Path(path).absolute()) for n, path in paths.items()}
        )

    def run(
        self, crystals: CrystalBatch, earlier: Sequence[Mapping[str, Value]], *, workers: int
    ) -> Iterator[StageRecord]:
        """See `Stage`. Raises MismatchError where energies do not belong on the hull."""
        methods = {
            name: self.stability.method_of(name) for name in {str(values.get("calculator")) for values in earlier}
        }
        started = time.perf_counter()
        scores, reasons = synthesizability(crystals, self.judge)
        judging = (time.perf_counter() - started) / max(1, len(crystals))
        for i, (composition, values) in enumerate(zip(composition_counts(crystals), earlier, strict=True)):
            started = time.perf_counter()
            energy = values.get("energy_per_atom")
            problems = [] if reasons[i] is None else [f"no synthesizability: {reasons[i]}"]
            routes: tuple[Route, ...] = ()
            unable = None
            try:
                routes = find_routes(
                    composition,
                    float(energy) if isinstance(energy, int | float) else float("nan"),
                    self.stability.hull,
                    method=methods[str(values.get("calculator"))],
                    config=self.config.reactions(),
                    allow_other_model=self.config.allow_other_model,
                )
            except DataError as error:
                unable = f"no reactions: {error}"
            problems += [unable] if unable else []
            remark = None if routes or unable else "no set of simple phases on the hull balances to it"
            yield StageRecord(
                index=i,
                outcome=FAILED if problems else PASSED,
                values={"synthesizability": finite(scores[i]), **(_best(routes[0]) if routes else {})},
                reason="; ".join([*problems, *([remark] if remark else [])]) or None,
                files={"precursors.json": _file(routes)} if routes else {},
                seconds=judging + time.perf_counter() - started,
            )


def _best(route: Route) -> dict[str, Value]:
    return {
        "precursors": f"{route.reaction} ({_AT_ZERO})",
        "reaction_energy": finite(route.reaction.energy),
        "reaction_energy_molar": finite(route.reaction.kj_per_mol),
        "competing_product": route.competing[0].formula if route.competing else None,
        "competing_driving_force": finite(route.competing_driving_force),
    }


def _file(routes: Sequence[Route]) -> bytes:
    """All routes that were kept, with what they stand on."""
    document = {"caveat": CAVEAT, "ranking": _RANKING, "routes": [_as_json(route) for route in routes]}
    return (json.dumps(document, indent=1) + "\n").encode()


def _as_json(route: Route) -> dict[str, Any]:
    reaction = route.reaction
    return {
        "reaction": str(reaction),
        "energy_ev_per_atom": round(reaction.energy, 6),
        "energy_kj_per_mol": round(reaction.kj_per_mol, 3),
        "margin_ev_per_atom": round(route.margin, 6),
        "ids": {s.formula: s.id for _, s in (*reaction.reactants, *reaction.products) if s.id},
        "competing": [
            {"formula": rival.formula, "id": rival.id, "driving_force_ev_per_atom": round(rival.driving_force, 6)}
            for rival in route.competing
        ],
    }
