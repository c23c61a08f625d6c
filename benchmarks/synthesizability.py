"""Trains the judge of synthesizability and measures it on crystals that were reported later.

    python benchmarks/synthesizability.py --out synthesizability.safetensors
    python benchmarks/synthesizability.py --check          # the shipped weights, without training

No data at hand say which crystals of MP-20 were reported by experiment. Those of MPTS-52 val all were, in a year that is
known: of those that MP-20 could hold (at most 20 atoms and 0.08 eV/atom above the hull) 1997 to 2001 are positive in training
and 2002 to 2004 are held out. MP-20 train is unlabelled in training, MP-20 val for the figures, both without MPTS-52 val.

The Materials Project numbers its entries as they come, in portions of one origin. Of each 50,000 numbers it is counted how
many of MP-20's crystals are positives of training: 1 in 13 below 50,000, where most were reported, in whatever year; fewer
than 1 in 250 where hardly any can have been. These are called mostly (above 1 in 17) and rarely reported here. Numbers of
entries are read here only, never by a judge.

Only the rarely reported train as unlabelled: a judge that is trained against all of MP-20 learns to tell these five years
from others. For the same reason the shipped judge has, beside the positives of known years, twice as many of the mostly
reported of MP-20 train as further positives; without them rock salt and other simple crystals, which were all reported long
ago, look like enumerated ones. Their years are not known. The judge whose split is by year alone is printed beside it
("years alone"), and so is one that is trained against all of MP-20 train ("against all").
"""

from __future__ import annotations

import argparse
import csv
import gzip
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from euhedral.evaluate.uniqueness import reduced_formulas
from euhedral.screen.synthesis_features import STRUCTURE, feature_names, features
from euhedral.screen.synthesizability import Judge, TrainingConfig, default_judge, train
from mp20 import DATA, open_store

if TYPE_CHECKING:
    from numpy.typing import NDArray

LAST_TRAINING_YEAR = 2001
LARGEST = 20  # atoms
HIGHEST = 0.08  # eV/atom
PORTION = 50_000
RARELY, MOSTLY = 1 / 250, 1 / 17
UNDATED = 2  # mostly reported crystals for each positive of known year
RESAMPLES = 1000
AT_ONCE = 512


