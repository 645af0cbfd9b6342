"""What the controls of the page answer, by value: no server, no browser, no Gradio."""

import base64
import io
import json
import math
import random
import shutil
import threading
import time

import pytest
import torch
from page_models import MODELS, OFFERED, RUN, TEXTS, Slow, digit, make
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import ByT5Tokenizer, GenerationConfig

from hwzoo import VAEConfig, VAEModel, data, diffusion, page, text
from hwzoo.errors import UsageError
from hwzoo.models import (
    Family,
    FlowConfig,
    FlowModel,
    TextVAEConfig,
    TextVAEModel,
    VQVAEConfig,
    VQVAEModel,
    family_of,
)
from hwzoo.page import app
from hwzoo.page.answers import Bars, Film, Note, Pictures, Table, Text, data_uri, png, to_html
from hwzoo.page.controls import CONTROLS, Control, answer, controls_of
from hwzoo.page.entries import Entry, load_entry
from hwzoo.page.inputs import MOST_BYTES, Choice, Number, Picture, Words
from hwzoo.page.jobs import Job

SECONDS = 60


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    """Those that are asked for, made once."""
    made, folder = {}, tmp_path_factory.mktemp("models")

    def entry(name: str) -> Entry:
        if name not in made:
            path = folder / name
            made[name] = load_entry(str(path if path.is_dir() else make(name, path)), name)
            assert made[name].error is None
        return made[name]

    return entry


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def control(entry: Entry, title: str) -> Control:
    return next(each for each in controls_of(entry) if each.title == title)


def ask(entry: Entry, title: str, seconds: float = SECONDS, **given):
    """The answers of a control to its own values but for those given; a tensor is put on the board."""
    chosen = control(entry, title)
    values = []
    for each in chosen.inputs(entry):
        value = given.pop(each.name, getattr(each, "value", None))
        values.append(data_uri(png(value)) if isinstance(value, Tensor) else value)
    assert not given
    return answer(entry, chosen, values, Job(seconds))


def shown(image: Tensor) -> Tensor:
    """What the bytes of a PNG hold."""
    with Image.open(io.BytesIO(png(image))) as opened:
        assert opened.format == "PNG"
        return torch.frombuffer(bytearray(opened.tobytes()), dtype=torch.uint8).view(image.shape[1:])


# What is offered


@pytest.mark.parametrize("name", OFFERED)
def test_a_model_gets_the_controls_of_what_it_offers(name, entries):
    assert [each.title for each in controls_of(entries(name))] == OFFERED[name]


def test_every_control_is_offered_by_something():
    offered = {title for titles in OFFERED.values() for title in titles}
    assert {each.title for each in CONTROLS} == offered | {"Reconstruct words"}  # of a family of others, below


def test_a_family_of_others_gets_its_tab_by_what_it_offers(entries):
    """One that gives features and one that draws texts: the page has not seen them."""

    class Features(torch.nn.Module):
        config = entries("classifier").config

        def features(self, pixel_values):
            return pixel_values.flatten(1)

    class Writer:
        config = type("Config", (), {})

        def sample_latents(self, num_samples, *, generator=None):
            return torch.rand(num_samples, 2, generator=generator)

        def sample(self, num_samples, *, labels=None, generator=None):
            return 68 + (20 * self.sample_latents(num_samples, generator=generator)).long()

        def interpolate(self, start, end, num_steps, *, labels=None, mode=None):
            return 68 + (20 * torch.lerp(start, end, torch.linspace(0, 1, num_steps)[:, None])).long()[None]

        def reconstruct(self, input_ids, attention_mask=None):
            return input_ids.flip(1)

    encoder = Entry(entries("classifier").name, "encoder", Family("other"), Features())
    assert [each.title for each in controls_of(encoder)][:1] == ["Nearest"]
    found, *_ = ask(encoder, "Nearest", picture=digit(3), num=2, measure="distance")
    assert torch.equal(found.images[1], digit(3)) and found.captions[1].endswith("distance 0")
    writer = Entry("writer", "writer", Family("another"), Writer(), ByT5Tokenizer())
    assert [each.title for each in controls_of(writer)] == ["Draw", "Path", "Reconstruct words"]
    (texts,) = ask(writer, "Draw", num=3, seed=5)
    drawn = Writer().sample(3, generator=seeded(5))
    assert texts.text.splitlines() == ["".join(chr(token - 3) for token in row) for row in drawn.tolist()]
    (way,) = ask(writer, "Path", seed=1, other=2)
    assert way.text.splitlines()[0] == f"  0%  {writer.words(Writer().sample(1, generator=seeded(1)))[0]}"
    (back,) = ask(writer, "Reconstruct words", text="abc")
    assert back.text == "cba"


def test_a_control_of_others_comes_to_the_models_that_offer_it(entries):
    def count(entry, given, job):
        return [Note(f"{sum(each.numel() for each in entry.model.parameters())} weights, {given['word']}")]

    page.register("Count", "", lambda entry: entry.offers("parameters"), lambda entry: [Words("word", "Word")])(count)
    try:
        (note,) = ask(entries("vae"), "Count", word="no more")
        assert note.text == f"{entries('vae').model.num_parameters()} weights, no more"
    finally:
        CONTROLS.pop()


# Drawing


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("classifier", "ddpm", "patches")])
def test_what_is_drawn_is_what_sample_draws(name, entries):
    entry = entries(name)
    (drawn,) = ask(entry, "Draw", num=3, seed=11)
    assert torch.equal(drawn.images, entry.model.sample(3, generator=seeded(11)))
    (other,) = ask(entry, "Draw", num=3, seed=12)
    assert not torch.equal(drawn.images, other.images)
    assert len(drawn.captions) == 3 and "seed 11" in drawn.captions[0]


