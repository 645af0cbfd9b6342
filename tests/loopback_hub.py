"""
A Hugging Face Hub on 127.0.0.1, in memory: what huggingface_hub, transformers and datasets ask of the real one to
create, push to, read and download repositories, and the faults that a network has. Written after huggingface_hub 2.4.
"""

import base64
import fnmatch
import hashlib
import json
import re
import secrets
import socketserver
import sys
import threading
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

# The Hub writes such a file into each repository that it creates.
GITATTRIBUTES = "".join(
    f"{pattern} filter=lfs diff=lfs merge=lfs -text\n"
    for pattern in ("*.arrow", "*.bin", "*.gz", "*.npy", "*.onnx", "*.parquet", "*.pt", "*.safetensors", "*.zip")
).encode()
LARGEST_REGULAR = 10 * 2**20  # bytes; what is larger goes to LFS whatever its name
DATE = "2026-01-01T00:00:00.000Z"  # of every commit


@dataclass(frozen=True)
class Commit:
    """
    Args:
        oid: 40 hexadecimal digits.
        message: its first line.
        files: the repository after it, by path.
        lfs: the paths that LFS stores.
    """

    oid: str
    message: str
    files: dict[str, bytes]
    lfs: frozenset[str]


@dataclass
class Repo:
    """
    Args:
        kind: `model`, `dataset` or `space`.
        id: owner/name.
        private: for its owner only.
        commits: of `main`, the newest last.
    """

    kind: str
    id: str
    private: bool
    commits: list[Commit] = field(default_factory=list)

    @property
    def key(self) -> str:
        """As in addresses: owner/name, datasets/owner/name or spaces/owner/name."""
        return self.id if self.kind == "model" else f"{self.kind}s/{self.id}"

    @property
    def files(self) -> dict[str, bytes]:
        """Those of the newest commit."""
        return self.commits[-1].files

    def commit(self, message: str, files: dict[str, bytes], lfs: Iterable[str]) -> Commit:
        """Adds a commit after which the repository holds `files`."""
        parent = self.commits[-1].oid if self.commits else ""
        parts = [self.key, parent, message, *(f"{path} {_sha256(files[path])}" for path in sorted(files))]
        oid = hashlib.sha1("\n".join(parts).encode()).hexdigest()
        self.commits.append(Commit(oid, message, files, frozenset(lfs) & files.keys()))
        return self.commits[-1]


class Request(NamedTuple):
    """One request that was answered; `path` is unquoted and has no query."""

    method: str
    path: str
    status: int


@dataclass
class Fault:
    """See `LoopbackHub.fail`; `times` counts down."""

    method: str
    path: str
    status: int | None
    times: float
    retry_after: int | None
    delay: float
    cut: bool
    body: bytes | None


