"""What a run of continual learning is asked for: its tasks, and its strategy with all its strengths."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from .ewc import EWC
from .fisher import ESTIMATORS
from .joint import Joint
from .lwf import LwF
from .naive import Naive
from .rehearsal import Rehearsal
from .replay import Replay
from .si import SI
from .strategy import Strategy
from .stream import SCENARIOS, Stream, permuted, split

STRATEGIES: dict[str, type[Strategy]] = {
    "naive": Naive,
    "joint": Joint,
    "rehearsal": Rehearsal,
    "replay": Replay,
    "ewc": EWC,
    "si": SI,
    "lwf": LwF,
}
OF_EWC = {"strategy": ("ewc",)}


@dataclass
class StreamSettings:
    """
    Args:
        stream (`str`): classes in groups, or all classes with permuted pixels.
        num_tasks (`int`): tasks of the stream.
        scenario (`str`): the task of an image is known; it is not and labels are shared; it is not and each task has
            new ones.
        stream_seed (`int`): of the permutations: task t > 0 has that of the seed stream_seed + t.
    """

    stream: Literal["split", "permuted"] = "split"
    num_tasks: int = field(default=5, metadata={"range": "[1, inf)"})
    scenario: Literal[SCENARIOS] = "domain"
    stream_seed: int = field(default=0, metadata={"range": "[0, inf)", "only": {"stream": ("permuted",)}})


@dataclass
class StrategySettings:
    """
    The strengths are those that help on the digits in the domain-incremental scenario, chosen on images held out of
    their training; other data, networks and optimisers need others.

    Args:
        strategy (`str`): what is done against forgetting.
        ewc_lambda (`float`): strength of EWC's penalty.
        ewc_penalty (`str`): lambda / 2 F d^2, or lambda F d^2 as in the course.
        ewc_online (`bool`): one anchor with a running Fisher information in place of one a task.
        ewc_decay (`float`): factor on the running Fisher information at each task.
        fisher_estimator (`str`): see hwzoo.continual.fisher_diagonal.
        fisher_samples (`int`): training images of each task for it; all when not given.
        fisher_mode (`str`): without dropout, or with it as in the course.
        fisher_batch_size (`int`): images a batch for it.
        si_lambda (`float`): strength c of SI's penalty.
        si_damping (`float`): xi of SI.
        lwf_lambda (`float`): weight of LwF's distillation.
        lwf_temperature (`float`): of LwF's softmax.
        memory_size (`int`): images that replay stores.
        replay_ratio (`int`): stored images of a step for each new one.
        memory_policy (`str`): every image, or every class, alike.
    """

    strategy: Literal[tuple(STRATEGIES)] = "replay"
    ewc_lambda: float = field(default=1e5, metadata={"range": "[0, inf)", "only": OF_EWC})
    ewc_penalty: Literal["half", "full"] = field(default="half", metadata={"only": OF_EWC})
    ewc_online: bool = field(default=False, metadata={"only": OF_EWC})
    ewc_decay: float = field(default=1.0, metadata={"range": "[0, 1]", "only": OF_EWC | {"ewc_online": (True,)}})
    fisher_estimator: Literal[ESTIMATORS] = field(default="exact", metadata={"only": OF_EWC})
    fisher_samples: int | None = field(default=None, metadata={"range": "[1, inf)", "only": OF_EWC})
    fisher_mode: Literal["eval", "train"] = field(default="eval", metadata={"only": OF_EWC})
    fisher_batch_size: int = field(default=256, metadata={"range": "[1, inf)", "only": OF_EWC})
    si_lambda: float = field(default=1000.0, metadata={"range": "[0, inf)", "only": {"strategy": ("si",)}})
    si_damping: float = field(default=0.1, metadata={"range": "(0, inf)", "only": {"strategy": ("si",)}})
    lwf_lambda: float = field(default=1.0, metadata={"range": "[0, inf)", "only": {"strategy": ("lwf",)}})
    lwf_temperature: float = field(default=2.0, metadata={"range": "(0, inf)", "only": {"strategy": ("lwf",)}})
    memory_size: int = field(default=200, metadata={"range": "[1, inf)", "only": {"strategy": ("replay",)}})
    replay_ratio: int = field(default=1, metadata={"range": "[1, 1000]", "only": {"strategy": ("replay",)}})
    memory_policy: Literal["reservoir", "balanced"] = field(
        default="balanced", metadata={"only": {"strategy": ("replay",)}}
    )


def make_streams(settings: StreamSettings, data: Any, device: torch.device | str) -> tuple[Stream, Stream]:
    """
    Args:
        settings: anything with its fields.
        data: an `ImageSplits`.
        device: for the images.

    Returns:
        The stream, and the same with the images of evaluations during training in place of the test images; it is one
        stream where none are held out.

    Raises:
        UsageError: when the classes cannot be divided into so many tasks, or a task would lack images.
    """

    def stream_of(test: Any) -> Stream:
        tasks = data.train, test, settings.num_tasks, settings.scenario
        if settings.stream == "permuted":
            return permuted(*tasks, settings.stream_seed).to(device)
        return split(*tasks, held_out=test is data.validation).to(device)

    stream = stream_of(data.test)
    if data.validation is None:
        return stream, stream
    return stream, replace(stream, test=stream_of(data.validation).test)


def make_strategy(settings: StrategySettings, model: Any, stream: Stream, noise: Any) -> Strategy:
    """
    Args:
        settings: anything with its fields.
        model: the classifier.
        stream: the tasks.
        noise: a `GlobalNoise`.

    Returns:
        The strategy, before the first task.

    Raises:
        UsageError: for a strategy that cannot hold anything of these tasks.
    """
    return STRATEGIES[settings.strategy](model, stream, settings, noise)
