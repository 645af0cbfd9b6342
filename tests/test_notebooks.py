"""The notebooks: run as they stand, one code cell after the other in one process, and kept without outputs."""

import json
import os
from pathlib import Path

import pytest
import torch
import warm
from loopback_hub import LoopbackHub

from hwzoo import VAEModel

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
# Plain Python without magics: a kernel would bring twenty packages more, and run the same.
RUN = """
import json, sys
cells = json.load(open(sys.argv[1], encoding="utf-8"))["cells"]
names, left_out = {"__name__": "__main__"}, sys.argv[2:]
for number, cell in enumerate(cells):
    if cell["cell_type"] == "code" and cell["id"] not in left_out:
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
print()
print(json.dumps({
    "paths": list(names["paths"].shape), "walks": list(names["walks"].shape), "bound": names["bound"],
    "samples": names["samples"].tolist(), "scores": names["scores"], "results": names["results"],
    "pushed": sorted(names["server"].repos["me/tour"].files) if "server" in names else [],
    "address": names["address"],
}))
"""


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["metadata"]["language_info"]["name"]) == (4, "python")
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert code and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.mark.long
def test_the_tour_is_run_as_it_stands(tmp_path):
    folder = tmp_path / "tour"
    environment = os.environ | {"TOUR_FOLDER": str(folder), "TOUR_STEPS": "20"}
    ended = warm.run(["-c", RUN, "tour.ipynb"], cwd=NOTEBOOKS, env=environment)
    assert ended.returncode == 0, ended.stderr[-3000:]
    told = json.loads(ended.stdout.splitlines()[-1])
    saved = json.loads((folder / "all_results.json").read_text())
    assert saved["train_steps"] == 20 and told["results"]["test_negative_elbo"] == saved["test_negative_elbo"] > 0
    assert told["paths"] == told["walks"] == [3, 12, 1, 28, 28]
    assert told["bound"] > 0 and told["scores"]["test_fid"] > told["scores"]["test_fid_floor"] > 0
    assert {"model.safetensors", "modeling_vae.py", "README.md", "preset.yaml"} <= set(told["pushed"])
    assert told["address"].startswith("http://127.0.0.1:")
    model = VAEModel.from_pretrained(folder)
    samples = model.sample(60, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(samples, torch.tensor(told["samples"]))


@pytest.mark.slow
def test_the_tour_goes_to_a_hub_of_ones_own(tmp_path):
    """Without the first and the last code cell, as it says."""
    cells = json.loads((NOTEBOOKS / "tour.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell["id"] for cell in cells if cell["cell_type"] == "code"]
    with LoopbackHub() as server:
        environment = os.environ | server.environment(tmp_path / "cache")
        environment |= {"TOUR_FOLDER": str(tmp_path / "tour"), "TOUR_STEPS": "20"}
        ended = warm.run(["-c", RUN, "tour.ipynb", code[0], code[-1]], cwd=NOTEBOOKS, env=environment)
        assert ended.returncode == 0, ended.stderr[-3000:]
        assert "model.safetensors" in server.repos["me/tour"].files
    assert json.loads(ended.stdout.splitlines()[-1])["address"].startswith(server.url)
