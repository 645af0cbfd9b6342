"""The table of families: what stands in a row, that nothing is done twice, and what is refused beforehand."""

import json
import math
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from recipe_runs import load_recipe, save_classifier

from hwzoo import VAEConfig, VAEModel, comparison, diffusion, hub, packaged, training
from hwzoo.errors import HwzooError, UsageError
from hwzoo.training import Stopped, sweep

FEW = "max_train_steps=2 train_batch_size=10 num_test_samples=8"
RUNS = [
    f"vae/digits {FEW} encoder_hidden_sizes=8 decoder_hidden_sizes=8 num_importance_samples=2 num_iwae_images=10",
    f"gan/digits {FEW} generator_hidden_size=4 discriminator_hidden_size=4",
]


@pytest.fixture
def recipe():
    return load_recipe("compare_families")


@pytest.fixture
def here(monkeypatch) -> list[str]:
    """Runs are done in this process; the names of those that were begun."""
    begun = []

    def in_a_process(name, flags, data_dir):
        main = packaged.load_recipe(name).main
        return lambda run, *further: begun.append(name) or main(run, *further)

    monkeypatch.setattr(comparison, "in_a_process", in_a_process)
    return begun


def last_cells(page: str) -> list[str]:
    """What the last line of the table says, without its empty cells."""
    line = [line for line in page.splitlines() if line.startswith("|")][-1]
    return [cell for cell in map(str.strip, line.split("|")) if cell]


@pytest.mark.long
def test_rows_are_what_the_runs_and_their_scores_say(recipe, here, tmp_path, capsys, monkeypatch):
    drawn, save = [], training.save_error_curves
    monkeypatch.setattr(training, "save_error_curves", lambda **given: drawn.append(given) or save(**given))
    second = save_classifier(tmp_path / "second", num_labels=10)
    asked = {"runs": RUNS, "seeds": [0, 1], "num_samples": 60, "second_classifier": second}
    means = recipe.main(recipe.Compare(**asked, output_dir=str(tmp_path / "out")))["rows"]
    assert here == ["train_vae"] * 2 + ["train_gan"] * 2
    rows = json.loads((tmp_path / "out" / "families.json").read_text())["rows"]
    assert [row["run"].split()[0] for row in rows] == ["vae/digits"] * 2 + ["gan/digits"] * 2
    assert [row["seed"] for row in rows] == [0, 1, 0, 1]
    evaluate = load_recipe("evaluate_generator")
    for run, row in zip(comparison.plan(RUNS, [0, 1], tmp_path / "out" / "runs", None, "digits"), rows, strict=True):
        folder = run.settings["output_dir"]
        results = json.loads(Path(folder, "all_results.json").read_text())
        model = hub.load_any(folder)[1]
        assert row["parameters"] == sum(each.numel() for each in model.parameters()) / 1e6
        assert row["train_minutes"] == results["train_cpu_seconds"] / 60 > 0 and row["peak_memory"] > 100
        assert row.get("nats") == results.get("test_iwae_2") and "bits_per_dim" not in row
        scored = {"model_name_or_path": folder, "dataset_name": "digits", "num_samples": 60, "seed": row["seed"]}
        for name, classifier in (("test_fid", None), ("second_fid", second))[: 2 * (row["seed"] == 0)]:
            output = str(tmp_path / "scores" / name / row["run"].split()[0] / str(row["seed"]))
            scores = evaluate.main(evaluate.Settings(**scored, classifier=classifier, output_dir=output))
            assert row[name] == scores["test_fid"]
            if name == "test_fid":
                assert row["smallest_class"] == 100 * min(scores["test_class_histogram"])
            else:
                assert row["second_fid_floor"] == scores["test_fid_floor"]
    mean = sum(row["test_fid"] for row in rows[:2]) / 2
    assert means[0]["test_fid"]["mean"] == pytest.approx(mean)
    assert means[0]["test_fid"]["standard_error"] == pytest.approx(abs(rows[0]["test_fid"] - mean))

    # Called again it trains and draws nothing, and writes the same page; another seed is one run more.
    page = (tmp_path / "out" / "families.md").read_text()
    error = means[0]["test_fid"]["standard_error"]
    decimals = max(0, 1 - math.floor(math.log10(error)))
    assert (
        page.count(f"| {mean:.{decimals}f} ± {error:.{decimals}f} |") == 1
        and RUNS[1] in page
        and "Kendall's tau" in page
    )
    floors = rows[0]["test_fid_floor"], rows[0]["second_fid_floor"]
    assert last_cells(page) == ["floor: training images", *(f"{floor:.2f}" for floor in floors)]
    assert drawn[0]["levels"] == {"floor: training images": (floors[0], 0.0)} and floors[0] != floors[1]
    for row in rows[::2]:
        assert f"| {sweep.written({'mean': row['parameters'], 'standard_error': None}, 3)} |" in page
    told = capsys.readouterr().out.splitlines()
    assert told[:2] == [
        f"1 of 4: {rows[0]['run']}, seed 0",
        f"  FID {rows[0]['test_fid']:.1f}, {rows[0]['train_minutes']:.1f} CPU minutes",
    ]
    again = recipe.main(recipe.Compare(**asked, output_dir=str(tmp_path / "out")))
    assert capsys.readouterr().out.splitlines()[:8] == told[:8]
    assert again["rows"] == means and len(here) == 4
    assert (tmp_path / "out" / "families.md").read_text() == page
    recipe.main(recipe.Compare(**asked | {"runs": RUNS[1:], "seeds": [2]}, output_dir=str(tmp_path / "out")))
    assert len(here) == 5 and len(json.loads((tmp_path / "out" / "families.json").read_text())["rows"]) == 5
    for name in ("quality.png", "samples.png"):
        assert (tmp_path / "out" / name).stat().st_size > 1000
    # By other weights of the second classifier all is measured anew, and nothing trained; too many features are told.
    save_classifier(tmp_path / "second", num_labels=10, hidden_sizes=[64])
    other = recipe.main(recipe.Compare(**asked, output_dir=str(tmp_path / "out")))["rows"]
    assert len(here) == 5 and [row["test_fid"] for row in other] == [row["test_fid"] for row in means]
    for row, before in zip(other, means, strict=True):
        assert row["second_fid"]["mean"] != before["second_fid"]["mean"]
    said = "; second classifier: no more images than features"
    assert said in (tmp_path / "out" / "families.md").read_text() and said not in page
    with pytest.raises(UsageError, match="holds results with num_samples 60, these have 61"):
        recipe.main(recipe.Compare(**asked | {"num_samples": 61}, output_dir=str(tmp_path / "out")))
    with pytest.raises(UsageError, match="holds results with eval_batch_size 500, these have 50"):
        recipe.main(recipe.Compare(**asked | {"eval_batch_size": 50}, output_dir=str(tmp_path / "out")))


