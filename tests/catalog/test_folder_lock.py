import os
import signal
from pathlib import Path

import pytest

from euhedral.catalog.folder_lock import LOCK, locked
from euhedral.errors import OutputError


def test_a_second_one_is_refused_and_told_who_has_the_folder(tmp_path: Path):
    with locked(tmp_path):
        with pytest.raises(OutputError, match=f"in use by process {os.getpid()} on "), locked(tmp_path):
            pass
        assert (tmp_path / LOCK).is_file()
    with locked(tmp_path):
        pass


def test_the_lock_of_a_process_that_was_killed_holds_nobody_up(tmp_path: Path):
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        with locked(tmp_path):
            os.write(tell, b"1")
            signal.pause()
        os._exit(0)
    os.read(told, 1)
    with pytest.raises(OutputError, match=f"process {child} "), locked(tmp_path):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with locked(tmp_path):
        assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()} ")
    os.close(told)
    os.close(tell)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path):
    with pytest.raises(OutputError, match="cannot write"), locked(tmp_path / "missing"):
        pass
