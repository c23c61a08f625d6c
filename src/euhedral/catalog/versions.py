"""Versions that a result depends on, for provenance."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from euhedral import __version__

RECORDED = ("torch", "numpy", "moyopy", "spglib", "pymatgen", "ase")


def versions() -> dict[str, str]:
    """Version of the package, of Python and of the libraries that figures depend on."""
    found = {"euhedral": __version__, "python": platform.python_version()}
    for name in RECORDED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
