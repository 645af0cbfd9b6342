"""
Measures how far two distributions are apart by training a discriminator to tell them apart, where the truth is known:
the exercise of IFT6135. The best discriminator knows the Jensen-Shannon divergence and the ratio of the densities
(Goodfellow et al., arXiv:1406.2661), any other one a lower bound, as of all f-divergences (Nowozin et al.,
arXiv:1606.00709). A critic with a penalised gradient knows the Wasserstein distance (Gulrajani et al.,
arXiv:1704.00028).

    python recipes/estimate_divergence.py
    python recipes/estimate_divergence.py --seed 1 --output_dir outputs/estimate_divergence_seed_1

Trains an MLP 64-64-64 on (0, u) against (phi, u), u uniform on [0, 1], for 21 phi and both divergences, and one on
tanh(2 z + 1) + 0.75 z against z, z normal. all_results.json gets `jsd` in nats and `wasserstein` by phi (truth: ln 2,
and 0 at phi = 0; |phi|), `density_jsd` (truth: 0.0875 nats), V(G, D) of the best and of the trained discriminator
(truth: -ln 4 + 2 JSD = -1.2114), and the gradients of two losses of the generator. docs/gan.md explains the pictures.

Takes a minute on one core of an AMD EPYC (Zen 4), two to three where other work shares it. Seeds 0, 1, 2: `jsd` is off
by 0.0006 at most, `wasserstein` by 0.0104 (0.01 of it the penalty's bias), `density_jsd` is 0.0872 to 0.0877.
"""

import math
import time
from dataclasses import dataclass
from functools import partial

import torch

from hwzoo import metrics, training
from hwzoo.files import write_json
from hwzoo.models.gan.losses_gan import LOSSES
from hwzoo.training import flag

LN2 = math.log(2)
PHIS = [step / 10 for step in range(-10, 11)]
MORE_FOR_DENSITIES = 8  # times the samples: this is one discriminator, the others are 21
# |d loss / d logit| of the generator's losses, by the probability D(G(z)).
GRADIENTS = {"minimax": lambda probability: probability, "non_saturating": lambda probability: 1 - probability}


@dataclass
class Settings(training.Flags):
    config: str | None = flag(None, "YAML file with these flags as keys; the command line wins")
    output_dir: str = flag("outputs/estimate_divergence", "folder for all_results.json and the pictures")
    overwrite_output_dir: bool = flag(False, "start anew in a folder that is not empty, over its files")
    seed: int = flag(0, "of the initial weights and of all samples", "[0, 4294967295]")
    train_batch_size: int = flag(256, "samples of each distribution a step; 8 times for the densities", "[1, inf)")
    max_train_steps: int = flag(1000, "optimiser steps of each discriminator", "[1, inf)")
    learning_rate: float = flag(1e-3, "of Adam, falls to 0", "(0, inf)")
    gradient_penalty_weight: float = flag(50.0, "of the critic, from half of the steps on", "(0, inf)")
    num_eval_samples: int = flag(100_000, "fresh samples of each to estimate; 8 times for the densities", "[1, inf)")


def estimate(loss, draw, settings, generator, times=1):
    """Trained discriminators, a logit of each step, fresh samples, and what the discriminators make of these."""
    losses = LOSSES[loss]
    logits, trace = metrics.train_discriminators(
        losses.discriminator, draw, batch_size=times * settings.train_batch_size, steps=settings.max_train_steps,
        learning_rate=settings.learning_rate, generator=generator, name=loss,
        penalty=losses.penalty, penalty_weight=settings.gradient_penalty_weight,
    )  # fmt: skip
    samples = draw(times * settings.num_eval_samples, generator)
    return logits, trace, samples, *metrics.discriminator_values(losses.discriminator, logits, *samples)


