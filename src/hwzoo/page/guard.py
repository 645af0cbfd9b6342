"""What stands before Gradio's server: only the routes that the page needs, no large bodies, nothing from elsewhere."""

import logging
import re
from typing import Any

from .inputs import MOST_BYTES

logger = logging.getLogger("hwzoo")
# All else that Gradio serves (files of the host, proxies, interfaces for programs, histories) is not there.
ALLOWED = re.compile(
    r"/(|config|theme\.css|favicon\.ico|robots\.txt|manifest\.json|(static|assets|svelte)/[\w./-]+"
    r"|(gradio_api/)?(queue/join|queue/data|cancel|upload|reset|heartbeat/\w+|startup-events|upload_progress|theme\.css"
    r"|app_id|config))/?"
)
REFUSALS = {400: b"not understood", 404: b"not here", 413: b"too large"}
MOST_BODY = MOST_BYTES + 2**16
# Nothing is asked of another host, whatever a card says.
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; font-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; worker-src 'self' blob:; object-src 'none'; "
    "base-uri 'self'; form-action 'self'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()), (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]  # fmt: skip


class Guard:
    """
    An ASGI middleware.

    Args:
        app: what it stands before.
    """

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if not ALLOWED.fullmatch(scope["path"]) or ".." in scope["path"]:
            await _refuse(send, 404)
            return
        size = dict(scope["headers"]).get(b"content-length", b"0")
        if not size.isdigit() or int(size) > MOST_BODY:
            await _refuse(send, 413)
            return
        read, started = 0, False

        async def counted() -> Any:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            return {"type": "http.disconnect"} if read > MOST_BODY else message

        async def with_headers(message: Any):
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message = message | {"headers": [*message.get("headers", []), *HEADERS]}
            await send(message)

        try:
            await self.app(scope, counted, with_headers)
        except Exception as error:  # of a request that no page sends; what it holds belongs in no log
            logger.warning(f"a request failed: {type(error).__name__}")
            if not started:
                await _refuse(send, 400)


async def _refuse(send: Any, status: int):
    headers = [(b"content-type", b"text/plain"), *HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": REFUSALS[status]})
