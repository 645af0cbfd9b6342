"""
What can be done with a model, by what it offers: no control knows a family by its name.

A control is a function that gets an entry, the values of its inputs and the job, and gives answers. `register` adds
one; the page shows it on the tab of each entry that offers what it needs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForImageClassification

from .. import diffusion, generators
from ..errors import HwzooError
from ..generators import FAST_STEPS
from ..training.sweep import protocols
from .answers import Answer, Bars, Film, Note, Pictures, Table, Text
from .entries import MOST_TRAINING_IMAGES, Entry
from .inputs import Choice, Input, Number, Picture, Words
from .jobs import Job

MOST_IMAGES, MOST_STEPS = 64, 250
ANY = "any"  # class
AS_SAVED = "as saved"
SEED = Number("seed", "Seed", 0, 2**32 - 1, 0)
FRAMES = 17  # of a path
DRAWS = 16  # of the noise of a bound
PLANE = 5  # pictures a side


@dataclass(frozen=True)
class Control:
    """
    A thing to do.

    Args:
        title: of it.
        about: a sentence to the visitor.
        offers: whether an entry has what it needs.
        inputs: that it takes of an entry.
        run: gets the entry, the checked values by name and the job.
        button: its word; None where it answers at each change of an input.
    """

    title: str
    about: str
    offers: Callable[[Entry], bool]
    inputs: Callable[[Entry], Sequence[Input]]
    run: Callable[[Entry, dict[str, Any], Job], Sequence[Answer]]
    button: str | None = "Run"


CONTROLS: list[Control] = []


def register(title: str, about: str, offers: Callable, inputs: Callable, button: str | None = "Run") -> Callable:
    """
    Adds a control; a decorator of what it runs.

    Args:
        title: as of `Control`.
        about: as of `Control`.
        offers: as of `Control`.
        inputs: as of `Control`.
        button: as of `Control`.

    Returns:
        The decorator, which gives the function back.
    """

    def add(run: Callable) -> Callable:
        CONTROLS.append(Control(title, about, offers, inputs, run, button))
        return run

    return add


def controls_of(entry: Entry) -> list[Control]:
    """The controls that an entry offers, in the order in which they were registered."""
    return [control for control in CONTROLS if entry.error is None and control.offers(entry)]


def answer(entry: Entry, control: Control, values: Sequence[Any], job: Job) -> Sequence[Answer]:
    """
    Runs a control on what a visitor sends.

    Args:
        entry: of the tab.
        control: of it.
        values: one for each input, of any kind.
        job: of the call.

    Returns:
        The answers; a note of what is wrong where something is.
    """
    try:
        given = {each.name: each.check(value) for each, value in zip(control.inputs(entry), values, strict=True)}
        return control.run(entry, given, job)
    except HwzooError as error:
        return [Note(str(error), wrong=True)]
    except Exception as error:  # of a stranger's model, say: what it says may hold anything
        return [Note(f"{entry.title} fails at this: {type(error).__name__}", wrong=True)]


# Drawing


def _classes(entry: Entry, any_class: bool = True) -> list[Choice]:
    if not (num := entry.num_classes):
        return []
    names = tuple(map(str, range(num)))
    return [Choice("label", "Class", (ANY, *names) if any_class else names, ANY if any_class else names[0])]


def _labels(given: dict[str, Any], num: int) -> Tensor | None:
    return None if given.get("label", ANY) == ANY else torch.full((num,), int(given["label"]))


def _temperature(entry: Entry, method: str = "sample") -> list[Number]:
    acts = entry.takes(method, "temperature") and getattr(entry.model, "prior", entry) is not None  # else uniform
    return [Number("temperature", "Temperature", 0.1, 2, 1, 0.05)] if acts else []


def _sampler(entry: Entry) -> list[Input]:
    if not entry.is_pipeline:
        return []
    most = min(entry.model.scheduler.config.num_train_timesteps, MOST_STEPS)
    chosen: list[Input] = [
        Choice("scheduler", "Sampler", (*diffusion.SCHEDULERS, AS_SAVED), "sde_dpm_solver"),
        Number("steps", "Steps", 1, most, min(FAST_STEPS, most)),
    ]
    if entry.num_classes and entry.settings.get("label_dropout") != 0:  # else it does not know images of no class
        chosen.append(Number("guidance", "Guidance", 0, 8, 1, 0.5))
    return chosen


def _pipeline(entry: Entry, given: dict[str, Any]) -> Any:
    """One of the call's own: a scheduler keeps where it is."""
    config = entry.model.scheduler.config
    if given["scheduler"] == AS_SAVED:
        scheduler = type(entry.model.scheduler).from_config(config)
    else:
        scheduler = diffusion.make_scheduler(given["scheduler"], config)
    generators.check_steps(given["steps"], scheduler, entry.title, "Steps")  # as saved it may have fewer
    own = entry.model.config
    return diffusion.make_pipeline(entry.model.unet, scheduler, own.image_size, own.patch_size)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws(entry: Entry, given: dict[str, Any], job: Job) -> Any:
    """
    What a model draws: that of `sample` for the seed.

    Args:
        entry: that draws.
        given: `num`, `seed` and, where the entry has them, `label`, `temperature`, `scheduler`, `steps`, `guidance`.
        job: of the call.

    Returns:
        (num, channels, height, width) in [0, 1]; of texts their tokens, (num, length).
    """
    model, num, call = entry.model, given["num"], {}
    with job.running(entry.lock, counted=entry.is_pipeline):
        if entry.is_pipeline:
            model = _pipeline(entry, given)
            call = {"num_inference_steps": given["steps"], "guidance_scale": given.get("guidance", 1.0)}
            call["callback_on_step_end"] = lambda _, step, *rest: job.step(step + 1, given["steps"])
        elif "temperature" in given:
            call["temperature"] = given["temperature"]
        return entry.family.sample(model, num, _labels(given, num), _seeded(given["seed"]), **call)