class LoopbackHub:
    """
    Serves inside `with`.

    Args:
        token: the one that is right.
        users: owners that the token may write for; it is the first one's.
        others: further owners that exist (403 for them, 404 for an owner that does not).

    Attributes:
        url: for `HF_ENDPOINT`.
        repos: by owner/name, data sets by datasets/owner/name, Spaces by spaces/owner/name.
        requests: all that was answered, in order.
    """

    def __init__(self, token: str = "hf_test", users: Iterable[str] = ("me",), others: Iterable[str] = ()):
        self.token = token
        self.users = tuple(users)
        self.others = tuple(others)
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self._faults: list[Fault] = []
        self._large: dict[tuple[str, str], bytes] = {}  # LFS objects by repository and sha256
        self._signature = secrets.token_hex()  # makes upload addresses that only the batch route gives
        self._lock = threading.RLock()
        self._closed = threading.Event()

    def __enter__(self) -> "LoopbackHub":
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def environment(self, cache_dir: Path | str, token: str | None = None) -> dict[str, str]:
        """
        What a process's environment needs to use this Hub, and nothing outside of `cache_dir` on disk.

        Args:
            cache_dir: for HF_HOME.
            token: the right one when None; "" for none.
        """
        cache_dir = Path(cache_dir)
        local = "127.0.0.1,localhost,datasets-server.127.0.0.1"  # no proxy, should the machine have one
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": self.token if token is None else token,
            "HF_HOME": str(cache_dir),
            "HF_HUB_CACHE": str(cache_dir / "hub"),
            "HF_ASSETS_CACHE": str(cache_dir / "assets"),
            "HF_DATASETS_CACHE": str(cache_dir / "datasets"),
            "HF_MODULES_CACHE": str(cache_dir / "modules"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # datasets counts at an address that HF_ENDPOINT does not change
            "NO_PROXY": local,
            "no_proxy": local,
        }

    def fail(
        self,
        method: str,
        path: str,
        status: int | None = None,
        times: int | None = 1,
        retry_after: int | None = None,
        *,
        delay: float = 0.0,
        cut: bool = False,
        body: bytes | None = None,
    ) -> Fault:
        """
        Makes the next requests that match fail.

        Args:
            method: regular expression for all of the method.
            path: regular expression to find in the path (unquoted, without the query).
            status: to answer, with nothing done; 503 when neither `delay` nor `cut` asks for anything. With `delay` or
                `cut` alone the request is done.
            times: how many requests; None for all.
            retry_after: seconds, for the header.
            delay: seconds before the answer.
            cut: only the headers and half of the body arrive, then the connection closes; before the headers where
                there is no body (HEAD).
            body: of the answer with `status`, as HTML; the Hub's JSON when None.
        """
        if status is None and not delay and not cut:
            status = 503
        times = float("inf") if times is None else times
        fault = Fault(method, path, status, times, retry_after, delay, cut, body)
        with self._lock:
            self._faults.append(fault)
        return fault

    def add_dataset(self, id: str, files: dict[str, bytes], private: bool = False) -> Repo:
        """A data set that is there already, with `files` in one commit after the Hub's first."""
        return self._add("dataset", id, files, private)

    def add_model(self, id: str, files: dict[str, bytes], private: bool = False) -> Repo:
        """The same for a model."""
        return self._add("model", id, files, private)

    def _add(self, kind: str, id: str, files: dict[str, bytes], private: bool) -> Repo:
        repo = Repo(kind, id, private)
        first = {".gitattributes": GITATTRIBUTES}
        with self._lock:
            if repo.key in self.repos:
                raise ValueError(f"{repo.key} exists")
            repo.commit("initial commit", first, ())
            if files:
                large = [path for path in files if _is_large(repo, path, files[path], len(files[path]))]
                repo.commit("Upload", first | files, large)
                self._large |= {(repo.key, _sha256(files[path])): files[path] for path in large}
            self.repos[repo.key] = repo
        return repo

    def _take_fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.times > 0 and re.fullmatch(fault.method, method) and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None

    # Answers

    def _answer(self, call: "_Call") -> "_Answer":
        try:
            with self._lock:
                call.authenticated = self._authenticate(call)
                for methods, pattern, function in ROUTES:
                    match = re.fullmatch(pattern, call.path)
                    if match and call.method in methods:
                        parts = {name: unquote(part) for name, part in match.groupdict().items() if part is not None}
                        return function(self, call, **parts)
            raise _Refused(404, "Sorry, we can't find the page you are looking for.")
        except _Refused as refused:
            return refused.answer
        except Exception:
            # A mistake of this file, or a request that no client sends: in the test's output and in its client's.
            traceback.print_exc(file=sys.stderr)
            return _Refused(500, traceback.format_exc().splitlines()[-1]).answer

    def _authenticate(self, call: "_Call") -> bool:
        header = call.headers.get("Authorization")
        if header is not None and header != f"Bearer {self.token}":
            raise _Refused(401, "Invalid credentials in Authorization header")
        return header is not None

    def _repo(self, call: "_Call", kind: str | None, id: str, write: bool = False) -> Repo:
        kind = (kind or "model").rstrip("s/")
        repo = self.repos.get(Repo(kind, id, False).key)
        mine = call.authenticated and id.split("/")[0] in self.users
        if write and not call.authenticated:
            raise _Refused(401, "Invalid username or password.")
        if repo is None or (repo.private and not mine):
            raise _Refused(404 if call.authenticated else 401, "Repository not found", "RepoNotFound")
        if write and not mine:
            raise _Refused(403, "Forbidden: you don't have the rights to write to this repository")
        return repo

    def _commit_at(self, repo: Repo, revision: str) -> Commit:
        for commit in reversed(repo.commits):
            if revision in ("main", "refs/heads/main", commit.oid):
                return commit
        raise _Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def _whoami(self, call: "_Call") -> "_Answer":
        if not call.authenticated:
            raise _Refused(401, "Invalid username or password.")
        return _as_json(
            {
                "type": "user",
                "id": "0" * 24,
                "name": self.users[0],
                "fullname": self.users[0],
                "isPro": False,
                "orgs": [{"type": "org", "name": name, "roleInOrg": "write"} for name in self.users[1:]],
                "auth": {"type": "access_token", "accessToken": {"displayName": "loopback", "role": "write"}},
            }
        )

    def _create(self, call: "_Call") -> "_Answer":
        asked = call.json()
        if not call.authenticated:
            raise _Refused(401, "Invalid username or password.")
        kind, owner = asked.get("type") or "model", asked.get("organization") or self.users[0]
        if kind not in ("model", "dataset", "space"):
            raise _Refused(400, f"{kind}: this Hub has models, datasets and Spaces only")
        if kind == "space" and not asked.get("sdk"):
            raise _Refused(400, "a Space needs an sdk")
        if owner not in self.users:
            if owner in self.others or any(repo.id.split("/")[0] == owner for repo in self.repos.values()):
                raise _Refused(403, f'You don\'t have the rights to create a {kind} under the namespace "{owner}"')
            raise _Refused(404, f'Namespace "{owner}" not found')
        id = f"{owner}/{asked['name']}"
        repo = Repo(kind, id, False)
        url = f"{self.url}/{repo.key}"
        if repo.key in self.repos:
            raise _Refused(409, f"You already created this {kind} repo", url=url)
        private = asked["visibility"] == "private" if "visibility" in asked else bool(asked.get("private"))
        self._add(kind, id, {}, private)
        return _as_json({"url": url, "name": id, "id": "0" * 24})

    def _validate_yaml(self, call: "_Call") -> "_Answer":
        metadata, error = _front_matter(call.json()["content"])
        if error:
            raise _Refused(400, error, errors=[{"message": error}], warnings=[])
        warnings = [] if metadata else [{"message": "empty or missing yaml metadata in repo card"}]
        return _as_json({"errors": [], "warnings": warnings})

    def _info(self, call: "_Call", kind: str, id: str, revision: str = "main") -> "_Answer":
        repo = self._repo(call, kind, id)
        commit = self._commit_at(repo, revision)
        siblings = []
        for path in sorted(commit.files):
            sibling = {"rfilename": path}
            if call.query.get("blobs") == ["true"]:
                entry = _entry(commit, path)
                sibling |= {"size": entry["size"], "blobId": entry["oid"]}
                if "lfs" in entry:
                    lfs = entry["lfs"]
                    sibling["lfs"] = {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
            siblings.append(sibling)
        card, _ = _front_matter(commit.files.get("README.md", b"").decode(errors="replace"))
        info = {
            "_id": "0" * 24,
            "id": id,
            "author": id.split("/")[0],
            "sha": commit.oid,
            "private": repo.private,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": card.get("tags") or [],
            "createdAt": DATE,
            "lastModified": DATE,
            "siblings": siblings,
        }
        info |= {name: card[name] for name in ("library_name", "pipeline_tag") if name in card}
        return _as_json(info | ({"cardData": card} if card else {}))

    def _tree(self, call: "_Call", kind: str, id: str, revision: str, path: str = "") -> "_Answer":
        repo = self._repo(call, kind, id)
        commit = self._commit_at(repo, revision)
        prefix = path.strip("/") + "/" if path.strip("/") else ""
        below = {name for name in (commit.files.keys() | _folders(commit.files)) if name.startswith(prefix)}
        if prefix and not below:
            raise _Refused(404, f"{path} does not exist on {revision!r}", "EntryNotFound")
        if call.query.get("recursive") != ["true"]:
            below = {name for name in below if "/" not in name.removeprefix(prefix)}
        return _as_json([_entry(commit, name, self._last(call, repo, commit, name)) for name in sorted(below)])

    def _paths_info(self, call: "_Call", kind: str, id: str, revision: str) -> "_Answer":
        repo = self._repo(call, kind, id)
        commit = self._commit_at(repo, revision)
        asked = call.json() if "json" in call.headers.get("Content-Type", "") else call.form()
        there = commit.files.keys() | _folders(commit.files)
        call.query = {"expand": [str(asked.get("expand", ["false"])[0]).lower()]}
        names = [name.strip("/") for name in asked.get("paths", [])]
        return _as_json(
            [_entry(commit, name, self._last(call, repo, commit, name)) for name in names if name in there]
        )

    def _last(self, call: "_Call", repo: Repo, commit: Commit, name: str) -> Commit | None:
        """The commit that last changed a file or folder, where the client asks for it."""
        if call.query.get("expand") != ["true"]:
            return None
        history = repo.commits[: repo.commits.index(commit) + 1]
        while len(history) > 1 and _below(history[-2], name) == _below(history[-1], name):
            history.pop()
        return history[-1]

    def _preupload(self, call: "_Call", kind: str, id: str, revision: str) -> "_Answer":
        repo = self._repo(call, kind, id, write=True)
        commit, asked = self._commit_at(repo, revision), call.json()
        ignored = asked.get("gitIgnore", commit.files.get(".gitignore", b"").decode()).split()
        files = []
        for file in asked["files"]:
            path = file["path"]
            large = _is_large(repo, path, base64.b64decode(file["sample"]), file["size"])
            answer = {
                "path": path,
                "uploadMode": "lfs" if large else "regular",
                "shouldIgnore": any(_matches(path, pattern) for pattern in ignored),
            }
            if path in commit.files:
                answer["oid"] = _etag(commit, path)
            files.append(answer)
        return _as_json({"files": files, "commitOid": commit.oid})

    def _lfs_batch(self, call: "_Call", id: str, kind: str | None = None) -> "_Answer":
        repo = self._repo(call, kind, id, write=True)
        objects = []
        for wanted in call.json()["objects"]:
            oid, answer = wanted["oid"], {"oid": wanted["oid"], "size": wanted["size"]}
            if (repo.key, oid) not in self._large:
                answer["actions"] = {
                    "upload": {"href": f"{self.url}/lfs/{repo.key}/{oid}?signature={self._signature}"},
                    "verify": {"href": f"{self.url}/{repo.key}.git/info/lfs/verify"},
                }
            objects.append(answer)
        return _as_json({"transfer": "basic", "objects": objects})

    def _lfs_upload(self, call: "_Call", id: str, oid: str, kind: str = "") -> "_Answer":
        if call.query.get("signature") != [self._signature]:
            raise _Refused(403, "SignatureDoesNotMatch")
        if _sha256(call.body) != oid:
            raise _Refused(400, "The sha256 of what arrived is another one")
        self._large[kind + id, oid] = call.body
        return _Answer(200, b"", {"ETag": f'"{oid}"'})

    def _lfs_verify(self, call: "_Call", id: str, kind: str | None = None) -> "_Answer":
        repo, asked = self._repo(call, kind, id, write=True), call.json()
        if len(self._large.get((repo.key, asked["oid"]), b"")) != asked["size"]:
            raise _Refused(404, "The object was not uploaded, or is of another size")
        return _as_json({"success": True})

    def _commit(self, call: "_Call", kind: str, id: str, revision: str) -> "_Answer":
        repo = self._repo(call, kind, id, write=True)
        if revision != "main" or "create_pr" in call.query:
            raise _Refused(400, "this Hub takes commits on main only")
        parent = repo.commits[-1]
        message, files, large = "", dict(parent.files), set(parent.lfs)
        for line in call.body.splitlines():
            key, value = (entry := json.loads(line))["key"], entry["value"]
            path = value.get("path")
            if key == "header":
                message = value["summary"]
                if value.get("parentCommit", parent.oid) != parent.oid:
                    raise _Refused(412, "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                files[path] = base64.b64decode(value["content"])
                large.discard(path)
            elif key == "lfsFile":
                if (repo.key, value["oid"]) not in self._large:
                    raise _Refused(400, f"LFS pointer of {path} points to an object that was not uploaded")
                files[path] = self._large[repo.key, value["oid"]]
                large.add(path)
            elif key in ("deletedFile", "deletedFolder"):
                gone = [path] if key == "deletedFile" else [n for n in files if n.startswith(path.rstrip("/") + "/")]
                if not gone or not files.keys() >= set(gone):
                    raise _Refused(404, "A file with this name doesn't exist", "EntryNotFound")
                for name in gone:
                    del files[name]
            else:
                raise _Refused(400, f"{key} is no operation of a commit")
        commit = repo.commit(message, files, large)
        url = f"{self.url}/{repo.key}/commit/{commit.oid}"
        return _as_json({"success": True, "commitOid": commit.oid, "commitUrl": url, "hookOutput": ""})

    def _resolve(self, call: "_Call", id: str, revision: str, path: str, kind: str | None = None) -> "_Answer":
        repo = self._repo(call, kind, id)
        commit = self._commit_at(repo, revision)
        headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        if path not in commit.files:
            raise _Refused(404, "Entry not found", "EntryNotFound", headers)
        data, etag = commit.files[path], f'"{_etag(commit, path)}"'
        headers |= {"ETag": etag, "Content-Type": "application/octet-stream"}
        headers["Content-Disposition"] = f'inline; filename="{Path(path).name}"'
        if path in commit.lfs:
            headers |= {"X-Linked-Etag": etag, "X-Linked-Size": str(len(data))}
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", call.headers.get("Range", ""))
        if wanted is None or wanted.group(0) == "bytes=-":
            return _Answer(200, data, headers)
        first, last = wanted.groups()
        start = int(first) if first else max(0, len(data) - int(last))
        end = min(len(data), int(last) + 1) if first and last else len(data)
        if start >= end:
            raise _Refused(416, "Range Not Satisfiable", None, headers | {"Content-Range": f"bytes */{len(data)}"})
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        return _Answer(206, data[start:end], headers)


_API = r"/api/(?P<kind>models|datasets|spaces)/(?P<id>[^/]+/[^/]+)"
_GIT = r"/(?P<kind>datasets/|spaces/)?(?P<id>[^/]+/[^/]+)"
ROUTES = (
    (("GET",), r"/api/whoami-v2", LoopbackHub._whoami),
    (("POST",), r"/api/repos/create", LoopbackHub._create),
    (("POST",), r"/api/validate-yaml", LoopbackHub._validate_yaml),
    (("GET", "HEAD"), _API + r"(/revision/(?P<revision>[^/]+))?", LoopbackHub._info),
    (("GET",), _API + r"/tree/(?P<revision>[^/]+)(/(?P<path>.*))?", LoopbackHub._tree),
    (("POST",), _API + r"/paths-info/(?P<revision>[^/]+)", LoopbackHub._paths_info),
    (("POST",), _API + r"/preupload/(?P<revision>[^/]+)", LoopbackHub._preupload),
    (("POST",), _API + r"/commit/(?P<revision>[^/]+)", LoopbackHub._commit),
    (("POST",), _GIT + r"\.git/info/lfs/objects/batch", LoopbackHub._lfs_batch),
    (("POST",), _GIT + r"\.git/info/lfs/verify", LoopbackHub._lfs_verify),
    (("PUT",), r"/lfs" + _GIT + r"/(?P<oid>[0-9a-f]{64})", LoopbackHub._lfs_upload),
    (("GET", "HEAD"), _GIT + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)", LoopbackHub._resolve),
)


# HTTP


@dataclass
class _Call:
    method: str
    path: str  # quoted, as a revision may hold a quoted /
    query: dict[str, list[str]]
    headers: Any
    body: bytes
    authenticated: bool = False

    def json(self) -> Any:
        return json.loads(self.body)

    def form(self) -> dict[str, list[str]]:
        return parse_qs(self.body.decode())


@dataclass
class _Answer:
    status: int
    body: bytes
    headers: dict[str, str]


class _Refused(Exception):
    """What is answered in place of the result, as the Hub words its errors; `fields` go into the JSON."""

    def __init__(
        self, status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None, **fields
    ):
        super().__init__(message)
        self.answer = _as_json({"error": message} | fields, status)
        self.answer.headers |= {"X-Error-Message": " ".join(message.split())} | (headers or {})
        if code is not None:
            self.answer.headers["X-Error-Code"] = code


def _as_json(value: Any, status: int = 200) -> _Answer:
    return _Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json; charset=utf-8"})


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    hub: LoopbackHub

    def server_bind(self):
        # HTTPServer's own looks for the name of the address, which can take seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]

    def handle_error(self, request, client_address):
        # A client that went away is part of the tests.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for the client's acknowledgement of its headers

    def log_message(self, *_):
        pass

    def _serve(self):
        hub, body = self.server.hub, self._body()
        address = urlsplit(self.path)
        call = _Call(self.command, address.path, parse_qs(address.query), self.headers, body)
        path = unquote(address.path)
        fault = hub._take_fault(self.command, path)
        if fault is not None and fault.delay:
            hub._closed.wait(fault.delay)
        if fault is not None and fault.status is not None:
            answer = _Refused(fault.status, f"{fault.status} on request").answer
            if fault.body is not None:
                answer.body, answer.headers = fault.body, {"Content-Type": "text/html"}
            if fault.retry_after is not None:
                answer.headers["Retry-After"] = str(fault.retry_after)
        else:
            answer = hub._answer(call)
        hub.requests.append(Request(self.command, path, answer.status))
        self._send(answer, cut=fault is not None and fault.cut)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _send(self, answer: _Answer, cut: bool):
        body = b"" if self.command == "HEAD" else answer.body
        self.close_connection = self.close_connection or cut
        if cut and not body:
            return
        self.send_response(answer.status)
        for name, value in (answer.headers | {"Content-Length": str(len(answer.body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)

    def _body(self) -> bytes:
        """All of it, also when it will be refused: the connection is used again."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers
        return b"".join(parts)


# Files


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _blob(data: bytes, kind: str = "blob") -> str:
    """git's name for an object."""
    return hashlib.sha1(f"{kind} {len(data)}\0".encode() + data).hexdigest()


def _etag(commit: Commit, path: str) -> str:
    return _sha256(commit.files[path]) if path in commit.lfs else _blob(commit.files[path])


def _folders(files: Iterable[str]) -> set[str]:
    return {path[:place] for path in files for place, letter in enumerate(path) if letter == "/"}


def _below(commit: Commit, name: str) -> dict[str, bytes]:
    return {path: data for path, data in commit.files.items() if path == name or path.startswith(f"{name}/")}


def _entry(commit: Commit, name: str, last: Commit | None = None) -> dict[str, Any]:
    """A file or folder as the tree and paths-info routes tell it."""
    if name not in commit.files:
        inside = "".join(f"{path} {_etag(commit, path)}\n" for path in sorted(_below(commit, name)))
        entry = {"type": "directory", "oid": _blob(inside.encode(), "tree"), "size": 0, "path": name}
    else:
        data = commit.files[name]
        entry = {"type": "file", "oid": _blob(data), "size": len(data), "path": name}
        if name in commit.lfs:
            oid = _sha256(data)
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(data)}\n".encode()
            entry |= {"oid": _blob(pointer), "lfs": {"oid": oid, "size": len(data), "pointerSize": len(pointer)}}
    if last is not None:
        entry["lastCommit"] = {"id": last.oid, "title": last.message, "date": DATE}
    return entry


def _is_large(repo: Repo, path: str, sample: bytes, size: int) -> bool:
    """Whether a file goes to LFS: by .gitattributes, its size, or because it is no text."""
    lines = (repo.commits[-1].files if repo.commits else {}).get(".gitattributes", b"").decode().splitlines()
    patterns = [line.split()[0] for line in lines if "filter=lfs" in line.split()]
    return size > LARGEST_REGULAR or b"\0" in sample[:512] or any(_matches(path, pattern) for pattern in patterns)


def _matches(path: str, pattern: str) -> bool:
    """The part of gitignore's rules that is used: a name, a path or a folder with `*`; no negation."""
    pattern = pattern.strip("/")
    names = [path, Path(path).name, *(folder for folder in _folders([path])), *Path(path).parts]
    return any(fnmatch.fnmatch(name, pattern) for name in names)


def _front_matter(card: str) -> tuple[dict[str, Any], str]:
    """The metadata of a README.md ({} without any), and what is wrong with it."""
    match = re.match(r"---[ \t]*\r?\n(.*?)^---[ \t]*$", card, re.DOTALL | re.MULTILINE)
    try:
        metadata = (yaml.safe_load(match.group(1)) if match else None) or {}
    except yaml.YAMLError as error:
        return {}, f"YAML: {error}"
    if not isinstance(metadata, dict):
        return {}, "the metadata must be a mapping"
    for name in ("library_name", "pipeline_tag", "license"):
        if not isinstance(metadata.get(name, ""), str):
            return metadata, f'"{name}" must be a string'
    tags = metadata.get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        return metadata, '"tags" must be an array of strings'
    return metadata, ""
