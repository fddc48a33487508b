"""What all tests share."""

from __future__ import annotations

import http.server
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

os.environ.setdefault("OMP_NUM_THREADS", "2")  # before torch is loaded: small models gain nothing from more
os.environ.setdefault("MPLBACKEND", "agg")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so begins what a script runs in its background
    signal.signal(signal.SIGINT, signal.default_int_handler)

from pathlib import Path

import pytest
from hypothesis import settings

from tests.browser import chromium, open_page  # noqa: F401  (fixtures)

ROOT = Path(__file__).resolve().parent.parent

settings.register_profile("vsattn", deadline=None, print_blob=True)
settings.load_profile("vsattn")


@pytest.fixture
def root() -> Path:
    """The top folder of the repository."""
    return ROOT


@pytest.fixture(autouse=True)
def _no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on the data sets that a person happens to have."""
    monkeypatch.delenv("VSATTN_DATA", raising=False)


@pytest.fixture
def serve() -> Iterator[Callable[[dict[str, bytes | None]], str]]:
    """Return a function that serves ``{path: content}`` on the loopback interface; content None never answers."""
    servers = []

    def start(files: dict[str, bytes | None]) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content = files.get(self.path.lstrip("/"), b"")
                if content is None:
                    time.sleep(1.5)
                    return
                self.send_response(200 if content else 404)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: object) -> None:
                return None

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
