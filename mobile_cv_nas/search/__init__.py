"""Differentiable architecture search: train a supernet's weights and alphas, derive an arch near the target."""

from .derive import Candidate, Derived, DeriveError, Goal, derive_arch, draw_candidates, score_candidates
from .loop import Searcher, temperature
from .run import SearchResult, check_target, run_search, search, search_and_train, summary_table

__all__ = [
    "Candidate",
    "DeriveError",
    "Derived",
    "Goal",
    "SearchResult",
    "Searcher",
    "check_target",
    "derive_arch",
    "draw_candidates",
    "run_search",
    "score_candidates",
    "search",
    "search_and_train",
    "summary_table",
    "temperature",
]
