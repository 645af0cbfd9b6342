"""
Trains a variational autoencoder of texts (Bowman et al., arXiv:1511.06349), or its decoder alone as a language model,
measures what of a text its latent holds, and saves it with its tokenizer.

    accelerate launch recipes/train_textvae.py
    accelerate launch recipes/train_textvae.py --kl_warmup_steps 0 --output_dir outputs/textvae-collapsed
    accelerate launch recipes/train_textvae.py --latent_size 0 --output_dir outputs/textvae-language-model

The first trains on English words, offline, in about two minutes of one core. In the second nothing keeps the decoder
from learning to do without its latent; the third has none. `--free_bits`, `--beta` and `--word_dropout` are further
ways against such a collapse.
"""

from dataclasses import asdict, dataclass

from hwzoo import TextVAEConfig, TextVAEModel, hub, metrics, text, training
from hwzoo.data import ImageBatches
from hwzoo.errors import UsageError
from hwzoo.files import write_json
from hwzoo.training import flag, flag_of_new

TEST_SEED = 0  # of the bounds' noise: the same for every run of one --eval_batch_size
BOUNDS = ("negative_elbo", "rate", "distortion")
WITH_LATENT = {"latent_size": range(1, 2**63)}
LATENT = (
    "one posterior sample a text; test_iwae_{0}: {0} posterior samples a text; mutual information, marginal "
    "divergence: of the aggregate posterior of the test texts"
)
NUM_TEXTS = 200  # of each kind in texts.json
DEFAULTS = {"train_batch_size": 64, "max_train_steps": 1500, "learning_rate": 3e-3, "lr_scheduler": "cosine"}
DEFAULTS |= {"lr_warmup_steps": 50, "output_dir": "outputs/textvae"}


@dataclass
class Run(training.with_defaults(training.LoopArguments, **DEFAULTS)):
    dataset_name: str = flag("words", "words, inflections, scitldr, a folder with train.jsonl and so on, or a Hub id")
    data_dir: str | None = flag(None, "folder that holds inflections/ and scitldr/; HWZOO_DATA_DIR when not given")


@dataclass
class Data(training.Flags):
    text_column: str | None = flag(None, "column of the texts; when not given, both of the usual columns of pairs")
    vocab_size: int = flag_of_new(259, "tokens, learned from the training texts; 259: bytes alone", "[259, inf)")


OF_TOKENIZER = ("vocab_size", "pad_token_id", "eos_token_id", "unk_token_id")
Model = training.config_flags(TextVAEConfig, without=OF_TOKENIZER)


@dataclass
class Protocol(training.Flags):
    FREE = {"num_importance_samples"}

    kl_warmup_steps: int = flag(750, "steps in which the rate's weight rises to beta", "[0, inf)", only=WITH_LATENT)
    num_importance_samples: int = flag(100, "samples K of the test bound iwae_K", "[1, 1000000]")


