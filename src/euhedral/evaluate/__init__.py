"""Evaluation of crystals by published protocols. It sees crystals only, never a model.

A failure is a record with its reason and stays in the denominator. `euhedral.evaluate(crystals, reference)` is this module
itself, called: Python binds a sub-package to its name in the parent as soon as anything imports it, so that a function
of the same name would be replaced by the module at some later moment. A module of a class with `__call__` is the same
object in either order of imports; `run.evaluate` is the function behind it.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from euhedral.evaluate.comparison import Tolerances as Tolerances
from euhedral.evaluate.folder import ReportFolder as ReportFolder
from euhedral.evaluate.matching import CSP_TOLERANCES as CSP_TOLERANCES
from euhedral.evaluate.matching import MatchFigures as MatchFigures
from euhedral.evaluate.matching import MatchRecord as MatchRecord
from euhedral.evaluate.matching import MatchSummary as MatchSummary
from euhedral.evaluate.matching import match_pairs as match_pairs
from euhedral.evaluate.matching import match_samples as match_samples
from euhedral.evaluate.matching import summarize_at as summarize_at
from euhedral.evaluate.matching import summarize_matches as summarize_matches
from euhedral.evaluate.protocols import PROTOCOLS as PROTOCOLS
from euhedral.evaluate.protocols import Protocol as Protocol
from euhedral.evaluate.report import Figure as Figure
from euhedral.evaluate.report import Report as Report
from euhedral.evaluate.report import read_metrics as read_metrics
from euhedral.evaluate.run import evaluate as evaluate
from euhedral.evaluate.steering import TargetErrors as TargetErrors
from euhedral.evaluate.steering import target_errors as target_errors
from euhedral.evaluate.symmetry import RequestedSymmetry as RequestedSymmetry
from euhedral.evaluate.symmetry import SymmetrySummary as SymmetrySummary
from euhedral.evaluate.symmetry import crystal_system as crystal_system
from euhedral.evaluate.symmetry import requested_space_groups as requested_space_groups
from euhedral.evaluate.symmetry import space_group_distance as space_group_distance
from euhedral.evaluate.symmetry import summarize_symmetry as summarize_symmetry
from euhedral.evaluate.uniqueness import UNIQUE_TOLERANCES as UNIQUE_TOLERANCES
from euhedral.evaluate.uniqueness import DuplicateRecord as DuplicateRecord
from euhedral.evaluate.uniqueness import find_duplicates as find_duplicates
from euhedral.evaluate.uniqueness import known_formula_mask as known_formula_mask
from euhedral.evaluate.uniqueness import reduced_formulas as reduced_formulas
from euhedral.evaluate.uniqueness import unique_mask as unique_mask
from euhedral.evaluate.uniqueness import unique_share as unique_share
from euhedral.evaluate.validity import CompositionVerdict as CompositionVerdict
from euhedral.evaluate.validity import ValidityRecord as ValidityRecord
from euhedral.evaluate.validity import ValiditySummary as ValiditySummary
from euhedral.evaluate.validity import assess as assess
from euhedral.evaluate.validity import composition_validity as composition_validity
from euhedral.evaluate.validity import describe_rule as describe_rule
from euhedral.evaluate.validity import structural_validity as structural_validity
from euhedral.evaluate.validity import summarize_validity as summarize_validity


class _CallableModule(ModuleType):
    """This module: `euhedral.evaluate(...)` is `euhedral.evaluate.evaluate(...)`."""

    def __call__(self, *arguments: Any, **options: Any) -> Report:
        return evaluate(*arguments, **options)


_CallableModule.__call__.__doc__ = evaluate.__doc__
sys.modules[__name__].__class__ = _CallableModule