def test_a_class_and_a_temperature_reach_the_model(entries):
    (drawn,) = ask(entries("gan"), "Draw", num=3, seed=1, label="7")
    expected = entries("gan").model.sample(3, labels=torch.full((3,), 7), generator=seeded(1))
    assert torch.equal(drawn.images, expected)
    (drawn,) = ask(entries("flow"), "Draw", num=2, seed=1, temperature=0.5)
    assert torch.equal(drawn.images, entries("flow").model.sample(2, generator=seeded(1), temperature=0.5))


def test_codes_that_are_drawn_alike_have_no_temperature(entries):
    model = VQVAEModel(VQVAEConfig(prior="uniform", hidden_sizes=[4, 4], codebook_size=4, code_size=2))
    uniform = Entry("uniform", "uniform", family_of(model), model)
    for entry, acts in ((entries("vqvae"), True), (uniform, False)):
        assert ("temperature" in {each.name for each in control(entry, "Draw").inputs(entry)}) == acts


@pytest.mark.parametrize(("label_dropout", "guided"), [(0.0, False), (0.1, True)])
def test_a_network_that_saw_every_image_with_its_class_is_not_guided(label_dropout, guided, entries, tmp_path):
    model = entries("ddpm")
    entry = Entry(str(tmp_path), "mine", model.family, model.model)
    (tmp_path / "preset.yaml").write_text(f"label_dropout: {label_dropout}\n")
    assert ("guidance" in {each.name for each in control(entry, "Draw").inputs(entry)}) == guided


@pytest.mark.parametrize(("name", "scheduler"), [("ddpm", "ddim"), ("ddpm", "as saved"), ("patches", "ddim")])
def test_a_pipeline_draws_with_its_sampler_and_is_left_as_it_was(name, scheduler, entries):
    entry, told = entries(name), []
    before = dict(entry.model.scheduler.config)
    job = Job(SECONDS, lambda share, words: told.append((share, words)))
    chosen = control(entry, "Draw")
    (drawn,) = answer(entry, chosen, [2, 4, "3", scheduler, 5, 2.0], job)
    saved = entry.model.scheduler
    own = (
        type(saved).from_config(saved.config) if scheduler == "as saved" else diffusion.make_scheduler("ddim", before)
    )
    pipeline = diffusion.make_pipeline(entry.model.unet, own, 28, 2 if name == "patches" else 1)
    call = {"num_inference_steps": 5, "guidance_scale": 2.0}
    expected = entry.family.sample(pipeline, 2, torch.tensor([3, 3]), seeded(4), **call)
    assert torch.equal(drawn.images, expected) and drawn.images.shape == (2, 1, 28, 28)
    assert entry.model.scheduler is saved and dict(saved.config) == before and saved.num_inference_steps is None
    assert told[0] == (0.2, "step 1 of 5")


def test_steps_that_a_scheduler_as_saved_has_not_are_told(entries):
    from diffusers import DPMSolverMultistepScheduler, PNDMScheduler

    model, given = entries("ddpm").model, {"num": 1, "scheduler": "as saved"}
    for kind, steps, words in (
        (DPMSolverMultistepScheduler, 50, "Steps is 50; by leading spacing mine has at most 49"),
        (PNDMScheduler, 1, "Steps is 1; the PNDMScheduler of mine takes at least 4"),
    ):
        scheduler = kind(num_train_timesteps=50, timestep_spacing="leading")
        pipeline = diffusion.make_pipeline(model.unet, scheduler, 28)
        entry = Entry("mine", "mine", family_of(pipeline), pipeline)
        for title in ("Draw", "Reverse process"):
            assert ask(entry, title, **given, steps=steps) == [Note(words, wrong=True)]
        (drawn,) = ask(entry, "Draw", **given, steps=5)
        assert drawn.images.isfinite().all()


def test_a_path_is_interpolate_between_two_seeds(entries):
    model = entries("vae").model
    film, ends = ask(entries("vae"), "Path", seed=3, other=4)
    latents = [model.sample_latents(1, generator=seeded(seed)) for seed in (3, 4)]
    expected = model.interpolate(*latents, len(film.frames))[0]
    assert torch.equal(torch.cat([frame[0].images for frame in film.frames]), expected)
    for place, seed in ((0, 3), (-1, 4)):
        assert torch.allclose(ends.images[place, None], model.sample(1, generator=seeded(seed)), atol=1e-6)


@pytest.mark.parametrize("name", ["vae", "gan", "flow"])
def test_sample_decodes_what_sample_latents_draws(name, entries):
    model, labels = entries(name).model, torch.tensor([1, 2]) if name == "gan" else None
    latents = model.sample_latents(2, generator=seeded(6))
    assert torch.equal(
        model.sample(2, labels=labels, latents=latents), model.sample(2, labels=labels, generator=seeded(6))
    )


def test_the_plane_changes_two_numbers_of_a_latent(entries):
    model = entries("vae").model
    (plane,) = ask(entries("vae"), "Plane", first=2, second=0, reach=2.0, around="of the seed", seed=9)
    latent = model.sample_latents(1, generator=seeded(9))
    values = [-2.0, -1.0, 0.0, 1.0, 2.0]
    assert plane.columns == 5 and len(plane.images) == 25
    for place, (down, across) in enumerate((down, across) for down in values for across in values):
        latent[0, 2], latent[0, 0] = across, down
        assert torch.allclose(plane.images[place, None], model.sample(1, latents=latent), atol=1e-6)
        assert plane.captions[place] == f"{across:g} across, {down:g} down"


# Diffusion


@pytest.mark.parametrize("name", ["ddpm", "patches"])
def test_the_reverse_process_ends_at_what_is_drawn(name, entries):
    given = {"num": 2, "seed": 8, "label": "1", "scheduler": "ddpm", "steps": 6}
    (film,) = ask(entries(name), "Reverse process", **given)
    (drawn,) = ask(entries(name), "Draw", **given)
    assert film.names == [f"step {step}" for step in range(1, 7)] and film.start == 5
    assert torch.equal(film.frames[-1][0].images, drawn.images)


