"""The scores of all that makes images: zoo models, diffusers' pipelines and folders; and what it refuses."""

import json
import os
import re
from dataclasses import fields, replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
import warm
import yaml
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageColumn
from loopback_hub import LoopbackHub
from PIL import Image
from recipe_runs import captions_in, load_recipe, save_classifier, tiles_of
from transformers import ResNetConfig, ResNetForImageClassification

from hwzoo import (
    ClassifierConfig,
    ClassifierForImageClassification,
    PipelineFamily,
    VAEConfig,
    VAEModel,
    diffusion,
    generators,
    hub,
    scoring,
)
from hwzoo.data import ImageOptions, ImageSet, ImageSplits, load_images
from hwzoo.errors import UsageError
from hwzoo.training import parse_arguments

SCORES = {
    "test_fid", "test_fid_floor", "test_precision", "test_recall", "test_class_histogram", "test_label_entropy",
    "test_classes_covered",
}  # fmt: skip


@pytest.fixture
def recipe():
    return load_recipe("evaluate_generator")


def save_vae(folder, **changes):
    torch.manual_seed(0)
    config = {"encoder_hidden_sizes": [8], "decoder_hidden_sizes": [8], "latent_size": 2}
    hub.save(VAEModel(VAEConfig(**config | changes)), folder)
    return str(folder)


def save_pipeline(folder, image_size=28, steps=3, channels=1, scheduler="DDPMScheduler"):
    import diffusers
    from diffusers import DDPMPipeline, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=image_size,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=(4, 4),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=2,
        attention_head_dim=2,
    )
    DDPMPipeline(unet, getattr(diffusers, scheduler)(num_train_timesteps=steps)).save_pretrained(folder)
    return str(folder)


