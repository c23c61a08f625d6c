import logging
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from catalog.funnels import add_run, crystals_of_pairs, toy_funnel
from euhedral.catalog import cluster
from euhedral.catalog.cluster import open_executor, slurm_cluster
from euhedral.catalog.database import Catalogue
from euhedral.catalog.executors import InProcess
from euhedral.catalog.screening import walk
from euhedral.errors import ConfigError, EuhedralError


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def _open(address: str, **options) -> None:
    with open_executor(address, **options):
        pass


def test_without_a_cluster_this_process_works():
    with open_executor(None, workers=3) as executor:
        assert executor == InProcess(3)


def test_nobody_at_the_address_and_something_else_there_are_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cluster, "SECONDS_TO_CONNECT", 0.5)
    with pytest.raises(ConfigError, match=r"no Dask scheduler answers at tcp://127.*`dask scheduler --port 8786`"):
        _open(f"tcp://127.0.0.1:{_free_port()}")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(ConfigError, match="no Dask scheduler answers"):
            _open(f"tcp://127.0.0.1:{silent.getsockname()[1]}")
    with pytest.raises(ConfigError, match="--cluster takes the address of a scheduler"):
        _open("localhost:8786")
    with pytest.raises(ConfigError, match="no Dask scheduler answers"):
        _open("tcp://nowhere:port")


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "dask_jobqueue.slurm", None)
    with pytest.raises(ConfigError, match=r"pip install 'euhedral\[cluster\]'"):
        slurm_cluster(cores=1, memory="1GB")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError, match=r"needs Dask: pip install 'euhedral\[cluster\]'"):
        _open("local")


def test_jobs_of_slurm_are_asked_for_as_the_settings_say():
    from dask.config import set as configured

    with pytest.raises(ConfigError, match="needs --workers"):
        _open("slurm")
    if not cluster.shutil.which("sbatch"):
        with pytest.raises(ConfigError, match="needs sbatch"):
            _open("slurm", workers=4)
    with pytest.raises(ConfigError, match=r"jobqueue.yaml"):
        slurm_cluster(scheduler_options={"dashboard_address": "127.0.0.1:0"})
    settings = {"jobqueue.slurm.cores": 8, "jobqueue.slurm.memory": "16GB", "jobqueue.slurm.queue": "night"}
    with configured(settings), slurm_cluster(scheduler_options={"dashboard_address": "127.0.0.1:0"}) as made:
        script = made.job_script()
    assert "#SBATCH -p night" in script and "#SBATCH --cpus-per-task=8" in script and "#SBATCH --mem=15G" in script
    assert "--nworkers 8" in script and "--nthreads 1" in script


def test_a_scheduler_that_is_killed_is_told_and_what_came_back_is_kept(tmp_path: Path):
    address = f"tcp://127.0.0.1:{_free_port()}"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--no-dashboard"]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"]
    path = {"PYTHONPATH": str(Path(__file__).parents[1])}
    told: list[str] = []
    logged: list[logging.LogRecord] = []
    log, listener = logging.getLogger("distributed.client"), logging.Handler()
    started = []

    def begin(command: list[str]) -> subprocess.Popen:
        import os

        started.append(subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | path, cwd=tmp_path))
        return started[-1]

    def tell(text: str) -> None:
        told.append(text)
        begin(worker)

    def end_scheduler(stage: str, done: int, total: int) -> None:
        if 2 < done < total:
            scheduler.kill()

    try:
        scheduler = begin([*command, "--port", address.rpartition(":")[2]])
        _wait_for(address)
        with Catalogue(tmp_path) as catalogue, open_executor(address, tell=tell) as executor:
            run = add_run(catalogue, crystals_of_pairs(40))
            relax = toy_funnel(tmp_path, calculator="catalog.funnels:Unhurried")[1:2]
            with pytest.raises(EuhedralError, match=r"scheduler is gone.*run the same command again"):
                walk(catalogue, run, relax, executor=executor, progress=end_scheduler)
            assert 2 < len(catalogue.outcomes(run, "relax")) < 40
            # As Dask's client does, with a traceback, some seconds later.
            listener.emit = logged.append
            log.addHandler(listener)
            log.error("connection lost")
            log.removeHandler(listener)
        assert told == ["waiting for workers: the cluster has none"]
        assert logged == []
    finally:
        for process in started:
            process.kill()
            process.wait()


def _wait_for(address: str) -> None:
    host, _, port = address.removeprefix("tcp://").partition(":")
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with socket.socket() as attempt:
            if attempt.connect_ex((host, int(port))) == 0:
                return
        time.sleep(0.05)
    pytest.fail("the scheduler did not start")