@pytest.mark.parametrize(("name", "padded", "patch"), [("ddpm", 32, 1), ("patches", 28, 2)])
def test_the_forward_process_adds_the_noise_of_q(name, padded, patch, entries):
    (film,) = ask(entries(name), "Forward process", picture=digit(), seed=2)
    unet, times = entries(name).model.unet, torch.linspace(0, 29, len(film.frames)).long()
    clean = diffusion.clean_images(digit()[None], padded, patch)
    alphas = diffusion.alphas_cumprod(entries(name).model.scheduler)
    noise = torch.randn(clean.shape, generator=seeded(2))
    for place in (0, 5, 9):  # at the last ones rounding, divided by the little signal, is seen
        time = times[place, None]
        noisy = diffusion.q_sample(clean, noise, time, alphas)
        with torch.no_grad():
            epsilon = unet(noisy, time, class_labels=torch.tensor([10]), return_dict=False)[0]
        guess = diffusion.predicted_clean(epsilon, noisy, time, alphas, "epsilon")
        edge = (padded - 28) // 2
        images = F.pixel_shuffle(torch.cat([noisy, guess]), patch)[..., edge : edge + 28, edge : edge + 28]
        expected = (images / 2 + 0.5).clamp(0, 1)
        assert torch.allclose(film.frames[place][0].images, expected, atol=1e-4)
        assert film.names[place] == f"timestep {time.item()}"


@pytest.mark.parametrize(("size", "shape"), [((8, 8), (1, 8)), ((8, 12), None)])
def test_the_forward_process_is_of_squares(size, shape, tmp_path):
    """Also of those whose pipeline names height and width, as one of diffusers may."""
    from diffusers import DDPMPipeline, UNet2DModel

    unet = UNet2DModel(
        sample_size=size, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(4,),
        down_block_types=["DownBlock2D"], up_block_types=["UpBlock2D"], norm_num_groups=2, add_attention=False,
    )  # fmt: skip
    DDPMPipeline(unet, diffusion.train_scheduler(30)).save_pretrained(tmp_path)
    entry = load_entry(str(tmp_path), "squares")
    assert entry.error is None and entry.image_shape == shape
    offered = [each.title for each in controls_of(entry)]
    assert ("Forward process" in offered) == (shape is not None)
    (drawn,) = ask(entry, "Draw", num=2, steps=2, scheduler="ddim")
    assert drawn.images.shape == (2, 1, *size)
    if shape is not None:
        (film,) = ask(entry, "Forward process", picture=digit()[:, :8, :8], seed=2)
        assert film.frames[0][0].images.shape == (2, 1, 8, 8)


# Pictures


@pytest.mark.parametrize("asked, rows", [(10, 8), (12, 12)])  # whole patches of 4 x 4
def test_completion_keeps_the_rows_that_are_given(asked, rows, entries):
    picture = digit()
    (made,) = ask(entries("autoregressive"), "Complete", picture=picture, rows=asked, num=3, seed=4)
    known, mask = picture.round(), torch.zeros(1, 28, 28, dtype=torch.bool)
    mask[:, :rows] = True
    expected = entries("autoregressive").model.complete(known.expand(3, -1, -1, -1), mask, generator=seeded(4))
    assert torch.equal(made.images[1:], expected)
    assert torch.equal(made.images[1:, :, :rows], known[:, :rows].expand(3, -1, -1, -1))
    assert torch.equal(made.images[0], torch.where(mask, known, 0.0))


def test_reconstructions_and_bounds(entries):
    model = entries("vae").model
    shown, bound = ask(entries("vae"), "Reconstruct", picture=digit())
    assert torch.equal(shown.images[1, None], model.reconstruct(shown.images[0, None]))
    with torch.no_grad():
        expected = model.negative_elbo_bound(digit()[None], generator=seeded(0))
    assert [row[1] for row in bound.rows] == pytest.approx([each.item() for each in expected])
    shown, bound = ask(entries("vqvae"), "Reconstruct", picture=digit())  # that takes 0 and 1 alone
    assert torch.equal(shown.images[0], digit().round())
    assert bound.rows[0][1] == pytest.approx(bound.rows[1][1] + bound.rows[2][1], rel=1e-5)


def test_a_conditional_model_is_told_the_class(entries):
    torch.manual_seed(0)
    config = VAEConfig(encoder_hidden_sizes=[12], decoder_hidden_sizes=[12], latent_size=3, num_classes=10)
    model, own = VAEModel(config).eval(), entries("vae")
    entry = Entry(own.name, "vae", own.family, model)
    assert [each.title for each in controls_of(entry)] == ["Draw", "Path", "Plane", "Reconstruct"]  # not Nearest
    shown, bound = ask(entry, "Reconstruct", picture=digit(), label="7")
    label = torch.tensor([7])
    with torch.no_grad():
        assert torch.equal(shown.images[1, None], model.reconstruct(shown.images[0, None], label))
        expected = model.negative_elbo_bound(digit()[None], label, generator=seeded(0))
    assert [row[1] for row in bound.rows] == pytest.approx([each.item() for each in expected])
    (drawn,) = ask(entry, "Draw", num=2, seed=3, label="4")
    assert torch.equal(drawn.images, model.sample(2, labels=torch.tensor([4, 4]), generator=seeded(3)))


def test_codes_are_edited(entries):
    model = entries("vqvae").model
    shown, table = ask(entries("vqvae"), "Codes", picture=digit())
    own = model.encode(digit().round()[None])
    assert [row[1:] for row in table.rows] == own[0].tolist()
    code = (own[0, 2, 3].item() + 1) % 12
    shown, table = ask(entries("vqvae"), "Codes", picture=digit(), changes=f"2, 3, {code}\n\n".rstrip())
    changed = own.clone()
    changed[0, 2, 3] = code
    assert table.rows[2][4] == code and table.caption == "Codes, after 1 changes"
    assert torch.allclose(shown.images[1:], model.decode(torch.cat([own, changed])), atol=1e-6)


