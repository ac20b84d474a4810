"""A Hub on this machine: the few endpoints that a download calls, and a list of what was asked."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants


class FakeHub:
    """Repositories are folders below `root`, at one commit each."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests: list[tuple[str, str]] = []
        self.gated: set[str] = set()
        self.break_after: int | None = None
        """Bytes of a file after which the connection is cut."""
        self.hold_after: int | None = None
        """Bytes of a file after which it waits for `may_go_on`."""
        self.may_go_on = Event()
        self.honours_ranges = True
        self.bytes_sent = 0

    def commit(self, repo: str) -> str:
        return hashlib.sha1(repo.encode()).hexdigest()

    def files(self, repo: str) -> dict[str, Path]:
        return {path.name: path for path in sorted((self.root / repo).iterdir())}

    def fetched(self) -> list[str]:
        """The names of the files whose content was asked for."""
        return sorted(
            path.rpartition("/")[2]
            for method, path in self.requests
            if method == "GET" and "/resolve/" in path
        )


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Clients that hang up early are part of the tests."""


@contextmanager
def serve(hub: FakeHub) -> Iterator[str]:
    """The endpoint of the running server."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((self.command, path))
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
                self._info(match[1], match[2] or "main")
            elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
                self._tree(match[1])
            elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                self._file(match[1], match[3])
            else:
                self._fail(404, "EntryNotFound")

        def _info(self, repo: str, revision: str) -> None:
            if not (hub.root / repo).is_dir():
                return self._fail(401, "RepoNotFound")
            if revision not in ("main", hub.commit(repo)):
                return self._fail(404, "RevisionNotFound")
            siblings = [
                {"rfilename": name, "size": path.stat().st_size, "blobId": name}
                for name, path in hub.files(repo).items()
            ]
            return self._json({"id": repo, "sha": hub.commit(repo), "siblings": siblings})

        def _tree(self, repo: str) -> None:
            self._json(
                [
                    {"type": "file", "path": name, "size": path.stat().st_size, "oid": name}
                    for name, path in hub.files(repo).items()
                ]
            )

        def _file(self, repo: str, name: str) -> None:
            if repo in hub.gated:
                return self._fail(403, "GatedRepo")
            if name not in hub.files(repo):
                return self._fail(404, "EntryNotFound")
            content = hub.files(repo)[name].read_bytes()
            begin, end, status = 0, len(content), 200
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            if wanted and hub.honours_ranges:
                begin, status = int(wanted[1]), 206
                end = min(int(wanted[2] or len(content) - 1) + 1, len(content))
            self.send_response(status)
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", hub.commit(repo))
            self.send_header("Content-Length", str(end - begin))
            if status == 206:
                self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(content)}")
            self.end_headers()
            if self.command == "HEAD":
                return None
            part = content[begin:end]
            if hub.break_after is not None and len(part) > hub.break_after:
                self.wfile.write(part[: hub.break_after])
                self.wfile.flush()
                hub.bytes_sent += hub.break_after
                self.close_connection = True
                return None
            try:
                if hub.hold_after is not None and len(part) > hub.hold_after:
                    self.wfile.write(part[: hub.hold_after])
                    self.wfile.flush()
                    hub.may_go_on.wait(60)
                    part = part[hub.hold_after :]
                    hub.bytes_sent += hub.hold_after
                hub.bytes_sent += len(part)
                self.wfile.write(part)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
            return None

        def _json(self, value: object) -> None:
            raw = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(raw)

        def _fail(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = _QuietServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def reached(hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """The Hub that this process knows, with an empty cache; small pieces, nothing held back."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    with serve(hub) as endpoint:
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield hub
        hub.may_go_on.set()
