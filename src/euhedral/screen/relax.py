"""Relaxation of crystals to the nearest minimum of a potential, here or in processes of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from euhedral.errors import ConfigError
from euhedral.screen.ase_potential import make_potential
from euhedral.screen.relax_loop import RelaxLoop
from euhedral.screen.relax_workers import relax_in_processes
from euhedral.screen.relaxation import Relaxation, RelaxConfig, RelaxedCrystal

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

    from euhedral.crystal.batch import CrystalBatch
    from euhedral.screen.potential import Potential


def relax(
    crystals: CrystalBatch,
    *,
    potential: Potential | Calculator | Callable[[], Any] | str = "chgnet",
    config: RelaxConfig | None = None,
    workers: int = 0,
    on_done: Callable[[RelaxedCrystal], None] | None = None,
) -> Relaxation:
    """Relax crystals; none is lost, whatever one of them or the potential does.

    Args:
        crystals: to begin with; of any dtype, relaxed in float64.
        potential: as `make_potential` takes it. With `workers` it is made or copied in each process, so that a calculator
            that cannot be copied must come as a name, or as a function of a module that makes it.
        config: limits; the defaults of `RelaxConfig`.
        workers: processes of one thread each; best one a core. A potential that hangs is ended there when a crystal's time
            is over, and one that takes its process with it fails alone. 0 relaxes in this process, where the time limit is
            looked at between calls.
        on_done: called here with each crystal as it ends, in the order in which they end.

    Raises:
        ConfigError: on workers below 0, or a potential that is none or cannot be copied.
        EuhedralError: if the potential is not installed, or processes cannot be started.
    """
    if workers < 0:
        raise ConfigError(f"workers must be at least 0, not {workers}")
    config = config or RelaxConfig()
    done: list[RelaxedCrystal] = []

    def collect(relaxed: RelaxedCrystal) -> None:
        done.append(relaxed)
        if on_done is not None:
            on_done(relaxed)

    if workers:
        name = relax_in_processes(crystals, potential, config, workers=workers, on_done=collect)
    else:
        here = make_potential(potential)
        name = here.name
        RelaxLoop(here, config).run(enumerate(crystals), collect)
    return Relaxation.from_crystals(done, name)