LINES = ["4, 0, 1", "0, 4, 1", "0, 0, 12", "0, 0", "a, b, c", "0, 0, -1", "1e1, 0, 0", "²,0,0", "0 0 " + "9" * 1900]


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[:9])
def test_wrong_codes_are_a_line(line, entries):
    (note,) = ask(entries("vqvae"), "Codes", picture=digit(), changes=line)
    assert note.wrong and "from 0 to 3 and a code from 0 to 11" in note.text


def test_scores(entries):
    model = entries("autoregressive").model
    pictures, table = ask(entries("autoregressive"), "Score", picture=digit())
    log_prob = model.log_prob(digit().round()[None]).item()
    assert table.rows[0][1] == pytest.approx(log_prob, rel=1e-6)
    assert table.rows[1][1] == pytest.approx(model.bits_per_dim(digit().round()[None]).item(), rel=1e-6)
    _, chance, surprise = pictures.images
    right = torch.where(digit().round() == 1, chance, 1 - chance)
    assert torch.allclose(surprise, 1 - right, atol=1e-6) and right.log().sum().item() == pytest.approx(
        log_prob, rel=1e-4
    )
    (table,) = ask(entries("flow"), "Score", picture=digit())
    with torch.no_grad():
        drawn = {"num_importance_samples": 16, "generator": seeded(0)}
        expected = entries("flow").model.log_prob(digit()[None], **drawn).item()
    assert table.rows[0] == ["bound on log p, 16 draws, nats", pytest.approx(expected, rel=1e-5)]


def test_the_classes_of_a_flow_are_scored_with_the_same_noise():
    torch.manual_seed(0)
    shape = {"image_size": 28, "num_channels": 1, "hidden_size": 4, "num_steps": 1, "num_hidden_layers": 1}
    model = FlowModel(FlowConfig(**shape, num_classes=3)).eval()
    entry = Entry("x", "x", family_of(model), model)
    _, bars = ask(entry, "Score", picture=digit())
    assert list(bars.values.values()) == pytest.approx([1 / 3] * 3, abs=1e-5)  # new: it heeds no class yet
    with torch.no_grad():
        model.mean += torch.tensor([[0.0], [1e-3], [2e-3]])
    table, bars = ask(entry, "Score", picture=digit())
    noise = torch.rand(16, 1, 1, 28, 28, generator=seeded(0))
    with torch.no_grad():
        each = [
            model.log_prob(digit()[None], torch.tensor([label]), noise=noise, num_importance_samples=16)
            for label in range(3)
        ]
    each = torch.cat(each)
    shares = each.softmax(0).tolist()
    assert len({round(share, 2) for share in shares}) == 3
    assert list(bars.values.values()) == pytest.approx(shares, abs=1e-2)
    assert table.rows[0][1] == pytest.approx(each.logsumexp(0).item() - math.log(3), abs=0.05)


def test_a_picture_in_colour_becomes_as_bright_as_it_looks():
    Image.new("RGB", (28, 28), (255, 0, 0)).save(file := io.BytesIO(), "PNG")
    pixels = Picture("p", "Picture", 1, 28).decode(file.getvalue())
    assert (255 * pixels).unique().tolist() == [76]  # ITU-R 601-2: 0.299 of red


def test_the_way_to_a_latent_and_back(entries):
    film, pictures, table = ask(entries("flow"), "Inverse", picture=digit())
    assert torch.equal(film.frames[film.names.index("1")][0].images[0], digit())
    assert table.rows[1][1] == 0 and torch.equal(pictures.images[0], digit())


def test_the_classes_of_a_picture(entries):
    (bars,) = ask(entries("classifier"), "Classify", picture=digit())
    with torch.no_grad():
        shares = entries("classifier").model(pixel_values=digit()[None]).logits[0].softmax(-1)
    assert list(bars.values.values()) == pytest.approx(shares.tolist())
    assert sum(bars.values.values()) == pytest.approx(1) and "LABEL_3" in bars.values


def test_the_discriminator_tells_its_logit(entries):
    (table,) = ask(entries("gan"), "Discriminate", picture=digit(), label="2")
    with torch.no_grad():
        expected = entries("gan").model.discriminate(digit()[None], torch.tensor([2])).item()
    assert table.rows[0][1] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", sorted(RUN))
@pytest.mark.parametrize("measure", ["cosine", "distance"])
def test_the_nearest_training_images(name, measure, entries):
    entry, train = entries(name), data.load_images("digits").train
    (found,) = ask(entry, "Nearest", picture=digit(17), num=3, measure=measure)
    with torch.no_grad():
        give = entry.model.features if name == "classifier" else lambda images: entry.model.encode(images)[0]
        own, others = give(digit(17)[None]), give(train.pixel_values())
    if measure == "cosine":
        order = F.cosine_similarity(own, others).argsort(descending=True)
    else:
        order = (own - others).norm(dim=1).argsort()
    assert order[0] == 17 and torch.equal(found.images[1], digit(17))
    assert found.captions[1].startswith(f"{train.class_names[train.labels[17]]}: ")
    assert torch.equal(found.images[2:], train.pixel_values(order[1:3]))


@pytest.mark.parametrize("place", ["run", "run/.final"])
def test_training_images_are_found_from_any_folder(place, tmp_path, monkeypatch):
    """Paths in a preset begin in the folder of its run, also while its final files are on their way."""
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    for index in range(5):
        Image.new("L", (28, 28), 40 * index).save(tmp_path / "pets" / "cat" / f"{index}.png")
    make("vae", tmp_path / place)
    (tmp_path / place / "preset.yaml").write_text("dataset_name: ../pets\n")
    monkeypatch.chdir(tmp_path)
    images, names = load_entry("run", "mine").training_images
    assert images.shape == (4, 1, 28, 28) and names == ["cat"] * 4


