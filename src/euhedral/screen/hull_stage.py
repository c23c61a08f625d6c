"""The stage of stability: energy above the hull of a reference whose energies are of the same method."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from euhedral.errors import MismatchError
from euhedral.evaluate.discovery import METASTABLE_AT
from euhedral.screen.hull import Hull, Product
from euhedral.screen.method import EnergyMethod, check_same_method, chgnet_method, parse_method
from euhedral.screen.reference import HullReference, default_reference
from euhedral.screen.reference_files import read_reference
from euhedral.screen.stage import FAILED, NOTHING, PASSED, REJECTED, Column, Stage, StageRecord, Value, finite

if TYPE_CHECKING:
    from euhedral.crystal.batch import CrystalBatch

_CHGNET = {"chgnet": "0.3.0", "chgnet-r2scan": "r2scan"}


@dataclass(frozen=True, kw_only=True)
class HullConfig:
    """Against what, and how near.

    Attributes:
        reference: file that `read_reference` reads; the shipped CHGNet energies of MP-20 where not given.
        reference_method: of its energies, as 'model=DFT, functional=PBE, corrections=none'; needed where it does not say it.
        energy_method: of the candidates, likewise; CHGNet's is known.
        limit: energy above the hull in eV/atom beyond which a crystal is rejected; None rejects none.
        allow_other_model: let another model's energies of the same functional and corrections stand on the hull.
    """

    reference: str | None = None
    reference_method: str | None = None
    energy_method: str | None = None
    limit: float | None = METASTABLE_AT
    allow_other_model: bool = False


class HullStage(Stage):
    """Energy above the hull, and the most stable mixture that a crystal competes with."""

    name = "hull"
    version = 1
    columns: ClassVar[Mapping[str, Column]] = {
        "e_above_hull": Column(unit="eV/atom", meaning="energy above the hull of the reference; negative below it"),
        "formation_energy_per_atom": Column(unit="eV/atom", meaning="energy relative to the elements of the reference"),
        "competing_phases": Column(meaning="most stable mixture of the reference, with shares of atoms"),
    }
    needs = ("energy_per_atom", "calculator")
    config: HullConfig

    @cached_property
    def hull(self) -> Hull:
        """The hull; made when it is first asked for.

        Raises:
            DataError: where the reference cannot be read.
            MismatchError: where its method is not the one that was said.
        """
        return Hull(self._reference())

    def check(self, foretold: Mapping[str, Value] = NOTHING) -> None:
        """See `Stage`. The reference is read; raises MismatchError where energies to come will not belong on its hull."""
        hull = self.hull
        if (calculator := foretold.get("calculator")) is not None:
            check_same_method(
                self.method_of(str(calculator)), hull.reference.method, allow_other_model=self.config.allow_other_model
            )

    def portable_config(self) -> HullConfig:
        """See `Stage`."""
        reference = self.config.reference
        return self.config if reference is None else replace(self.config, reference=str(Path(reference).absolute()))

    def method_of(self, calculator: str) -> EnergyMethod:
        """Method of a calculator's energies. Raises MismatchError where nobody said it."""
        if self.config.energy_method is not None:
            return parse_method(self.config.energy_method)
        if calculator in _CHGNET:
            return chgnet_method(_CHGNET[calculator])
        raise MismatchError(
            f"what the energies of {calculator!r} are energies of is not known, so they are put on no hull: say it with "
            "--energy-method 'model=..., functional=..., corrections=...' and give a --reference of the same method, or "
            "--skip hull"
        )

    def run(self, crystals: CrystalBatch, earlier: Sequence[Mapping[str, Value]], *, workers: int) -> list[StageRecord]:
        """See `Stage`. Raises MismatchError where the energies do not belong on the hull."""
        started = time.perf_counter()
        by_calculator: dict[str, list[int]] = {}
        for i, values in enumerate(earlier):
            by_calculator.setdefault(str(values.get("calculator")), []).append(i)
        records = [StageRecord(index=i, outcome=FAILED) for i in range(len(crystals))]
        for calculator, members in by_calculator.items():
            energies = [_number(earlier[i].get("energy_per_atom")) for i in members]
            found = self.hull.above_hull_of_crystals(
                crystals[members],
                energies,
                method=self.method_of(calculator),
                allow_other_model=self.config.allow_other_model,
            )
            seconds = (time.perf_counter() - started) / max(1, len(crystals))
            for k, i in enumerate(members):
                reason = found.reasons[k]
                above = finite(float(found.e_above_hull[k]))
                records[i] = StageRecord(
                    index=i,
                    outcome=FAILED if above is None else self._outcome(above),
                    values={
                        "e_above_hull": above,
                        "formation_energy_per_atom": finite(float(found.formation_energies[k])),
                        "competing_phases": mixture_text(found.products[k]) or None,
                    },
                    reason=reason or self._reason(above, found.mixed),
                    seconds=seconds,
                )
        return records

    def _reference(self) -> HullReference:
        if self.config.reference is None:
            return default_reference()
        said = self.config.reference_method
        return read_reference(self.config.reference, method=None if said is None else parse_method(said))

    def _outcome(self, above: float) -> str:
        return PASSED if self.config.limit is None or above <= self.config.limit else REJECTED

    def _reason(self, above: float | None, mixed: Sequence[str]) -> str | None:
        parts = list(mixed)
        if above is not None and self._outcome(above) == REJECTED:
            parts.insert(0, f"{above:.3f} eV/atom above the hull, more than {self.config.limit:g}")
        return "; ".join(parts) or None


def mixture_text(products: Sequence[Product]) -> str:
    """'0.67 Li2O + 0.33 MnO2': phases with their shares of the atoms."""
    return " + ".join(f"{product.share:.2f} {product.formula}" for product in products)


def _number(value: Value) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else float("nan")
