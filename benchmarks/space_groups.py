"""Space groups asked for against those that moyopy finds in what comes out, at a tolerance of 0.01 Å.

    python benchmarks/space_groups.py --model RUN --groups 230 --number 4

Space groups are taken by how many training crystals have them, the most frequent first, then those that none has. A crystal
counts as of the group, of a supergroup (it keeps every operation of the group and has more), of another group, or of none
that is found; a group that the model cannot make in cells of the size that it knows is refused. Supergroups are told apart
where the model makes crystals of Wyckoff positions, in their primitive cells; those of other models count as another group.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.kept_operations import keeps_operations
from euhedral.crystal.symmetry import space_group
from euhedral.data.symmetry_worker import SymmetryWorker
from euhedral.errors import RequestError
from euhedral.sample.generate import Generator
from euhedral.sample.request import GenerationRequest

KINDS = ("the group", "a supergroup", "another", "none found", "refused")


def verdicts(crystals: CrystalBatch, asked: int, tolerance: float, worker: SymmetryWorker) -> list[str]:
    """What each crystal is, of `KINDS`."""
    kept = keeps_operations(crystals, asked, tolerance).tolist()
    found = [one.number for one in space_group(crystals, tolerance, search=worker.search)]
    kinds = []
    for number, keeps in zip(found, kept, strict=True):
        if number in (0, asked):
            kinds.append("the group" if number else "none found")
        else:
            kinds.append("a supergroup" if keeps else "another")
    return kinds


def asked_groups(generator: Generator, number: int) -> list[int]:
    """The most frequent space groups in training, then the others by number."""
    seen = generator.capabilities.num_atoms_by_space_group
    return sorted(range(1, 231), key=lambda group: (-sum(seen.get(group, {}).values()), group))[:number]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--groups", type=int, default=230)
    parser.add_argument("--number", type=int, default=4, help="crystals a group")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--tolerance", type=float, default=0.01, help="in Å")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    generator, worker = Generator.load(arguments.model), SymmetryWorker()
    seen = generator.capabilities.num_atoms_by_space_group
    totals = {"known in training": Counter[str](), "unknown in training": Counter[str]()}
    odd: dict[int, Counter[str]] = {}
    started = time.perf_counter()
    for group in asked_groups(generator, arguments.groups):
        request = GenerationRequest(
            n=arguments.number, space_group=group, steps=arguments.steps, seed=arguments.seed, charge_neutral=False
        )
        try:
            kinds = verdicts(generator.generate(request), group, arguments.tolerance, worker)
        except RequestError:
            kinds = ["refused"] * arguments.number
        totals["known in training" if seen.get(group) else "unknown in training"].update(kinds)
        if set(kinds) != {"the group"}:
            odd[group] = Counter(kinds)
    worker.close()

    print(f"{arguments.number} crystals a group, {arguments.steps} steps, {time.perf_counter() - started:.0f} s")
    print(f"| space groups | crystals | {' | '.join(KINDS)} |\n|---|---:|{'---:|' * len(KINDS)}")
    for name, counts in totals.items():
        if total := counts.total():
            print(f"| {name} | {total} | {' | '.join(f'{100 * counts[kind] / total:.1f} %' for kind in KINDS)} |")
    for group, counts in sorted(odd.items()):
        print(f"{group}: {', '.join(f'{count} {kind}' for kind, count in counts.items())}")


if __name__ == "__main__":
    main()
