"""Continual learning: streams of tasks, and a strategy against forgetting in each file."""

from .ewc import EWC
from .fisher import ESTIMATORS, fisher_diagonal
from .joint import Joint
from .lwf import LwF
from .naive import Naive
from .quadratic import QuadraticPenalty
from .rehearsal import Rehearsal
from .replay import Replay
from .scores import Scores
from .settings import STRATEGIES, StrategySettings, StreamSettings, make_strategy, make_streams
from .si import SI
from .strategy import Strategy
from .stream import SCENARIOS, Stream, StreamBatches, permuted, split

__all__ = [
    "ESTIMATORS",
    "EWC",
    "Joint",
    "LwF",
    "Naive",
    "QuadraticPenalty",
    "Rehearsal",
    "Replay",
    "SCENARIOS",
    "SI",
    "STRATEGIES",
    "Scores",
    "Strategy",
    "Stream",
    "StrategySettings",
    "StreamBatches",
    "StreamSettings",
    "fisher_diagonal",
    "make_strategy",
    "make_streams",
    "permuted",
    "split",
]
