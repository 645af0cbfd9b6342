"""ONNX files of the parts of a zoo model: encoder, decoder, generator, discriminator, classifier."""

import logging
import warnings
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .errors import HwzooError, UsageError

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
BATCHES = (2, 5)  # the first is traced; both are compared
TOLERANCE = 1e-4  # of outputs, absolute and relative


class Part(NamedTuple):
    """
    Attributes:
        call: from the inputs in their order to a tensor or a tuple of them.
        inputs: an example by name, with a batch of `BATCHES[0]`.
        outputs: their names.
    """

    call: Callable[..., Any]
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]


class _Module(nn.Module):
    def __init__(self, model: nn.Module, call: Callable[..., Any]):
        super().__init__()
        self.model, self.call = model, call

    def forward(self, *inputs: Tensor) -> Any:
        return self.call(*inputs)


def parts(model: Any, num: int = BATCHES[0]) -> dict[str, Part]:
    """
    What of a model can be exported.

    Args:
        model: of the zoo, in eval mode.
        num: images or latents of the examples.

    Returns:
        Parts by the names of their files: `encoder` and `decoder` of a VAE, `generator` and `discriminator` of a GAN,
        `classifier`.

    Raises:
        UsageError: for a model of another kind.
    """
    config, generator = model.config, torch.Generator().manual_seed(0)
    of_images = getattr(model, "main_input_name", None) == "pixel_values"  # a pipeline has none
    if not of_images or not any(hasattr(config, name) for name in ("backbone", "latent_size")):
        raise UsageError(f"a {type(model).__name__} has no part that is exported; a VAE, a GAN or a classifier has")
    shape = (num, config.num_channels, config.image_size, config.image_size)
    pixels = {"pixel_values": torch.rand(shape, generator=generator)}
    if hasattr(config, "backbone"):
        return {"classifier": Part(lambda images: model(images).logits, pixels, ("logits",))}
    latents = {"latents": torch.randn(num, config.latent_size, generator=generator)}
    labels = {"labels": torch.arange(num) % config.num_classes} if config.num_classes else {}
    if hasattr(model, "encode"):
        return {
            "encoder": Part(model.encode, pixels | labels, ("mean", "variance")),
            "decoder": Part(model.decode, latents | labels, ("pixel_values",)),
        }
    return {
        "generator": Part(lambda *given: model.generator(*given).clamp(0, 1), latents | labels, ("pixel_values",)),
        "discriminator": Part(model.discriminator, pixels | labels, ("logits",)),
    }


def export(model: Any, folder: Path) -> dict[str, float]:
    """
    Writes each part of a model as NAME.onnx, for batches of any size, and compares what onnxruntime makes of it with
    the model.

    Args:
        model: of the zoo, on the CPU, in float32 and eval mode.
        folder: for the files.

    Returns:
        The largest difference by part.

    Raises:
        UsageError: when a package is missing, or for a model of another kind.
        HwzooError: when an exported part gives other numbers than the model.
    """
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UsageError(f'ONNX needs {", ".join(missing)}: pip install "hwzoo[onnx]"')
    found = {}
    for name, part in parts(model).items():
        path, batch = Path(folder) / f"{name}.onnx", torch.export.Dim("batch")
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of torch's exporter, about its own parts
            level = logging.root.manager.disable
            logging.disable(logging.WARNING)
            try:
                torch.onnx.export(
                    _Module(model, part.call).eval(), tuple(part.inputs.values()), path, dynamo=True, verbose=False,
                    input_names=list(part.inputs), output_names=list(part.outputs), external_data=False,
                    dynamic_shapes={"inputs": tuple({0: batch} for _ in part.inputs)},
                )  # fmt: skip
            finally:
                logging.disable(level)
        found[name] = _largest(_difference(path, parts(model, num)[name]) for num in BATCHES)
        if not found[name] <= TOLERANCE:
            raise HwzooError(f"{path} gives other numbers than the model, by {found[name]:.2g}")
    return found


@torch.no_grad()
def _difference(path: Path, part: Part) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = session.run(list(part.outputs), {name: value.numpy() for name, value in part.inputs.items()})
    wanted = part.call(*part.inputs.values())
    wanted = [wanted] if isinstance(wanted, Tensor) else wanted
    pairs = zip(map(torch.from_numpy, given), wanted, strict=True)
    return _largest(((own - other).abs() / (1 + other.abs())).max().item() for own, other in pairs)


def _largest(differences: Iterable[float]) -> float:
    """Not by Python's `max`, which passes over a NaN that is not the first."""
    return torch.tensor(list(differences), dtype=torch.float64).max().item()
