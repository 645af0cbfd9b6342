"""A visitor of the page without a browser: Gradio's protocol over HTTP, as its own scripts speak it."""

import base64
import json
import re
import secrets
import socket
from typing import Any

import httpx


class Visitor:
    """
    Args:
        url: of the page.
        timeout: in seconds, of a call.
    """

    def __init__(self, url: str, timeout: float = 60):
        self.http = httpx.Client(base_url=url, timeout=timeout, trust_env=False)
        self.session = secrets.token_hex(6)
        page = self.http.get("/")
        page.raise_for_status()
        self.html = page.text
        self.config = self.http.get("/config").json()
        self.parts = {each["id"]: each for each in self.config["components"]}

    def calls(self, button: str) -> list[dict]:
        """What a click on a button with these words calls, of each such button in order."""
        found = []
        for call in self.config["dependencies"]:
            for target, event in call["targets"]:
                if event == "click" and self.parts[target]["props"].get("value") == button:
                    found.append(call)
        return found

    def join(self, call: dict, values: list) -> str:
        """Sends a call; gives the number of its event."""
        asked = {"data": values, "fn_index": call["id"], "session_hash": self.session, "trigger_id": None}
        answer = self.http.post("/gradio_api/queue/join", json=asked)
        answer.raise_for_status()
        return answer.json()["event_id"]

    def events(self) -> Any:
        """What the server tells of this visitor's calls, one after the other."""
        address = f"/gradio_api/queue/data?session_hash={self.session}"
        with self.http.stream("GET", address) as stream:
            stream.raise_for_status()
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    yield json.loads(line[5:])

    def ask(self, call: dict, values: list) -> dict:
        """The answer to a call: what Gradio's scripts get at its end."""
        self.join(call, values)
        for event in self.events():
            if event["msg"] == "process_completed":
                return event
        raise AssertionError("the stream ended without an answer")

    def defaults(self, call: dict) -> list:
        """The values that the inputs of a call have at the start."""
        return [self.parts[each]["props"].get("value") for each in call["inputs"]]


def pictures(event: dict) -> list[bytes]:
    """The PNG files in an answer."""
    html = event["output"]["data"][0]
    return [base64.b64decode(each) for each in re.findall(r"data:image/png;base64,([\w+/=]+)", html)]


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
