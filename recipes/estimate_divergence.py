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

As in the course: Adam at 1e-3, 1,000 steps. Other than there: 256 samples a step, not 512, for half the time, but
2,048 of the one pair with densities, and a rate that falls to 0, for a density without bumps; a penalty of weight 50,
as the best penalised critic says |phi| + phi^2 / (2 weight), 0.05 too much with 10; and this weight rises from 0 over
the first half of the steps: with 50 from the start, some critics keep a wrong slope for 900.
"""

import math
import time
from dataclasses import dataclass

import torch
from torch.func import functional_call, stack_module_state, vmap
from tqdm.auto import tqdm

from hwzoo import metrics, training
from hwzoo.files import write_json
from hwzoo.models.gan.losses_gan import LOSSES, gradient_penalty
from hwzoo.training import flag

LN2 = math.log(2)
PHIS = [step / 10 for step in range(-10, 11)]
HIDDEN_SIZE = 64
MORE_FOR_DENSITIES = 8  # times the samples: this is one discriminator, the others are 21
CHUNK = 5000  # samples whose activations are held at once when estimating
# |d loss / d logit| of the generator's losses, by the probability D(G(z)).
GRADIENTS = {"minimax": lambda probability: probability, "non_saturating": lambda probability: 1 - probability}


@dataclass
class Settings(training.Flags):
    config: str | None = flag(None, "YAML file with these flags as keys; the command line wins")
    output_dir: str = flag("outputs/estimate_divergence", "folder for all_results.json and the pictures")
    overwrite_output_dir: bool = flag(False, "start anew in a folder that is not empty, over its files")
    seed: int = flag(0, "of the initial weights and of all samples", "[0, 4294967295]")
    train_batch_size: int = flag(
        256, "samples of each distribution a step; for the densities 8 times as many", "[1, inf)"
    )
    max_train_steps: int = flag(1000, "optimiser steps of each discriminator", "[1, inf)")
    learning_rate: float = flag(1e-3, "of Adam, falls to 0", "(0, inf)")
    gradient_penalty_weight: float = flag(50.0, "of the critic, from half of the steps on", "(0, inf)")
    num_eval_samples: int = flag(
        100_000, "fresh samples of each for the estimates; for the densities 8 times as many", "[1, inf)"
    )


def segments(num_samples, generator):
    """(0, u), once for each phi, and (phi, u), u uniform and drawn anew for each point: (21, num_samples, 2) each."""
    shifts = torch.tensor(PHIS)[:, None].expand(-1, num_samples)
    heights = torch.rand(2, *shifts.shape, generator=generator)
    return torch.stack([torch.zeros_like(shifts), heights[0]], -1), torch.stack([shifts, heights[1]], -1)


def warped_and_normal(num_samples, generator):
    """tanh(2 z + 1) + 0.75 z and z, z normal: (1, num_samples, 1) each."""
    latents = torch.randn(2, 1, num_samples, 1, generator=generator)
    return metrics.warp(latents[0]), latents[1]


def optimal_logits(points):
    """Of the best discriminator of `warped_and_normal`: ln f1 - ln f0 (arXiv:1406.2661, proposition 1)."""
    return (metrics.warped_normal_log_density(points) - metrics.normal_log_density(points)).squeeze(-1)


def mlp(size):
    sizes = [size, HIDDEN_SIZE, HIDDEN_SIZE, HIDDEN_SIZE]
    hidden = [(torch.nn.Linear(*pair), torch.nn.ReLU()) for pair in zip(sizes, sizes[1:], strict=False)]
    return torch.nn.Sequential(*(layer for pair in hidden for layer in pair), torch.nn.Linear(HIDDEN_SIZE, 1))


def train(loss, draw, batch_size, settings, generator):
    """
    One discriminator for each pair of distributions, all at once: weights are stacked, each sees its own samples.

    Returns:
        logits(points): (pairs, num_samples, size) -> (pairs, num_samples).
        trace: the logit of one generated sample at each step, (steps, pairs).
    """
    losses, (num_pairs, _, size) = LOSSES[loss], draw(1, generator)[0].shape
    networks, steps, trace = [mlp(size) for _ in range(num_pairs)], settings.max_train_steps, []
    parameters, _ = stack_module_state(networks)
    optimizer = torch.optim.Adam(parameters.values(), lr=settings.learning_rate, fused=True)
    lr_scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)

    def logits(points):
        return vmap(lambda own, x: functional_call(networks[0], own, x))(parameters, points).squeeze(-1)

    def critic(points):  # those of all pairs in one row
        return logits(points.unflatten(0, (num_pairs, -1))).flatten()

    for step in tqdm(range(1, steps + 1), desc=f"{loss}, {num_pairs} pairs", unit="step", disable=None):
        real, fake = draw(batch_size, generator)
        on_real, on_fake = logits(real), logits(fake)
        objective = losses.discriminator(on_real, on_fake)
        if losses.penalised:
            mixing = torch.rand(num_pairs * batch_size, generator=generator)
            penalty = gradient_penalty(critic, real.flatten(0, 1), fake.flatten(0, 1), mixing)
            objective = objective + settings.gradient_penalty_weight * min(1, 2 * step / steps) * penalty
        if not objective.isfinite():
            raise training.NonFiniteLoss(
                f"the loss of {loss} is {objective.item()} at step {step}; a smaller --learning_rate may help"
            )
        (objective * num_pairs).backward()  # the sum, not the mean, over the pairs: each learns as if it were alone
        optimizer.step()
        optimizer.zero_grad()
        lr_scheduler.step()
        trace.append(on_fake[:, 0].detach())
    return logits, torch.stack(trace)


@torch.no_grad()
def evaluate(loss, logits, real, fake):
    """What each discriminator maximises, without penalty, and its logits on `fake`, (pairs, num_samples)."""
    on_real, on_fake = (torch.cat([logits(part) for part in x.split(CHUNK, 1)], 1).double() for x in (real, fake))
    return [-LOSSES[loss].discriminator(*pair).item() for pair in zip(on_real, on_fake, strict=True)], on_fake


def generator_gradient(loss, logits):
    """|d loss / d logit|, of each sample's own loss, by autograd: (num_samples,)."""
    logits = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(LOSSES[loss].generator(logits) * len(logits), logits)
    return gradient.abs()