@pytest.mark.slow
def test_a_run_in_a_process_is_the_recipe_and_tells_why_it_failed(tmp_path, monkeypatch):
    (run,) = comparison.plan(RUNS[:1], [3], tmp_path / "failed", None, "digits")
    (tmp_path / "train_vae.py").write_text("import sys\nprint('told', file=sys.stderr)\nsys.exit('error: it stops')\n")
    with monkeypatch.context() as patched:
        patched.setattr(packaged, "folder", lambda name: tmp_path)
        with pytest.raises(HwzooError, match=r"^train_vae into .* ended with status 1: error: it stops$"):
            sweep.result_of(run.main, run.arguments)

    # A signal is passed on and waited for; then the same call goes on.
    longer = RUNS[0].replace("steps=2", "steps=1000")
    (run,) = comparison.plan([longer], [3], tmp_path, None, "digits")
    folder, before = Path(run.settings["output_dir"]), signal.getsignal(signal.SIGTERM)

    def stop():
        end = time.monotonic() + 120
        while not (folder / "history.jsonl").exists() and time.monotonic() < end:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # as `launch` has it
    try:
        threading.Thread(target=stop, daemon=True).start()
        with pytest.raises(Stopped, match=r"^stopped by SIGTERM; .* is saved: the same command goes on$") as stopped:
            sweep.result_of(run.main, run.arguments)
    finally:
        signal.signal(signal.SIGTERM, before)
    (checkpoint,) = (folder / "checkpoints").iterdir()
    assert stopped.value.status == 143 and not (folder / "config.json").exists()

    (run,) = comparison.plan([longer], [3], tmp_path, None, "digits")
    results = sweep.result_of(run.main, run.arguments)
    assert results["train_steps"] == 1000 and results["peak_memory"] > 100
    assert json.loads((folder / "all_results.json").read_text()) == results
    assert "seed 3" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("vae/none", "--runs 'vae/none': there is no preset 'vae/none'"),
        ("none", "--runs 'none': there is no preset 'none'; `hwzoo presets` lists them"),
        ("simclr/digits", "--runs 'simclr/digits': its models draw no images"),
        ("vae/digits beta=-1", "--beta is -1.0; it must be in"),
        ("vae/digits seed=1", "seed is no flag of a run here"),
        ("vae/digits image_size=14", "images of 14 x 14 are not those that all are compared with"),
        ("vae/cs236", "--runs 'vae/cs236' trains on mnist, not on --dataset_name digits: add dataset_name=digits"),
    ],
)
def test_what_is_wrong_is_told_before_the_first_run(spec, words, recipe, here, tmp_path):
    with pytest.raises(UsageError) as told:
        recipe.main(recipe.Compare(runs=[RUNS[0], spec], output_dir=str(tmp_path / "out")))
    assert words in str(told.value) and here == [] and not (tmp_path / "out").exists()


