"""What a study says: loads it, finds its Pareto fronts, draws and prints them. Needs neither torch nor Ray.

study = load("results/tradeoff/20260101-120000")
best = front(study.trials)
analysis.figures.fronts.static_front(best).savefig("front.pdf")
"""

from gimtune.results.load import Study, load
from gimtune.results.pareto import Front, directions, front, fronts_by

__all__ = ["Front", "Study", "directions", "front", "fronts_by", "load"]
