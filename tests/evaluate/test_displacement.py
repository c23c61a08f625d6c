from __future__ import annotations

import pytest
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import ConfigError, CrystalError
from euhedral.evaluate import displacement
from euhedral.evaluate.displacement import NOT_MAPPED, relaxation_displacements
from evaluate import hesitant


def caesium_chloride(
    length: float = 4.1, shift: float = 0.0, times: int = 1, species: tuple[int, int] = (55, 17)
) -> CrystalBatch:
    """`times` cells along x, in each of which the anion stands `shift` Å off the centre along x."""
    cell = length * torch.diag(torch.tensor([float(times), 1.0, 1.0], dtype=torch.float64))
    frac = []
    for k in range(times):
        frac += [[k / times, 0.0, 0.0], [(k + 0.5 + shift / length) / times, 0.5, 0.5]]
    return CrystalBatch.from_crystals([(cell, torch.tensor(frac, dtype=torch.float64), torch.tensor(species * times))])


def test_a_shift_of_one_of_two_atoms_moves_each_by_half_of_it() -> None:
    (found,) = relaxation_displacements(caesium_chloride(shift=0.3), caesium_chloride())
    assert found.mapped and found.rmsd == pytest.approx(0.15, abs=1e-6) and found.reason is None


def test_volumes_are_not_scaled_and_lengths_are_those_of_the_mean_lattice() -> None:
    before, after = caesium_chloride(4.0, shift=0.2), caesium_chloride(4.4, shift=0.0)
    (found,) = relaxation_displacements(before, after)
    # Fractions of the mean lattice: half of 0.2 / 4 of an edge of 4.2 Å.
    assert found.rmsd == pytest.approx(0.5 * 0.05 * 4.2, abs=1e-6)


def test_a_crystal_that_lost_its_supercell_is_compared_through_it() -> None:
    before = caesium_chloride(times=2)
    before.frac[1, 0] += 0.5 / 8.2
    (found,) = relaxation_displacements(before, caesium_chloride(times=2))
    # The relaxed crystal has a primitive cell of two atoms; one of four atoms moved by 0.5 Å: 0.375 and 3 times 0.125 Å.
    assert found.mapped and found.rmsd == pytest.approx(((0.375**2 + 3 * 0.125**2) / 4) ** 0.5, abs=1e-6)


def test_pairs_that_cannot_be_mapped_count_half_of_the_length_of_an_atom() -> None:
    before = CrystalBatch.concat([caesium_chloride(), caesium_chloride()])
    after = CrystalBatch.concat([caesium_chloride(species=(55, 35)), caesium_chloride()])
    told: list[tuple[int, int]] = []
    lost, same = relaxation_displacements(before, after, workers=2, progress=lambda *at: told.append(at))
    assert not lost.mapped and lost.reason == NOT_MAPPED
    assert lost.rmsd == pytest.approx(0.5 * 4.1 / 2 ** (1 / 3), abs=1e-6)
    assert same.rmsd == pytest.approx(0, abs=1e-6)
    assert told[-1] == (2, 2)


def test_what_cannot_be_built_has_no_displacement_but_a_reason() -> None:
    broken = caesium_chloride()
    broken.frac[0, 0] = float("nan")
    own, other = relaxation_displacements(
        CrystalBatch.concat([broken, caesium_chloride()]), CrystalBatch.concat([caesium_chloride(), broken])
    )
    assert own.rmsd is None and own.reason
    assert other.rmsd is None and other.reason is not None and other.reason.startswith("relaxed: ")


def test_pairs_that_hang_or_end_their_process_count_as_not_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(displacement, "least_rms", hesitant.least_rms)
    monkeypatch.setattr(displacement, "load_matcher", hesitant.prepare)
    species = [(55, 17), (hesitant.HANGS, 17), (hesitant.DIES, 17), (55, 17)]
    batch = CrystalBatch.concat([caesium_chloride(species=pair) for pair in species])
    found = relaxation_displacements(batch, batch, workers=2, seconds_per_pair=1.0)
    assert [one.mapped for one in found] == [True, False, False, True]
    assert found[1].rmsd == pytest.approx(0.5 * 4.1 / 2 ** (1 / 3)) and "within 1 s" in str(found[1].reason)
    assert "ended" in str(found[2].reason)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(CrystalError, match="each needs its own"):
        relaxation_displacements(caesium_chloride(), CrystalBatch.concat([caesium_chloride()] * 2))
    with pytest.raises(ConfigError, match="positive"):
        relaxation_displacements(caesium_chloride(), caesium_chloride(), seconds_per_pair=0)