def test_training_images_are_of_all_classes(entries, monkeypatch):
    entry = load_entry(entries("vae").name, "few")
    monkeypatch.setattr("hwzoo.page.entries.MOST_TRAINING_IMAGES", 50)
    train = data.load_images("digits").train
    images, names = entry.training_images
    assert torch.equal(images, train.spread(50).pixel_values()) and len(images) == 50 and len(set(names)) == 10


def test_training_images_that_are_gone_are_told_without_their_folder(tmp_path, caplog):
    make("vae", tmp_path / "run")
    (tmp_path / "run" / "preset.yaml").write_text(f"dataset_name: {tmp_path}/private\n")
    entry = load_entry(str(tmp_path / "run"), "mine")
    (note,) = ask(entry, "Nearest", picture=digit())
    assert note.wrong and note.text == "the training images are not at hand"
    assert f"{tmp_path}/private" in caplog.text


def test_a_preset_from_the_hub_opens_no_folder_of_the_host(entries, tmp_path, monkeypatch):
    (tmp_path / "private" / "cat").mkdir(parents=True)
    for index in range(5):
        Image.new("L", (28, 28), 40 * index).save(tmp_path / "private" / "cat" / f"{index}.png")
    model = entries("vae").model
    entry = Entry("them/vae", "vae", family_of(model), model)
    monkeypatch.setattr(Entry, "settings", {"dataset_name": str(tmp_path / "private"), "image_size": 10**6})
    assert not entry.knows_data and "Nearest" not in [each.title for each in controls_of(entry)]
    monkeypatch.setattr(Entry, "settings", {"dataset_name": "digits", "data_dir": "/", "image_size": 10**6})
    assert "Nearest" in [each.title for each in controls_of(entry)]
    assert entry.training_images[0].shape == (1500, 1, 28, 28)


@pytest.mark.parametrize("words", ["dataset_name: 2001-99-99", "x: " + 1000 * "[", "dataset_name: !!timestamp x"])
def test_a_preset_that_cannot_be_read_costs_its_images_alone(words, tmp_path):
    make("vae", tmp_path / "run")
    (tmp_path / "run" / "preset.yaml").write_text(words)
    entry = load_entry(str(tmp_path / "run"), "odd")
    assert entry.error is None and entry.settings == {}
    assert [each.title for each in controls_of(entry)] == [each for each in OFFERED["vae"] if each != "Nearest"]


# Words


@pytest.mark.parametrize("name", TEXTS)
def test_greedy_words_are_those_of_generate(name, entries):
    entry = entries(name)
    answers = ask(entry, "Write", prompt="the plural of ox:", num=6)
    tokenizer, seq2seq = entry.tokenizer, entry.config.is_encoder_decoder
    ids = tokenizer("the plural of ox:", return_tensors="pt").input_ids
    ids = ids if seq2seq else ids[:, :-1]  # without the end token
    out = entry.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False)
    expected = tokenizer.decode(out[0] if seq2seq else out[0, ids.shape[1] :], skip_special_tokens=True)
    assert answers[0].text == expected
    assert len(answers) == (2 if name == "prompt" else 1)


@pytest.mark.parametrize(
    "asked",
    [
        {"num_return_sequences": 2},
        {"return_dict_in_generate": True},
        {"stop_strings": ["a"]},
        {"no_repeat_ngram_size": 1},
    ],
    ids=lambda asked: next(iter(asked)),
)
@pytest.mark.parametrize("way", ["greedy", "drawn"])
@pytest.mark.parametrize("name", ["t5", "gpt2"])
def test_what_a_model_asks_for_itself_is_no_part_of_its_words(name, way, asked, entries, monkeypatch):
    entry = entries(name)
    ids = {key: value for key, value in entry.model.generation_config.to_dict().items() if key.endswith("token_id")}
    written = []
    for settings in ({}, {"do_sample": True} | asked):
        monkeypatch.setattr(entry.model, "generation_config", GenerationConfig(**ids | settings))
        written += [each.text for each in ask(entry, "Write", prompt="dog ->", way=way, num=6)]
    assert written[0] == written[1]


@pytest.mark.parametrize("method", text.PEFT_METHODS)
def test_examples_and_the_adapter_are_shown_side_by_side(method, entries):
    answers = ask(entries(method), "Write", prompt="dog ->", shots="ox -> oxen\ncat -> cats", num=4)
    assert [each.title for each in answers] == [
        f"{who} its {method} adapter, {how} examples" for who in ("with", "without") for how in ("with", "without")
    ]
    base = ask(entries("t5"), "Write", prompt="dog ->", shots="ox -> oxen\ncat -> cats", num=4)
    assert [each.text for each in answers[2:]] == [each.text for each in base]
    assert len({each.text for each in answers}) == 4 and all(each.text for each in base)


def test_words_come_back_through_a_latent(entries):
    entry = entries("textvae")
    (short,) = ask(entry, "Reconstruct words", text="cat")
    (long,) = ask(entry, "Reconstruct words", text="a longer text than it takes")
    (cut,) = ask(entry, "Reconstruct words", text="a longe")  # 7 bytes and the end
    with torch.no_grad():
        expected = entry.words(entry.model.reconstruct(entry.tokenizer("cat", return_tensors="pt").input_ids))
    assert [short.text] == expected and long.text == cut.text
    assert [each.title for each in (short, long)] == ["reconstruction", "reconstruction of its first 8 tokens"]
    (spelled,) = ask(entry, "Reconstruct words", text="<pad>")  # five letters, as in training
    with torch.no_grad():
        letters = torch.tensor([[*(3 + byte for byte in b"<pad>"), 1]])
        assert [spelled.text] == entry.words(entry.model.reconstruct(letters))
    config = TextVAEConfig(vocab_size=8, max_tokens=4, hidden_size=4, latent_size=0)
    language_model = Entry("x", "x", entry.family, TextVAEModel(config), entry.tokenizer)
    assert "Reconstruct words" not in [each.title for each in controls_of(language_model)]