def main(settings: Settings) -> dict:
    # 1. output folder, seed
    folder = training.make_output_dir(settings.output_dir, settings.overwrite_output_dir)
    started = time.monotonic()
    torch.manual_seed(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    batch_size, num_samples = settings.train_batch_size, settings.num_eval_samples

    # 2. two segments phi apart: JSD = ln 2 + E_p[ln D] / 2 + E_q[ln(1 - D)] / 2, W = E_p[f] - E_q[f]
    discriminators, trace = train("minimax", segments, batch_size, settings, generator)
    values, on_segments = evaluate("minimax", discriminators, *segments(num_samples, generator))
    jsd = [LN2 + value / 2 for value in values]
    critics, _ = train("wasserstein_gp", segments, batch_size, settings, generator)
    wasserstein, _ = evaluate("wasserstein_gp", critics, *segments(num_samples, generator))

    # 3. V(G, D) of the trained and of the best discriminator, and a density from its ratio to a known one
    batch_size, num_samples = MORE_FOR_DENSITIES * batch_size, MORE_FOR_DENSITIES * num_samples
    discriminator, more_trace = train("minimax", warped_and_normal, batch_size, settings, generator)
    samples = warped_and_normal(num_samples, generator)
    (value_trained,), _ = evaluate("minimax", discriminator, *samples)
    (value_optimal,), _ = evaluate("minimax", optimal_logits, *samples)
    points = torch.linspace(-8, 8, 3201, dtype=torch.float64)
    log_f0, log_f1 = metrics.normal_log_density(points), metrics.warped_normal_log_density(points)
    with torch.no_grad():
        logits = discriminator(points.float()[None, :, None])[0].double()
    f1_estimate = (log_f0 + logits).exp()  # f0 D / (1 - D)
    density_jsd_truth = metrics.jensen_shannon_divergence(log_f1, log_f0, points)

    # 4. gradients of the generator's losses: after the training, and wherever D(G(z)) came by during it
    apart = on_segments[[phi != 0 for phi in PHIS]].flatten()
    seen = torch.cat([trace.flatten(), more_trace.flatten()]).double().sort().values
    evenly = torch.linspace(seen[0].item(), seen[-1].item(), 40, dtype=torch.float64)
    seen = seen[torch.searchsorted(seen, evenly).clamp(max=len(seen) - 1)].unique()
    measured = {name: generator_gradient(name, seen) for name in GRADIENTS}
    errors = [(measured[name] - analytic(seen.sigmoid())).abs().max().item() for name, analytic in GRADIENTS.items()]

    # 5. save
    results = {
        "jsd": dict(zip(map(str, PHIS), jsd, strict=True)),
        "wasserstein": dict(zip(map(str, PHIS), wasserstein, strict=True)),
        "jsd_max_error": max(abs(value - LN2 * (phi != 0)) for phi, value in zip(PHIS, jsd, strict=True)),
        "wasserstein_max_error": max(abs(value - abs(phi)) for phi, value in zip(PHIS, wasserstein, strict=True)),
        "density_jsd": LN2 + value_trained / 2,
        "density_jsd_truth": density_jsd_truth,
        "density_total_variation": torch.trapezoid((f1_estimate - log_f1.exp()).abs(), points).item() / 2,
        "value_trained": value_trained,
        "value_optimal": value_optimal,
        "value_from_jsd": 2 * density_jsd_truth - 2 * LN2,
        "generator_gradient": {name: generator_gradient(name, apart).mean().item() for name in GRADIENTS},
        "generator_gradient_max_error": max(errors),
        "train_runtime": time.monotonic() - started,
        "protocol": (
            f"Each estimate is what the discriminator maximises, without penalty, on {settings.num_eval_samples} "
            f"fresh samples of each of the two distributions ({num_samples} for density_jsd and both value_), after "
            f"{settings.max_train_steps} steps of {settings.train_batch_size} samples of each ({batch_size}), seed "
            f"{settings.seed}: jsd and density_jsd are ln 2 + E_p[ln D] / 2 + E_q[ln(1 - D)] / 2 in nats, wasserstein "
            f"is E_p[f] - E_q[f] with a penalty of weight {settings.gradient_penalty_weight:g}; value_optimal is of "
            "the closed form of D on the samples of value_trained; density_jsd_truth, and the total variation of "
            f"estimated and true density, by quadrature on {len(points)} points; generator_gradient is the mean of "
            "|d loss / d logit| over the generated samples of all phi but 0"
        ),
    }
    write_json(folder / "all_results.json", results)
    training.save_settings(folder / "preset.yaml", settings)
    shown = points.abs() <= 4
    draw_by_phi(folder, jsd, wasserstein, settings.gradient_penalty_weight)
    draw_densities(folder, *(each[shown] for each in (points, log_f0, log_f1, logits)))
    draw_gradients(folder, seen.sigmoid(), measured)
    for phi, value in results["jsd"].items():
        print(f"phi {phi:>4}: JSD {value:.4f} nats, Wasserstein distance {results['wasserstein'][phi]:.4f}")
    for name, value in results.items():
        if isinstance(value, float):
            print(f"{name:>28} {value:.4f}")
    print(f"results and pictures are in {folder}")
    return results


def draw_by_phi(folder, jsd, wasserstein, weight):
    truth = [-1, 0, 0, 0, 1], [LN2, LN2, 0, LN2, LN2], "-"
    curves = {"truth: ln 2, and 0 at phi = 0": truth, "trained discriminators": (PHIS, jsd, "o")}
    training.save_functions({"Jensen-Shannon divergence (nats)": curves}, folder / "jsd.png", xlabel="phi")
    best = [metrics.penalised_wasserstein(phi, weight) for phi in PHIS]
    curves = {
        "truth: |phi|": ([-1, 0, 1], [1, 0, 1], "-"),
        f"best with penalty: |phi| + phi² / {2 * weight:g}": (PHIS, best, ":"),
        "trained critics": (PHIS, wasserstein, "o"),
    }
    training.save_functions({"Wasserstein distance (units of phi)": curves}, folder / "wasserstein.png", xlabel="phi")


def draw_densities(folder, points, log_f0, log_f1, logits):
    densities = {
        "f0, normal": (points, log_f0.exp(), "C7:"),
        "f1, closed form": (points, log_f1.exp(), "C0-"),
        "f0 D / (1 - D), D trained": (points, (log_f0 + logits).exp(), "C1--"),
    }
    probabilities = {
        "best, f1 / (f0 + f1)": (points, (log_f1 - log_f0).sigmoid(), "C0-"),
        "trained": (points, logits.sigmoid(), "C1--"),
    }
    panels = {"density": densities, "D(x)": probabilities}
    training.save_functions(panels, folder / "density_ratio.png", xlabel="x")


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
