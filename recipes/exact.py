"""
Computes what is estimated elsewhere, on systems so small that all of their states are listed, and compares estimates
with it: a ring of labels, or a generator of strings. Exercises of TTIC 31230 (Chicago).

    python recipes/exact.py ring
    python recipes/exact.py bigram

`ring`: labels -1, 0, 1 with P(y) = exp(J sum_n y_n y_(n+1)) / Z. Z by transfer matrix and by enumeration, likelihood,
pseudo-likelihood, entropy; Gibbs sampling beside the exact law; J from samples by either likelihood.

`bigram`: strings from tables P and Q by inverse-CDF sampling, through which no gradient flows; bias and variance of
ten estimates of an expected loss's gradient beside the exact one; and the language that each learns against a
discriminator, beside counting, in total variation over all strings.

all_results.json holds the tables. `ring` takes 11 seconds, `bigram` 80 of one core of an AMD EPYC (Zen 4).
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch

from hwzoo import exact, training
from hwzoo.exact import adversarial, bigram, ring
from hwzoo.files import with_words, write_json
from hwzoo.training import flag, sweep

STEPS = (1.0, 0.1, 0.01, 0.001)  # lengths of changes of the logits, to see how many strings change with them


@dataclass
class Settings(training.Flags):
    FIRST = "system"

    system: Literal["ring", "bigram"] = flag("ring", "what is computed")
    config: str | None = flag(None, "YAML file with these flags as keys; the command line wins")
    output_dir: str | None = flag(None, "folder for the results; outputs/exact_SYSTEM when not given")
    overwrite_output_dir: bool = flag(False, "start anew in a folder that is not empty, over its files")
    seed: int = flag(0, "of all samples", "[0, 4294967295]")
    num_labels: list[int] = flag([3, 5, 8, 10], "ring: sizes of the table", "[3, 12]")
    coupling: float = flag(1.0, "ring: J", "[-5, 5]")
    num_rings: int = flag(200, "ring: samples that J is found from, each of 8 labels", "[1, 1000]")
    num_repeats: int = flag(1000, "ring: such sets", "[2, 10000]")
    num_symbols: int = flag(5, "bigram: symbols of the language", "[2, 20]")
    length: int = flag(3, "bigram: symbols of a string", "[2, 6]")
    num_eval_samples: int = flag(400_000, "samples for total variations, and for bias and variance", "[2000, inf)")
    num_languages: int = flag(5, "bigram: languages to learn, of seeds from --seed on", "[1, inf)")
    num_train_samples: int = flag(100_000, "bigram: strings of each to learn from", "[1, inf)")
    train_batch_size: int = flag(256, "bigram: strings of the generator a step", "[2, inf)")
    max_train_steps: int = flag(1000, "bigram: of generator and discriminator, each", "[1, inf)")
    learning_rate: float = flag(0.02, "bigram: of the generator's Adam, a fifth of the discriminator's", "(0, inf)")

    def __post_init__(self):
        super().__post_init__()
        self.output_dir = self.output_dir or f"outputs/exact_{self.system}"
        bigram.strings(self.num_symbols, self.length)  # so many can be listed, or not


@training.on_one_thread
def main(settings: Settings) -> dict:
    folder = training.make_output_dir(settings.output_dir, settings.overwrite_output_dir)
    started = time.monotonic()
    generator = torch.Generator().manual_seed(settings.seed)
    results = {"ring": of_ring, "bigram": of_bigram}[settings.system](settings, generator, folder)
    results["train_runtime"] = time.monotonic() - started
    write_json(folder / "all_results.json", results := with_words(results))  # with no finite J there is no mean
    training.save_settings(folder / "preset.yaml", settings)
    print(f"results are in {folder}")
    return results


def of_ring(settings: Settings, generator: torch.Generator, folder: Path) -> dict:
    coupling, num = settings.coupling, settings.num_eval_samples
    # 1. the table: all labels 0, and all 1
    table = {str(size): asdict(ring.numbers_of(size, coupling)) for size in settings.num_labels}
    print("| labels | Z | -ln P(0) | -ln P(1) | -ln PL(0) | -ln PL(1) | entropy |\n" + "| --- " * 7 + "|")
    for size, row in table.items():
        numbers = [*row["negative_log_prob"], *row["negative_log_pseudo_likelihood"], row["entropy"]]
        print(f"| {size} | {row['partition']:.6g} | " + " | ".join(f"{each:.4f}" for each in numbers) + " |")

    # 2. Gibbs sampling, by sweeps
    truth, variations = ring.log_prob(ring.rings(5), coupling).exp(), {}
    chance = exact.variation_by_chance(truth, num)
    for sweeps in (0, 1, 2, 5, 10, 20):
        chains = ring.gibbs(num, 5, coupling, sweeps, generator)
        variations[str(sweeps)] = found = exact.total_variation(ring.shares_of(chains), truth)
        print(f"Gibbs sampling, {sweeps} sweeps: total variation {found:.4f}; of exact samples {chance:.4f}")

    # 3. J from samples, both ways
    drawn = ring.samples(settings.num_repeats * settings.num_rings, 8, coupling, generator)
    drawn = drawn.view(settings.num_repeats, settings.num_rings, 8)
    both = {"likelihood": ring.maximum_likelihood(drawn), "pseudo_likelihood": ring.maximum_pseudo_likelihood(drawn)}
    finite = {name: found[found.isfinite()] for name, found in both.items()}
    estimates = {name: {"mean": found.mean().item(), "std": found.std().item()} for name, found in finite.items()}
    for name, each in estimates.items():
        each["num_finite"] = len(finite[name])  # where all labels of each ring agree, say, J is infinite
        told = f"{each['mean']:.4f}, standard deviation {each['std']:.4f}, {each['num_finite']} finite ones"
        print(f"J by maximum {name.replace('_', '-')}: {told}")
    return {
        "table": table,
        "gibbs_total_variation": variations,
        "total_variation_by_chance": chance,
        "coupling_estimates": estimates,
        "likelihood_std": ring.likelihood_std(8, coupling, settings.num_rings),
        "variance_ratio": (finite["pseudo_likelihood"].var() / finite["likelihood"].var()).item(),
        "protocol": (
            f"J = {coupling:g}; in nats; log_partition_error: transfer matrix against all 3^N rings; total variation "
            f"to the exact law of {num} chains of 5 labels after so many sweeps, and the mean one of as many exact "
            f"samples; J from {settings.num_repeats} sets of {settings.num_rings} exact samples of 8 labels, "
            f"seed {settings.seed}; likelihood_std by the Fisher information"
        ),
    }


def of_bigram(settings: Settings, generator: torch.Generator, folder: Path) -> dict:
    symbols, length, num = settings.num_symbols, settings.length, settings.num_eval_samples
    # 1. the sampler, and why nothing flows through it
    language = bigram.random_language(symbols, generator)
    truth = bigram.probabilities(language, length)
    shares = bigram.shares_of(bigram.draw(language, num, length, generator), symbols)
    variation, chance = exact.total_variation(shares, truth), exact.variation_by_chance(truth, num)
    print(f"inverse CDF: total variation {variation:.4f}; of exact samples {chance:.4f}")
    flipped = {str(step): bigram.flipped_share(language, num, length, step, generator) for step in STEPS}
    for step, share in flipped.items():
        print(f"logits changed by {step}, same noise: {100 * share:.3f} % of the strings change")

    # 2. bias and variance beside the exact gradient
    loss = adversarial.random_discriminator(symbols, generator).generator_loss
    repeats, found = max(1, num // 2000), {}
    print("| estimator | bias | by chance | cosine | std |\n" + "| --- " * 5 + "|")
    for name in bigram.ESTIMATORS:
        each = found[name] = bigram.quality(name, language, loss, length, 2000, repeats, generator)
        print(f"| {name} | {each.bias:.3f} | {each.bias_error:.3f} | {each.cosine:.3f} | {each.std:.2f} |", flush=True)

    # 3. languages learned
    learned = [
        adversarial.learn_a_language(
            seed, symbols, length, num_train_samples=settings.num_train_samples, steps=settings.max_train_steps,
            batch_size=settings.train_batch_size, learning_rate=settings.learning_rate,
        )
        for seed in range(settings.seed, settings.seed + settings.num_languages)
    ]  # fmt: skip
    numbers = {name: sweep.mean_and_error([each[name] for each in learned]) for name in learned[0]}
    for name, number in numbers.items():
        error = f" ± {number['standard_error']:.4f}" if number["standard_error"] is not None else ""
        print(f"learned by {name}: total variation {number['mean']:.4f}{error}")
    means, errors = ([each[key] or 0.0 for each in numbers.values()] for key in ("mean", "standard_error"))
    bars = {"total variation to the language": (means, errors)}
    training.save_bar_panels(list(numbers), bars, folder / "learned.png")
    return {
        "sampler_total_variation": variation,
        "total_variation_by_chance": chance,
        "strings_changed": flipped,
        "gradients": {name: asdict(each) for name, each in found.items()},
        "learned_total_variation": numbers,
        "protocol": (
            f"{symbols} symbols, strings of {length}; logits and discriminators are normal; sampler: {num} strings; "
            f"gradients by the logits of both tables, from {repeats} times 2000 strings: bias |mean - G| / |G|, "
            "bias_error what chance alone gives, cosine of mean and G, std of one string's over |G|; learned: "
            f"{settings.max_train_steps} steps of {settings.train_batch_size} strings from "
            f"{settings.num_train_samples} of the language, mean and standard error of the total variation over "
            f"{settings.num_languages} languages, seeds from {settings.seed} on"
        ),
    }


if __name__ == "__main__":
    training.launch(main, Settings, description=__doc__)
