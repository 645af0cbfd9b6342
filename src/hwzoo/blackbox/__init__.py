"""Learning from a reward that has no gradient: estimates of the gradient of its expectation, and what they train."""

from .estimators import (
    ESTIMATORS,
    argmax_feedback,
    enumerated,
    evolution_strategies,
    reinforce,
    reinforce_with_baseline,
    supervised,
)
from .learning import Learned, learn
from .networks import answers_of, logits_of, stacked_mlps
from .noise import gradient_noise
from .tasks import Task, course_task, image_task, pair_of, reward_of

__all__ = [
    "ESTIMATORS",
    "Learned",
    "Task",
    "answers_of",
    "argmax_feedback",
    "course_task",
    "enumerated",
    "evolution_strategies",
    "gradient_noise",
    "image_task",
    "learn",
    "logits_of",
    "pair_of",
    "reinforce",
    "reinforce_with_baseline",
    "reward_of",
    "stacked_mlps",
    "supervised",
]