@dataclass(frozen=True, eq=False)
class Table:
    """Crystals of one file, one entry each."""

    ids: NDArray[np.str_]
    features: NDArray[np.float64]
    formulas: NDArray[np.str_]
    e_above_hull: NDArray[np.float64]
    year: NDArray[np.int64]

    def __getitem__(self, chosen: NDArray) -> Table:
        return Table(**{name: values[chosen] for name, values in vars(self).items()})

    def __len__(self) -> int:
        return len(self.ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mpts", type=Path, default=DATA / "mpts_52" / "val.csv.gz")
    parser.add_argument("--train", type=Path, default=DATA / "mp_20" / "train.csv.gz")
    parser.add_argument("--val", type=Path, default=DATA / "mp_20" / "val.csv.gz")
    parser.add_argument("--out", type=Path, help="where the weights go; none are written without it")
    parser.add_argument("--check", action="store_true", help="measure the shipped weights; train nothing")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    started = time.perf_counter()
    dated, later, unlabelled, held_out, rates = split(read(given.mpts), read(given.train), read(given.val))
    rarely, mostly = (unlabelled[kind(rates(unlabelled))] for kind in (lambda r: r < RARELY, lambda r: r > MOSTLY))
    rng = np.random.default_rng(given.seed)
    undated = mostly[np.sort(rng.choice(len(mostly), min(len(mostly), UNDATED * len(dated)), replace=False))]
    reported = both(dated, undated)
    print(
        f"{len(dated)} + {len(undated)} reported, {len(rarely)} rarely reported of {len(unlabelled)} unlabelled crystals"
    )
    print(f"{time.perf_counter() - started:.0f} s to read")
    judge = default_judge() if given.check else trained(reported, rarely, given.seed)
    asked = (later, held_out, rates(held_out))
    measured = measure(judge, *asked)
    unseen(judge, reported, rarely, *asked)
    baselines(reported, *asked)
    if not given.check:
        judged("years alone", trained(dated, rarely, given.seed), *asked)
        judged("against all", trained(dated, unlabelled, given.seed), *asked)
        ablations(reported, rarely, *asked, given.seed)
    if given.out is not None:
        provenance = {
            "positive": f"MPTS-52 val, reported 1997 to {LAST_TRAINING_YEAR}, at most {LARGEST} atoms: {len(dated)}; "
            f"MP-20 train with numbers of which most were reported: {len(undated)}",
            "unlabelled": f"MP-20 train with numbers of which hardly any was reported: {len(rarely)}",
            "seed": given.seed,
            "measured": measured,
            "command": "python benchmarks/synthesizability.py",
        }
        replace(judge, provenance=provenance).save(given.out)
        print(f"{given.out}: {given.out.stat().st_size / 1000:.0f} kB")


def both(first: Table, second: Table) -> Table:
    """The crystals of two tables."""
    return Table(**{name: np.concatenate([values, getattr(second, name)]) for name, values in vars(first).items()})


def judged(name: str, judge: Judge, later: Table, held_out: Table, rates: NDArray[np.float64]) -> dict[str, float]:
    """The areas of a judge, printed and given."""
    return comparisons(name, judge.score(later.features), judge.score(held_out.features), rates)


def read(source: Path) -> Table:
    """Features and columns of a benchmark CSV; crystals that have no features are left out and told."""
    store = open_store(source)
    tables, formulas, reasons = [], [], []
    for start in range(0, len(store), AT_ONCE):
        crystals = store.crystals(np.arange(start, min(start + AT_ONCE, len(store))))
        table, why = features(crystals)
        tables.append(table)
        reasons += why
        formulas += [str(formula) for formula in reduced_formulas(crystals)]
    columns = {row["material_id"]: row for row in _rows(source)}
    ids = store.ids()
    hull = [columns[name].get("energy_above_hull") or columns[name].get("e_above_hull") or "nan" for name in ids]
    found = Table(
        ids=np.array(ids),
        features=np.concatenate(tables),
        formulas=np.array(formulas),
        e_above_hull=np.array(hull, dtype=np.float64),
        year=np.array([int(columns[name].get("year") or 0) for name in ids]),
    )
    sound = np.array([reason is None for reason in reasons])
    for reason in filter(None, reasons):
        print(f"{source.parent.name}/{source.name}: left out: {reason}")
    return found[sound]


def _rows(source: Path) -> list[dict[str, str]]:
    with gzip.open(source, "rt") if source.suffix == ".gz" else source.open() as stream:
        return [{k: v for k, v in row.items() if k != "cif"} for row in csv.DictReader(stream)]


def split(mpts: Table, train_: Table, val: Table):
    """Positives of training, those held out, unlabelled of training, those held out; and the rate of each crystal's number."""
    atoms = mpts.features[:, feature_names().index("primitive_atoms")]
    positives = mpts[(atoms <= LARGEST) & (mpts.e_above_hull <= HIGHEST)]
    early = positives.year <= LAST_TRAINING_YEAR
    training = set(positives.ids[early])
    names = np.concatenate([train_.ids, val.ids])
    portions = _numbers(names) // PORTION
    all_of, positive_of = np.bincount(portions), np.bincount(portions[[name in training for name in names]])
    share = np.zeros(len(all_of))
    share[: len(positive_of)] = positive_of / np.maximum(all_of[: len(positive_of)], 1)
    known = set(mpts.ids)
    unlabelled, held_out = (table[np.array([name not in known for name in table.ids])] for table in (train_, val))
    return positives[early], positives[~early], unlabelled, held_out, lambda t: share[_numbers(t.ids) // PORTION]


def _numbers(ids: NDArray[np.str_]) -> NDArray[np.int64]:
    return np.array([int(name.split("-")[-1]) for name in ids])


def trained(reported: Table, unlabelled: Table, seed: int, columns: NDArray[np.bool_] | None = None) -> Judge:
    """A judge of all features, or of those chosen."""
    chosen = np.ones(reported.features.shape[1], dtype=bool) if columns is None else columns
    started = time.perf_counter()
    judge = train(
        reported.features[:, chosen],
        unlabelled.features[:, chosen],
        TrainingConfig(),
        rng=torch.Generator().manual_seed(seed),
    )
    print(f"trained in {time.perf_counter() - started:.0f} s")
    return judge


def measure(judge: Judge, later: Table, held_out: Table, rates: NDArray[np.float64]) -> dict[str, float]:
    """Print and give the figures of a judge."""
    high, low = judge.score(later.features), judge.score(held_out.features)
    found = comparisons("judge", high, low, rates)
    rare, mostly = rates < RARELY, rates > MOSTLY
    print("share scored at least this: reported 2002-2004, mostly reported, rarely reported")
    for limit in (0.3, 0.5, 0.7):
        shares = [float((scores >= limit).mean()) for scores in (high, low[mostly], low[rare])]
        print(f"  {limit}: " + ", ".join(f"{share:.2f}" for share in shares))
        found[f"share_at_least_{limit}"] = round(shares[0], 3)
    return found


def comparisons(
    name: str, high: NDArray[np.float64], low: NDArray[np.float64], rates: NDArray[np.float64]
) -> dict[str, float]:
    """The three areas with their intervals."""
    rare, mostly = rates < RARELY, rates > MOSTLY
    figures = {
        "later | unlabelled": (high, low),
        "later | rarely reported": (high, low[rare]),
        "mostly | rarely reported": (low[mostly], low[rare]),
    }
    found = {}
    for label, (positive, other) in figures.items():
        value, (lower, upper) = auc(positive, other), interval(positive, other)
        found[label] = round(value, 4)
        print(f"{name:24s} {label:26s} {value:.3f} ({lower:.3f} to {upper:.3f})  {len(positive)} | {len(other)}")
    return found


def auc(positive: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Chance that a positive scores higher than another, ties half: the Mann-Whitney statistic."""
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([positive, other]))[: len(positive)]
    return float((ranks.sum() - len(positive) * (len(positive) + 1) / 2) / (len(positive) * len(other)))


def interval(positive: NDArray[np.float64], other: NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """95 % by the percentile bootstrap, both kinds drawn each for itself."""
    rng = np.random.default_rng(seed)
    values = [auc(rng.choice(positive, len(positive)), rng.choice(other, len(other))) for _ in range(RESAMPLES)]
    return float(np.percentile(values, 2.5)), float(np.percentile(values, 97.5))


def baselines(reported: Table, later: Table, held_out: Table, rates: NDArray[np.float64]) -> None:
    """How common the elements are among reported crystals; and the energy above the hull of density functional theory."""
    from euhedral.crystal.formula import parse_formula

    seen = np.zeros(120)
    for formula in reported.formulas:
        seen[list(parse_formula(formula))] += 1
    log_share = np.log((seen + 1) / (len(reported) + 1))

    def common(table: Table) -> NDArray[np.float64]:
        return np.array([log_share[list(parse_formula(formula))].mean() for formula in table.formulas])

    comparisons("elements' frequency", common(later), common(held_out), rates)
    comparisons("- energy above the hull", -later.e_above_hull, -held_out.e_above_hull, rates)


def ablations(
    reported: Table, unlabelled: Table, later: Table, held_out: Table, rates: NDArray[np.float64], seed: int
) -> None:
    """Composition alone, structure alone, and with the energy above the hull where MP-20 has it."""
    structural = np.array([name in STRUCTURE for name in feature_names()])
    for name, columns in (("composition alone", ~structural), ("structure alone", structural)):
        judge = trained(reported, unlabelled, seed, columns)
        comparisons(name, judge.score(later.features[:, columns]), judge.score(held_out.features[:, columns]), rates)
    made, other = (table[np.isfinite(table.e_above_hull)] for table in (reported, unlabelled))
    name = f"{len(made)} and {len(other)}"
    judged(name, trained(made, other, seed), later, held_out, rates)
    judge = trained(_with_energy(made), _with_energy(other), seed)
    judged(f"{name} with energy", judge, _with_energy(later), _with_energy(held_out), rates)


def _with_energy(table: Table) -> Table:
    return replace(table, features=np.column_stack([table.features, table.e_above_hull]))


def unseen(
    judge: Judge, reported: Table, unlabelled: Table, later: Table, held_out: Table, rates: NDArray[np.float64]
) -> None:
    """The figures of crystals whose formula no crystal of training has."""
    formulas = set(reported.formulas) | set(unlabelled.formulas)
    new, other = (np.array([f not in formulas for f in table.formulas]) for table in (later, held_out))
    comparisons(
        "unseen formulas", judge.score(later[new].features), judge.score(held_out[other].features), rates[other]
    )


if __name__ == "__main__":
    main()
