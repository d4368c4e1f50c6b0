"""Ask/tell searches over one Bayesian optimiser. No I/O; torch and BoTorch load with the first proposal."""

from vtr_ray.search.asktell import Search
from vtr_ray.search.belief import LayerBelief
from vtr_ray.search.gsearch import GSearch, LayerResult
from vtr_ray.search.pareto import ParetoSearch
from vtr_ray.search.psigmoid import PSigmoidSearch
from vtr_ray.search.trial import Trial, TrialResult

__all__ = [
    "GSearch",
    "LayerBelief",
    "LayerResult",
    "PSigmoidSearch",
    "ParetoSearch",
    "Search",
    "Trial",
    "TrialResult",
]
