"""Fine-tuning on one task after the other: the lower bound that every strategy is compared with."""

from .strategy import Strategy


class Naive(Strategy):
    """Nothing is done against forgetting."""
