"""
Python commands without the seconds of their imports: forks of an interpreter that has imported the large libraries.

What reads its environment when it is imported (everything of Hugging Face, hwzoo) is not among `LIBRARIES`: a command
imports it itself, under the environment that it is given.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import io
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import types
import warnings
from pathlib import Path

import no_power_cut  # noqa: F401

LIBRARIES = (
    "PIL.Image PIL.ImageFont aiohttp dill fsspec httpx jinja2 matplotlib.backends.backend_agg matplotlib.figure "
    "multiprocess numpy pandas pyarrow.dataset pyarrow.parquet regex requests safetensors.torch scipy.linalg "
    "scipy.stats sklearn.datasets sklearn.linear_model sklearn.metrics sympy tokenizers torch torch._dynamo "
    "torch.distributed.tensor torch.utils.checkpoint torch.utils.data tqdm.auto yaml"
).split()
READ_AT_IMPORT = set("accelerate datasets diffusers evaluate huggingface_hub hwzoo peft transformers".split())


@functools.cache
def interpreter() -> str:
    """The address of the interpreter that forks; it ends with this process, whose end of its standard input closes."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    address = str(Path(folder) / "socket")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    server = subprocess.Popen([sys.executable, __file__, address], env=os.environ | {"OMP_NUM_THREADS": "1"}, **pipes)
    assert server.stdout.readline() == b"listening\n"
    atexit.register(server.communicate)  # before the folder goes
    return address


def run(
    arguments, *, env=None, cwd=None, input="", console=None, timeout=300, check=False
) -> subprocess.CompletedProcess:
    """
    What `subprocess.run([sys.executable, *arguments], capture_output=True, text=True, ...)` gives.

    Args:
        arguments: options `-W`, then `-c` and a program, `-m` and a module, or a script; then its own.
        env: the whole environment; this process's when None. It has one thread whatever is said here.
        cwd: working directory; this process's when None.
        input: of the standard input.
        console: an open file for standard output and error in place of the two that are read.
        timeout: seconds, after which it is aborted and tells where it stands.
        check: raises `CalledProcessError` where the status is not 0.

    Returns:
        The ended process; the status of one that a signal ended is the signal's number, negative.
    """
    arguments = [str(argument) for argument in arguments]
    request = {"arguments": arguments, "env": dict(os.environ if env is None else env), "cwd": str(cwd or Path.cwd())}
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(4)]  # request, input, output, error
        for file, text in ((files[0], json.dumps(request)), (files[1], input)):
            file.write(text.encode())
            file.seek(0)
        client = stack.enter_context(socket.socket(socket.AF_UNIX))
        client.connect(interpreter())
        pipes = files if console is None else [*files[:2], console, console]
        socket.send_fds(client, [b"."], [pipe.fileno() for pipe in pipes])
        process = int(client.recv(16))
        client.settimeout(timeout)
        try:
            status = int(client.recv(16))
        except TimeoutError:
            os.killpg(process, signal.SIGABRT)
            client.settimeout(30)
            status = int(client.recv(16))
        for file in files[2:]:
            file.seek(0)
        done = subprocess.CompletedProcess(arguments, status, *(file.read().decode() for file in files[2:]))
    if check:
        done.check_returncode()
    return done


def serve(address: str):
    """Forks for each command that comes to an address, until the standard input ends."""
    import faulthandler

    for name in LIBRARIES:
        importlib.import_module(name)
    assert not READ_AT_IMPORT & sys.modules.keys()
    paths = [path for path in sys.path[1:] if path not in os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("listening", flush=True)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nothing waits for those that `_keep` ends
        while listener in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            if os.fork():
                connection.close()
                continue
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _, (request, *pipes), _, _ = socket.recv_fds(connection, 1, 4)
            if process := os.fork():
                connection.sendall(b"%16d" % process)
                _, status = os.waitpid(process, 0)
                connection.sendall(b"%16d" % os.waitstatus_to_exitcode(status))
                os._exit(0)
            connection.close()
            os.setsid()
            with open(request) as file:
                told = json.load(file)
            for number, pipe in enumerate(pipes):
                os.dup2(pipe, number)
                os.close(pipe)
            faulthandler.enable()
            os._exit(_execute(told["arguments"], told["env"], told["cwd"], paths))


def _execute(arguments: list[str], environment: dict[str, str], folder: str, paths: list[str]) -> int:
    """Does in this process what a new interpreter does; its status."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    encoding = environment.get("PYTHONIOENCODING", "utf-8")
    sys.stdin, sys.stdout = open(0, encoding=encoding), open(1, "w", encoding=encoding)
    sys.stderr = io.TextIOWrapper(open(2, "wb", 0), encoding, "backslashreplace", line_buffering=True)
    while arguments[0] == "-W":
        warnings.simplefilter(arguments[1])
        del arguments[:2]
    kind = arguments.pop(0) if arguments[0] in ("-c", "-m") else "file"
    what, sys.argv = arguments[0], list(arguments)
    first = {"-c": "", "-m": folder, "file": str(Path(what).resolve().parent)}[kind]
    sys.path = [first, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)), *paths]
    importlib.invalidate_caches()
    try:
        if kind == "-c":
            sys.argv[0] = "-c"
            main = sys.modules["__main__"] = types.ModuleType("__main__")
            exec(compile(what, "<string>", "exec"), main.__dict__)
        elif kind == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(what, run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if not isinstance(end.code, int | None):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except OSError:
        return 120  # as the interpreter's
    return status


if __name__ == "__main__":
    serve(sys.argv[1])
