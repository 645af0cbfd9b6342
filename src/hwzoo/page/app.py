"""The page itself: entries and their controls as Gradio's components, and the server in front of them."""

import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from ..errors import HwzooError, UsageError
from .answers import Answer, Curves, File, Note, Pictures, Table, data_uri, png, to_html
from .controls import SEED, Control, answer, controls_of, draws
from .entries import Entry
from .guard import Guard
from .inputs import MOST_BYTES, Choice, Input, Number, Picture, Words
from .jobs import Job

HERE = Path(__file__).parent
BOARD = (HERE / "board.html").read_text()
SECONDS = 20.0  # of a call, at most
WAITING = 200  # calls that wait at once
SLIDER = 10_000  # larger numbers are typed
MOST_COMPARED = 8  # images of each model
MOST_POINTS = 200  # of a curve
SILENT = {
    "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "GRADIO_SHARE": "False",
    "GRADIO_SSR_MODE": "False", "GRADIO_MCP_SERVER": "False",
}  # fmt: skip
QUIET = dict(show_progress="full", api_visibility="private")
OWN = dict(apply_default_css=False)  # of pieces of HTML: page.css alone tells how they look
WELCOME = "Models to play with. The same seed gives the same picture."
NOTHING = '<div class="answer"></div>'


def gradio() -> Any:
    """
    Gradio, told to be silent before its import.

    Raises:
        UsageError: when it is not installed.
    """
    os.environ.update(SILENT)
    try:
        import gradio
    except ImportError as error:
        raise UsageError(f"the page needs Gradio: pip install 'hwzoo[page]' ({error})") from error
    return gradio


class Jobs:
    """The calls that go on, so that each visitor can cancel the own ones."""

    def __init__(self):
        self._jobs: dict[tuple[str, str], Job] = {}
        self._lock = threading.Lock()

    @contextmanager
    def running(self, visitor: str, key: str, job: Job) -> Iterator[None]:
        """
        Knows a call while it goes on. Those at a place come one after the other: they wait in one queue.

        Args:
            visitor: of the call.
            key: of the place.
            job: the call.

        Returns:
            Nothing, as the value of the `with`.
        """
        with self._lock:
            self._jobs[visitor, key] = job
        try:
            yield
        finally:
            with self._lock:
                if self._jobs.get((visitor, key)) is job:
                    del self._jobs[visitor, key]

    def cancel(self, visitor: str, key: str):
        """
        Ends a call where there is one.

        Args:
            visitor: whose it is.
            key: of the place.
        """
        with self._lock:
            job = self._jobs.get((visitor, key))
        if job is not None:
            job.cancel()

    def __len__(self) -> int:
        return len(self._jobs)


def build(entries: Sequence[Entry], seconds: float = SECONDS, title: str = "hwzoo") -> Any:
    """
    The page.

    Args:
        entries: a tab each.
        seconds: that a call may take.
        title: of the page.

    Returns:
        Gradio's `Blocks`, to be served by `serve`.
    """
    gr, jobs = gradio(), Jobs()
    with gr.Blocks(title=title, analytics_enabled=False, fill_width=True, delete_cache=(300, 600)) as page:
        gr.HTML(f"<h1>{escape(title)}</h1><p>{WELCOME}</p>", **OWN)
        with gr.Tabs(elem_classes="models"):
            for place, entry in enumerate(entries):
                with gr.Tab(entry.title):
                    _tab(gr, jobs, entry, str(place), seconds)
            drawing = [entry for entry in entries if entry.draws and (entry.is_pipeline or entry.image_shape)]
            if len(drawing) > 1:
                with gr.Tab("Compare"):
                    _compare(gr, jobs, drawing, seconds)
    page.queue(max_size=WAITING, api_open=False, default_concurrency_limit=4)
    page.preprocess_data = _checked(gr, page.preprocess_data)
    return page


def _checked(gr: Any, preprocess: Callable[..., Any]) -> Callable[..., Any]:
    """Gradio's reading of values, but nothing is fetched for it, and what is refused is told to the visitor alone."""
    from gradio_client import utils as files

    def local(file: dict[str, Any]):
        if files.is_http_url_like(file["path"]):  # Gradio fetches it, whichever input it is given to
            raise gr.Error("a file of another host is not taken")

    async def run(block: Any, values: Sequence[Any], *rest: Any) -> Any:
        try:
            files.traverse(values, local, files.is_file_obj_with_meta)
            return await preprocess(block, values, *rest)
        except Exception as error:  # Gradio prints it, with the value
            told = error.message if isinstance(error, gr.Error) else "that value is not taken"
            raise gr.Error(told, print_exception=False) from None

    return run


