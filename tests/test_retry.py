"""Calling the Hub again while it is busy."""

import json
import os

import pytest
import warm
from huggingface_hub.errors import HTTPError
from loopback_hub import LoopbackHub

from hwzoo import hub, retry, text


class Answer:
    def __init__(self, status_code: int):
        self.status_code = status_code


def refused(status: int) -> HTTPError:
    error = HTTPError(f"the answer was {status}")
    error.response = Answer(status)
    return error


def told_by_another_library(error: Exception) -> OSError:
    try:
        raise OSError("something went wrong") from error
    except OSError as wrapped:
        return wrapped


class ConnectError(HTTPError):
    pass


def raised_while_another_was_handled(error: Exception) -> OSError:
    try:
        try:
            raise error
        except HTTPError:
            raise OSError("something went wrong")  # noqa: B904
    except OSError as raised:
        return raised


BUSY = {
    "429": refused(429),
    "503": refused(503),
    "lost answer": HTTPError("the server closed the connection"),
    "503, told by another library": told_by_another_library(refused(503)),
    "503, as diffusers tells it": raised_while_another_was_handled(refused(503)),
    "page": json.JSONDecodeError("Expecting value", "<html>", 0),
}
FINAL = {
    "404": refused(404),
    "404, told by another library": told_by_another_library(refused(404)),
    "refused connection": ConnectError("connection refused"),
    "missing file": FileNotFoundError("no such file"),
    "download that broke off": told_by_another_library(HTTPError("incomplete body")),
    "bug": TypeError("an argument is missing"),
}


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", slept.append)
    return slept


def failing(error: Exception, times: int):
    left = [error] * times

    def call():
        if left:
            raise left.pop()
        return "answer"

    return call


@pytest.mark.parametrize("error", BUSY.values(), ids=BUSY)
def test_what_is_busy_is_tried_again_with_growing_waits(error, waits, capsys):
    assert retry.retried(failing(error, 3), "loading me/model", json=True) == "answer"
    assert waits == [1, 2, 4]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and all(line.startswith("loading me/model: ") for line in lines)
    assert lines[2].endswith("; trying again in 4 s")


@pytest.mark.parametrize("error", BUSY.values(), ids=BUSY)
def test_it_gives_up_with_the_error_itself(error, waits):
    with pytest.raises(type(error)) as raised:
        retry.retried(failing(error, 9), "loading me/model", json=True)
    assert raised.value is error and waits == [1, 2, 4, 8]


@pytest.mark.parametrize("error", FINAL.values(), ids=FINAL)
def test_what_will_not_change_is_tried_once(error, waits):
    with pytest.raises(type(error)):
        retry.retried(failing(error, 1), "loading me/model", json=True)
    assert waits == []


def test_the_status_of_what_was_handled_is_not_that_of_the_error():
    assert retry.status_of(told_by_another_library(refused(404))) == 404
    assert retry.status_of(raised_while_another_was_handled(refused(404))) is None


def test_a_broken_file_is_not_taken_for_a_page(waits):
    with pytest.raises(json.JSONDecodeError):
        retry.retried(failing(BUSY["page"], 1), "loading me/model")
    assert waits == []


LOADING = """
from transformers import T5ForConditionalGeneration
from hwzoo import hub, text

print(hub.load(T5ForConditionalGeneration, "me/t5").config.d_model)
print(len(text.load_tokenizer("me/t5")))
print(type(text.load_seq2seq("me/lora", hub.load, trainable=False)).__name__)
pairs = text.load_text("me/pairs")
print(len(pairs.train) + len(pairs.validation) + len(pairs.test))
"""


@pytest.mark.slow
def test_models_tokenizers_adapters_and_data_come_from_a_busy_hub(tmp_path):
    tokenizer = text.new_tokenizer(None, None, [])
    sizes = {"d_model": 8, "d_ff": 8, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 1, "dropout_rate": 0.0}
    model = text.build_t5(tokenizer, **sizes)
    hub.save(model, tmp_path / "t5", also=(tokenizer,))
    adapter = text.add_adapter(model, "lora", tokenizer=tokenizer, lora_rank=2)
    adapter.peft_config["default"].base_model_name_or_path = "me/t5"
    adapter.save_pretrained(tmp_path / "lora")
    rows = [{"text": f"text {number}", "summary": f"summary {number}"} for number in range(100)]
    with LoopbackHub(token="hf_right", users=("me",)) as server:
        for name in ("t5", "lora"):
            server.add_model(f"me/{name}", {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
        server.add_dataset("me/pairs", {"train.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode()})
        for path, status in (
            ("me/t5/resolve/.*config.json", 503),
            ("me/t5/resolve/.*safetensors", 503),
            ("me/t5/resolve/.*tokenizer_config.json", 429),
            ("me/lora/resolve/.*adapter_config.json", 503),
            ("me/lora/resolve/.*safetensors", 503),
            ("me/pairs/resolve", 503),
        ):
            server.fail("GET", path, status)
            server.fail("HEAD", path, status)
        done = warm.run(["-c", LOADING], env=os.environ | server.environment(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["8", str(len(tokenizer)), "PeftModelForSeq2SeqLM", "100"]