def test_a_run_that_fails_does_not_keep_the_others_from_being_done(recipe, here, tmp_path, monkeypatch):
    done, result_of = [], sweep.result_of

    def failing(main, arguments):
        if arguments[0].seed == 1:
            raise HwzooError("the loss is nan at step 1")
        done.append(arguments[0].seed)
        return result_of(main, arguments)

    monkeypatch.setattr(sweep, "result_of", failing)
    save_classifier(tmp_path / "second", num_labels=10)
    asked = {"runs": RUNS[:1], "num_samples": 60, "second_classifier": str(tmp_path / "second")}
    with pytest.raises(HwzooError, match="^1 of 3 runs failed; .* seed=1: the loss is nan at step 1$"):
        recipe.main(recipe.Compare(**asked, seeds=[0, 1, 2], output_dir=str(tmp_path / "out")))
    assert done == [0, 2]


def test_a_run_whose_samples_cannot_be_measured_is_named_and_the_others_are_done(recipe, here, tmp_path, monkeypatch):
    measure = comparison.measure

    def failing(settings, *args):
        if settings["seed"] == 0:
            raise HwzooError("samples hold pixels that are NaN")
        return measure(settings, *args)

    monkeypatch.setattr(comparison, "measure", failing)
    save_classifier(tmp_path / "second", num_labels=10)
    asked = {"runs": RUNS[:1], "seeds": [0, 1], "num_samples": 60, "second_classifier": str(tmp_path / "second")}
    with pytest.raises(HwzooError, match="^1 of 2 runs failed; .* seed=0: samples hold pixels that are NaN$"):
        recipe.main(recipe.Compare(**asked, output_dir=str(tmp_path / "out")))
    assert [row["seed"] for row in json.loads((tmp_path / "out" / "families.json").read_text())["rows"]] == [1]


def test_a_conditional_pipeline_is_drawn_with_the_guidance_of_its_training(tmp_path):
    torch.manual_seed(0)
    unet, scheduler = diffusion.build_unet(8, 1, num_classes=3, block_out_channels=[8], norm_num_groups=4), "ddim"
    hub.save(diffusion.make_pipeline(unet, diffusion.train_scheduler(30)), tmp_path)
    settings = {"output_dir": str(tmp_path), "seed": 3, "scheduler": scheduler, "num_inference_steps": 2}
    (drawn, _), call = comparison.draw(settings | {"guidance_scale": 2.0}, 5, 5), {"num_inference_steps": 2}
    pipeline = diffusion.make_pipeline(unet, diffusion.make_scheduler(scheduler, diffusion.train_scheduler(30).config))
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(3, (5,), generator=generator)
    expected = pipeline(labels, generator=generator, output_type="pt", guidance_scale=2.0, **call).images
    torch.testing.assert_close(drawn, expected)
    assert not torch.allclose(drawn, comparison.draw(settings, 5, 5)[0], atol=1e-3)


