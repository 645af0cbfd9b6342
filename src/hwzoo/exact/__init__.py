"""
Systems so small that all of their states can be listed: what is estimated elsewhere is exact here. A ring of labels
with its partition function, and a generator of strings with the gradient of any expectation over them.
"""

from . import adversarial, bigram, ring
from .variation import total_variation, variation_by_chance

__all__ = ["adversarial", "bigram", "ring", "total_variation", "variation_by_chance"]
