"""The handful of exceptions that users can meet; each message says what was expected, what came and what to do."""

from __future__ import annotations


class EuhedralError(Exception):
    """Base of every error that a user's input can cause; the command line prints it and exits with code 2."""


class RequestError(EuhedralError):
    """A generation request that cannot be met (unknown element, formula larger than the largest cell, contradiction)."""


class CrystalError(EuhedralError):
    """A crystal that is not one: NaN, zero volume, unknown element, no atoms, partial occupancy."""


class DataError(EuhedralError):
    """A data file or store that cannot be read."""


class MismatchError(EuhedralError):
    """Energies of different models, functionals or corrections that would be put on one scale."""


class ConfigError(EuhedralError):
    """A configuration with an unknown key or a value out of range."""


class CheckpointError(EuhedralError):
    """A checkpoint that is missing, damaged, or of another model or schema version."""


class OutputError(EuhedralError):
    """Results that cannot be written where they were asked for (exists already, not writable, disk full)."""