def test_a_pipeline_is_drawn_by_the_sampler_of_its_training(tmp_path):
    torch.manual_seed(0)
    unet = diffusion.build_unet(8, 1, block_out_channels=[8], norm_num_groups=4)
    hub.save(diffusion.make_pipeline(unet, diffusion.train_scheduler(30)), tmp_path)
    settings = {"output_dir": str(tmp_path), "seed": 3, "scheduler": "ddim", "num_inference_steps": 2}
    drawn, _ = comparison.draw(settings, 5, 3)
    pipeline = diffusion.make_pipeline(unet, diffusion.make_scheduler("ddim", diffusion.train_scheduler(30).config))
    generator = torch.Generator().manual_seed(3)
    call = {"num_inference_steps": 2, "generator": generator, "output_type": "pt"}
    expected = torch.cat([pipeline(batch_size=num, **call).images for num in (3, 2)])
    torch.testing.assert_close(drawn, expected)


def test_the_seconds_of_samples_are_those_of_drawing_alone(tmp_path, monkeypatch):
    torch.manual_seed(0)
    config = VAEConfig(encoder_hidden_sizes=[8], decoder_hidden_sizes=[8])
    hub.save(VAEModel(config), tmp_path)

    def slowly(*args, opened=comparison.generators.open_generator, **kwargs):
        start = time.process_time()
        while time.process_time() - start < 0.5:
            pass
        return opened(*args, **kwargs)

    monkeypatch.setattr(comparison.generators, "open_generator", slowly)
    images, seconds = comparison.draw({"output_dir": str(tmp_path), "seed": 3}, 20, 20)
    assert images.shape == (20, 1, 28, 28) and 0 < seconds < 0.4


@pytest.mark.parametrize(
    ("results", "settings", "told"),
    [
        ({"test_negative_log_prob": 80.0}, {"conditional": False}, ""),
        ({"test_negative_log_prob": 80.0}, {"conditional": True}, "given the class"),
        ({"test_iwae_100": 86.0}, {"num_iwae_images": 1000}, "1,000 images"),
        ({"test_iwae_100": 86.0}, {"num_iwae_images": 10_000}, ""),
        ({"test_iwae_100": 86.0}, {"num_iwae_images": None, "conditional": True}, "given the class"),
        ({"test_bits_per_dim": 2.4}, {"conditional": True, "num_bound_images": 500}, "given the class, 500 images"),
    ],
)
def test_what_a_likelihood_is_of_stands_in_its_cell(results, settings, told):
    settings = settings if "test_bits_per_dim" in results else settings | {"binarization": "dynamic"}
    assert comparison.likelihood_of(results, settings, 10_000) == told
    number = {"mean": 2.5, "standard_error": None}
    rows = [row("a", 1, 10) | {"likelihood_of": told, "nats": number}, row("b", 2, 30)]
    table = comparison.family_table(rows, (0.5, 0.6))
    assert (f"| a | 0 | 2.500 ({told}) | - | " if told else "| a | 0 | 2.500 | - | ") in table
    assert comparison.likelihood_of({"test_fid": 3.0}, settings, 10_000) == ""  # there is none
    assert "| b | 0 | - | - | " in table and ("In brackets" in table) == bool(told)


def test_every_family_that_draws_images_is_compared():
    families = ["autoregressive", "ddpm", "flow", "gan", "vae", "vqvae"]
    assert comparison.list_generators("digits") == [f"{family}/digits" for family in families]
    assert {"vae/cs236", "vae/best", "ddpm/mnist_cpu"} < {*comparison.list_generators("mnist")}
    # Never run to its end; needs the folder that another leaves.
    assert not {"ddpm/ift6135", "vae/best_iwae"} & {*comparison.list_generators("mnist")}


def row(run: str, first: float, second: float) -> dict:
    numbers = {"test_fid": first, "second_fid": second, "train_minutes": 2.0}
    return {"run": run, "seeds": [0]} | {name: {"mean": mean, "standard_error": 0.5} for name, mean in numbers.items()}


def test_pairs_that_another_classifier_orders_otherwise_are_told():
    rows = [row("a", 1, 10), row("b", 2, 30), row("c", 3, 20)]
    told = "By FID the second classifier orders 1 of 3 pairs the other way (Kendall's tau 0.33): b and c."
    assert comparison.agreement(rows) == told
    assert comparison.agreement(rows[:2]).endswith("0 of 1 pairs the other way (Kendall's tau 1.00).")
    assert comparison.quality_curves(rows[:1], 0.5)["curves"] == {"a": [(2.0, 1, 0.5)]}


