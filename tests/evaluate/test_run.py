from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import euhedral
from euhedral.crystal.batch import CrystalBatch
from euhedral.data.samples import read_samples
from euhedral.errors import ConfigError, CrystalError, DataError, OutputError
from euhedral.evaluate import run as run_module
from euhedral.evaluate.protocols import PROTOCOLS
from euhedral.evaluate.report import Report, read_metrics
from euhedral.evaluate.requested import Requested
from euhedral.evaluate.run import Settings, Stage, evaluate, judge, read_inputs
from evaluate.disasters import DISASTERS, UNREADABLE, write_disasters

MP20 = Path(__file__).parents[2].parent / "shared" / "data" / "mp_20" / "val.csv.gz"


def halite() -> CrystalBatch:
    """Rock salt."""
    cations = [[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]
    anions = [[0.5, 0.5, 0.5], [0.5, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.5]]
    frac = torch.tensor(cations + anions, dtype=torch.float64)
    cell = 5.64 * torch.eye(3, dtype=torch.float64)
    return CrystalBatch.from_crystals([(cell, frac, torch.tensor([11] * 4 + [17] * 4))])


def cscl(length: float = 4.1, shift: float = 0.0) -> CrystalBatch:
    """Caesium chloride, its anion moved by `shift` Å along x."""
    frac = torch.tensor([[0.0] * 3, [0.5 + shift / length, 0.5, 0.5]], dtype=torch.float64)
    return CrystalBatch.from_crystals([(length * torch.eye(3, dtype=torch.float64), frac, torch.tensor([55, 17]))])


def several() -> CrystalBatch:
    """Rock salt, caesium chloride, copper and one crystal of NaN."""
    copper = CrystalBatch.from_crystals(
        [(2.6 * torch.eye(3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64), torch.tensor([29]))]
    )
    broken = CrystalBatch(
        frac=copper.frac, cell=copper.cell * math.nan, species=copper.species, num_atoms=copper.num_atoms
    )
    return CrystalBatch.concat([halite(), cscl(), copper, broken])


def quick(*arguments: Any, **options: Any) -> Report:
    return evaluate(*arguments, **{"cache": None, "potential": False, **options})


def test_crystals_against_themselves_differ_in_nothing() -> None:
    report = quick(several(), several(), protocol=["cdvae", "csp", "lemat"], train=several())
    assert report.samples == report.references == 4 and report.complete
    for name in ("validity.structure", "coverage.recall", "coverage.precision", "match.rate", "discovery.unique"):
        figure = report[name]
        assert figure.value == 0.75 and figure.samples == 4, name  # the broken one stays in the denominator
    for name in (
        *("match.rmse", "coverage.amsd_recall", "coverage.amcd_precision"),
        *("wasserstein.density", "wasserstein.num_elements", "wasserstein.coordination"),
        *("jsd.elements", "jsd.space_groups", "jsd.num_atoms", "symmetry.space_group_distance"),
    ):
        assert report[name].value == pytest.approx(0, abs=1e-9), name
    assert {(f.index, f.reason) for f in report.failures if f.stage == "structure"} == {(3, "cell is not finite")}


def test_figures_by_hand() -> None:
    samples = CrystalBatch.concat([cscl(), cscl(shift=0.3), cscl(4.2), several()[2]])
    report = quick(samples, CrystalBatch.concat([cscl()] * 4), protocol=["csp", "mattergen"])
    assert report["match.rate"].value == 0.75
    # The best translation moves each of the two atoms by half the displacement; scaling makes the larger cell equal.
    rms = 0.15 / (4.1**3 / 2) ** (1 / 3)
    assert report["match.rmse"].value == pytest.approx(rms / 3, abs=1e-6)
    assert report["discovery.unique"].value == 0.5
    assert report["validity.composition"].value == 1.0
    low, high = report["match.rate"].low, report["match.rate"].high
    assert low is not None and high is not None and low < 0.75 < high


def test_every_figure_names_its_denominator_and_has_an_interval_or_a_reason() -> None:
    report = quick(several(), several(), protocol=[p.name for p in PROTOCOLS], relaxed=several())
    for result in report.results:
        names = [figure.name for figure in result.figures]
        assert len(names) == len(set(names))
        for figure in result.figures:
            assert figure.samples > 0
            assert figure.value is not None
            if figure.low is None:
                assert "interval" in figure.note, figure.name
            else:
                assert figure.high is not None and figure.low <= figure.high
                if figure.better:
                    assert figure.low <= figure.value + 1e-9 and figure.value <= figure.high + 1e-9, figure.name


def test_disasters_are_counted_and_explained(tmp_path: Path) -> None:
    path = write_disasters(tmp_path / "disasters.csv")
    report = quick(path, path, protocol=[p.name for p in PROTOCOLS], train=path, seconds_per_crystal=60)
    names = list(DISASTERS)
    assert report.samples == len(names)
    read = {names[f.index]: f.reason for f in report.failures if f.stage == "read"}
    assert set(read) == set(UNREADABLE) and all(read.values())
    assert report["validity.built"].value == pytest.approx(1 - len(UNREADABLE) / len(names))
    structure = {names[f.index]: f.reason for f in report.failures if f.stage == "structure"}
    assert set(structure) == {"coincident"}
    assert report["validity.structure"].value == pytest.approx((len(names) - len(UNREADABLE) - 1) / len(names))
    assert {names[f.index] for f in report.failures if f.stage == "composition (cdvae)"} == {"noble"}
    for result in report.results:
        others = {"match.metre_polymorphs", "symmetry.p1", "supply.radioactive", "supply.toxic"}  # of those judged
        assert all(f.samples == len(names) for f in result.figures if f.name not in others)
    # The duplicate is one, and nothing that could not be decided counts as unique: good, single, 500, noble, ...
    assert report["discovery.unique"].value == pytest.approx((len(names) - len(UNREADABLE) - 2) / len(names), abs=0.06)


def test_discovery_by_hand(tmp_path: Path) -> None:
    samples = CrystalBatch.concat([halite(), cscl(), cscl(), several()[2], several()[3]])
    (tmp_path / "e.csv").write_text("index,e_above_hull\n0,-0.01\n1,0.05\n2,0.05\n3,0.0\n")
    report = quick(samples, train=several()[2], protocol="mattergen", energies=tmp_path / "e.csv")
    for name, value in {
        "unique": 3 / 5,
        "novel": 3 / 5,
        "novel_ordered": 3 / 5,
        "energy_known": 4 / 5,
        "stable": 2 / 5,
        "metastable": 4 / 5,
        "unique_novel": 2 / 5,
        "sun": 1 / 5,
        "msun": 2 / 5,
    }.items():
        assert report[f"discovery.{name}"].value == pytest.approx(value), name
    assert report.sources["energies"] == str(tmp_path / "e.csv")
    assert "sun" in quick(samples, train=samples, protocol="mattergen").results[0].left_out


def test_everyone_is_compared_with_every_reference() -> None:
    report = quick(several()[[1, 0, 3]], several()[[0, 1, 2]], protocol="csp")
    assert report["match.rate"].value == 0.0
    assert report["match.metre"].value == pytest.approx(2 / 3)
    assert report["match.crmse"].value == pytest.approx(0.5 / 3)


def test_displacements_of_a_relaxation_are_in_angstrom() -> None:
    report = quick(
        CrystalBatch.concat([cscl(shift=0.3), cscl()]),
        relaxed=CrystalBatch.concat([cscl(), several()[2]]),
        protocol="mattergen",
    )
    assert report["relaxation.rmsd_matched"].value == pytest.approx(0.15, abs=1e-6)
    assert report["relaxation.rmsd_matched"].unit == "Å" and report["relaxation.matched"].value == 0.5
    # The second cannot be mapped by the looser rule either, and counts half of an atom's length in the mean lattice.
    edge = (4.1 + 2.6) / 2 / 2 ** (1 / 3)
    assert report["relaxation.rmsd"].value == pytest.approx((0.15 + 0.5 * edge) / 2, abs=1e-6)
    assert "1 could be mapped" in report["relaxation.rmsd"].note


def test_crystals_without_an_index_of_supply_are_failures_of_it() -> None:
    technetium = CrystalBatch.from_crystals(
        [(2.7 * torch.eye(3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64), torch.tensor([43]))]
    )
    report = quick(CrystalBatch.concat([technetium, halite()]), halite(), protocol="lemat")
    supply = [failure for failure in report.failures if failure.stage == "supply"]
    assert [failure.index for failure in supply] == [0] and "Tc" in supply[0].reason


def test_energies_come_from_the_potential() -> None:
    pytest.importorskip("chgnet")
    report = evaluate(several(), several(), protocol="cdvae", cache=None)
    assert report["wasserstein.energy"].value == pytest.approx(0, abs=1e-9)
    assert "chgnet" in report["wasserstein.energy"].note


def test_distances_of_valid_samples_stand_beside_published_ones() -> None:
    # CsCl2 is not neutral, so it counts among all samples and not among the valid ones; both others are the reference.
    salt = cscl()
    odd = CrystalBatch.from_crystals(
        [
            (
                4.1 * torch.eye(3, dtype=torch.float64),
                torch.tensor([[0.0] * 3, [0.5] * 3, [0.5, 0.0, 0.0]], dtype=torch.float64),
                torch.tensor([55, 17, 17]),
            )
        ]
    )
    report = quick(CrystalBatch.concat([salt, salt, odd]), CrystalBatch.concat([salt, salt]), protocol="cdvae")
    density = 1.66053906660 * 35.45 / 4.1**3
    assert report["validity.both"].value == pytest.approx(2 / 3)
    assert report["wasserstein.density"].value == pytest.approx(density / 3, rel=1e-3)
    assert report["wasserstein.density_valid"].value == pytest.approx(0, abs=1e-12)
    assert report["wasserstein.density_valid"].samples == 3
    assert "the 2 valid samples" in report["wasserstein.density_valid"].note
    named = {anchor.figure for anchor in report.results[0].anchors if anchor.figure.startswith("wasserstein")}
    assert named == {"wasserstein.density_valid", "wasserstein.num_elements_valid"}


def test_a_time_limit_leaves_nothing_in_the_cache(tmp_path: Path) -> None:
    batch = several()[[0, 1]]
    hasty = quick(batch, batch, protocol="cdvae", cache=tmp_path, seconds_per_crystal=1e-6)
    assert hasty["coverage.recall"].value == 0.0
    assert {f.reason for f in hasty.failures if f.stage == "fingerprint"} == {"not decided within 1e-06 s"}
    assert quick(batch, batch, protocol="cdvae", cache=tmp_path)["coverage.recall"].value == 1.0


def test_a_crystal_without_a_template_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    from euhedral.evaluate import wyckoff
    from euhedral.evaluate.wyckoff import TemplateRecord

    def none(batch: CrystalBatch, **_: object) -> list[TemplateRecord]:
        return [TemplateRecord(template=None, reason="no symmetry at all")] * len(batch)

    monkeypatch.setattr(wyckoff, "wyckoff_templates", none)
    report = quick(several(), train=cscl(), protocol="mattergen")
    assert report["symmetry.novel_template"].value == 0.0
    found = {f.index: f.reason for f in report.failures if f.stage == "wyckoff template"}
    assert found == dict.fromkeys(range(3), "no symmetry at all")


def test_only_broken_crystals(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("cif\nnothing\nnothing either\n")
    report = quick(tmp_path / "x.csv", several(), protocol=["cdvae", "lemat"])
    assert report["validity.structure"].value == 0.0
    assert report["coverage.precision"].value == 0.0
    assert report["wasserstein.density"].value is None
    assert len([f for f in report.failures if f.stage == "read"]) == 2


def test_what_is_missing_is_left_out_with_its_reason() -> None:
    result = quick(several(), protocol="cdvae").results[0]
    assert "--reference" in result.left_out["coverage"] and "--reference" in result.left_out["wasserstein"]
    assert "symmetry.p1" in [figure.name for figure in result.figures]
    result = quick(several(), several(), protocol="cdvae").results[0]
    assert "--no-potential" in result.left_out["energy"]


def test_the_protocol_follows_from_the_inputs() -> None:
    for reference, name in (
        (None, "cdvae"),
        (several(), "csp"),
        (several()[:2], "cdvae"),
        (several()[[3, 2, 1, 0]], "cdvae"),
    ):
        inputs = read_inputs(several(), reference)
        assert [protocol.name for protocol in run_module._checked_protocols((), inputs)] == [name]


def test_several_draws_count_their_best() -> None:
    far = CrystalBatch.concat([several()[2], several()[1]])
    reference = CrystalBatch.concat([halite(), several()[1]])
    report = quick([far, reference], reference, protocol="csp")
    assert report["match.rate"].value == 0.5 and report["match.rate_at_2"].value == 1.0
    assert report.samples == 4 and report.results[0].settings["draws"] == 2


def test_the_second_time_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from euhedral.evaluate import measures_distribution, measures_prediction, measures_set

    options = {"protocol": ["cdvae", "csp", "lemat"], "cache": tmp_path, "potential": False}
    first = evaluate(several(), several(), **options)

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("was computed again")

    monkeypatch.setattr(measures_distribution, "structure_fingerprints", never)
    monkeypatch.setattr(measures_prediction, "match_pairs", never)
    monkeypatch.setattr(measures_set, "find_duplicates", never)
    second = evaluate(several(), several(), **options)
    assert [r.figures for r in second.results] == [r.figures for r in first.results]
    assert second.failures == first.failures


def test_the_order_of_the_crystals_does_not_change_the_figures() -> None:
    order = [2, 0, 3, 1]
    one = quick(several(), several(), protocol="mattergen")
    two = quick(several()[order], several(), protocol="mattergen")
    for a, b in zip(one.results[0].figures, two.results[0].figures, strict=True):
        assert a.value == pytest.approx(b.value, abs=1e-9), a.name


def test_stages_are_written_as_they_end(tmp_path: Path) -> None:
    stages: list[Stage] = []
    inputs = read_inputs(several(), several())
    judge(inputs, ["cdvae"], settings=Settings(cache=None, potential=False), on_stage=stages.append)
    assert [stage.report.complete for stage in stages] == [False] * (len(stages) - 1) + [True]
    sizes = [len(stage.report.results[0].figures) for stage in stages]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]


def test_the_folder_holds_metrics_and_records(tmp_path: Path) -> None:
    report = quick(several(), several(), protocol="cdvae", folder=tmp_path / "report")
    assert read_metrics(tmp_path / "report") == report
    table = pq.read_table(tmp_path / "report" / "records.parquet").to_pydict()
    assert table["index"] == [0, 1, 2, 3]
    assert table["structure_problem"] == [None, None, None, "cell is not finite"]
    assert table["covered"] == [True, True, True, False]
    assert table["space_group"][0] == 225
    assert sorted(file.name for file in (tmp_path / "report").iterdir()) == ["metrics.json", "records.parquet"]
    with pytest.raises(OutputError, match="not empty"):
        quick(several(), folder=tmp_path / "report")
    quick(several(), folder=tmp_path / "report", overwrite=True)
    assert read_metrics(tmp_path / "report").references == 0


def test_a_folder_that_is_no_report_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="is no report"):
        quick(several(), folder=tmp_path, overwrite=True)
    with pytest.raises(OutputError, match="is a file"):
        quick(several(), folder=tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"protocol": "cdva"}, ConfigError, "did you mean 'cdvae'"),
        ({"protocol": "csp"}, ConfigError, "needs a reference"),
        ({"dataset": "mp20"}, ConfigError, "did you mean 'mp_20'"),
        ({"worker": 2}, ConfigError, "did you mean 'workers'"),
        ({"workers": 0}, ConfigError, "at least 1"),
        ({"seconds_per_crystal": 0}, ConfigError, "must be a positive number"),
        ({"energies": [0.0, 1.0]}, DataError, "2 came for 4"),
        ({"reference": several()[:3], "protocol": "csp"}, CrystalError, "4 samples in 1 draw"),
        ({"reference": CrystalBatch.empty()}, DataError, "no crystals among the reference"),
        ({"relaxed": several()[:3]}, DataError, "3 and 4 came"),
    ],
)
def test_inputs_that_do_not_fit(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        quick(several(), **options)


def test_no_crystals_at_all() -> None:
    for nothing in (CrystalBatch.empty(), []):
        with pytest.raises(DataError, match="no crystals among the samples"):
            quick(nothing)


@pytest.mark.parametrize(
    "first", ["import euhedral.evaluate.report", "import euhedral", "from euhedral.evaluate import matching"]
)
def test_the_name_is_callable_whatever_was_imported_first(first: str) -> None:
    code = f"""
{first}
import euhedral, torch
from euhedral import CrystalBatch, evaluate
from euhedral.evaluate.matching import match_pairs
import euhedral.evaluate.symmetry
assert evaluate is euhedral.evaluate
one = CrystalBatch.from_crystals([(torch.eye(3) * 3, torch.zeros(1, 3), torch.tensor([29]))])
report = euhedral.evaluate(one, protocol="mattergen", cache=None)
assert report["validity.structure"].value == 1.0
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_the_module_and_its_function_are_documented_alike() -> None:
    assert callable(euhedral.evaluate)
    assert (type(euhedral.evaluate).__call__.__doc__ or "").startswith("Judge crystals")


def test_a_report_of_real_crystals_against_themselves(tmp_path: Path) -> None:
    if not MP20.is_file():
        pytest.skip(f"no benchmark data at {MP20}")
    crystals = first_rows(MP20, 200, tmp_path)
    report = evaluate(crystals, crystals, protocol=["csp", "cdvae"], cache=None, potential=False)
    assert report["match.rate"].value == 1.0
    assert report["match.rmse"].value == pytest.approx(0, abs=1e-6)
    assert report["coverage.recall"].value == report["coverage.precision"].value == 1.0
    for name in ("coverage.amsd_recall", "coverage.amcd_precision", "wasserstein.density", "wasserstein.coordination"):
        assert report[name].value == pytest.approx(0, abs=1e-9)
    assert report["validity.structure"].value == 1.0
    assert 0.85 < (report["validity.composition"].value or 0) < 0.96


def first_rows(source: Path, number: int, folder: Path) -> CrystalBatch:
    import csv
    import gzip
    import itertools

    with gzip.open(source, "rt", newline="") as stream, (folder / "part.csv").open("w", newline="") as target:
        csv.writer(target).writerows(itertools.islice(csv.reader(stream), number + 1))
    found = read_samples(folder / "part.csv")
    assert len(found) == number
    return found.crystals


def test_json_of_a_report_has_no_numbers_that_json_lacks() -> None:
    report = quick(several(), several(), protocol=["cdvae", "lemat"])
    text = json.dumps(report.to_dict(), allow_nan=False)
    assert Report.from_dict(json.loads(text)) == report
    assert np.isfinite([d for item in report.distributions for d in item.edges]).all()


@pytest.mark.parametrize("protocol", [protocol.name for protocol in PROTOCOLS])
def test_every_protocol_lists_crystals_that_cannot_be_built(protocol: str) -> None:
    report = quick(several(), several(), protocol=protocol, requested=Requested(space_group=225))
    assert 3 in {failure.index for failure in report.failures}


def test_the_limit_of_atoms_holds_for_batches_too() -> None:
    report = quick(several(), protocol="cdvae", limit_atoms=4)
    assert report["validity.built"].value == 0.5 and {failure.index for failure in report.failures} >= {0, 3}


def test_shares_of_which_less_is_better_are_of_crystals_that_could_be_judged() -> None:
    report = quick(several(), protocol=["cdvae", "lemat"])
    for name in ("symmetry.p1", "supply.radioactive", "supply.toxic"):
        assert report[name].samples == 3 and report[name].value == 0.0


def iron_nickel(*species: int) -> CrystalBatch:
    """Body-centred positions with the given atomic numbers."""
    frac = torch.tensor([[0.0] * 3, [0.5] * 3, [0.0, 0.0, 0.5], [0.5, 0.5, 0.0]], dtype=torch.float64)
    cell = torch.diag(torch.tensor([2.6, 2.6, 3.6], dtype=torch.float64))
    return CrystalBatch.from_crystals([(cell, frac, torch.tensor(species))])


def test_two_orders_of_an_alloy_are_one_crystal_by_the_rule_with_disorder(tmp_path: Path) -> None:
    alloys = CrystalBatch.concat([iron_nickel(26, 26, 28, 28), iron_nickel(26, 28, 26, 28)])
    report = quick(
        alloys, train=alloys[[0]], protocol=["mattergen", "lemat"], energies=[0.0, 0.0], folder=tmp_path / "r"
    )
    assert report["discovery.unique"].value == 0.5 and report["discovery.unique_ordered"].value == 1.0
    table = pq.read_table(tmp_path / "r" / "records.parquet")
    assert table["unique"].to_pylist() == [True, False] and table["unique_ordered"].to_pylist() == [True, True]
    assert table["novel"].to_pylist() == [False, False] and table["novel_ordered"].to_pylist() == [False, True]