def test_drawn_words_follow_the_seed_and_the_distribution(entries):
    def written(**given):
        return ask(entries("gpt2"), "Write", prompt="a", num=12, way="drawn", **given)[0].text

    assert written(seed=1) == written(seed=1)
    assert len({written(seed=seed) for seed in range(4)}) == 4
    assert written(seed=1, top_k=1) == ask(entries("gpt2"), "Write", prompt="a", num=12)[0].text
    before = torch.get_rng_state()
    written(seed=2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["t5", "gpt2"])
def test_the_next_token(name, entries):
    entry = entries(name)
    changed, own = ask(entry, "Next token", prompt="ab", temperature=0.5, top_k=3, top_p=1.0, num=5)
    ids = entry.tokenizer("ab", return_tensors="pt").input_ids
    with torch.no_grad():
        if name == "t5":
            logits = entry.model(input_ids=ids, decoder_input_ids=torch.tensor([[0]])).logits[0, -1]
        else:
            logits = entry.model(input_ids=ids[:, :-1]).logits[0, -1]
    assert list(own.values.values()) == pytest.approx(logits.softmax(-1).topk(5).values.tolist(), rel=1e-4)
    assert list(changed.values.values()) == pytest.approx((2 * logits.topk(3).values).softmax(-1).tolist(), rel=1e-4)


def test_scores_of_words_are_calibrated(entries):
    given = {"text": "nice", "template": "{text} is", "labels": "good\nbad\ngood"}
    bars, table = ask(entries("t5"), "Score words", **given)
    assert [row[0] for row in table.rows] == ["good", "bad"] and sum(bars.values.values()) == pytest.approx(1)
    entry = entries("t5")
    for row in table.rows:
        ids = entry.tokenizer("nice is", return_tensors="pt").input_ids
        labels = entry.tokenizer(row[0], return_tensors="pt").input_ids
        with torch.no_grad():
            loss = entry.model(input_ids=ids, labels=labels).loss
        assert row[4] == pytest.approx(-loss.item() * labels.numel(), rel=1e-4)
    (note,) = ask(entries("t5"), "Score words", **given | {"labels": "one"})
    assert note.wrong and "2 to 20" in note.text
    (note,) = ask(entries("t5"), "Score words", **given | {"template": "{text.__class__}"})
    assert note.wrong and "{text}" in note.text


# Continual learning


def test_accuracies_over_tasks(entries):
    film, table = ask(entries("classifier"), "Tasks")
    assert [frame[0].values for frame in film.frames] == [
        {"task 1": 0.9, "task 2": 0.5}, {"task 1": 0.6, "task 2": 0.8},
    ]  # fmt: skip
    assert table.rows == [["after task 1", "90.0", "50.0"], ["after task 2", "60.0", "80.0"]]


def test_tasks_that_were_learned_at_once_are_told_so(entries, monkeypatch):
    monkeypatch.setitem(entries("classifier").results, "accuracy_matrix", [[0.9, 0.5]])
    film, table = ask(entries("classifier"), "Tasks")
    assert film.names == ["all tasks"] and table.rows == [["after all tasks", "90.0", "50.0"]]
    assert film.frames[0][0].caption == "Accuracy after all tasks"


def test_the_runs_of_a_comparison_and_the_slider_over_a_strength(entries):
    film, forgotten, numbers = ask(entries("comparison"), "Runs")
    assert film.label == "ewc_lambda (strategy=ewc)" and film.names == ["10", "1000"]  # by size, not as words
    assert [frame[0].values["task 1"] for frame in film.frames] == [0.6, 0.7]
    assert forgotten.rows[0] == ["naive", "50.0", "90.0"]
    assert numbers.rows[1] == ["ewc 1e3", "0.7 ± 0.01"]


def test_numbers_that_only_some_runs_have_are_shown(entries):
    first, *others = entries("comparison").comparison
    others = [row | {"forgetting": {"mean": 0.25}, "protocol": "Q"} for row in others]
    table = ask(Entry("x", "x", comparison=[first | {"protocol": "P"}, *others]), "Runs")[-1]
    assert table.head == ["run", "average accuracy", "forgetting"]
    assert [row[2] for row in table.rows] == ["-", "0.25", "0.25"]
    assert table.caption == "naive: P. ewc 1e3, ewc 10: Q."


# Several models


def test_a_comparison_draws_each_with_the_same_seed(entries):
    several = [entries(name) for name in ("vae", "gan")]
    inputs = [Choice("models", "Models", ("vae", "gan"), ("vae", "gan"))]
    inputs += [Number("num", "n", 1, 8, 4), Number("seed", "s", 0, 9, 0)]
    answers = app.compare(several, inputs, [["gan", "vae"], 2, 5], Job(SECONDS))
    assert [each.text for each in answers[::2]] == ["vae", "gan"]
    for entry, pictures in zip(several, answers[1::2], strict=True):
        assert torch.equal(pictures.images, entry.model.sample(2, generator=seeded(5)))
    broken = Entry("x", "gan", Family("x"), object())
    answers = app.compare([several[0], broken], inputs, [["gan", "vae"], 2, 5], Job(SECONDS))
    assert len(answers) == 3 and answers[2].wrong and answers[2].text.startswith("gan: ")


# Bounds


WRONG = [
    (Number("n", "How many", 1, 64, 8), [0, 65, 1e9, -1, 2.5, float("nan"), float("inf"), "8", None, [8], {}]),
    (Number("t", "Temperature", 0.1, 2, 1, 0.05), [0, 2.01, float("nan"), "1", None, 10**400]),
    (Choice("c", "Class", ("any", "0"), "any"), ["1", 0, None, ["any"], "../0"]),
    (Choice("m", "Models", ("a", "b"), ("a",)), ["c", [], ["a", "c"], [["a"]], None]),
    (Words("w", "Prompt", longest=5), ["123456", 5, ["a"], "\ud800", "\0"]),
    (
        Picture("p", "Picture", 1, 28),
        [None, "", 3, "data:image/png;base64,%%", "data:image/png;base64,AAAA", "file:///etc/hostname", "../x.png",
         "http://127.0.0.1/x.png", {"path": "/etc/hostname"}, "data:image/svg+xml;base64,AAAA"],
    ),
]  # fmt: skip


