"""A web server over a folder, with ranges of bytes, that fails some requests: real sockets, seeded faults."""

import random
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FAULTS = ("500", "503", "reset", "truncated", "corrupt")


class FlakyStore:
    """Serves on loopback while its block lasts. `share` of the GET requests get one of `faults`."""

    def __init__(self, folder, *, share=0.0, seed=0, faults=FAULTS, knows_ranges=True):
        self.folder, self.share, self.faults, self.knows_ranges = Path(folder), share, faults, knows_ranges
        self.script = []
        """Faults of the next GET requests, before any by chance; None is none."""
        self.requests = []
        """(method, path, (start, end) or None, fault or None) of each request."""
        self.deny_status = None
        self.stalled_path = None
        self.needed_authorization = None
        self._draw, self._lock, self._closing = random.Random(seed), threading.Lock(), threading.Event()

    def __enter__(self):
        store = self

        class Handler(_Handler):
            pass

        Handler.store = store
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *_):
        self._closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def note(self, method, path, span):
        """Log a request and draw its fault."""
        with self._lock:
            fault = None
            if method == "GET":
                if path == self.stalled_path:
                    fault = "stall"
                elif self.script:
                    fault = self.script.pop(0)
                elif self._draw.random() < self.share:
                    fault = self._draw.choice(self.faults)
            self.requests.append((method, path, span, fault))
            return fault

    def good_fetches(self):
        """(path, range) of each GET that was answered well."""
        with self._lock:
            return [(path, span) for method, path, span, fault in self.requests if method == "GET" and not fault]

    def stall(self):
        self._closing.wait(60)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: FlakyStore

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer("HEAD")

    def do_GET(self):
        self._answer("GET")

    def _answer(self, method):
        wanted = self.headers.get("Range") if self.store.knows_ranges else None
        span = None
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            span = (int(first), int(last) + 1)
        fault = self.store.note(method, self.path, span)
        file = self.store.folder / self.path.lstrip("/")
        status = self.store.deny_status or (int(fault) if fault in ("500", "503") else None)
        if self.store.needed_authorization not in (None, self.headers.get("Authorization")):
            status = 401
        if not status and not file.is_file():
            status = 404
        content = b"" if status else file.read_bytes()
        num_bytes = len(content)
        if span and not status:
            if span[0] >= num_bytes:
                status, content = 416, b""
            content = content[span[0] : span[1]]
        self._send(method, status or (206 if span else 200), content, fault)

    def _send(self, method, status, content, fault):
        if fault == "stall":
            self.store.stall()
            self.close_connection = True
            return
        if fault == "corrupt" and content:
            content = bytes([content[0] ^ 1]) + content[1:]
        if fault == "short":
            content = content[: len(content) // 2]
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if self.store.knows_ranges:
            self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if method == "HEAD":
            return
        if fault in ("reset", "truncated"):
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            if fault == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            return
        self.wfile.write(content)
