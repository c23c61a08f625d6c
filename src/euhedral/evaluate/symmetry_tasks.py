"""Searches for symmetry in worker processes, each crystal within its time.

Cells are reduced here, many together; the processes load nothing but moyopy, so that they start in a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from euhedral.crystal.symmetry_search import Found, SearchRequest, load_moyopy
from euhedral.data.worker import Unanswered, Worker
from euhedral.data.workers import Crew, ask_each
from euhedral.errors import ConfigError, CrystalError
from euhedral.evaluate.validity import construction_problems

if TYPE_CHECKING:
    from euhedral.crystal.batch import CrystalBatch

Progress = Callable[[int, int], None]
"""Called with (done, total) as crystals end."""

CRYSTALS_AT_ONCE = 128
"""Crystals whose cells are reduced together and that go to a process together."""


def search_each(
    function: Callable[[list[SearchRequest]], list[Found]],
    batch: CrystalBatch,
    *,
    symprec: float,
    workers: int,
    seconds_per_crystal: float,
    progress: Progress | None,
) -> list[Found]:
    """What a function of `symmetry_search` finds for each crystal; arguments and errors of `symmetry.find_space_groups`."""
    if not symprec > 0:
        raise ConfigError(f"symprec must be a positive length in Å, not {symprec}")
    if not seconds_per_crystal > 0:
        raise ConfigError(f"seconds_per_crystal must be positive, not {seconds_per_crystal}")
    found: list[Found] = [(None, problem) for problem in construction_problems(batch)]
    sound = [i for i, (_, problem) in enumerate(found) if problem is None]
    chunks = [sound[start : start + CRYSTALS_AT_ONCE] for start in range(0, len(sound), CRYSTALS_AT_ONCE)]
    jobs = [partial(_search_chunk, batch, chunk, symprec, seconds_per_crystal) for chunk in chunks]
    done = len(batch) - len(sound)
    with Crew(partial(Worker, function, prepare=load_moyopy), workers) as crew:
        for position, answers in crew.run(jobs):
            for i, answer in zip(chunks[position], answers, strict=True):
                found[i] = answer
            done += len(answers)
            if progress is not None:
                progress(done, len(batch))
    return found


def _search_chunk(batch: CrystalBatch, chunk: list[int], symprec: float, seconds: float, worker: Worker) -> list[Found]:
    """Reduce cells here and have those searched that can be."""
    from euhedral.crystal.symmetry import reduced_cells

    found: list[Found] = [(None, None)] * len(chunk)
    requests: dict[int, SearchRequest] = {}
    for place, cell in enumerate(reduced_cells(batch[chunk])):
        try:
            if isinstance(cell, CrystalError):
                raise cell
            requests[place] = cell.request(symprec)
        except CrystalError as error:
            found[place] = (None, str(error))
    answers = ask_each(worker, list(requests.values()), seconds) if requests else []
    for place, answer in zip(requests, answers, strict=True):
        found[place] = (None, str(answer)) if isinstance(answer, Unanswered) else answer
    return found