@pytest.mark.parametrize("given, values", WRONG, ids=lambda each: getattr(each, "label", ""))
def test_what_is_out_of_bounds_is_refused_with_what_is_allowed(given, values):
    for value in values:
        with pytest.raises(UsageError, match=given.label):
            given.check(value)


def test_every_input_takes_its_own_value(entries):
    for name in OFFERED:
        for each in controls_of(entries(name)):
            for given in each.inputs(entries(name)):
                if not isinstance(given, Picture):
                    given.check(list(given.value) if isinstance(given.value, tuple) else given.value)


def test_a_call_that_asks_for_too_much_is_a_line(entries):
    (note,) = ask(entries("vae"), "Draw", num=65)
    assert note == Note("How many must be a whole number from 1 to 64", wrong=True)


def bomb(width: int, height: int) -> bytes:
    """A small file of many pixels."""
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()


def test_uploads_are_decoded_within_limits():
    board = Picture("p", "Picture", 1, 28)
    file = io.BytesIO()
    Image.new("RGB", (100, 50), (255, 0, 0)).save(file, "JPEG")
    assert board.decode(file.getvalue()).shape == (1, 1, 28, 28)
    assert board.decode(png(digit())).equal(digit()[None])  # nothing is lost
    assert Picture("p", "Picture", 3, 28).decode(png(digit())).equal(digit().expand(3, -1, -1)[None])
    with pytest.raises(UsageError, match="too many"):
        board.decode(bomb(8192, 4096))
    with pytest.raises(UsageError, match="at most 4 MB"):
        board.decode(b"\0" * (MOST_BYTES + 1))
    for wrong in (b"", b"GIF89a", png(digit())[:60], b"%!PS-Adobe-3.0 EPSF-3.0\n", b"<svg/>"):
        with pytest.raises(UsageError, match="no PNG|damaged"):
            board.decode(wrong)
    with pytest.raises(UsageError, match="28 x 28"):
        board.check(data_uri(png(torch.zeros(1, 27, 28))))


# Seconds, cancelling, several at once


def test_a_call_ends_when_its_seconds_are_over():
    entry, told = Entry("slow", "slow", Family("slow"), Slow()), []
    start = time.monotonic()
    job = Job(0.7, lambda share, words: told.append((share, words)))
    (note,) = answer(entry, control(entry, "Draw"), [2, 0], job)
    assert note.wrong and "stopped after 0.7 seconds" in note.text
    assert time.monotonic() - start < 5 and 1 < entry.model.steps < 2000
    assert told and all(0 <= share <= 1.5 and "at most 0.7 seconds" in words for share, words in told)
    assert not entry.lock.locked()


def test_a_call_is_cancelled_by_its_visitor_alone(entries):
    entry, jobs, seen = Entry("slow", "slow", Family("slow"), Slow()), app.Jobs(), []

    def call(visitor):
        job = Job(SECONDS)
        with jobs.running(visitor, "draw", job):
            seen.append((visitor, answer(entry, control(entry, "Draw"), [1, 0], job)))

    threads = [threading.Thread(target=call, args=(visitor,)) for visitor in ("one", "two")]
    for thread in threads:
        thread.start()
    while len(jobs) < 2 or not entry.model.steps:
        time.sleep(0.01)
    jobs.cancel("nobody", "draw")
    jobs.cancel("one", "another")
    assert all(thread.is_alive() for thread in threads)
    for place, visitor in enumerate(("one", "two")):  # whether it computes or waits
        jobs.cancel(visitor, "draw")
        threads[place].join(10)
        assert seen[place] == (visitor, [Note("cancelled", wrong=True)])
    assert len(jobs) == 0 and not entry.lock.locked()


@pytest.mark.long
def test_visitors_at_once_get_what_they_would_get_alone(entries):
    """Each call has its own generator; torch's global one is not touched."""
    names, found = ["vae", "gan", "autoregressive"], {}

    def visit(seed):
        for name in random.Random(seed).sample(names, 3):
            found[name, seed] = ask(entries(name), "Draw", num=2, seed=seed)[0].images

    for name in names:
        entries(name)  # the first time they are made, by torch's generator
    before = torch.get_rng_state()
    threads = [threading.Thread(target=visit, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(torch.get_rng_state(), before)
    assert len(found) == 18
    for (name, seed), images in found.items():
        assert torch.equal(images, entries(name).model.sample(2, generator=seeded(seed)))


def test_a_model_that_fails_is_a_line_without_what_it_says():
    class Broken(Slow):
        def sample(self, *args, **kwargs):
            raise RuntimeError("/home/somebody/secret")

    entry = Entry("x", "x", Family("x"), Broken())
    (note,) = ask(entry, "Draw")
    assert note == Note("x fails at this: RuntimeError", wrong=True) and not entry.lock.locked()


# Tabs


def test_a_folder_that_cannot_be_loaded_says_why(tmp_path):
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "config.json").write_text("{")
    make("vae", tmp_path / "vae")
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "comparison.json").write_text("[")
    names = [str(tmp_path / name) for name in ("cut", "vae", "nothing", "rows")]
    entries = page.load_entries(names)
    assert [bool(each.error) for each in entries] == [True, False, True, True]
    assert "config.json is not valid JSON" in entries[0].error and str(tmp_path / "nothing") in entries[2].error
    assert [controls_of(each) for each in entries if each.error] == [[], [], []]
    assert all("\n" not in each.error for each in entries if each.error)