def _tab(gr: Any, jobs: Jobs, entry: Entry, key: str, seconds: float):
    if entry.error:
        # Where the folder lies is the host's own business.
        gr.HTML(to_html([Note(entry.error.replace(entry.name, entry.title), wrong=True)]), **OWN)
        return
    with gr.Tabs():
        for number, control in enumerate(controls_of(entry)):
            with gr.Tab(control.title) as tab:
                inputs = control.inputs(entry)

                def run(values: Sequence[Any], job: Job, control: Control = control) -> Sequence[Answer]:
                    return answer(entry, control, values, job)

                example = entry.example if entry.knows_data else None
                form = Form(f"{key}.{number}", control.about, inputs, control.button, run, f"model {key}", example)
                form.show(gr, jobs, tab, seconds)
        with gr.Tab("About") as tab:
            shown = gr.HTML(NOTHING, **OWN)
            tab.select(lambda: to_html(about(entry)), None, shown, concurrency_limit=None, **QUIET)
            if entry.card:
                gr.Markdown(entry.card, elem_classes="card")


def about(entry: Entry) -> list[Answer]:
    """What the folder of an entry tells: its numbers with their protocol, curves and pictures."""
    results = entry.results
    numbers = [[name.replace("_", " "), value] for name, value in results.items() if isinstance(value, int | float)]
    found: list[Answer] = [Table(["number", "value"], numbers, "Numbers of the run")] if numbers else []
    if numbers and results.get("protocol"):
        found.append(Note(f"Protocol: {results['protocol']}"))
    curves = {}
    for name in dict.fromkeys(name for line in entry.history for name in line if name != "step"):
        points = [(line["step"], line[name]) for line in entry.history if _finite(line, "step", name)]
        if points:
            every = -(-len(points) // MOST_POINTS)
            curves[name.replace("_", " ")] = points[(len(points) - 1) % every :: every]  # with the last
    found += [Curves(curves)] if curves else []
    found += [File(data, name) for name, data in entry.pictures.items()]
    return found or [Note("The folder tells nothing of the run.")]


def _compare(gr: Any, jobs: Jobs, entries: Sequence[Entry], seconds: float):
    names = tuple(entry.title for entry in entries)
    inputs = [
        Choice("models", "Models", names, names[:4]),
        Number("num", "How many", 1, MOST_COMPARED, 4),
        SEED,
    ]

    def run(values: Sequence[Any], job: Job) -> Sequence[Answer]:
        return compare(entries, inputs, values, job)

    Form("compare", "The same seed, model by model.", inputs, "Draw", run, "compare").show(gr, jobs, None, seconds)


def compare(entries: Sequence[Entry], inputs: Sequence[Input], values: Sequence[Any], job: Job) -> list[Answer]:
    """
    What several models draw of the same seed.

    Args:
        entries: that draw.
        inputs: `models`, titles of entries, `num` and `seed`.
        values: of them.
        job: of the call.

    Returns:
        Pictures of each, or what is wrong with it.
    """
    try:
        given = {each.name: each.check(value) for each, value in zip(inputs, values, strict=True)}
    except HwzooError as error:
        return [Note(str(error), wrong=True)]
    answers: list[Answer] = []
    for entry in entries:
        if entry.title in given["models"]:
            own = {"scheduler": "sde_dpm_solver", "steps": 25, "label": "any"} | given
            try:
                images = draws(entry, own, job)
                captions = [f"{entry.title}, image {place + 1}" for place in range(len(images))]
                answers += [Note(entry.title), Pictures(images, captions, shown=False)]
            except Exception as error:
                told = str(error) if isinstance(error, HwzooError) else type(error).__name__
                answers.append(Note(f"{entry.title}: {told}", wrong=True))
    return answers


# Forms


@dataclass(frozen=True)
class Form:
    """
    Inputs, buttons and the place of the answer.

    Args:
        key: of the place on the page.
        about: a sentence to the visitor.
        inputs: of what is run.
        button: its word; None where it also runs at each change of an input.
        run: gets the values, unchecked, and the job.
        queue: the calls of one queue are run one after the other.
        example: gives a picture for the board; None where there are no training images to take one from.
    """

    key: str
    about: str
    inputs: Sequence[Input]
    button: str | None
    run: Callable[[Sequence[Any], Job], Sequence[Answer]]
    queue: str
    example: Callable[[], Any] | None = None

    def show(self, gr: Any, jobs: Jobs, tab: Any, seconds: float):
        """
        Makes the components.

        Args:
            gr: Gradio.
            jobs: of the page.
            tab: that it is on; None where nothing is answered before the visitor asks.
            seconds: that a call may take.
        """
        gr.HTML(f"<p>{escape(self.about)}</p>", **OWN)
        if not self.inputs:
            gr.HTML(to_html(self.run([], Job(seconds))), **OWN)
            return
        boards = any(isinstance(each, Picture) for each in self.inputs)
        with gr.Row() if boards else nullcontext():  # the answer beside the board, else below
            with gr.Column(scale=1, min_width=300, elem_classes="side" if boards else None):
                with nullcontext() if boards else gr.Row(elem_classes="inputs"):
                    parts = [self._component(gr, each) for each in self.inputs]
                with gr.Row(elem_classes="buttons"):
                    start = gr.Button(self.button or "Run", variant="primary", min_width=80)
                    stop = gr.Button("Cancel", min_width=80)
            with gr.Column(scale=3, min_width=300):
                shown = gr.HTML(NOTHING, **OWN)

        def called(request: gr.Request, *values: Any, progress: Any = gr.Progress()) -> str:  # noqa: B008
            job = Job(seconds, lambda share, words: progress(share, desc=words))
            with jobs.running(request.session_hash or "", self.key, job):
                return to_html(self.run(values, job))

        def cancelled(request: gr.Request) -> str:
            jobs.cancel(request.session_hash or "", self.key)
            return to_html([Note("Cancelled.")])

        call = {"fn": called, "inputs": parts, "outputs": shown, "concurrency_limit": 1, "concurrency_id": self.queue}
        events = [start.click(trigger_mode="once", **call, **QUIET)]
        if self.button is None:
            changes = [part.release if isinstance(part, gr.Slider) else part.change for part in parts]
            if tab is not None and not any(isinstance(each, Picture | Words) for each in self.inputs):
                changes.append(tab.select)
            events += [change(trigger_mode="always_last", **call, **QUIET) for change in changes]
        stop.click(cancelled, None, shown, cancels=events, concurrency_limit=None, **QUIET)

    def _component(self, gr: Any, each: Input) -> Any:
        if isinstance(each, Number) and each.high <= SLIDER:
            return gr.Slider(each.low, each.high, each.value, step=each.step, label=each.label, min_width=200)
        if isinstance(each, Number):
            return gr.Number(each.value, label=each.label, precision=0, min_width=140)
        if isinstance(each, Choice) and each.several:
            return gr.CheckboxGroup(list(each.choices), value=list(each.value), label=each.label, min_width=200)
        if isinstance(each, Choice):
            return gr.Dropdown(list(each.choices), value=each.value, label=each.label, min_width=140)
        if isinstance(each, Words):
            return gr.Textbox(each.value, label=each.label, lines=each.lines, max_length=each.longest, min_width=280)
        return self._board(gr, each)

    def _board(self, gr: Any, each: Picture) -> Any:
        board = gr.HTML(
            "", html_template=BOARD, js_on_load=(HERE / "board.js").read_text(), size=each.size, name=each.label, **OWN
        )  # fmt: skip
        with gr.Row():
            upload = gr.UploadButton("Upload", file_types=["image"], type="binary", size="sm", min_width=80)
            example = self.example and gr.Button("Example", size="sm", min_width=80)

        def shown(make: Callable[..., Any]) -> Callable[..., Any]:
            def run(*given: Any) -> Any:
                try:
                    return data_uri(png(make(*given)))
                except HwzooError as error:
                    gr.Warning(escape(str(error)))
                    return gr.skip()

            return run

        upload.upload(shown(lambda data: each.decode(data)[0]), upload, board, **QUIET)
        if example:
            example.click(shown(self.example), None, board, **QUIET)
        return board


# Serving


def check_port(port: int | None):
    """
    Before models are loaded: whether a page can be served at a port of this machine.

    Args:
        port: None for any that is free.

    Raises:
        UsageError: for one that is in use or may not be taken.
    """
    if port is None:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UsageError(f"--port is {port}; it cannot be taken ({error.strerror}): give another") from None


def serve(
    page: Any, host: str | None = "127.0.0.1", port: int | None = None, told: Callable[[str], Any] | None = None
) -> str:
    """
    Serves a page.

    Args:
        page: of `build`.
        host: address to listen at; None for what a Space says.
        port: None for the first that is free from 7860 on.
        told: gets the address, and it is then served until the program ends; when not given, the call returns.

    Returns:
        The address of the page.
    """
    from starlette.middleware import Middleware

    gr = gradio()
    colours = {
        "button_primary_background_fill": "*primary_700",
        "button_primary_background_fill_hover": "*primary_800",
    }
    colours |= {f"{name}_dark": colour for name, colour in colours.items()}  # white words on them can be read
    theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]).set(**colours)
    _, url, _ = page.launch(
        server_name=host, server_port=port, share=False, inbrowser=False, quiet=True, prevent_thread_lock=True,
        max_file_size=MOST_BYTES, show_error=False, ssr_mode=False, mcp_server=False, pwa=False,
        enable_monitoring=False, footer_links=[], run_history=False, allowed_paths=[], max_threads=40,
        app_kwargs={"middleware": [Middleware(Guard)], "docs_url": None, "redoc_url": None, "openapi_url": None},
        theme=theme, css=(HERE / "page.css").read_text(), head=f"<script>{(HERE / 'page.js').read_text()}</script>",
    )  # fmt: skip
    if told is not None:
        told(f"the page is at {url} (Ctrl-C ends it)")
        page.block_thread()
    return url


def _finite(line: dict[str, Any], *names: str) -> bool:
    # No float holds a whole number above 1.8e308, which JSON may hold.
    return all(isinstance(line.get(name), int | float) and abs(line[name]) < 1e300 for name in names)
