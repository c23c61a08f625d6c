"""The folder of a report: metrics.json and records.parquet, whole at any moment."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from euhedral.errors import OutputError
from euhedral.evaluate.report import METRICS_FILE, write_metrics

if TYPE_CHECKING:
    from euhedral.evaluate.run import Stage

RECORDS_FILE = "records.parquet"
PAGE_FILE = "index.html"


class ReportFolder:
    """Writes a report as its metrics end.

    Args:
        path: the folder; made if need be.
        overwrite: replace the files of an earlier report in it.

    Raises:
        OutputError: where the folder is not empty (or, to overwrite, holds no report), or cannot be written.
    """

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        self.path = path
        try:
            if path.exists() and not path.is_dir():
                raise OutputError(f"{path} is a file; a report needs a folder")
            if path.exists() and any(path.iterdir()):
                if not overwrite:
                    raise OutputError(f"{path} exists and is not empty; choose another folder, or pass --overwrite")
                if not (path / METRICS_FILE).is_file():
                    raise OutputError(f"{path} is no report (no {METRICS_FILE} in it), so it is not overwritten")
                for name in (METRICS_FILE, RECORDS_FILE, PAGE_FILE):
                    (path / name).unlink(missing_ok=True)
            path.mkdir(parents=True, exist_ok=True)
            probe = path / f".{os.getpid()}.partial"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise OutputError(f"cannot write to {path}: {error.strerror or error}") from None

    def write(self, stage: Stage) -> None:
        """Put both files in place. Raises OutputError where they cannot be written."""
        self._write_records(stage.columns)
        write_metrics(stage.report, self.path / METRICS_FILE)

    def _write_records(self, columns: Mapping[str, Sequence[Any]]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table({name: pa.array(list(values)) for name, values in columns.items()})
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        file = self.path / RECORDS_FILE
        temporary = file.with_name(f".{file.name}.{os.getpid()}.partial")
        try:
            temporary.write_bytes(buffer.getvalue())
            os.replace(temporary, file)
        except OSError as error:
            raise OutputError(f"cannot write {file}: {error.strerror or error}") from None
