"""Evaluation of crystals: validity, match rate, uniqueness and symmetry. It sees crystals only, never a model.

A failure is a record with its reason and stays in the denominator.
"""

from euhedral.evaluate.comparison import Tolerances as Tolerances
from euhedral.evaluate.matching import CSP_TOLERANCES as CSP_TOLERANCES
from euhedral.evaluate.matching import MatchFigures as MatchFigures
from euhedral.evaluate.matching import MatchRecord as MatchRecord
from euhedral.evaluate.matching import MatchSummary as MatchSummary
from euhedral.evaluate.matching import match_pairs as match_pairs
from euhedral.evaluate.matching import match_samples as match_samples
from euhedral.evaluate.matching import summarize_at as summarize_at
from euhedral.evaluate.matching import summarize_matches as summarize_matches
from euhedral.evaluate.symmetry import SymmetrySummary as SymmetrySummary
from euhedral.evaluate.symmetry import crystal_system as crystal_system
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