@register(
    "Draw", "What the model makes of noise.", lambda entry: entry.draws,
    lambda entry: [
        Number("num", "How many", 1, MOST_IMAGES // 4 if entry.is_pipeline else MOST_IMAGES, 8),
        SEED, *_classes(entry), *_temperature(entry), *_sampler(entry),
    ],
    "Draw",
)  # fmt: skip
def _draw(entry: Entry, given: dict[str, Any], job: Job) -> list[Answer]:
    """The answer of `draws`."""
    made = draws(entry, given, job)
    if entry.tokenizer is not None:  # tokens
        return [Text("\n".join(entry.words(made)), f"{len(made)} texts of seed {given['seed']}")]
    return [Pictures(made, [f"seed {given['seed']}, image {place + 1}" for place in range(len(made))])]


@register(
    "Path", "What lies on the way from one latent to another.",
    lambda entry: entry.offers("interpolate", "sample_latents") and bool(entry.image_shape or entry.tokenizer),
    lambda entry: [
        Number("seed", "Seed of the start", 0, 2**32 - 1, 0), Number("other", "Seed of the end", 0, 2**32 - 1, 1),
        *_classes(entry, False),
    ],
    "Go",
)  # fmt: skip
def _path(entry: Entry, given: dict[str, Any], job: Job) -> list[Answer]:
    """`interpolate` between the latents of two seeds."""
    with job.running(entry.lock):
        ends = [entry.model.sample_latents(1, generator=_seeded(given[name])) for name in ("seed", "other")]
        images = entry.model.interpolate(*ends, FRAMES, labels=_labels(given, 1))[0]
    names = [f"{place / (FRAMES - 1):.0%}" for place in range(FRAMES)]
    if entry.tokenizer is not None:
        lines = [f"{name:>4}  {words}" for name, words in zip(names, entry.words(images), strict=True)]
        return [Text("\n".join(lines), "on the way")]
    frames = [[Pictures(images[place, None], [f"{names[place]} of the way"], shown=False)] for place in range(FRAMES)]
    return [Film(frames, names, "On the way", FRAMES // 2), Pictures(images[[0, -1]], ["the start", "the end"])]


@register(
    "Plane", "Two numbers of the latent change, the others stay.",
    lambda entry: entry.offers("sample_latents") and entry.takes("sample", "latents") and bool(entry.image_shape),
    lambda entry: [
        Number("first", "Across: dimension", 0, _latent_size(entry) - 1, 0),
        Number("second", "Down: dimension", 0, _latent_size(entry) - 1, min(1, _latent_size(entry) - 1)),
        Number("reach", "From minus to plus", 0.5, 6, 3, 0.5),
        Choice("around", "The others", ("zero", "of the seed"), "zero"), SEED, *_classes(entry, False),
    ],
    None,
)  # fmt: skip
def _plane(entry: Entry, given: dict[str, Any], job: Job) -> list[Answer]:
    """`sample` of a grid of latents."""
    with job.running(entry.lock):
        latents = entry.model.sample_latents(1, generator=_seeded(given["seed"]))
        latents = (latents if given["around"] == "of the seed" else latents * 0).repeat(PLANE**2, 1)
        values = torch.linspace(-given["reach"], given["reach"], PLANE)
        latents[:, given["second"]] = values.repeat_interleave(PLANE)
        latents[:, given["first"]] = values.repeat(PLANE)
        images = entry.model.sample(PLANE**2, latents=latents, labels=_labels(given, PLANE**2))
    captions = [f"{across:g} across, {down:g} down" for down in values.tolist() for across in values.tolist()]
    return [Pictures(images, captions, PLANE, shown=False)]


def _latent_size(entry: Entry) -> int:
    return entry.model.sample_latents(1, generator=_seeded(0)).shape[1]


# Diffusion


@register(
    "Reverse process", "What is drawn, at each step from noise to picture.", lambda entry: entry.is_pipeline,
    lambda entry: [Number("num", "How many", 1, 4, 2), SEED, *_classes(entry), *_sampler(entry)],
)  # fmt: skip
def _reverse(entry: Entry, given: dict[str, Any], job: Job) -> list[Answer]:
    """The frames of `diffusion.reverse_process`."""
    with job.running(entry.lock):
        generator, num, labels = _seeded(given["seed"]), given["num"], _labels(given, given["num"])
        if labels is None and entry.num_classes:
            labels = torch.randint(entry.num_classes, (num,), generator=generator)
        call = {"batch_size": num} if labels is None else {"labels": labels}
        call |= {"num_inference_steps": given["steps"], "guidance_scale": given.get("guidance", 1.0)}
        steps = diffusion.reverse_process(_pipeline(entry, given), FAST_STEPS, generator=generator, **call)
    captions = [f"image {place + 1}" for place in range(num)]
    return [Film([[Pictures(x, captions)] for x in steps.values()], list(steps), "Step", len(steps) - 1)]


@register(
    "Forward process", "Noise comes over a picture; beside it what the model takes the picture to be.",
    lambda entry: entry.is_pipeline and entry.image_shape is not None, lambda entry: [_board(entry), SEED],
)  # fmt: skip
def _forward(entry: Entry, given: dict[str, Any], job: Job) -> list[Answer]:
    """x_t of the forward process and the network's x_0, over t."""
    pipeline = entry.model
    with job.running(entry.lock):
        scheduler = diffusion.train_scheduler_of(pipeline.scheduler)
        times = torch.linspace(0, scheduler.config.num_train_timesteps - 1, FRAMES).long()
        patch = pipeline.config.patch_size
        clean = diffusion.clean_images(given["picture"], pipeline.unet.config.sample_size * patch, patch)
        alphas = diffusion.alphas_cumprod(scheduler)
        noise = torch.randn(clean.shape, generator=_seeded(given["seed"])).expand(FRAMES, -1, -1, -1)
        noisy = diffusion.q_sample(clean.expand(FRAMES, -1, -1, -1), noise, times, alphas)
        none = torch.full((FRAMES,), entry.num_classes) if entry.num_classes else None
        prediction = pipeline.unet(noisy, times, class_labels=none, return_dict=False)[0]
        kind = scheduler.config.prediction_type
        guess = diffusion.predicted_clean(prediction, noisy, times, alphas, kind)
        pairs = torch.stack([pipeline.to_pixel_values(noisy), pipeline.to_pixel_values(guess)], 1)
    captions = ["with noise", "what the model sees in it"]
    names = [f"timestep {time}" for time in times.tolist()]
    return [Film([[Pictures(pair, captions)] for pair in pairs], names, "Noise", FRAMES // 3)]


# A picture


def _board(entry: Entry) -> Picture:
    return Picture("picture", "Picture", *entry.image_shape)


def _taken(entry: Entry, run: Callable[[Tensor], Any], picture: Tensor) -> tuple[Any, Tensor]:
    """What a function of a model gives for a picture, on the model's levels where it takes no others; and these."""
    if entry.num_levels:
        picture = (picture * (entry.num_levels - 1)).round() / (entry.num_levels - 1)
    try:
        return run(picture), picture
    except ValueError:  # it takes 0 and 1 alone
        return run(picture.round()), picture.round()


def _rows_at_once(entry: Entry) -> int:
    return getattr(entry.model.config, "rows_at_once", 1)


def _in_steps(entry: Entry) -> str:
    return f", rounded down to {_rows_at_once(entry)}s" if _rows_at_once(entry) > 1 else ""


@register(
    "Complete", "The upper rows are given, the model draws the rest.",
    lambda entry: entry.offers("complete") and entry.image_shape is not None,
    lambda entry: [
        _board(entry),
        Number("rows", f"Rows given{_in_steps(entry)}", 0, entry.image_shape[1], entry.image_shape[1] // 2),
        Number("num", "How many", 1, 16, 4), SEED, *_classes(entry), *_temperature(entry, "complete"),
    ],
    "Complete",
)  # fmt: skip
def _complete(entry: Entry, given: dict[str, Any], job: Job) -> list[Answer]:
    """`complete` of the model."""
    num, call = given["num"], {"labels": _labels(given, given["num"])}
    call |= {"temperature": given["temperature"]} if "temperature" in given else {}
    mask = torch.zeros(given["picture"].shape[1:], dtype=torch.bool)
    mask[:, : given["rows"] // _rows_at_once(entry) * _rows_at_once(entry)] = True
    with job.running(entry.lock):
        images, picture = _taken(
            entry,
            lambda x: entry.model.complete(x.expand(num, -1, -1, -1), mask, generator=_seeded(given["seed"]), **call),
            given["picture"],
        )
    known = torch.where(mask, picture, 0.0)
    captions = [f"seed {given['seed']}, image {place + 1}" for place in range(num)]
    return [Pictures(torch.cat([known, images.cpu()]), ["what is given", *captions])]


@register(
    "Reconstruct", "What comes back through the code or latent of a picture.",
    lambda entry: entry.offers("reconstruct") and entry.image_shape is not None,
    lambda entry: [_board(entry), *(_classes(entry, False) if entry.takes("reconstruct", "labels") else [])], None,
)  # fmt: skip
def _reconstruct(entry: Entry, given: dict[str, Any], job: Job) -> list[Answer]:
    """`reconstruct` of the model, and its bound."""
    with job.running(entry.lock):
        labels, rows = _labels(given, 1), []
        call = {} if labels is None else {"labels": labels}
        image, picture = _taken(entry, lambda x: entry.model.reconstruct(x, **call), given["picture"])
        if entry.offers("negative_elbo_bound"):
            bound = entry.model.negative_elbo_bound(picture, **call, generator=_seeded(0))
            rows = zip(("-ELBO (one sample)", "reconstruction", "KL divergence"), bound, strict=True)
        elif entry.offers("negative_bound") and not entry.num_classes:
            bound = entry.model.negative_bound(picture)
            rows = zip(("bound on -log p(x)", "rate", "distortion"), bound, strict=True)
        rows = [[name, float(value)] for name, value in rows]
    shown = [Pictures(torch.cat([picture, image.cpu()]), ["as the model takes it", "reconstruction"])]
    return [*shown, Table(["number", "nats"], rows, "Likelihood of the picture")] if rows else shown


@register(
    "Codes", "The codes of a picture; change some, and see what becomes of it.",
    lambda entry: entry.offers("encode", "decode", "sample_codes") and entry.image_shape is not None,
    lambda entry: [_board(entry), Words("changes", "Changes: row, column, code; one a line", "", 3, 2000)], None,
)  # fmt: skip
def _codes(entry: Entry, given: dict[str, Any], job: Job) -> list[Answer]:
    """The codes of `encode`, and `decode` before and after the changes."""
    with job.running(entry.lock):
        own, picture = _taken(entry, entry.model.encode, given["picture"])
        changed, size, last = own.clone(), own.shape[-1], entry.config.codebook_size - 1
        for line in given["changes"].splitlines():
            numbers = line.replace(",", " ").split()
            right = len(numbers) == 3 and all(each.isascii() and each.isdecimal() for each in numbers)
            row, column, code = map(int, numbers) if right and len(line) < 40 else (size, 0, 0)
            if row >= size or column >= size or code > last:
                told = f"row and column from 0 to {size - 1} and a code from 0 to {last}, as 2, 3, 5"
                raise HwzooError(f"a line of Changes must have {told}")
            changed[0, row, column] = code
        images = entry.model.decode(torch.cat([own, changed])).cpu()
    rows = [[row, *values] for row, values in enumerate(changed[0].tolist())]
    captions = ["as the model takes it", "of its codes", "of the changed codes"]
    return [
        Pictures(torch.cat([picture, images]), captions),
        Table(["row", *map(str, range(size))], rows, f"Codes, after {(own != changed).sum()} changes"),
    ]


@register(
    "Score", "How likely the picture is, and where it surprises the model.",
    lambda entry: entry.offers("log_prob") and entry.image_shape is not None, lambda entry: [_board(entry)], None,
)  # fmt: skip
def _score(entry: Entry, given: dict[str, Any], job: Job) -> list[Answer]:
    """log p of a picture, by class where the model has classes, and the surprise of each pixel where it tells it."""
    num = max(1, entry.num_classes)
    labels = torch.arange(num) if entry.num_classes else None

    bound = entry.takes("log_prob", "noise")  # of a flow: from draws, the same ones for every class

    def log_prob(picture: Tensor) -> Tensor:
        drawn = {"generator": _seeded(0)} if entry.takes("log_prob", "generator") else {}
        if bound:
            noise = torch.rand(DRAWS, *picture.shape, generator=_seeded(0)).expand(-1, num, -1, -1, -1)
            drawn = {"noise": noise, "num_importance_samples": DRAWS}
        return entry.model.log_prob(picture.expand(num, -1, -1, -1), labels, **drawn)

    with job.running(entry.lock):
        log_probs, picture = _taken(entry, log_prob, given["picture"])
        total = log_probs.logsumexp(0).item() - math.log(num)
        bits = -total / (math.log(2) * picture.numel())
        answers: list[Answer] = [
            Table(
                ["number", "value"],
                [[f"bound on log p, {DRAWS} draws, nats" if bound else "log p, nats", total], ["bits a value", bits]],
                "The picture",
            ),
        ]
        if entry.num_classes:
            shares = log_probs.softmax(0).tolist()
            answers.append(Bars(dict(zip(map(str, range(num)), shares, strict=True)), "Class, if all are as likely"))
        elif entry.offers("logits"):
            logits = entry.model.logits(picture)
            if logits.shape[-1] == 1:
                logits = torch.cat([torch.zeros_like(logits), logits], -1)
            levels = (picture * (logits.shape[-1] - 1)).round().long()
            chances = logits.softmax(-1)
            mean = (chances * torch.linspace(0, 1, logits.shape[-1])).sum(-1)
            surprise = 1 - chances.gather(-1, levels[..., None])[..., 0]
            captions = ["as the model takes it", "what it expects of each pixel", "surprise"]
            answers.insert(0, Pictures(torch.cat([picture, mean, surprise]), captions))
    return answers


@register(
    "Inverse", "The latent of a picture, and what comes of it when it is made smaller or larger.",
    lambda entry: entry.offers("to_latents", "to_pixels") and entry.image_shape is not None,
    lambda entry: [_board(entry), *_classes(entry, False)],
)  # fmt: skip
def _inverse(entry: Entry, given: dict[str, Any], job: Job) -> list[Answer]:
    """`to_latents`, and `to_pixels` of multiples of them."""
    factors = [place / 10 for place in range(0, 16)]
    with job.running(entry.lock):
        label = _labels(given, 1)
        latents, log_det = entry.model.to_latents(given["picture"], label)
        labels = _labels(given, len(factors))
        images = entry.model.to_pixels(torch.tensor(factors)[:, None] * latents, labels).cpu()
    shown = (latents.view_as(given["picture"]).cpu() / 6 + 0.5).clamp(0, 1)
    wrong = (images[factors.index(1.0)] - given["picture"][0]).abs().max().item()
    named = zip([f"{factor:g} times the latent" for factor in factors], images, strict=True)
    frames = [[Pictures(image[None], [name], shown=False)] for name, image in named]
    return [
        Film(frames, [f"{factor:g}" for factor in factors], "Factor", factors.index(1.0)),
        Pictures(torch.cat([given["picture"], shown]), ["the picture", "its latent, -3 black, 3 white"]),
        Table(
            ["number", "value"],
            [["log |det|, nats", log_det.item()], ["largest difference after there and back", wrong]],
            "The way there",
        ),
    ]


@register(
    "Classify", "What the model takes the picture to be.",
    lambda entry: entry.family.auto_class is AutoModelForImageClassification and entry.image_shape is not None,
    lambda entry: [_board(entry)], None,
)  # fmt: skip
def _classify(entry: Entry, given: dict[str, Any], job: Job) -> list[Answer]:
    """Probabilities of the classes."""
    with job.running(entry.lock):
        shares = entry.model(pixel_values=given["picture"]).logits[0].softmax(-1).tolist()
    names = [str(entry.config.id2label.get(place, place)) for place in range(len(shares))]
    return [Bars(dict(zip(names, shares, strict=True)), "Probability")]


@register(
    "Discriminate", "Whether the discriminator takes the picture for one of the data.",
    lambda entry: entry.offers("discriminate") and entry.image_shape is not None,
    lambda entry: [_board(entry), *_classes(entry, False)], None,
)  # fmt: skip
def _discriminate(entry: Entry, given: dict[str, Any], job: Job) -> list[Answer]:
    """The logit of the discriminator, beside those of what the generator draws."""
    with job.running(entry.lock):
        labels = _labels(given, 8)
        drawn = entry.model.sample(8, labels=labels, generator=_seeded(0))
        own = entry.model.discriminate(given["picture"], _labels(given, 1)).item()
        others = entry.model.discriminate(drawn, labels).cpu()
    rows = [["the picture", own], ["drawn images, mean", others.mean().item()]]
    return [Table(["what", "logit"], rows, "The more, the more it is taken for real")]


def _features(entry: Entry) -> Callable[[Tensor], Tensor] | None:
    """What gives features of images: `features`, means of latents, or what transformers calls the pooled output."""
    model = entry.model
    if entry.image_shape is None or entry.is_pipeline:
        return None
    if entry.offers("features"):
        return model.features
    if entry.offers("encode", "sample_latents") and not entry.num_classes:  # which would have to be told
        return lambda images: model.encode(images)[0]
    if not entry.draws and getattr(model, "main_input_name", None) == "pixel_values":
        return lambda images: model(pixel_values=images).pooler_output
    return None


@register(
    "Nearest", f"The training images with the most similar features, among {MOST_TRAINING_IMAGES:,} at most.",
    lambda entry: _features(entry) is not None and entry.knows_data,
    lambda entry: [
        _board(entry), Number("num", "How many", 1, 32, 8),
        Choice("measure", "Similarity", ("cosine", "distance"), "cosine"),
    ],
    None,
)  # fmt: skip
def _nearest(entry: Entry, given: dict[str, Any], job: Job) -> list[Answer]:
    """Training images by their features."""
    features = _features(entry)
    images, names = entry.training_images
    if images.shape[1:] != given["picture"].shape[1:]:
        raise HwzooError("the training images have another shape than the model")
    with job.running(entry.lock):
        own, picture = _taken(entry, features, given["picture"])
        if entry.features is None:
            parts = []
            for part in images.split(250):
                parts.append(_taken(entry, features, part)[0].flatten(1))
            entry.features = torch.cat(parts)
        if given["measure"] == "cosine":
            values = F.cosine_similarity(own.flatten(1), entry.features)
            order = values.argsort(descending=True, stable=True)[: given["num"]]
        else:
            values = (entry.features - own.flatten(1)).norm(dim=1)
            order = values.argsort(stable=True)[: given["num"]]
    captions = [f"{names[place]}: {given['measure']} {values[place]:.3g}" for place in order.tolist()]
    return [Pictures(torch.cat([picture, images[order]]), ["as the model takes it", *captions])]


# Continual learning


@register(
    "Tasks", "What is left of each task as others are learned.", lambda entry: "accuracy_matrix" in entry.results,
    lambda entry: [], None,
)  # fmt: skip
def _tasks(entry: Entry, given: dict[str, Any], job: Job) -> list[Answer]:
    """Accuracy by task, after each task."""
    matrix, answers = entry.results["accuracy_matrix"], []
    names = [f"task {place + 1}" for place in range(len(matrix[-1]))]
    # Joint training learns them all at once.
    ends = names[: len(matrix)] if len(matrix) == len(names) else ["all tasks"]
    frames = [
        [Bars(dict(zip(names, row, strict=False)), f"Accuracy after {end}", ordered=True)]
        for end, row in zip(ends, matrix, strict=True)
    ]
    answers.append(Film(frames, ends, "After", len(matrix) - 1))
    rows = [[f"after {end}", *(f"{100 * each:.1f}" for each in row)] for end, row in zip(ends, matrix, strict=True)]
    answers.append(Table(["when", *names], rows, "Accuracy in per cent"))
    return answers


@register(
    "Runs", "The runs of a comparison, means over the seeds.", lambda entry: bool(entry.comparison), lambda entry: [],
    None,
)  # fmt: skip
def _runs(entry: Entry, given: dict[str, Any], job: Job) -> list[Answer]:
    """A slider over each strength that the runs differ in, and a table of all."""
    answers: list[Answer] = []
    for title, rows in strengths(entry.comparison).items():
        frames = [[_by_task(row)] if "accuracy_by_task" in row else [_numbers([row])] for _, row in rows]
        answers.append(Film(frames, [f"{value:g}" for value, _ in rows], title))
    tasks = [row for row in entry.comparison if "accuracy_by_task" in row]
    if tasks:
        width = max(len(row["accuracy_by_task"]) for row in tasks)
        cells = [[row["label"], *(f"{100 * each:.1f}" for each in row["accuracy_by_task"])] for row in tasks]
        cells = [each + [""] * (width + 1 - len(each)) for each in cells]
        head = ["run", *(f"task {place + 1}" for place in range(width))]
        answers.append(Table(head, cells, "What is left of each task after the last, accuracy in per cent"))
    return [*answers, _numbers(entry.comparison)]


def strengths(comparison: Sequence[dict[str, Any]]) -> dict[str, list[tuple[float, dict[str, Any]]]]:
    """
    Runs that differ in one number alone.

    Args:
        comparison: rows with `flags`, words by name.

    Returns:
        By what they have in common and the number's name: the number and the row, in order; two or more of each.
    """
    groups: dict[str, list[tuple[float, dict[str, Any]]]] = {}
    for row in comparison:
        for name, value in row.get("flags", {}).items():
            rest = " ".join(f"{key}={each}" for key, each in row["flags"].items() if key != name)
            try:
                groups.setdefault(f"{name}{f' ({rest})' if rest else ''}", []).append((float(value), row))
            except ValueError:  # a word
                continue
    return {title: sorted(rows, key=lambda pair: pair[0]) for title, rows in groups.items() if len(rows) > 1}


def _by_task(row: dict[str, Any]) -> Bars:
    values = {f"task {place + 1}": value for place, value in enumerate(row["accuracy_by_task"])}
    return Bars(values, f"Accuracy after the last task: {row['label']}", ordered=True)


def _numbers(rows: Sequence[dict[str, Any]]) -> Table:
    found = [name for row in rows for name, value in row.items() if isinstance(value, dict) and "mean" in value]
    names = list(dict.fromkeys(found))
    cells = []
    for row in rows:
        numbers = [row.get(name) or {} for name in names]
        cells.append([row["label"], *(_mean(each) for each in numbers)])
    return Table(["run", *(name.replace("_", " ") for name in names)], cells, " ".join(protocols(rows)) or "Means")


def _mean(number: dict[str, Any]) -> str:
    if number.get("mean") is None:
        return "-"
    error = number.get("standard_error")
    return f"{number['mean']:.4g}" + (f" ± {error:.2g}" if error else "")
