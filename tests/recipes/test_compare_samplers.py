"""The table of samplers: what stands in it, that it can be extended, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import PNDMScheduler
from PIL import Image
from recipe_runs import captions_in, load_recipe, save_classifier

from hwzoo import (
    ClassifierForImageClassification,
    PipelineFamily,
    VAEConfig,
    VAEModel,
    diffusion,
    generators,
    hub,
    metrics,
)
from hwzoo.data import ImageOptions, load_images
from hwzoo.diffusion import comparison
from hwzoo.errors import UsageError

COLUMNS = 11


@pytest.fixture
def recipe():
    return load_recipe("compare_samplers")


def save_pipeline(folder, size=28, num_classes=0, seed=0, schedule="linear"):
    torch.manual_seed(seed)
    settings = {"block_out_channels": [8, 8], "norm_num_groups": 4, "attention": False, "num_classes": num_classes}
    unet = diffusion.build_unet(size, 1, **settings).eval()
    hub.save(diffusion.make_pipeline(unet, diffusion.train_scheduler(25, schedule), min(size, 28)), folder)
    return str(folder)


def with_scheduler(model, name):
    pipeline = diffusion.load_pipeline(model)
    pipeline.scheduler = diffusion.make_scheduler(name, pipeline.scheduler.config)
    return pipeline


@pytest.fixture
def compare(recipe, tmp_path):
    """Compares in tmp_path / "table"; gives its results."""
    classifier = save_classifier(tmp_path / "classifier")

    def run(model, **settings):
        defaults = {"num_samples": 20, "num_inference_steps": [2, 3], "eval_batch_size": 15, "dataset_name": "digits"}
        settings = {**defaults, "classifier": classifier, "output_dir": str(tmp_path / "table"), **settings}
        return recipe.main(recipe.Settings(model_name_or_path=model, **settings))

    return run


def samplers_of(results):
    return [(row["scheduler"], row["spacing"], row["num_inference_steps"]) for row in results["samplers"]]


@pytest.mark.parametrize(
    "schedule, best", [("linear", "karras"), ("cosine", "trailing"), ("flow_matching", "trailing")]
)
def test_without_spacings_each_scheduler_has_its_best(schedule, best, compare, tmp_path):
    model = save_pipeline(tmp_path / "model", schedule=schedule)
    settings = {"schedulers": ["ddim", "sde_dpm_solver"], "num_inference_steps": [2], "reference": False}
    results = compare(model, **settings)
    assert sorted(samplers_of(results)) == [("ddim", "trailing", 2), ("sde_dpm_solver", best, 2)]
    assert "reference" not in results["protocol"]


def test_the_table(compare, tmp_path, capsys):
    model = save_pipeline(tmp_path / "model")
    results = compare(model, schedulers=["ddim", "dpm_solver", "unipc"], spacings=["karras", "lu"])
    assert json.loads((tmp_path / "table" / "all_results.json").read_text()) == results
    # DDIM knows no noise levels, UniPC no even log SNR.
    assert samplers_of(results) == [
        ("ddpm", "trailing", 25), ("ddim", "trailing", 3), ("ddim", "trailing", 2), ("dpm_solver", "karras", 3),
        ("dpm_solver", "lu", 3), ("dpm_solver", "karras", 2), ("dpm_solver", "lu", 2), ("unipc", "karras", 3),
        ("unipc", "karras", 2),
    ]  # fmt: skip
    reference, *others = results["samplers"]
    told = (
        f"{model} by ddpm, trailing, 25 steps, seed 0: FID {reference['test_fid']:.1f} in {reference['seconds']:.0f} s"
    )
    assert capsys.readouterr().out.splitlines()[0] == told
    assert reference["speedup"] == 1 and reference["test_fid_above_reference"] == 0
    for row in results["samplers"]:
        assert row["network_evaluations"] == row["num_inference_steps"]
        assert row["speedup"] == reference["seconds"] / row["seconds"] > 0
        assert row["test_fid"] > row["test_fid_floor"] > 0 < row["test_fid_standard_error"]
        assert 0 <= row["test_precision"] <= 1 and 0 <= row["test_recall"] <= 1
        above = (row["test_fid"] - reference["test_fid"]) / reference["test_fid_standard_error"]
        assert row["test_fid_above_reference"] == pytest.approx(above)
    assert others[2]["test_fid"] != others[3]["test_fid"]  # karras and lu
    assert "digits: 20 samples of" in results["protocol"] and "the jackknife" in results["protocol"]
    assert results["protocol"].endswith("reference: DDPM with all timesteps of the training")

    lines = (tmp_path / "table" / "table.md").read_text().splitlines()
    assert all(line.count("|") == COLUMNS + 1 for line in lines[: 2 + 9]) and lines[2].startswith("| ddpm | trailing")
    assert lines[11:] == ["", results["protocol"] + "."]
    assert Image.open(tmp_path / "table" / "quality.png").width > 300
    captions = captions_in(tmp_path / "table")
    assert len(captions) == len(list((tmp_path / "table").glob("samples_*_*_*.png"))) == 9
    assert all(" by " in caption and caption.endswith("seed 0") for caption in captions.values()), captions


def test_the_scheduler_that_a_pipeline_was_saved_with_plays_no_part(compare, tmp_path):
    """PNDM of one step is an error of diffusers."""
    model = save_pipeline(tmp_path / "model")
    pipeline = diffusion.load_pipeline(model)
    settings = {"schedulers": ["ddim"], "num_inference_steps": [2], "reference": False}
    (before,) = compare(model, **settings)["samplers"]
    pipeline.scheduler = PNDMScheduler.from_config(pipeline.scheduler.config)
    hub.save(pipeline, tmp_path / "pndm")
    (row,) = compare(str(tmp_path / "pndm"), **settings, output_dir=str(tmp_path / "other"))["samplers"]
    assert row["test_fid"] == before["test_fid"]


def test_a_row_is_of_the_images_that_sample_draws(compare, tmp_path):
    model = save_pipeline(tmp_path / "model", size=32, num_classes=3)  # its images are cut
    settings = {"schedulers": ["dpm_solver"], "num_inference_steps": [2], "reference": False, "guidance_scale": 2.0}
    results = compare(model, **settings, seed=5)
    (row,) = results["samplers"]
    assert row["network_evaluations"] == 2 * 2 and "speedup" not in row
    assert "seed 5, classes drawn uniformly, guidance scale 2, against" in results["protocol"]
    pipeline = with_scheduler(model, "dpm_solver")
    labels = torch.randint(3, (20,), generator=torch.Generator().manual_seed(5))
    images, _ = generators.draw(
        PipelineFamily(""), pipeline, 20, labels, 5, 15, num_inference_steps=2, guidance_scale=2.0
    )
    classifier = ClassifierForImageClassification.from_pretrained(tmp_path / "classifier").eval()
    with torch.no_grad():
        features, test = (classifier.features(x) for x in (images, load_images("digits").test.pixel_values()))
    assert row["test_fid"] == pytest.approx(metrics.frechet_distance(features, test), rel=1e-4)
    expected = metrics.frechet_standard_error(features, test)
    assert row["test_fid_standard_error"] == pytest.approx(expected, rel=1e-4)


def test_a_sampler_is_chosen_by_images_that_were_held_out(compare, tmp_path):
    model = save_pipeline(tmp_path / "model")
    chosen = {"schedulers": ["ddim"], "num_inference_steps": [2], "reference": False}
    with pytest.raises(UsageError, match="^--split validation: no images are held out; give --validation_share"):
        compare(model, **chosen, split="validation")
    # Which data, and which share of it, the model's own folder tells.
    Path(model, "preset.yaml").write_text("dataset_name: digits\nvalidation_share: 0.25\n")
    results = compare(model, **chosen, split="validation", dataset_name=None)
    data = load_images("digits", options=ImageOptions(validation_share=0.25))
    assert f"against all {len(data.validation)} validation images" in results["protocol"]
    images, _ = generators.draw(
        PipelineFamily(""), with_scheduler(model, "ddim"), 20, None, 0, 15, num_inference_steps=2, guidance_scale=1.0
    )
    classifier = ClassifierForImageClassification.from_pretrained(tmp_path / "classifier").eval()
    with torch.no_grad():
        features, held_out = (classifier.features(x) for x in (images, data.validation.pixel_values()))
    (row,) = results["samplers"]
    assert row["test_fid"] == pytest.approx(metrics.frechet_distance(features, held_out), rel=1e-4)


@pytest.mark.long
def test_what_is_done_is_not_done_again(compare, recipe, monkeypatch, tmp_path):
    model, drawn, draw = save_pipeline(tmp_path / "model"), [], generators.draw

    def noted(*args, num_inference_steps, **kwargs):
        drawn.append(num_inference_steps)
        if num_inference_steps == 4:
            raise KeyboardInterrupt
        return draw(*args, num_inference_steps=num_inference_steps, **kwargs)

    monkeypatch.setattr(generators, "draw", noted)
    with pytest.raises(KeyboardInterrupt):
        compare(model, schedulers=["ddim"], num_inference_steps=[2, 4])
    assert drawn == [1, 25, 2, 4]  # the first warms up
    drawn.clear()
    table = json.loads((tmp_path / "table" / "all_results.json").read_text())
    del table["data"]  # as an earlier build left it
    (tmp_path / "table" / "all_results.json").write_text(json.dumps(table))
    results = compare(model, schedulers=["unipc", "ddim"], num_inference_steps=[2])
    assert drawn == [1, 2] and "jackknife" in results["protocol"]
    assert samplers_of(results) == [("ddpm", "trailing", 25), ("ddim", "trailing", 2), ("unipc", "karras", 2)]
    assert all("speedup" in row for row in results["samplers"])
    # The reference of before is told as long as the columns are measured by it.
    results = compare(model, schedulers=["ddim"], num_inference_steps=[3], reference=False)
    assert all("speedup" in row for row in results["samplers"]) and len(results["samplers"]) == 4
    assert results["protocol"].count("reference: DDPM with all timesteps") == 1
    assert "reference: DDPM" in (tmp_path / "table" / "table.md").read_text()

    with pytest.raises(UsageError, match="holds results with dataset digits, these have digits, validation"):
        compare(model, split="validation", validation_share=0.25)
    with pytest.raises(UsageError, match="holds results with data .*, these have "):
        compare(model, validation_share=0.25)
    for settings in ({"num_samples": 21}, {"seed": 1}):
        with pytest.raises(UsageError, match=f"holds results with {next(iter(settings))} .*--overwrite_output_dir"):
            compare(model, **settings)
    other = save_pipeline(tmp_path / "model", seed=1)  # trained anew in the same folder
    with pytest.raises(UsageError, match="holds results with weights_sha256"):
        compare(other)
    fewer = {"schedulers": ["ddim"], "num_inference_steps": [2], "reference": False, "overwrite_output_dir": True}
    assert samplers_of(compare(other, **fewer)) == [("ddim", "trailing", 2)]
    # No picture of the other model's samplers is left.
    assert [path.name for path in (tmp_path / "table").glob("samples_*")] == ["samples_ddim_trailing_2.png"]


def save_vae(folder):
    hub.save(VAEModel(VAEConfig(encoder_hidden_sizes=[8], decoder_hidden_sizes=[8], latent_size=2)), folder)
    return str(folder)


# name: (what the line names, the arguments for a folder of the test's own)
CASES = {
    "no model": ("--model_name_or_path is missing", lambda tmp: []),
    "no pipeline": ("a VAEModel is no diffusion pipeline", lambda tmp: [save_vae(tmp / "v")]),
    "unknown scheduler": (
        "--schedulers has pndm; it must be some of ddpm, ddim, dpm_solver, sde_dpm_solver, unipc",
        lambda tmp: [save_pipeline(tmp / "m"), "--num_inference_steps=2", "--schedulers", "ddim", "pndm"],
    ),
    "unknown spacing": (
        "--spacings has even; it must be some of karras, leading, linspace, lu, trailing",
        lambda tmp: [save_pipeline(tmp / "m"), "--num_inference_steps=2", "--spacings=even"],
    ),
    "steps above T": (
        "--num_inference_steps is 26; ",
        lambda tmp: [save_pipeline(tmp / "m"), "--num_inference_steps", "10", "26"],
    ),
    "guidance without classes": (
        "m is no conditional pipeline, give 1", lambda tmp: [save_pipeline(tmp / "m"), "--guidance_scale=2"],
    ),
    "data set without classifier": (
        "--classifier is not given", lambda tmp: [save_pipeline(tmp / "m"), "--num_inference_steps=2"],
    ),
    "images of another size": (
        "its images are (1, 16, 16), those of digits (1, 28, 28)",
        lambda tmp: [
            save_pipeline(tmp / "m", size=16), "--num_inference_steps=2", f"--classifier={save_classifier(tmp / 'c')}",
        ],
    ),
    "more samples than training images": (
        "--num_samples is 1501; the floor has 1500 training images",
        lambda tmp: [
            save_pipeline(tmp / "m"), "--num_inference_steps=2", "--num_samples=1501",
            f"--classifier={save_classifier(tmp / 'c')}",
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_one_line_and_status(name, recipe, command_line, tmp_path, monkeypatch):
    named, arguments = CASES[name]
    monkeypatch.setattr(hub, "CLASSIFIERS", tmp_path / "none")
    output = tmp_path / "output"
    status, error = command_line(recipe, *arguments(tmp_path), f"--output_dir={output}", "--dataset_name=digits")
    lines = [line for line in error.splitlines() if line.startswith("error:")]
    assert status == 2, error
    assert len(lines) == 1 and named in lines[0] and "Traceback" not in error, error
    assert not output.exists()


@pytest.mark.parametrize("error", [0.0, 1.6e-12])
def test_a_reference_whose_images_are_all_alike_has_no_error_to_count_by(error):
    """The jackknife of equal images gives 0, or what rounding leaves."""
    rows = [
        {"scheduler": "ddim", "num_inference_steps": 2, "seconds": 1.0, "test_fid": 520.0},
        {"scheduler": "ddpm", "num_inference_steps": 25, "seconds": 8.0, "test_fid": 500.0},
    ]
    rows = [each | {"test_fid_standard_error": error} for each in rows]
    reference = comparison.compare_with_reference(rows, 25)
    assert reference["num_inference_steps"] == 25 and [each["speedup"] for each in rows] == [1.0, 8.0]
    assert not any("test_fid_above_reference" in each for each in rows)
