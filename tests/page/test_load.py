"""Twenty visitors at once for two minutes: no error, quick answers, memory that does not grow."""

import os
import statistics
import sys
import threading
import time

import httpx
import psutil
import pytest
from page_models import make
from page_visitor import Visitor, free_port, pictures
from recipe_runs import RECIPES, finish, start

VISITORS = 20
SECONDS = float(os.environ.get("PAGE_LOAD_SECONDS", 120))


def shown(folder, *names: str) -> tuple:
    """Starts `hwzoo page`; gives the process, the address and the seconds until the page can be used."""
    port, began = free_port(), time.monotonic()
    process = start([sys.executable, str(RECIPES / "page.py"), *names, f"--port={port}"], cwd=folder)
    url = f"http://127.0.0.1:{port}/"
    while True:
        try:
            httpx.get(url, trust_env=False, timeout=5).raise_for_status()
            return process, url, time.monotonic() - began
        except httpx.HTTPError:
            assert process.poll() is None and time.monotonic() - began < 120
            time.sleep(0.05)


@pytest.mark.slow
def test_twenty_visitors(tmp_path):
    for name in ("vae", "gan", "classifier"):
        make(name, tmp_path / name)
    process, url, ready = shown(tmp_path, "vae", "gan", "classifier")
    seconds, wrong, memory, end = [], [], [], time.monotonic() + SECONDS
    try:
        server = psutil.Process(process.pid)

        def visit(number: int):
            visitor = Visitor(url)
            (draw, *_) = visitor.calls("Draw")
            seed = 1000 * number
            while time.monotonic() < end:
                seed, began = seed + 1, time.monotonic()
                event = visitor.ask(draw, [8, seed])
                seconds.append(time.monotonic() - began)
                if not event["success"] or len(pictures(event)) != 8:
                    wrong.append(event)
                time.sleep(1)  # a visitor looks at what came

        threads = [threading.Thread(target=visit, args=(number,)) for number in range(VISITORS)]
        for thread in threads:
            thread.start()
        while time.monotonic() < end:
            memory.append(server.memory_info().rss / 1e6)
            time.sleep(SECONDS / 60)
        for thread in threads:
            thread.join()
        half = len(memory) // 2
        later = statistics.median(memory[-half // 3 :])
        print(
            f"ready after {ready:.1f} s; {len(seconds)} answers, median {statistics.median(seconds):.2f} s, slowest "
            f"{max(seconds):.2f} s; memory {memory[0]:.0f} MB at the start, {memory[half]:.0f} MB half way, "
            f"{later:.0f} MB at the end"
        )
        assert wrong == [] and len(seconds) > VISITORS
        assert statistics.median(seconds) < 1
        assert later < 1.03 * memory[half]
    finally:
        process.terminate()
        finish(process)