def main(settings: Settings) -> dict:
    # 1. output folder, seed
    folder = training.make_output_dir(settings.output_dir, settings.overwrite_output_dir)
    started = time.monotonic()
    torch.manual_seed(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)

    # 2. two segments phi apart: JSD = ln 2 + E_p[ln D] / 2 + E_q[ln(1 - D)] / 2, W = E_p[f] - E_q[f]
    segments = partial(metrics.segments, PHIS)
    _, trace, _, values, on_segments = estimate("minimax", segments, settings, generator)
    jsd = [LN2 + value / 2 for value in values]
    *_, wasserstein, _ = estimate("wasserstein_gp", segments, settings, generator)

    # 3. V(G, D) of the trained and of the best discriminator, and a density from a known one: f1 = f0 D / (1 - D)
    estimated = estimate("minimax", metrics.warped_and_normal, settings, generator, MORE_FOR_DENSITIES)
    discriminator, more_trace, samples, (value_trained,), _ = estimated
    value_of, best = LOSSES["minimax"].discriminator, metrics.warped_normal_log_ratio
    (value_optimal,), _ = metrics.discriminator_values(value_of, best, *samples)
    points = torch.linspace(-8, 8, 3201, dtype=torch.float64)
    log_f0, log_f1 = metrics.normal_log_density(points), metrics.warped_normal_log_density(points)
    with torch.no_grad():
        logits = discriminator(points.float()[None, :, None])[0].double()
    density_jsd_truth = metrics.jensen_shannon_divergence(log_f1, log_f0, points)

    # 4. gradients of the generator's losses: after the training, and wherever D(G(z)) came by during it
    apart = on_segments[[phi != 0 for phi in PHIS]].flatten()
    sure = {name: metrics.logit_gradient(LOSSES[name].generator, apart).mean().item() for name in GRADIENTS}
    seen = torch.cat([trace.flatten(), more_trace.flatten()]).double().sort().values
    evenly = torch.linspace(seen[0].item(), seen[-1].item(), 40, dtype=torch.float64)
    seen = seen[torch.searchsorted(seen, evenly).clamp(max=len(seen) - 1)].unique()
    measured = {name: metrics.logit_gradient(LOSSES[name].generator, seen) for name in GRADIENTS}
    errors = [(measured[name] - analytic(seen.sigmoid())).abs().max().item() for name, analytic in GRADIENTS.items()]

    # 5. save
    results = {
        "jsd": dict(zip(map(str, PHIS), jsd, strict=True)),
        "wasserstein": dict(zip(map(str, PHIS), wasserstein, strict=True)),
        "jsd_max_error": max(abs(value - LN2 * (phi != 0)) for phi, value in zip(PHIS, jsd, strict=True)),
        "wasserstein_max_error": max(abs(value - abs(phi)) for phi, value in zip(PHIS, wasserstein, strict=True)),
        "density_jsd": LN2 + value_trained / 2,
        "density_jsd_truth": density_jsd_truth,
        "density_total_variation": torch.trapezoid(((log_f0 + logits).exp() - log_f1.exp()).abs(), points).item() / 2,
        "value_trained": value_trained,
        "value_optimal": value_optimal,
        "value_from_jsd": 2 * density_jsd_truth - 2 * LN2,
        "generator_gradient": sure,
        "generator_gradient_max_error": max(errors),
        "train_runtime": time.monotonic() - started,
        "protocol": (
            f"Each estimate is what the discriminator maximises, without penalty, on {settings.num_eval_samples} "
            f"fresh samples of each of the two distributions ({samples[0].shape[1]} for density_jsd and both value_), "
            f"after {settings.max_train_steps} steps of {settings.train_batch_size} samples of each "
            f"({MORE_FOR_DENSITIES * settings.train_batch_size}), seed {settings.seed}: jsd and density_jsd are ln 2 "
            "+ E_p[ln D] / 2 + E_q[ln(1 - D)] / 2 in nats, wasserstein is E_p[f] - E_q[f] with a penalty of weight "
            f"{settings.gradient_penalty_weight:g}; value_optimal is of the closed form of D on the samples of "
            "value_trained; density_jsd_truth, and the total variation of estimated and true density, by quadrature "
            f"on {len(points)} points; generator_gradient is the mean of |d loss / d logit| over the generated "
            "samples of all phi but 0"
        ),
    }
    write_json(folder / "all_results.json", results)
    training.save_settings(folder / "preset.yaml", settings)
    draw_by_phi(folder, jsd, wasserstein, settings.gradient_penalty_weight)
    draw_densities(folder, *(each[points.abs() <= 4] for each in (points, log_f0, log_f1, logits)))
    draw_gradients(folder, seen.sigmoid(), measured)
    for phi, value in results["jsd"].items():
        print(f"phi {phi:>4}: JSD {value:.4f} nats, Wasserstein distance {results['wasserstein'][phi]:.4f}")
    for name, value in results.items():
        if isinstance(value, float):
            print(f"{name:>28} {value:.4f}")
    print(f"results and pictures are in {folder}")
    return results


def draw_by_phi(folder, jsd, wasserstein, weight):
    curves = {"truth: ln 2": ([-1, -0.02, math.nan, 0.02, 1], [LN2] * 5, "C0-"), "truth at phi = 0": ([0], [0], "C0D")}
    curves["trained discriminators"] = PHIS, jsd, "C1."
    training.save_functions({"Jensen-Shannon divergence (nats)": curves}, folder / "jsd.png", xlabel="phi")
    best = [metrics.penalised_wasserstein(phi, weight) for phi in PHIS]
    label = f"best with penalty: |phi| + phi² / {2 * weight:g}"
    curves = {"truth: |phi|": ([-1, 0, 1], [1, 0, 1], "-"), label: (PHIS, best, ":")}
    curves["trained critics"] = PHIS, wasserstein, "o"
    training.save_functions({"Wasserstein distance (units of phi)": curves}, folder / "wasserstein.png", xlabel="phi")


def draw_densities(folder, points, log_f0, log_f1, logits):
    f0, f1, f1_estimate = (log_density.exp() for log_density in (log_f0, log_f1, log_f0 + logits))
    densities = {"f0, normal": (points, f0, "C7:"), "f1, closed form": (points, f1, "C0-")}
    densities["f0 D / (1 - D), D trained"] = points, f1_estimate, "C1--"
    probabilities = {"best, f1 / (f0 + f1)": (points, (log_f1 - log_f0).sigmoid(), "C0-")}
    probabilities["trained"] = points, logits.sigmoid(), "C1--"
    training.save_functions({"density": densities, "D(x)": probabilities}, folder / "density_ratio.png", xlabel="x")


def draw_gradients(folder, probabilities, measured):
    line = torch.logspace(probabilities[0].clamp(min=1e-12).log10().item(), -0.002, 500, dtype=torch.float64)
    formulas, curves = {"minimax": "D", "non_saturating": "1 - D"}, {}
    for colour, (name, analytic) in enumerate(GRADIENTS.items()):
        label = name.replace("_", "-")
        curves[f"{label}, analytic: {formulas[name]}"] = (line, analytic(line), f"C{colour}-")
        curves[f"{label}, measured"] = (probabilities, measured[name], f"C{colour}o")
    panel = {"|gradient| of the generator's loss by the logit": curves}
    training.save_functions(panel, folder / "vanishing_gradient.png", xlabel="D(G(z))", scale="log")


if __name__ == "__main__":
    training.launch(main, Settings, description=__doc__)
