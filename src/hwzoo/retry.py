"""Asking the Hub, again while it is busy."""

import sys
import time
from collections.abc import Callable
from json import JSONDecodeError
from pathlib import Path
from typing import TypeVar

from huggingface_hub import file_exists, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, HTTPError

from .errors import first_line
from .files import settled

WAITS = (1, 2, 4, 8)  # seconds before each further try
UNREADABLE = (401, 403, 404)  # of a repository: not there, private or gated
PATIENCE = 20  # seconds after which a call is not tried again; huggingface_hub tries some of its requests by itself

Answer = TypeVar("Answer")


def retried(call: Callable[[], Answer], what: str, json: bool = False) -> Answer:
    """
    Calls again, with growing waits and a line on stderr each, when the Hub is busy (429, 5xx), its answer is lost or a
    proxy's page. What refuses the connection is not tried again, nor is what another library tells of a download that
    broke off: huggingface_hub has tried that.

    Args:
        call: anything that talks to the Hub, as `from_pretrained` does; it may be called five times.
        what: is done, for the lines.
        json: whether an answer that cannot be parsed is the page of a proxy; in a file that is loaded it is a mistake.

    Returns:
        What the call gives.
    """
    start = time.monotonic()
    for wait in (*WAITS, None):
        try:
            return call()
        # Libraries tell the Hub's errors as errors of their own, made from them.
        except (HTTPError, OSError, ValueError) as error:
            status = status_of(error, handled=True)
            if status is not None:
                again = status in (412, 429) or status >= 500
            elif isinstance(error, HTTPError):
                # By name: huggingface_hub has had these from httpx and from httpx2.
                again = type(error).__name__ not in ("ConnectError", "ConnectTimeout")
            else:
                again = json and isinstance(error, JSONDecodeError)
            if not again or wait is None or time.monotonic() - start + wait > PATIENCE:
                raise
            told = f"no answer of the Hub ({reason(error)})" if status is None else f"the Hub answered {status}"
            print(f"{what}: {told}; trying again in {wait} s", file=sys.stderr)
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def has_file(
    name_or_path: str, file_name: str, token: str | bool | None = None, revision: str | None = None,
    cache_dir: str | Path | None = None,
) -> bool:  # fmt: skip
    """
    Whether a folder or a repository has a file; of a Hub that cannot be reached, whether the cache has it. (That of
    transformers takes a busy Hub's answer for no.)

    Args:
        name_or_path: folder or Hub id; what can be none of both has no file.
        file_name: relative to it.
        token: for the Hub; that of `HF_TOKEN` or `hf auth login` when None.
        revision: of a repository; its main branch when None.
        cache_dir: of what was downloaded; that of the libraries when None.

    Returns:
        Whether it is there.
    """
    if Path(name_or_path).is_dir():
        return (Path(settled(name_or_path)) / file_name).is_file()
    try:
        return retried(
            lambda: file_exists(name_or_path, file_name, revision=revision, token=token), f"loading {name_or_path}"
        )
    except HFValidationError:
        return False
    except (OSError, HTTPError):
        return isinstance(try_to_load_from_cache(name_or_path, file_name, cache_dir, revision), str)


def status_of(error: BaseException | None, handled: bool = False) -> int | None:
    """
    The HTTP status that an error tells, or what it came from; with `handled` also one that was being handled when it
    was raised, as diffusers raises its own.

    Args:
        error: of any library.
        handled: see above.

    Returns:
        The status; None when none is told.
    """
    while error is not None:
        if getattr(error, "response", None) is not None:
            return error.response.status_code
        error = error.__cause__ or (error.__context__ if handled else None)
    return None


def not_read(status: int) -> str:
    """What one of UNREADABLE says, in one line: to who may not read a repository the Hub tells that there is none."""
    return f"no such folder or repository, or the token may not read it ({status}); a private one needs HF_TOKEN"


def reason(error: BaseException) -> str:
    """What an error says, in one line."""
    return "a page came, perhaps a proxy's" if isinstance(error, JSONDecodeError) else first_line(error)
