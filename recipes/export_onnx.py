"""
Writes the parts of a VAE, a GAN or a classifier as ONNX files, which run without torch.

    hwzoo export onnx outputs/vae --output_dir outputs/vae-onnx
    python recipes/export_onnx.py you/gan --output_dir outputs/gan-onnx

Writes encoder.onnx and decoder.onnx of a VAE, generator.onnx and discriminator.onnx of a GAN, classifier.onnx of a
classifier, for batches of any size and pixels in [0, 1], each compared with the model by onnxruntime, and export.json
with the largest difference of each. Needs `pip install "hwzoo[onnx]"`.
"""

from dataclasses import dataclass
from pathlib import Path

from hwzoo import generators, hub, onnx, training
from hwzoo.errors import UsageError
from hwzoo.files import renewing, write_json
from hwzoo.training import flag


@dataclass
class Settings(training.Flags):
    FIRST = "model_name_or_path"

    config: str | None = flag(None, "YAML file with these flags as keys; the command line wins")
    model_name_or_path: str | None = flag(None, "folder or Hub id of a VAE, a GAN or a classifier")
    output_dir: str = flag("outputs/onnx", "folder for the .onnx files and export.json")
    overwrite_output_dir: bool = flag(False, "write over what the folder holds")


def main(settings: Settings) -> dict:
    # 1. the model
    folder, name = Path(settings.output_dir), settings.model_name_or_path
    if name is None:
        raise UsageError("--model_name_or_path is missing: a VAE, a GAN or a classifier")
    generators.check_name(name)
    training.check_free(folder, settings.overwrite_output_dir)
    try:
        _, model = hub.load_any(name)
    except (OSError, ValueError) as error:
        raise UsageError(f"--model_name_or_path {name} cannot be loaded: {str(error).splitlines()[0]}") from error

    # 2. its parts
    training.make_output_dir(folder)
    with renewing(folder) as staging:
        differences = onnx.export(model, staging)
        results = {"model": name, "largest_difference": differences}
        write_json(staging / "export.json", results)
    for part, difference in differences.items():
        print(f"{folder / part}.onnx: differs from the model by {difference:.1g} at most")
    return results


if __name__ == "__main__":
    training.launch(main, Settings, description=__doc__)