def save_images(folder, images, mode="L"):
    """uint8 images, (num, channels, height, width), as PNG files of one folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        Image.fromarray(image[0].numpy()).convert(mode).save(folder / f"{index:05}.png")
    return str(folder)


@pytest.fixture
def evaluate(recipe, tmp_path):
    """Evaluates on the digits with a tiny classifier, in a folder of its own; gives the results."""

    def run(model, folder="scores", **settings):
        if "classifier" not in settings:
            settings["classifier"] = save_classifier(tmp_path / "classifier")
        settings = {"dataset_name": "digits", "output_dir": str(tmp_path / folder), **settings}
        return recipe.main(recipe.Settings(model_name_or_path=model, **settings))

    return run


def test_a_model_of_the_zoo(evaluate, tmp_path, capsys):
    vae = save_vae(tmp_path / "vae")
    results = evaluate(vae, num_samples=60, seed=3, eval_batch_size=25)
    assert json.loads((tmp_path / "scores" / "scores.json").read_text()) == results
    assert SCORES <= results.keys() and "test_inception_fid" not in results
    weights = sha256((tmp_path / "classifier" / "model.safetensors").read_bytes()).hexdigest()
    assert results["classifier_sha256"] == weights
    for part in (
        f"digits: 60 samples of {vae} (VAEModel in eval mode: BatchNorm", "seed 3, against all 297 test images",
        "k = 3", "8 features of the classifier", weights, "only under the same classifier and the same number",
        "the FID of 60 training images, drawn with seed 0",
    ):  # fmt: skip
        assert part in results["protocol"], part
    assert "singular" not in results["protocol"]
    assert len(tiles_of(tmp_path / "scores" / "samples.png", 20)) == 60
    (caption,) = captions_in(tmp_path / "scores").values()
    assert caption.startswith(f"60 of 60 samples; {vae}") and caption.endswith("seed 3")
    printed = capsys.readouterr().out
    assert re.search(r"test_fid_floor \d+\.\d{4}\n", printed) and results["protocol"] in printed
    assert re.search(rf"share of 7 {results['test_class_histogram'][7]:.4f}\n", printed)

    # The same again, and other samples from another seed.
    assert evaluate(vae, "again", num_samples=60, seed=3, eval_batch_size=25) == results
    other = evaluate(vae, "other", num_samples=60, seed=4, eval_batch_size=25)
    assert other["test_fid"] != results["test_fid"] and other["test_fid_floor"] == results["test_fid_floor"]


def test_without_a_number_of_samples_there_are_as_many_as_the_help_says(recipe, evaluate, monkeypatch, tmp_path):
    (told,) = (each.metadata["help"] for each in fields(recipe.Settings) if each.name == "num_samples")
    assert told.startswith("samples; 10,000, or as many") and recipe.MOST_SAMPLES == 10_000
    monkeypatch.setattr(recipe, "MOST_SAMPLES", 40)
    assert evaluate(save_vae(tmp_path / "vae"))["num_samples"] == 40


def test_the_training_images_of_the_floor_score_as_the_floor(recipe, evaluate, tmp_path):
    data = load_images("digits")
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(scoring.FLOOR_SEED))
    images = save_images(tmp_path / "images", data.train.images[order[:300]])
    results = evaluate(images)
    assert results["num_samples"] == 300
    assert results["test_fid"] == pytest.approx(results["test_fid_floor"], rel=1e-6)
    assert results["test_precision"] > 0.5 and results["test_recall"] > 0.5
    assert f"300 samples of 300 images in {images} (transparency, if any, over white), seed 0" in results["protocol"]


def test_the_test_images_themselves_score_best(evaluate, tmp_path):
    data = load_images("digits")
    # In folders by class, and more of them than samples: these are spread over all.
    for label in range(10):
        save_images(tmp_path / "images" / str(label), data.test.images[data.test.labels == label], mode="1")
        save_images(tmp_path / "images" / str(label), data.test.images[data.test.labels == label])
    results = evaluate(str(tmp_path / "images"))
    assert results["num_samples"] == 297
    assert results["test_fid"] < 1e-4 < results["test_fid_floor"]
    assert results["test_precision"] == results["test_recall"] == 1
    fewer = evaluate(str(tmp_path / "images"), "fewer", num_samples=100)
    assert fewer["num_samples"] == 100 and fewer["test_precision"] == 1
    histograms = [np.array(each["test_class_histogram"]) for each in (results, fewer)]
    assert np.abs(histograms[0] - histograms[1]).max() < 0.05


def test_a_pipeline_of_colour_pictures_with_its_own_scheduler(evaluate, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    for index, image in enumerate(pixels):
        folder = tmp_path / "data" / ("train" if index < 40 else "test") / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{index}.png")
    classifier = save_classifier(tmp_path / "rgb", image_size=16, num_channels=3, num_labels=2)
    pipeline = save_pipeline(tmp_path / "euler", 16, 100, channels=3, scheduler="EulerDiscreteScheduler")
    data = {"dataset_name": str(tmp_path / "data"), "classifier": classifier}
    results = evaluate(pipeline, num_samples=20, num_inference_steps=4, **data)
    assert "(ClassConditionalPipeline, EulerDiscreteScheduler with 4 steps; eval mode), seed 0" in results["protocol"]
    other = evaluate(pipeline, "ddim", num_samples=20, num_inference_steps=4, scheduler="ddim", **data)
    assert "ddim with 4 steps" in other["protocol"] and other["test_fid"] != results["test_fid"]


def test_a_solver_that_has_one_step_fewer_takes_them_unasked(evaluate, tmp_path):
    pipeline = save_pipeline(tmp_path / "solver", steps=5, scheduler="DPMSolverMultistepScheduler")
    results = evaluate(pipeline, num_samples=9)
    assert "DPMSolverMultistepScheduler with 4 steps" in results["protocol"]


def test_a_fast_sampler_takes_few_steps_unasked(evaluate, tmp_path):
    """As in sample.py: all that the model was trained with would take hours, and are for DDPM."""
    pipeline = save_pipeline(tmp_path / "ddpm", steps=30)
    for scheduler, steps in ((None, 30), ("ddpm", 30), ("unipc", 25)):
        results = evaluate(pipeline, f"by-{scheduler}", num_samples=4, scheduler=scheduler)
        assert f"{scheduler or 'DDPMScheduler'} with {steps} steps" in results["protocol"]


def test_a_pipeline_of_diffusers(evaluate, tmp_path):
    pipeline = save_pipeline(tmp_path / "ddpm")
    results = evaluate(pipeline, num_samples=9, eval_batch_size=5)
    assert SCORES <= results.keys()
    # Its own default of 1,000 steps is more than it was trained with.
    assert f"{pipeline} (DDPMPipeline, DDPMScheduler with 3 steps; eval mode), seed 0" in results["protocol"]
    assert evaluate(pipeline, "again", num_samples=9, eval_batch_size=5)["test_fid"] == results["test_fid"]
    fewer = evaluate(pipeline, "fewer", num_samples=9, num_inference_steps=1)
    assert "with 1 steps" in fewer["protocol"] and fewer["test_fid"] != results["test_fid"]


def test_guidance_reaches_the_pipeline(evaluate, tmp_path):
    architecture = {"block_out_channels": [8, 8], "norm_num_groups": 4, "attention": False, "num_classes": 3}
    torch.manual_seed(0)
    unet, scheduler = diffusion.build_unet(28, 1, **architecture).eval(), diffusion.train_scheduler(30)
    hub.save(diffusion.make_pipeline(unet, scheduler), tmp_path / "ddpm")
    pipeline = str(tmp_path / "ddpm")
    results = evaluate(pipeline, num_samples=9, num_inference_steps=2, guidance_scale=2.0)
    assert "with 2 steps, classes drawn uniformly; eval mode; guidance scale 2.0), seed 0" in results["protocol"]
    model, generator = diffusion.load_pipeline(pipeline), torch.Generator().manual_seed(0)
    call = {"num_inference_steps": 2, "guidance_scale": 2.0}
    images = PipelineFamily("").sample(model, 9, None, generator, **call).mul(255).round().to(torch.uint8)
    of_images = evaluate(save_images(tmp_path / "images", images), "of_images")
    assert of_images["test_fid"] == pytest.approx(results["test_fid"], rel=0.01)
    plain = evaluate(pipeline, "plain", num_samples=9, num_inference_steps=2)
    assert "guidance scale" not in plain["protocol"]
    assert plain["test_fid"] != pytest.approx(results["test_fid"], rel=0.05)


@pytest.mark.parametrize("what", ["pipeline", "vae", "images"])
def test_guidance_of_what_has_no_classes(evaluate, tmp_path, what):
    images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    save = {"pipeline": save_pipeline, "vae": save_vae, "images": partial(save_images, images=images)}[what]
    name = save(tmp_path / "m")
    with pytest.raises(UsageError, match="--guidance_scale is 2.0; .* is no conditional pipeline, give 1"):
        evaluate(name, guidance_scale=2.0, num_samples=4)
    assert not (tmp_path / "scores").exists()


def test_images_that_are_padded_can_be_cut(recipe, evaluate, tmp_path):
    data = load_images("digits")
    padded = torch.nn.functional.pad(data.train.images[:50], (2, 2, 2, 2), value=255)
    cut = evaluate(save_images(tmp_path / "padded", padded), center_crop=True)
    plain = evaluate(save_images(tmp_path / "not_padded", data.train.images[:50]), "plain")
    assert {name: cut[name] for name in SCORES} == {name: plain[name] for name in SCORES}
    assert "their edges cut off" in cut["protocol"] and "cut off" not in plain["protocol"]


def test_a_sampler_of_what_is_no_pipeline_is_refused(evaluate, tmp_path):
    images = save_images(tmp_path / "images", torch.zeros(4, 1, 8, 8, dtype=torch.uint8))
    for model in (save_vae(tmp_path / "vae"), images):
        for asked in ({"scheduler": "ddim"}, {"num_inference_steps": 7}):
            with pytest.raises(UsageError, match=f"--{[*asked][0]} is .*; {model} is no pipeline of diffusers"):
                evaluate(model, num_samples=4, **asked)


def test_fewer_images_than_features_are_told(evaluate, tmp_path):
    classifier = save_classifier(tmp_path / "wide", hidden_sizes=[40])
    results = evaluate(save_vae(tmp_path / "vae"), num_samples=40, classifier=classifier)
    assert "the covariances are singular" in results["protocol"]


def test_a_classifier_in_parts_or_in_another_file_is_known_by_its_weights(evaluate, tmp_path):
    vae, whole = save_vae(tmp_path / "vae"), save_classifier(tmp_path / "whole")
    model = hub.load(ClassifierForImageClassification, whole)
    model.save_pretrained(tmp_path / "parts", max_shard_size="10KB")
    model.config.save_pretrained(tmp_path / "bin")
    torch.save(model.state_dict(), tmp_path / "bin" / "pytorch_model.bin")
    parts = [path.read_bytes() for path in sorted((tmp_path / "parts").glob("*.safetensors"))]
    assert len(parts) > 1
    digests = {
        "whole": sha256((tmp_path / "whole" / "model.safetensors").read_bytes()).hexdigest(),
        "parts": sha256(b"".join(parts)).hexdigest(),
        "bin": scoring.weights_sha256(model),
    }
    scores = {name: evaluate(vae, f"by {name}", num_samples=20, classifier=str(tmp_path / name)) for name in digests}
    assert {name: each["classifier_sha256"] for name, each in scores.items()} == digests
    assert scores["whole"]["test_fid"] == scores["parts"]["test_fid"] == scores["bin"]["test_fid"]


def test_a_classifier_of_no_folder_is_not_taken_for_what_lies_in_the_working_directory(tmp_path, monkeypatch):
    foreign = sha256(Path(save_classifier(tmp_path / "secret_project"), "model.safetensors").read_bytes()).hexdigest()
    monkeypatch.chdir(tmp_path / "secret_project")
    classifier = ClassifierForImageClassification(ClassifierConfig(backbone="mlp", hidden_sizes=[8])).eval()
    assert classifier.name_or_path == ""
    data = load_images("digits")
    scores = scoring.score(data.train.pixel_values(slice(20)), data, classifier, made_by="noise")
    assert scores["classifier"] == "ClassifierForImageClassification, not saved"
    assert scores["classifier_sha256"] == scoring.weights_sha256(classifier) != foreign
    told = f"the classifier ClassifierForImageClassification, not saved (sha256 {scores['classifier_sha256']})"
    assert told in scores["protocol"] and "secret_project" not in json.dumps(scores)


def test_the_classifier_of_the_data_set_is_the_default(recipe, evaluate, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "CLASSIFIERS", tmp_path / "classifiers")
    save_classifier(tmp_path / "classifiers" / "digits")
    vae = save_vae(tmp_path / "vae")
    results = evaluate(vae, num_samples=20, classifier=None)
    assert results["classifier"] == "digits"
    assert "the classifier digits of hwzoo (sha256" in results["protocol"]
    assert str(tmp_path / "classifiers") not in json.dumps(results)


@pytest.mark.parametrize(
    ("preset", "compared"), [("dataset_name: digits\nseed: 1\n", "digits"), ("seed: 1\n", "mnist"), (None, "mnist")]
)
def test_the_data_set_is_the_one_that_the_model_was_trained_on(preset, compared, recipe, tmp_path, monkeypatch):
    vae = save_vae(tmp_path / "vae")
    if preset is not None:
        (tmp_path / "vae" / "preset.yaml").write_text(preset)
    asked = []

    def load(name, data_dir, *options):
        asked.append(name)
        return load_images("digits")

    monkeypatch.setattr(recipe, "load_images", load)
    settings = {"num_samples": 8, "classifier": save_classifier(tmp_path / "classifier")}
    recipe.main(recipe.Settings(model_name_or_path=vae, output_dir=str(tmp_path / "own"), **settings))
    given = {"dataset_name": "fashion_mnist", "output_dir": str(tmp_path / "given")}
    recipe.main(recipe.Settings(model_name_or_path=vae, **given, **settings))
    assert asked == [compared, "fashion_mnist"]


# As from the command line; the data sets library reads the address of the Hub when it is imported.
EVALUATE = """
import json, runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_model_of_the_hub_is_compared_with_the_data_of_its_training(recipe, tmp_path):
    """Read as it was in training: the configuration, the column of the classes and the size that its preset tells."""
    save_vae(tmp_path / "vae", image_size=12)
    preset = {"dataset_name": "me/shapes", "dataset_config": "odds", "label_column": "kind", "image_size": 12}
    (tmp_path / "vae" / "preset.yaml").write_text(yaml.safe_dump({**preset, "seed": 3, "latent_size": 2}))
    rows, generator = {}, np.random.default_rng(0)
    for name, num in (("evens", 12), ("odds", 30)):
        table = Dataset.from_dict(
            {
                "image": [Image.fromarray(each) for each in generator.integers(256, size=(num, 8, 8), dtype=np.uint8)],
                "kind": [index % 2 for index in range(num)],
                "other": [index % 3 for index in range(num)],
            },
            features=Features(image=ImageColumn(), kind=ClassLabel(num_classes=2), other=ClassLabel(num_classes=3)),
        )
        for split, part in (("train", table.select(range(num * 2 // 3))), ("test", table.select(range(num // 3)))):
            part.to_parquet(tmp_path / "part")
            rows[f"{name}/{split}-00000-of-00001.parquet"] = (tmp_path / "part").read_bytes()
    configs = [{"config_name": name, "data_dir": name} for name in ("evens", "odds")]
    rows["README.md"] = f"---\n{yaml.safe_dump({'configs': configs})}---\n".encode()
    classifier = save_classifier(tmp_path / "classifier", image_size=12, num_labels=2)
    with LoopbackHub(token="hf_right") as server:
        server.add_dataset("me/shapes", rows)
        server.add_model("me/vae", {path.name: path.read_bytes() for path in (tmp_path / "vae").iterdir()})
        command = ["-c", EVALUATE, recipe.__file__, "me/vae", f"--classifier={classifier}"]
        environment = os.environ | server.environment(tmp_path / "cache")
        done = warm.run([*command, f"--output_dir={tmp_path / 'scores'}"], env=environment)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert results["dataset"] == "me/shapes" and results["num_samples"] == 20
    assert results["protocol"].startswith("me/shapes (images of 12 x 12, others cut to squares")
    assert "against all 10 test images" in results["protocol"] and len(results["test_class_histogram"]) == 2


@pytest.mark.parametrize(
    ("recorded", "given", "compared"),
    [
        ({"background": "black", "validation_share": 0.25}, {}, ("digits", "black", 0.25)),
        ({"background": "black", "validation_share": 0.25}, {"validation_share": 0.5}, ("digits", "black", 0.5)),
        ({"background": "black"}, {"dataset_name": "mnist"}, ("mnist", "white", 0.0)),
    ],
)
def test_what_is_given_stands_before_what_is_recorded(recorded, given, compared, recipe, tmp_path):
    (tmp_path / "preset.yaml").write_text(yaml.safe_dump({"dataset_name": "digits", **recorded}))
    settings = scoring.with_data_of_training(recipe.Settings(model_name_or_path=str(tmp_path), **given))
    assert (settings.dataset_name, settings.background, settings.validation_share) == compared


def test_what_is_given_stands_though_it_is_the_default(recipe, tmp_path):
    (tmp_path / "preset.yaml").write_text("dataset_name: digits\nbackground: black\nvalidation_share: 0.25\n")
    given = [f"--model_name_or_path={tmp_path}", "--validation_share=0", "--background=white"]
    (asked,) = parse_arguments([recipe.Settings], given)
    settings = scoring.with_data_of_training(asked)
    assert (settings.dataset_name, settings.background, settings.validation_share) == ("digits", "white", 0.0)


def test_the_data_is_read_from_where_the_training_read_it(recipe, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "preset.yaml").write_text("dataset_name: mnist\ndata_dir: ../idx\n")
    asked = recipe.Settings(model_name_or_path=str(tmp_path / "run"))
    assert scoring.with_data_of_training(asked).data_dir is None  # it is no longer there
    (tmp_path / "idx").mkdir()
    assert scoring.with_data_of_training(asked).data_dir == str(tmp_path / "idx")
    assert scoring.with_data_of_training(replace(asked, data_dir="own")).data_dir == "own"


def test_a_batch_of_grey_pictures_is_of_a_folder_in_colour(tmp_path):
    grey, colour = torch.tensor([[0, 51], [102, 204]], dtype=torch.uint8), torch.arange(12, dtype=torch.uint8)
    save_images(tmp_path / "own", grey.expand(3, 1, 2, 2))
    Image.fromarray(colour.view(2, 2, 3).numpy()).save(tmp_path / "own" / "last.png")
    asked = {"output_dir": tmp_path / "out", "num_channels": 3}
    sample, *_ = generators.open_generator(str(tmp_path / "own"), torch.device("cpu"), **asked)
    at_once = sample(torch.arange(4), 4, None)
    assert torch.equal(torch.cat([sample(part, 4, None) for part in torch.arange(4).split(2)]), at_once)
    assert torch.equal(at_once[0], (grey / 255).expand(3, 2, 2)) and not torch.equal(at_once[3][0], at_once[3][1])


def test_a_folder_in_colour_is_scored_also_where_its_first_pictures_are_grey(recipe, monkeypatch, tmp_path):
    monkeypatch.setattr(recipe, "load_images", colour_data)
    save_images(tmp_path / "own", torch.zeros(4, 1, 28, 28, dtype=torch.uint8))
    for index in range(4):
        Image.new("RGB", (28, 28), "red").save(tmp_path / "own" / f"z{index}.png")
    settings = recipe.Settings(
        model_name_or_path=str(tmp_path / "own"), eval_batch_size=4, output_dir=str(tmp_path / "output"),
        classifier=str(save_classifier(tmp_path / "classifier", num_channels=3, num_labels=8)),
    )  # fmt: skip
    assert recipe.main(settings)["num_samples"] == 8


def test_settings_are_chosen_by_images_held_out(evaluate, tmp_path):
    data = load_images("digits", options=ImageOptions(validation_share=0.2))
    held_out = save_images(tmp_path / "images", data.validation.images)
    by_test = evaluate(held_out, validation_share=0.2)
    results = evaluate(held_out, "chosen", split="validation", validation_share=0.2)
    assert results["test_fid"] < 1e-4 < by_test["test_fid"]
    for words in ("against all 300 validation images", "against the same validation images"):
        assert words in results["protocol"] and words not in by_test["protocol"]
    with pytest.raises(UsageError, match="^--split validation: no images are held out; give --validation_share"):
        evaluate(held_out, "refused", split="validation")


def test_a_record_that_says_what_is_not_allowed_is_named(recipe, tmp_path):
    (tmp_path / "preset.yaml").write_text("validation_share: 7\n")
    with pytest.raises(
        UsageError, match=rf"^{tmp_path}/preset.yaml: --validation_share is 7.0; it must be in \[0, 1\)"
    ):
        scoring.with_data_of_training(recipe.Settings(model_name_or_path=str(tmp_path)))


def test_a_recipe_ends_with_the_same_scores(recipe, evaluate, tmp_path):
    vae = save_vae(tmp_path / "vae")
    results = evaluate(vae, num_samples=30, eval_batch_size=30)
    data = load_images("digits")
    settings = tmp_path / "classifier" / "config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"return_dict": False}))
    classifier = scoring.load_classifier(data, str(tmp_path / "classifier"))
    samples = hub.load(VAEModel, vae).sample(30, generator=torch.Generator().manual_seed(0))
    scores = scoring.score(samples, data, classifier, made_by="this model")
    assert scores.keys() == SCORES | {"classifier", "classifier_sha256", "protocol"}
    assert {name: results[name] for name in SCORES} == {name: scores[name] for name in SCORES}
    assert scores["protocol"].startswith("digits: 30 samples of this model, against")


def test_inception_is_asked_for_before_anything_is_sampled(evaluate, tmp_path, monkeypatch):
    from torchmetrics.image import fid

    monkeypatch.setattr(fid, "_TORCH_FIDELITY_AVAILABLE", False)
    with pytest.raises(hub.UsageError, match="pip install torch-fidelity"):
        evaluate(save_vae(tmp_path / "vae"), inception_fid=True)


def test_inception_scores_stand_beside(evaluate, tmp_path, monkeypatch):
    from hwzoo import metrics

    batches = []

    class Inception(torch.nn.Module):
        num_features = 2

        def forward(self, pixel_values):
            batches.append(len(pixel_values))
            return pixel_values.mean((2, 3))[:, :2]

    load = metrics.load_inception
    monkeypatch.setattr(metrics, "load_inception", lambda device: load(Inception(), device=device))
    results = evaluate(save_vae(tmp_path / "vae"), num_samples=20, inception_fid=True)
    assert results["test_inception_fid"] > results["test_inception_fid_floor"] >= 0
    # Those of the data come in larger batches, of which the real one would need gigabytes.
    assert sum(batches) == 297 + 20 + 20 and max(batches) == 50
    assert "test_inception_fid: on Inception's" in results["protocol"]


def colour_data(*arguments):
    images = ImageSet(torch.zeros(8, 3, 28, 28, dtype=torch.uint8), torch.arange(8), tuple("abcdefgh"))
    return ImageSplits("colours", images, images)


def broken_png(folder):
    save_images(folder, torch.zeros(5, 1, 28, 28, dtype=torch.uint8))
    (folder / "00003.png").write_bytes((folder / "00003.png").read_bytes()[:50])
    return folder


def two_sizes(folder):
    save_images(folder, torch.zeros(5, 1, 28, 28, dtype=torch.uint8))
    save_images(folder / "z", torch.zeros(1, 1, 20, 20, dtype=torch.uint8))
    return folder


def sixteen_bits(folder):
    folder.mkdir()
    for index in range(5):
        Image.fromarray(np.zeros((28, 28), np.uint16)).save(folder / f"{index}.png")
    return folder


def resnet(folder):
    config = ResNetConfig(num_channels=1, embedding_size=4, hidden_sizes=[4], depths=[1])
    ResNetForImageClassification(config).save_pretrained(folder)
    return folder


def coloured(folder):
    folder.mkdir()
    for index in range(5):
        Image.new("RGB", (28, 28), "red").save(folder / f"{index}.png")
    return folder


def images(folder, num=5, size=28, mode="L"):
    return save_images(folder, torch.zeros(num, 1, size, size, dtype=torch.uint8), mode)


# name: (status, what the line names, the arguments for a folder of the test's own)
CASES = {
    "no name of a model": (2, "--model_name_or_path is ''; it must", lambda tmp: ["--model_name_or_path="]),
    "no name of a classifier": (
        2, "--classifier is ''; it must not be empty", lambda tmp: ["--model_name_or_path=x", "--classifier="],
    ),
    "no name of an output folder": (
        2, "--output_dir is ''; it must not be empty", lambda tmp: ["--model_name_or_path=x", "--output_dir="],
    ),
    "no model": (2, "--model_name_or_path is missing", lambda tmp: []),
    "not a flag": (2, "'outputs/vae' is not expected; every argument is a flag", lambda tmp: ["outputs/vae"]),
    "model that is not there": (
        2, "nothere: no such folder, and not a Hub id", lambda tmp: [f"--model_name_or_path={tmp / 'nothere'}"],
    ),
    "folder of a model": (
        2, "vae holds a trained model or checkpoints, which stay; give another folder",
        lambda tmp: [f"--model_name_or_path={save_vae(tmp / 'vae')}", f"--output_dir={tmp / 'vae'}",
                     "--overwrite_output_dir"],
    ),
    "run without its end": (
        2, "run: a run that was stopped has no model yet",
        lambda tmp: (tmp / "run" / "checkpoints").mkdir(parents=True) or [f"--model_name_or_path={tmp / 'run'}"],
    ),
    "id that is none": (2, "a/b/c: no such folder, and not a Hub id", lambda tmp: ["--model_name_or_path=a/b/c"]),
    "Hub id without Hub": (1, "nobody/nothing cannot be loaded", lambda tmp: ["--model_name_or_path=nobody/nothing"]),
    "folder without images": (
        2, "it holds no model_index.json, config.json or images",
        lambda tmp: (tmp / "e").mkdir() or [f"--model_name_or_path={tmp / 'e'}"],
    ),
    "model without sample": (
        2, "ForImageClassification has no `sample`", lambda tmp: [f"--model_name_or_path={tmp / 'classifier'}"],
    ),
    "colour images": (
        2, "its images are 3 x 28 x 28 (channels x height x width), those of --dataset_name digits 1 x 28 x 28",
        lambda tmp: [f"--model_name_or_path={coloured(tmp / 'rgb')}"],
    ),
    "images of another size": (
        2, "its images are 1 x 20 x 20", lambda tmp: [f"--model_name_or_path={images(tmp / 's', size=20)}"],
    ),
    "images too small to cut": (
        2, "its images are 1 x 20 x 20",
        lambda tmp: [f"--model_name_or_path={images(tmp / 's', size=20)}", "--center_crop"],
    ),
    "images of two sizes": (
        2, "z/00000.png is 20 x 20 (height x width), the first is 28 x 28; --image_size N",
        lambda tmp: [f"--model_name_or_path={two_sizes(tmp / 'two')}"],
    ),
    "broken image": (1, "00003.png cannot be read", lambda tmp: [f"--model_name_or_path={broken_png(tmp / 'b')}"]),
    "16 bits a pixel": (
        2, "0.png: it has the mode I;16", lambda tmp: [f"--model_name_or_path={sixteen_bits(tmp / 'd')}"],
    ),
    "model of another size": (
        2, "its images are 1 x 16 x 16", lambda tmp: [f"--model_name_or_path={save_vae(tmp / 'v', image_size=16)}"],
    ),
    "too few samples for neighbours": (2, "--num_samples is 3; it must be in [4", lambda tmp: ["--num_samples=3"]),
    "too few images for neighbours": (
        2, "3 images have no 3-th nearest neighbours", lambda tmp: [f"--model_name_or_path={images(tmp / 'i', 3)}"],
    ),
    "more samples than training images": (
        2, "--num_samples is 1501; there are 1500 training images for the floor",
        lambda tmp: [f"--model_name_or_path={save_vae(tmp / 'v')}", "--num_samples=1501"],
    ),
    "more samples than images": (
        2, "--num_samples is 6; there are 1500 training images for the floor and 5 images in the folder",
        lambda tmp: [f"--model_name_or_path={images(tmp / 'i')}", "--num_samples=6"],
    ),
    "output among the images": (
        2, "is in the folder of images",
        lambda tmp: [f"--model_name_or_path={images(tmp / 'i')}", f"--output_dir={tmp / 'i' / 'scores'}"],
    ),
    "output that cannot be written": (
        1, "--output_dir",
        lambda tmp: [
            f"--model_name_or_path={images(tmp / 'i')}", f"--output_dir={tmp / 'classifier' / 'config.json' / 'x'}",
        ],
    ),
    "classifier that is not there": (
        1, "nobody/nothing cannot be loaded",
        lambda tmp: [f"--model_name_or_path={images(tmp / 'i')}", "--classifier=nobody/nothing"],
    ),
    "classifier that is none": (
        2, "--classifier", lambda tmp: [
            f"--model_name_or_path={images(tmp / 'i')}", f"--classifier={save_vae(tmp / 'v')}",
        ],
    ),
    "classifier of another library": (
        2, "a ResNetForImageClassification is no classifier of the zoo", lambda tmp: [
            f"--model_name_or_path={images(tmp / 'i')}", f"--classifier={resnet(tmp / 'r')}",
        ],
    ),
    "classifier of other images": (
        2, "it has image_size 16, the data 28",
        lambda tmp: [
            f"--model_name_or_path={images(tmp / 'i')}", f"--classifier={save_classifier(tmp / 'c', image_size=16)}",
        ],
    ),
    "classifier of other classes": (
        2, "it has num_labels 4, the data 10",
        lambda tmp: [
            f"--model_name_or_path={images(tmp / 'i')}", f"--classifier={save_classifier(tmp / 'c', num_labels=4)}",
        ],
    ),
    "unknown data set": (2, "--dataset_name mnits", lambda tmp: ["--model_name_or_path=x", "--dataset_name=mnits"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_one_line_and_status(name, recipe, command_line, tmp_path):
    status, named, arguments = CASES[name]
    defaults = [f"--classifier={save_classifier(tmp_path / 'classifier')}", f"--output_dir={tmp_path / 'output'}"]
    got, error = command_line(recipe, "--dataset_name=digits", *defaults, *arguments(tmp_path))
    lines = [line for line in error.splitlines() if line.startswith("error:")]
    assert got == status, error
    assert len(lines) == 1 and named in lines[0] and "Traceback" not in error, error
    assert not list(tmp_path.rglob("scores.json"))


def test_a_data_set_without_classifier_needs_one(recipe, command_line, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "CLASSIFIERS", tmp_path / "none")
    status, error = command_line(recipe, "--dataset_name=digits", f"--model_name_or_path={images(tmp_path / 'i')}")
    assert status == 2
    assert error.startswith("error: --classifier is not given, and none comes with the package for digits")


def test_grey_images_do_not_score_a_model_of_colours(recipe, monkeypatch, tmp_path):
    monkeypatch.setattr(recipe, "load_images", colour_data)
    classifier = save_classifier(tmp_path / "classifier", num_channels=3, num_labels=8)
    settings = {"classifier": classifier, "output_dir": str(tmp_path / "output")}
    with pytest.raises(hub.UsageError, match="its images are 1 x 28 x 28 .* 3 x 28 x 28"):
        recipe.main(recipe.Settings(model_name_or_path=save_vae(tmp_path / "vae"), **settings))


def test_scores_are_not_overwritten_unasked(recipe, command_line, evaluate, tmp_path):
    vae = save_vae(tmp_path / "vae")
    first = evaluate(vae, num_samples=10)
    with pytest.raises(hub.UsageError, match="is not empty; give --overwrite_output_dir"):
        evaluate(vae, num_samples=20)
    assert json.loads((tmp_path / "scores" / "scores.json").read_text()) == first
    assert evaluate(vae, num_samples=20, overwrite_output_dir=True)["num_samples"] == 20