def test_a_model_that_cannot_be_loaded_is_told_with_the_flag_of_the_page(tmp_path):
    for kind in text.ARCHITECTURES:
        text.new_base(kind, 16, 1)[0].save_pretrained(tmp_path / kind)
        assert load_entry(str(tmp_path / kind), "x").error == f"--models {tmp_path / kind} has no tokenizer"
    make("lora", tmp_path / "lora")
    shutil.rmtree(tmp_path / "t5")
    error = load_entry(str(tmp_path / "lora"), "x").error
    assert error.startswith(f"--models {tmp_path / 'lora'} is an adapter whose base cannot be loaded: ")


def test_titles_differ(tmp_path):
    for name in ("a/vae", "b/vae"):
        (tmp_path / name).mkdir(parents=True)
    names = [str(tmp_path / "a/vae"), str(tmp_path / "b/vae"), "you/vae", "you/gan"]
    assert [each.title for each in page.load_entries(names)] == ["vae", "vae (2)", "vae (3)", "gan"]
    names = ["you/vae (3)", "you/vae", "me/vae", "us/vae"]  # the first as a copy of a folder is called
    assert [each.title for each in page.load_entries(names)] == ["vae (3)", "vae", "vae (2)", "vae (4)"]


@pytest.mark.parametrize("num", [1, 199, 200, 201, 250, 999])
def test_a_curve_is_thinned_to_its_end(tmp_path, num):
    lines = [json.dumps({"step": 50 * line, "loss": 1 / line}) for line in range(1, num + 1)]
    (tmp_path / "history.jsonl").write_text("\n".join(lines))
    (tmp_path / "samples.png").write_bytes(bytes(2**21))
    (tmp_path / "README.md").write_text("![samples](samples.png)")
    curves, file = app.about(Entry(str(tmp_path), "x"))
    assert len(curves.points["loss"]) <= 200 and curves.points["loss"][-1] == (50 * num, 1 / num)
    assert file.name == "samples.png"


def test_what_a_folder_tells(entries, tmp_path):
    table, protocol, curves, file = app.about(entries("vae"))
    assert table.rows == [["test score", 1.5]] and protocol.text == "Protocol: none"
    assert curves.points == {"loss": [(line, 5.0 / line) for line in range(1, 6)]}
    assert 'points="0.0,0.0 75.0,62.5' in curves.html() and "loss from 5 at step 1 to 1 at step 5" in curves.html()
    assert file.name == "curves.png" and file.data.startswith(b"\x89PNG")
    assert entries("vae").card.strip() == "# A card\n\n\nIts words."
    assert app.about(entries("gan"))[0].rows == [["test score", 1.5]]
    assert app.about(Entry(str(tmp_path), "x")) == [Note("The folder tells nothing of the run.")]
    (tmp_path / "history.jsonl").write_text('{"step": 1, "x": NaN}\n[]\n{')
    (tmp_path / "all_results.json").write_text("[1]")
    (tmp_path / "preset.yaml").write_text("a: [")
    odd = Entry(str(tmp_path), "x")
    assert app.about(odd) == [Note("The folder tells nothing of the run.")] and odd.settings == {}


def test_numbers_that_no_float_holds_are_in_no_curve(tmp_path):
    large = str(10**400)
    losses = {"1": large, "2": "0.5", "3": "Infinity", "4": "-Infinity", "5": "NaN", "6": f"-{large}", large: "0.5"}
    lines = [f'{{"step": {step}, "loss": {loss}}}' for step, loss in losses.items()]
    (tmp_path / "history.jsonl").write_text("\n".join(lines))
    (tmp_path / "all_results.json").write_text(f'{{"score": {large}}}')
    table, curves = app.about(Entry(str(tmp_path), "x"))
    assert curves.points == {"loss": [(2, 0.5)]} and table.rows == [["score", 10**400]]
    assert large in to_html([table, curves])


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_head_of_a_card_is_not_shown(end, tmp_path):
    lines = ["---", "license: mit", "---", "# A card", "---", "Its words.", "---", ""]
    (tmp_path / "README.md").write_bytes(end.join(lines).encode())
    assert Entry(str(tmp_path), "x").card == end.join(lines[3:])


def test_a_card_cannot_name_a_file_outside(tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "README.md").write_text("![a](../secret.png) ![b](/etc/x.png) ![c](http://x/y.png)")
    assert Entry(str(tmp_path / "run"), "run").pictures == {}


# HTML


def test_pictures_are_png_with_every_level_kept():
    levels = torch.arange(256).view(1, 16, 16) / 255
    assert torch.equal(shown(levels).flatten(), torch.arange(256, dtype=torch.uint8))
    html = Pictures(levels[None], ["it's <b>"]).html()
    data = base64.b64decode(html.split("data:image/png;base64,")[1].split('"')[0])
    assert data == png(levels) and 'width="224" height="224"' in html and 'class="hard"' in html
    assert "<b>" not in html and "it&#x27;s &lt;b&gt;" in html
    assert 'width="256"' in Pictures(torch.zeros(1, 3, 32, 32), ["x"]).html()  # 8 times


@pytest.mark.parametrize(
    "answer",
    [
        Table(["<i>"], [["<i>"]], "<i>"), Bars({"<i>": 0.5}, "<i>"), Text("<i>", "<i>"), Note("<i>"),
        Film([[Note("<i>")]], ["<i>"], "<i>"),
    ],
    ids=lambda each: type(each).__name__,
)  # fmt: skip
def test_words_are_never_markup(answer):
    assert "<i>" not in to_html([answer]) and "&lt;i&gt;" in to_html([answer])


def test_a_bar_is_as_long_as_its_number():
    html = Bars({"a": 0.25, "b": 0.75}, "x").html()
    assert html.index("width: 75.0%") < html.index("width: 25.0%")  # the largest first


def test_results_of_strangers_do_not_break_the_tab(tmp_path):
    (tmp_path / "comparison.json").write_text(json.dumps([{"label": "a"}, {"label": "b", "flags": {"x": "1"}}, 3]))
    entry = load_entry(str(tmp_path), "x")
    assert isinstance(ask(entry, "Runs")[-1], Table)
