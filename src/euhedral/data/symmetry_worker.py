"""A search for symmetry that ends: in a process of its own, which is replaced when a crystal takes too long.

moyopy searches some distorted cells for ever at wide tolerances (one of a few hundred unrelaxed crystals at 0.5 Å), and
compiled code cannot be interrupted where it runs.
"""

from __future__ import annotations

from euhedral.crystal.symmetry_search import SearchRequest, Symmetry, load_moyopy, symmetry_of
from euhedral.data.worker import Unanswered, Worker
from euhedral.errors import CrystalError

SECONDS_TO_SEARCH = 3.0
"""A search that ends does so within milliseconds."""


class SymmetryWorker:
    """Searches for space groups, each within its time; the process starts with the first one.

    Args:
        seconds: time limit of one search.
    """

    def __init__(self, seconds: float = SECONDS_TO_SEARCH) -> None:
        self._seconds = seconds
        self._worker = Worker(symmetry_of, prepare=load_moyopy)

    def search(self, request: SearchRequest) -> Symmetry:
        """As `crystal.symmetry_search.symmetry_of`.

        Raises:
            CrystalError: where nothing is found, or not in time.
        """
        try:
            return self._worker.ask(request, self._seconds)
        except Unanswered as unanswered:
            raise CrystalError(f"the symmetry search failed: {unanswered}") from unanswered.error

    def close(self) -> None:
        """End the process."""
        self._worker.close()
