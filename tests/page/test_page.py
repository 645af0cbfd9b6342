"""The page over HTTP on this machine: its answers, its limits, and what it does not serve."""

import os
import socket
import sys
import threading

import httpx
import pytest
import torch
from page_models import make
from page_visitor import Visitor, free_port, pictures

from hwzoo import page
from hwzoo.page import app
from hwzoo.page.answers import data_uri, png
from hwzoo.page.inputs import MOST_BYTES

asked: list[str] = []  # addresses that anything in this process turned to


def _note(event: str, args: tuple):
    if event == "socket.connect":
        asked.append(str(args[1][0]) if isinstance(args[1], tuple) else str(args[1]))
    elif event == "socket.getaddrinfo":
        asked.append(str(args[0]))


sys.addaudithook(_note)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A page of a VAE, a classifier and what cannot be loaded."""
    folder = tmp_path_factory.mktemp("served")
    names = [str(make(name, folder / name)) for name in ("vae", "classifier")]
    (folder / "broken").mkdir()
    (folder / "broken" / "config.json").write_text("{")
    (folder / "secret.txt").write_text("a secret of the host")
    entries = page.load_entries([*names, str(folder / "broken")])
    asked.clear()
    blocks = page.build(entries, 20)
    url = page.serve(blocks, port=free_port())
    yield url, entries, folder
    blocks.close()


@pytest.fixture
def visitor(served):
    return Visitor(served[0])


@pytest.mark.long
def test_what_a_visitor_draws_is_what_the_model_samples(served, visitor):
    (draw,) = visitor.calls("Draw")
    assert visitor.defaults(draw) == [8, 0]
    event = visitor.ask(draw, [3, 5])
    expected = served[1][0].model.sample(3, generator=torch.Generator().manual_seed(5))
    assert event["success"] and pictures(event) == [png(image) for image in expected]


def test_what_is_out_of_bounds_is_a_line(visitor):
    (draw,) = visitor.calls("Draw")
    for values in ([3, -1], [3, 2**32]):
        event = visitor.ask(draw, values)
        html = event["output"]["data"][0]
        assert event["success"] and 'role="alert"' in html and "must be a whole number" in html
    for values in ([65, 0], ["x", 0], [[], {}], [None, 0]):  # Gradio's components refuse them
        event = visitor.ask(draw, values)
        assert not event["success"] and "Traceback" not in str(event)


def test_a_picture_reaches_the_classifier(served, visitor):
    calls = [call for call in visitor.calls("Run") if len(call["inputs"]) == 1]
    image = torch.rand(1, 28, 28, generator=torch.Generator().manual_seed(0))
    image = (image * 255).round() / 255
    found = [visitor.ask(call, [data_uri(png(image))])["output"]["data"][0] for call in calls]
    with torch.no_grad():
        shares = served[1][1].model(pixel_values=image[None]).logits[0].softmax(-1)
    assert (
        sum(f"LABEL_{shares.argmax()}</th>" in html and f"{100 * shares.max():.1f} %" in html for html in found) == 1
    )


def test_two_visitors_at_once_get_their_own(served):
    model, found = served[1][0].model, {}

    def visit(seed):
        visitor = Visitor(served[0])
        (draw,) = visitor.calls("Draw")
        found[seed] = [pictures(visitor.ask(draw, [2, seed + step])) for step in range(3)]

    threads = [threading.Thread(target=visit, args=(seed,)) for seed in (100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in (100, 200):
        for step, files in enumerate(found[seed]):
            expected = model.sample(2, generator=torch.Generator().manual_seed(seed + step))
            assert files == [png(image) for image in expected]


def test_a_visitor_cannot_ask_for_another_function(visitor):
    (draw,) = visitor.calls("Draw")
    for wrong in (10_000, -1):
        answer = visitor.http.post(
            "/gradio_api/queue/join", json={"data": [1, 0], "fn_index": wrong, "session_hash": visitor.session}
        )
        assert answer.status_code in (400, 404, 500)
    for path in ("/gradio_api/run/predict", "/gradio_api/call/called", "/gradio_api/api/called", "/gradio_api/info"):
        assert visitor.http.post(path, json={"data": [1, 0]}).status_code == 404


def test_what_cannot_be_loaded_is_a_line_on_its_tab(served, visitor):
    tabs = [part["props"]["label"] for part in visitor.config["components"] if part["type"] == "tabitem"]
    assert {"vae", "classifier", "broken", "Draw", "About"} <= set(tabs) and "Compare" not in tabs
    lines = [part["props"].get("value") or "" for part in visitor.config["components"] if part["type"] == "html"]
    (line,) = [line for line in lines if "not valid JSON" in line]
    assert 'role="alert"' in line and "broken/config.json" in line
    assert str(served[2]) not in visitor.html + str(visitor.config)  # where it lies is told to nobody


@pytest.mark.parametrize("spelled", ["{}/cut", "{}//cut", "{}/cut/", ".", "./", "../cut"])
def test_where_a_folder_lies_is_told_to_nobody_however_it_is_spelled(spelled, tmp_path, monkeypatch):
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "config.json").write_text("{")
    monkeypatch.chdir(tmp_path / "cut")
    parts = page.build(page.load_entries([spelled.format(tmp_path)])).get_config_file()["components"]
    (line,) = [str(part) for part in parts if "not valid JSON" in str(part)]
    assert "cut/config.json is not valid JSON" in line and "/cut" not in line and str(tmp_path) not in line


@pytest.mark.parametrize("name, boards, examples", [("gan", 1, 0), ("vae", 2, 2)])
def test_an_example_is_offered_where_the_training_images_are_known(name, boards, examples, tmp_path):
    blocks = page.build(page.load_entries([str(make(name, tmp_path / name))]))
    words = [part["props"].get("value") for part in blocks.get_config_file()["components"]]
    words += [part["props"].get("label") for part in blocks.get_config_file()["components"]]
    assert (words.count("Upload"), words.count("Example")) == (boards, examples)


PATHS = [
    "/gradio_api/file={secret}", "/file={secret}", "/gradio_api/file={package}", "/gradio_api/file=/etc/hostname",
    "/gradio_api/file=..%2F..%2Fetc%2Fhostname", "/gradio_api/file=http://127.0.0.1:9/x", "/gradio_api/file/{secret}",
    "/static/../../../../etc/hostname", "/static/..%2F..%2F..%2Fpackage.json", "/assets/..%2f..%2fpackage.json",
    "/gradio_api/proxy=http://127.0.0.1:9/x", "/gradio_api/stream/a/0/0/playlist.m3u8", "/docs", "/openapi.json",
    "/gradio_api/openapi.json", "/monitoring", "/runs", "/gradio_api/vibe-code", "/gradio_api/run-history/records",
    "/gradio_api/mcp/sse", "/dev/reload", "/gradio_api/component_server",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_files_of_the_host_and_other_interfaces_are_not_served(path, served):
    url, _, folder = served
    path = path.format(secret=folder / "secret.txt", package=app.__file__)
    with socket.create_connection(("127.0.0.1", int(url.rstrip("/").rsplit(":", 1)[1]))) as line:  # as it is written
        line.sendall(f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n".encode())
        answer = b"".join(iter(lambda: line.recv(65536), b""))
    assert b" 404 " in answer.splitlines()[0] or b" 403 " in answer.splitlines()[0], answer[:200]
    assert b"secret" not in answer and b"import" not in answer


def test_a_picture_of_the_host_cannot_be_named_in_a_call(served, visitor):
    """A component that takes files would read any path that it is told."""
    upload = next(call for call in visitor.config["dependencies"] if call["targets"][0][1] == "upload")
    secret = str(served[2] / "secret.txt")
    for value in ({"path": secret, "meta": {"_type": "gradio.FileData"}}, secret, [{"path": secret}]):
        event = visitor.ask(upload, [value])
        assert not event["success"] and "a secret of the host" not in str(event)


FILE = {"path": "http://example.invalid/x.png", "meta": {"_type": "gradio.FileData"}}


def test_what_is_refused_is_neither_fetched_nor_printed(visitor, monkeypatch, capfd):
    """Gradio fetches an address that any input names in place of a file, and prints each value that it refuses."""
    from gradio import processing_utils

    fetched = []

    async def fetch(url):
        fetched.append(url)
        raise OSError(url)

    monkeypatch.setattr(processing_utils, "async_ssrf_protected_get", fetch)
    calls = visitor.config["dependencies"]
    upload = next(call for call in calls if call["targets"][0][1] == "upload")
    kinds = [[visitor.parts[each]["type"] for each in call["inputs"]] for call in calls]
    nearest = calls[kinds.index(["html", "slider", "dropdown"])]
    refused = [(upload, [FILE]), (upload, [{"a": [FILE]}]), (upload, [FILE | {"path": "/example.invalid"}])]
    refused += [(nearest, [FILE, 8, "cosine"]), (nearest, ["", 8, FILE]), (nearest, ["", 8, "example.invalid"])]
    refused += [(nearest, ["", "example.invalid", "cosine"]), (nearest, ["example.invalid"])]
    for call, values in refused:
        event = visitor.ask(call, values)
        assert not event["success"] and "error" in event["output"], (values, event)
    assert fetched == [] and "example.invalid" not in "".join(capfd.readouterr())


def test_a_large_body_is_refused(served):
    url = served[0].rstrip("/")
    for path in ("/gradio_api/queue/join", "/gradio_api/upload"):
        answer = httpx.post(url + path, content=b"x" * (MOST_BYTES + 2**17), trust_env=False)
        assert answer.status_code == 413

    def parts():
        for _ in range(MOST_BYTES // 2**16 + 8):
            yield b"x" * 2**16

    try:  # without its length told
        answer = httpx.post(url + "/gradio_api/queue/join", content=parts(), trust_env=False)
        assert answer.status_code >= 400
    except httpx.TransportError:
        pass
    assert httpx.get(url, trust_env=False).status_code == 200


def test_an_upload_is_a_picture_for_the_board_and_nothing_else(served, visitor):
    upload = next(call for call in visitor.config["dependencies"] if call["targets"][0][1] == "upload")
    image = torch.linspace(0, 1, 784).view(1, 28, 28)

    def sent(data: bytes) -> dict:
        (path,) = visitor.http.post("/gradio_api/upload", files={"files": ("../../x.png", data)}).json()
        value = {"path": path, "meta": {"_type": "gradio.FileData"}, "orig_name": "x.png"}
        assert visitor.http.get(f"/gradio_api/file={path}").status_code == 404  # nor is it given back
        return visitor.ask(upload, [value])

    event = sent(png(image))
    assert event["output"]["data"][0] == data_uri(png(image))
    assert "data:image" not in str(sent(b"no picture")["output"]["data"])


def test_the_browser_is_told_to_ask_nobody_else(served):
    policy = httpx.get(served[0], trust_env=False).headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy and "*" not in policy


def test_nothing_left_this_machine(served, visitor):
    visitor.ask(visitor.calls("Draw")[0], [1, 0])
    assert {each for each in asked if each not in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "None")} == set()
    assert not visitor.config.get("analytics_enabled") and "Draw" in str(visitor.config)


def test_gradio_is_told_to_be_silent(served):
    from gradio import analytics

    told = {name: os.environ[name] for name in app.SILENT}
    if told["HF_HUB_DISABLE_TELEMETRY"] == "True":  # Gradio's own word, with each page that is built
        told["HF_HUB_DISABLE_TELEMETRY"] = "1"
    assert told == app.SILENT and not analytics.analytics_enabled()
    assert app.SILENT["GRADIO_ANALYTICS_ENABLED"] == "False" and app.SILENT["HF_HUB_DISABLE_TELEMETRY"] == "1"
