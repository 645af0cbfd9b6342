#!/usr/bin/env bash
# torch 2.13.0. `torch.export` opens no dimension of a model whose `forward` has `**kwargs`, as those of transformers
# have, when an input comes by it. The names of the inputs are refused with the advice to nest them under "kwargs", or to
# give the shapes by place; nested as told, and by place, it fails with an AssertionError that names no input ("Must
# provide a tree_name ..."), also with Dim.AUTO, strict or not. The same inputs as named arguments export.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy
"$work/venv/bin/python" - <<'PYTHON'
import torch
from torch.export import Dim, export


class Named(torch.nn.Module):
    def forward(self, x, y):
        return x + y


class ByKeyword(torch.nn.Module):
    def forward(self, x, **kwargs):
        return x + kwargs["y"]


def outcome(module, shapes):
    x, found = torch.zeros(3, 2), set()
    for strict in (False, True):
        try:
            program = export(module, (x,), {"y": x}, dynamic_shapes=shapes, strict=strict).module()
            found.add(f"exports, {tuple(program(torch.zeros(5, 2), y=torch.ones(5, 2)).shape)}")
        except Exception as error:
            found.add(f"{type(error).__name__}: {str(error).splitlines()[0]}")
    (only,) = found
    return only


batch = {0: Dim("batch")}
outcomes = {
    "named": outcome(Named(), {"x": batch, "y": batch}),
    "by keyword, flat": outcome(ByKeyword(), {"x": batch, "y": batch}),
    "by keyword, nested": outcome(ByKeyword(), {"x": batch, "kwargs": {"y": batch}}),
    "by keyword, by place": outcome(ByKeyword(), (batch, {"y": batch})),
    "by keyword, automatic": outcome(ByKeyword(), {"x": {0: Dim.AUTO}, "kwargs": {"y": {0: Dim.AUTO}}}),
}
for name, told in outcomes.items():
    print(f"{name}: {told[:150]}")
assert outcomes["named"] == "exports, (5, 2)"
assert "must be the arg names ['x', 'kwargs']" in outcomes["by keyword, flat"]
for name in ("nested", "by place", "automatic"):
    assert outcomes[f"by keyword, {name}"].startswith("AssertionError: Must provide a tree_name")
PYTHON
