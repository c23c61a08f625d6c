"""How a cluster is reached: a Dask scheduler at an address, workers on this machine, or jobs of Slurm."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from euhedral.catalog.dask_host import DaskHost
from euhedral.catalog.dask_spread import DaskSpread
from euhedral.catalog.executors import DaskExecutor, Executor, InProcess, Tell
from euhedral.errors import ConfigError

if TYPE_CHECKING:
    from dask_jobqueue.slurm import SLURMCluster
    from distributed import Client, LocalCluster

LOCAL, SLURM = "local", "slurm"
SECONDS_TO_CONNECT = 10.0
INSTALL = "pip install 'euhedral[cluster]'"
SCHEMES = ("tcp://", "tls://", "ws://", "wss://", "ucx://")


@contextlib.contextmanager
def open_executor(cluster: str | None, *, workers: int = 0, tell: Tell | None = None) -> Iterator[Executor]:
    """Where stages work, open.

    Args:
        cluster: None for this process, the address of a Dask scheduler such as tcp://host:8786, 'local' or 'slurm'.
        workers: processes: of this one, of 'local' (0 for one a core), or to ask Slurm for.
        tell: gets what a user should know meanwhile.

    Raises:
        ConfigError: on something else than these, a package that is missing, or no scheduler at the address.
    """
    if cluster is None:
        yield InProcess(workers)
        return
    if cluster not in (LOCAL, SLURM) and not cluster.startswith(SCHEMES):
        raise ConfigError(
            f"--cluster takes the address of a scheduler such as tcp://host:8786, local or slurm, not {cluster!r}"
        )
    try:
        from distributed import Client
    except ImportError as error:
        raise ConfigError(f"--cluster needs Dask: {INSTALL} ({error})") from None
    with contextlib.ExitStack() as stack:
        stack.enter_context(_untold())
        if cluster == LOCAL:
            client = Client(stack.enter_context(local_cluster(workers)))
        elif cluster == SLURM:
            client = Client(stack.enter_context(_slurm_jobs(workers)))
        else:
            client = _connected(cluster)
        yield DaskExecutor(stack.enter_context(client), tell=tell)


@contextlib.contextmanager
def _untold() -> Iterator[None]:
    """Keep Dask from logging tracebacks of a connection that is lost, of which a user is told by an error."""
    log = logging.getLogger("distributed.client")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


@contextlib.contextmanager
def open_spread(cluster: str, *, workers: int = 0, tell: Tell | None = None) -> Iterator[DaskSpread]:
    """Where batches of a request are drawn; arguments and errors as of `open_executor`."""
    with open_executor(cluster, workers=workers, tell=tell) as executor:
        assert isinstance(executor, DaskExecutor)
        yield DaskSpread(executor.client, tell=tell)


@contextlib.contextmanager
def open_host(cluster: str, *, workers: int = 0, tell: Tell | None = None) -> Iterator[DaskHost]:
    """What answers the requests of an evaluation; arguments and errors as of `open_executor`."""
    with open_executor(cluster, workers=workers, tell=tell) as executor:
        assert isinstance(executor, DaskExecutor)
        yield DaskHost(executor.client, tell=tell)


def local_cluster(workers: int = 0) -> LocalCluster:
    """A scheduler and processes of one thread each on this machine; one a core where 0."""
    from distributed import LocalCluster

    return LocalCluster(
        n_workers=workers or os.cpu_count() or 1,
        threads_per_worker=1,
        processes=True,
        dashboard_address="127.0.0.1:0",  # any port that is free
        silence_logs=logging.ERROR,
        # What takes seconds to import is there before the first portion comes and its time runs.
        preload=["euhedral.screen.relax_stage", "euhedral.screen.hull_stage", "euhedral.catalog.tables"],
    )


def slurm_cluster(**settings: Any) -> SLURMCluster:
    """A scheduler in this process whose workers are jobs of Slurm; none is asked for yet.

    Args:
        **settings: of `dask_jobqueue.SLURMCluster`; those of Dask's own files (jobqueue.yaml) where not given, but for
            `processes`, which is one a core.

    Raises:
        ConfigError: where dask-jobqueue is missing, or the settings are not enough to ask for a job.
    """
    try:
        import dask.config
        from dask_jobqueue.slurm import SLURMCluster
    except ImportError as error:
        raise ConfigError(f"--cluster slurm needs dask-jobqueue: {INSTALL} ({error})") from None
    known = dask.config.get("jobqueue.slurm", {})
    cores = settings.get("cores", known.get("cores"))
    if cores is not None:
        settings.setdefault("processes", known.get("processes") or cores)
    try:
        return SLURMCluster(**settings)
    except ValueError as error:
        raise ConfigError(
            f"--cluster slurm asks for jobs as ~/.config/dask/jobqueue.yaml says under jobqueue: slurm: ({error})"
        ) from None


def _slurm_jobs(workers: int) -> SLURMCluster:
    if workers < 1:
        raise ConfigError("--cluster slurm needs --workers: the processes to ask for, in as many jobs as they fill")
    if shutil.which("sbatch") is None:
        raise ConfigError("--cluster slurm needs sbatch, which this machine has not; run the command on a login node")
    cluster = slurm_cluster()
    cluster.scale(workers)
    return cluster


def _connected(address: str) -> Client:
    from distributed import Client

    try:
        # A client alone would wait for ever where something listens that is no scheduler.
        asyncio.run(_greet(address))
        return Client(address, timeout=SECONDS_TO_CONNECT)
    except (OSError, TimeoutError, ValueError) as error:
        raise ConfigError(
            f"no Dask scheduler answers at {address} ({str(error) or 'what is there is none'}); start one with "
            "`dask scheduler --port 8786`, and workers with `dask worker ADDRESS --nworkers auto --nthreads 1`"
        ) from None


async def _greet(address: str) -> None:
    """Exchange greetings with a scheduler. Raises OSError, TimeoutError or ValueError where there is none."""
    from distributed.comm.core import connect
    from distributed.security import Security

    async with asyncio.timeout(1.5 * SECONDS_TO_CONNECT):
        arguments = Security().get_connection_args("client")
        comm = await connect(address, timeout=SECONDS_TO_CONNECT, **arguments)
        await comm.close()
