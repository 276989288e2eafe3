"""Buckets of Google Cloud Storage on this machine, for TensorFlow's own gs:// file system.

TensorFlow knows no other address than Google's. But it goes through a proxy, and trusts the certificates of a file: so
the proxy here answers in Google's place, with a certificate of its own. It knows what that file system asks for: the
metadata of objects and buckets, listing, reading in ranges, resumable uploads, markers of folders, renaming, deleting.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

OPENSSL = shutil.which("openssl")
UPLOADS = "https://www.googleapis.com/upload/storage/v1"
ADDRESS = re.compile(r"(?:/upload)?/storage/v1/b/([^/]+)(?:/o(?:/([^/]+)(?:/rewriteTo/b/([^/]+)/o/(.+))?)?)?")
MISSING, FORBIDDEN, ANONYMOUS = (
    (404, "The specified bucket does not exist."),
    (403, "trainer@project.iam does not have storage.objects.{} access to the Google Cloud Storage object."),
    (401, "Anonymous caller does not have storage.objects.{} access to the Google Cloud Storage object."),
)


class Buckets(ThreadingHTTPServer):
    """Buckets that are there and their objects.

    Attributes:
        objects: the bytes of each (bucket, name).
        refusals: what a bucket answers; one that is in neither of both is missing.
        read_only: buckets whose objects can be read alone.
        fails: how many of the next requests of each kind end with status 503, as Google's sometimes do.
        asked: how often each kind of request came.
    """

    daemon_threads = True

    def __init__(self, certificate: Path, key: Path):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(certificate, key)
        self.objects: dict[tuple[str, str], bytes] = {}
        self.written: dict[tuple[str, str], int] = {}
        self.uploads: dict[str, tuple[str, str]] = {}
        self.open: set[str] = set()
        self.read_only: set[str] = set()
        self.refusals: dict[str, tuple[int, str]] = {}
        self.fails: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.lock = threading.Lock()

    def names(self, bucket: str, prefix: str = "") -> list[str]:
        """The names of a bucket's objects, sorted."""
        return sorted(name for place, name in self.objects if place == bucket and name.startswith(prefix))

    def put(self, place: tuple[str, str], content: bytes) -> None:
        """Write an object."""
        with self.lock:
            self.objects[place] = content
            self.written[place] = time.time_ns()

    def handle_error(self, request, client_address) -> None:
        """A client that goes away is no news."""