def test_each_floor_stands_below_its_classifier():
    table = comparison.family_table([row("a", 1, 10)], (0.5, 0.6)).splitlines()
    floors = dict(zip(table[0].split(" | "), table[3].split(" | "), strict=True))
    assert (floors["FID"], floors["FID, second classifier"]) == ("0.50", "0.60")
    assert last_cells("\n".join(table)) == ["floor: training images", "0.50", "0.60"]
    assert comparison.quality_curves([row("a", 1, 10)], 0.5)["levels"] == {"floor: training images": (0.5, 0.0)}


def test_a_fid_of_one_seed_has_the_error_over_its_samples():
    first = {"run": "a", "seed": 3, "test_fid": 4.0, "test_fid_standard_error": 0.5, "second_fid": 6.0}
    first |= {"parameters": 8e-6}
    other, second = first | {"run": "b", "likelihood_of": "given the class"}, first | {"seed": 4, "test_fid": 6.0}
    both, alone = comparison.averaged([first, other, second])
    assert (both["run"], both["seeds"], both["likelihood_of"]) == ("a", [3, 4], "")
    assert both["test_fid"] == {"mean": 5.0, "standard_error": pytest.approx(1.0)}
    assert both["second_fid"] == {"mean": 6.0, "standard_error": 0.0}
    assert (alone["run"], alone["seeds"], alone["likelihood_of"]) == ("b", [3], "given the class")
    assert alone["test_fid"] == {"mean": 4.0, "standard_error": 0.5}
    assert alone["second_fid"] == {"mean": 6.0, "standard_error": None}
    assert both["parameters"] == alone["parameters"] == {"mean": 8e-6, "standard_error": None}


def test_the_numbers_of_a_row_have_the_units_of_the_headings(monkeypatch):
    def score(images, data, classifier, made_by, every_score=False):
        scores = {"test_fid": classifier, "test_fid_floor": classifier / 10, "test_class_histogram": [0.75, 0.25]}
        return scores | {"protocol": ""}

    monkeypatch.setattr(comparison, "draw", lambda *given: (torch.zeros(60, 1, 2, 2), 3.0))
    monkeypatch.setattr(comparison.scoring, "score", score)
    monkeypatch.setattr(comparison.generators, "load_generator", lambda *given: (None, torch.nn.Linear(3, 2)))
    results = {"train_cpu_seconds": 120.0, "peak_memory": 300}
    measured = comparison.measure({"output_dir": "out"}, results, None, [10, 20], 60, 60)
    expected = {"sample_seconds": 50, "train_minutes": 2, "smallest_class": 25, "parameters": 8e-6, "test_fid": 10}
    expected |= {"test_fid_floor": 1, "second_fid": 20, "second_fid_floor": 2, "peak_memory": 300}
    assert {name: measured[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("results", "binarization", "expected"),
    [
        ({"test_negative_elbo": 100.0, "test_iwae_100": 95.0}, "dynamic", {"nats": 95.0}),
        ({"test_negative_elbo": 90.0, "test_iwae_1000": 86.0, "test_iwae_5": 88.0}, "dynamic", {"nats": 86.0}),
        ({"test_negative_elbo": 90.0, "test_iwae_5_standard_error": 0.2}, "dynamic", {"nats": 90.0}),
        ({"test_negative_log_prob": 80.0, "test_bits_per_dim": 0.1}, "dynamic", {"nats": 80.0}),
        ({"test_negative_log_prob": 600.0, "test_bits_per_dim": 1.1}, None, {"bits_per_dim": 1.1}),
        ({"test_negative_log_prob": 60.0, "test_bits_per_dim": 0.1}, "threshold", {}),  # other data, 20 nats lower
        ({"test_fid": 3.0}, None, {}),
    ],
)
def test_likelihoods_of_images_of_one_kind_share_a_column(results, binarization, expected):
    settings = {} if binarization is None else {"binarization": binarization}
    assert comparison.likelihood(results, settings) == expected