def main(run: Run, data_flags: Data, architecture: Model, protocol: Protocol) -> dict:
    # 1. accelerator, seed, output folder
    with training.start(run) as accelerator:
        # 2. data, its tokens, on the device as one tensor a split
        data = text.load_texts(run.dataset_name, run.data_dir, data_flags.text_column)
        model, tokenizer = build(run, data, data_flags, architecture)
        model.to(accelerator.device)
        max_tokens = model.config.max_tokens
        parts = {"training": data.train, "test": data.test, "validation": data.validation or data.test}
        train_set, test_set, watched = sets = [
            text.TokenSet.of([each.target for each in split], tokenizer, max_tokens).to(accelerator.device)
            for split in parts.values()
        ]
        for name, tokens in zip(parts, sets, strict=True):
            if not len(tokens):
                raise UsageError(f"--max_tokens is {max_tokens}; no {name} text of {data.name} is as short")
        batches = ImageBatches.for_run(train_set, run, accelerator)
        noise = training.GlobalNoise.for_run(run, accelerator)

        # 3. optimiser
        optimizer = training.make_optimizer("adam", model, run.learning_rate)
        state = training.TrainState(run, accelerator, model, optimizer, run.total_steps(len(batches)))
        eval_model = state.eval_model

        # 4. one step; its noise is drawn for the whole batch, whatever the processes and accumulated parts
        longest = train_set.input_ids.shape[1]  # a batch of one process may be shorter than that of another

        def train_step(batch):
            input_ids = batch["input_ids"]
            latent_noise = noise.normal(len(input_ids), model.config.latent_size)
            dropout_noise = noise.uniform(len(input_ids), longest)[:, : input_ids.shape[1]]
            kl_weight = min(1.0, (state.steps_done + 1) / max(1, protocol.kl_warmup_steps))

            def loss_of(input_ids, noise, dropout_noise):
                return state.wrapped(input_ids, kl_weight=kl_weight, noise=noise, dropout_noise=dropout_noise)

            return state.step(loss_of, input_ids, latent_noise, dropout_noise)

        # 5. training, watched on some of the validation texts
        watch_means = training.TestMeans(accelerator, watched, run.eval_batch_size, seed=TEST_SEED)
        test_means = training.TestMeans(accelerator, test_set, run.eval_batch_size, seed=TEST_SEED)
        num_samples = protocol.num_importance_samples

        def bounds(batch, generator):
            return dict(zip(BOUNDS, eval_model.negative_bound(**batch, generator=generator), strict=True))

        def iwae(batch, generator):
            bound = eval_model.negative_iwae_bound(
                batch["input_ids"], num_samples, generator=generator, reduction="none"
            )
            return {f"iwae_{num_samples}": bound}

        # 6. test
        def test(limit):
            eval_model.eval()
            results = test_means(bounds, limit, with_error=BOUNDS)
            results |= test_means(iwae, limit, batch_size=100, with_error=[f"iwae_{num_samples}"])
            some = test_set.batch(test_means.indices(limit).to(test_set.device))["input_ids"]
            results |= metrics.latent_scores(eval_model, some, run.eval_batch_size, seed=TEST_SEED)
            results = {f"test_{name}": value for name, value in results.items()}
            left_out = sum(map(len, (data.train, data.test))) - len(train_set) - len(test_set)
            results["protocol"] = "; ".join((
                f"{data.name}: all {len(test_set):,} test texts, {len(train_set):,} training texts",
                *filter(None, [data.note]),
                f"{left_out} longer than {max_tokens} tokens left out",
                f"{model.config.vocab_size} tokens; nats per text, its end counted; standard errors over the texts",
                LATENT.format(num_samples) if model.config.latent_size else "exact: the model has no latent",
                training.weights_of(run),
            ))  # fmt: skip
            return results

        # 7. save
        def save(folder, results, history, limit):
            hub.save(eval_model, folder, results, also=(tokenizer,))
            texts = text.texts_of(eval_model, tokenizer, test_set, run.seed, limit or NUM_TEXTS)
            write_json(folder / "texts.json", texts)
            training.save_curves(history, folder / "curves.png", BOUNDS, unit="nats per text")
            settings = run, data_flags, architecture, protocol
            training.save_settings(folder / "preset.yaml", *settings, config=model.config)
            about = {"config": eval_model.config, "protocol": protocol, "texts": texts}
            hub.save_card(run, folder, "textvae", data, results, **about)

        ending = training.Ending(test, save, [model, eval_model], hub.publish, text.LATENT_WORDS)
        own = {"config": model.config, "tokens": train_set.digest()}
        identity = training.identity_of("train_textvae", data, data_flags, architecture, protocol, **own)
        return training.fit(
            run, accelerator, batches, train_step, state={"model": model, "noise": noise, **state.entries()},
            identity=identity, evaluate=lambda: watch_means(bounds, 1000), ending=ending, shown=("loss", *BOUNDS[1:]),
            words=text.LATENT_WORDS,
        ).results  # fmt: skip


def build(run, data, data_flags, architecture) -> tuple[TextVAEModel, object]:
    """A model and its tokenizer, both new or both of the folder that is named."""
    name, tokenizer = run.model_name_or_path, None
    if name is None:
        tokenizer = text.train_tokenizer((each.target for each in data.train), data_flags.vocab_size)
    own = {} if tokenizer is None else sizes_of(tokenizer)
    model = hub.load_or_build(TextVAEModel, name, {**own, **asdict(architecture)}, architecture.asked)
    tokenizer = tokenizer or text.load_tokenizer(name, "model_name_or_path")
    for field, wanted in sizes_of(tokenizer).items():
        if (given := getattr(model.config, field)) != wanted:
            raise UsageError(f"--model_name_or_path {name}: it has {field} {given}, its tokenizer {wanted}")
    return model.train(), tokenizer


def sizes_of(tokenizer) -> dict[str, int]:
    return {name: getattr(tokenizer, name) for name in OF_TOKENIZER} | {"vocab_size": len(tokenizer)}


if __name__ == "__main__":
    training.launch(main, Run, Data, Model, Protocol, description=__doc__)