@contextlib.contextmanager
def buckets(folder: Path) -> Iterator[tuple[Buckets, dict[str, str]]]:
    """The buckets, and the variables of the environment by which TensorFlow finds them; `folder` takes certificates."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    names = "subjectAltName=DNS:*.googleapis.com,DNS:googleapis.com"
    command = [OPENSSL, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=here"]
    command += ["-addext", names, "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    server = Buckets(certificate, key)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    proxy = f"http://127.0.0.1:{server.server_port}"
    variables = {"HTTPS_PROXY": proxy, "https_proxy": proxy, "CURL_CA_BUNDLE": str(certificate), "NO_PROXY": ""}
    try:
        yield server, variables | {"no_proxy": "", "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token"}
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Buckets

    def log_message(self, format: str, *args) -> None:
        """Nothing is logged."""

    def do_CONNECT(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", buffering=0)
        self.close_connection = False

    def finish(self) -> None:
        super().finish()
        self.connection.close()  # the one that TLS was put over is detached

    def do_GET(self) -> None:
        self._act("GET")

    def do_POST(self) -> None:
        self._act("POST")

    def do_PUT(self) -> None:
        self._act("PUT")

    def do_DELETE(self) -> None:
        self._act("DELETE")

    def _act(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query, keep_blank_values=True).items()}
        found = re.fullmatch(
            r"(?:/upload)?/storage/v1/b/([^/]+)(?:/o(?:/([^/]+)(?:/rewriteTo/b/([^/]+)/o/(.+))?)?)?", url.path
        )
        if self.headers.get("Host", "").startswith("storage."):
            bucket, name = url.path[1:].split("/", 1)
            kind, place = "get", (bucket, unquote(name))
        else:
            place = (found[1], unquote(found[2] or ""))
            kind = self._kind(method, url.path, found)
        self.server.asked[kind] += 1
        if self.server.fails[kind] > 0:
            self.server.fails[kind] -= 1
            return self._say(503, "Backend error")
        if place[0] in self.server.refusals:
            status, text = self.server.refusals[place[0]]
            return self._say(status, text.format(kind))
        if place[0] not in self.server.open:
            return self._say(*MISSING)
        if place[0] in self.server.read_only and kind not in ("get", "stat", "list", "bucket"):
            return self._say(403, FORBIDDEN[1].format(kind))
        getattr(self, f"_{kind}")(place, query, body, found)

    @staticmethod
    def _kind(method: str, path: str, found: re.Match) -> str:
        if path.startswith("/upload"):
            return "create" if method == "POST" else "write"
        if found[3]:
            return "rename"
        if found[2]:
            return "delete" if method == "DELETE" else "stat"
        return "list" if path.endswith("/o") else "bucket"

    def _bucket(self, place, query, body, found) -> None:
        self._answer({"name": place[0], "location": "HERE"})

    def _stat(self, place, query, body, found) -> None:
        content = self.server.objects.get(place)
        if content is None:
            return self._say(404, f"No such object: {'/'.join(place)}")
        at = self.server.written[place]
        updated = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at / 1e9)) + f".{at // 10**6 % 1000:03}Z"
        self._answer({"size": str(len(content)), "generation": str(at), "updated": updated})

    def _list(self, place, query, body, found) -> None:
        prefix, sign, most = query.get("prefix", ""), query.get("delimiter"), int(query.get("maxResults", 1000))
        after, names, folders = query.get("pageToken", ""), [], []
        for name in self.server.names(place[0], prefix):
            rest = name[len(prefix) :]
            folder = prefix + rest.split(sign)[0] + sign if sign and sign in rest else None
            shown = name if folder is None else folder
            if shown > after and shown not in folders:
                (names if folder is None else folders).append(shown)
            if len(names) + len(folders) == most:
                break
        answer: dict = {"items": [{"name": name} for name in names], "prefixes": folders}
        answer = {key: value for key, value in answer.items() if value}
        if len(names) + len(folders) == most:
            answer["nextPageToken"] = max([*names, *folders])
        self._answer(answer)

    def _get(self, place, query, body, found) -> None:
        content = self.server.objects.get(place)
        if content is None:
            return self._say(404, f"No such object: {'/'.join(place)}")
        first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"]).groups())
        self._send(206 if first < len(content) else 416, content[first : last + 1])

    def _create(self, place, query, body, found) -> None:
        place = (place[0], query["name"])
        if query["uploadType"] == "media":  # the marker of a folder
            if "ifGenerationMatch" in query and place in self.server.objects:
                return self._say(412, "exists")
            self.server.put(place, body)
            return self._answer({})
        number = str(len(self.server.uploads))
        self.server.uploads[number] = place
        self._answer({}, Location=f"{UPLOADS}/b/{place[0]}/o?uploadType=resumable&upload_id={number}")

    def _write(self, place, query, body, found) -> None:
        self.server.put(self.server.uploads[query["upload_id"]], body)
        self._answer({})

    def _rename(self, place, query, body, found) -> None:
        if place not in self.server.objects:
            return self._say(404, f"No such object: {'/'.join(place)}")
        self.server.put((found[3], unquote(found[4])), self.server.objects[place])
        self._answer({"done": True})

    def _delete(self, place, query, body, found) -> None:
        with self.server.lock:
            gone = self.server.objects.pop(place, None)
        self._say(404, f"No such object: {'/'.join(place)}") if gone is None else self._send(204, b"")

    def _say(self, status: int, text: str) -> None:
        self._send(status, json.dumps({"error": {"code": status, "message": text}}, indent=2).encode())

    def _answer(self, value: dict, **headers: str) -> None:
        self._send(200, json.dumps(value).encode(), **headers)

    def _send(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content if status != 204 else b"")
