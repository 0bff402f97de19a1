"""Run directories at an address: an S3 server in this process whose listings lag, which fails now and then, and which dies."""

import collections
import json
import os
import re
import shutil
import signal
import socket
import threading
import time
import urllib.parse
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("moto")
pytest.importorskip("s3fs")

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from moto.s3.models import s3_backends
from rich.console import Console
from werkzeug.serving import make_server

import jaxpg
from jaxpg.lab.cli import commands as cli
from jaxpg.lab.store import objects, remote, results
from jaxpg.lab.store.files import read_json

pytestmark = pytest.mark.usefixtures("programs_once", "no_figures", "environment")

LAG = 2.0  # seconds until a listing shows an object
XMLNS = "{http://s3.amazonaws.com/doc/2006-03-01/}"


class Server:
    """An S3 server: ``lag`` delays listings, every ``fail_every``-th request is answered with 503, or its connection ``dropped``.

    ``counts`` has the requests by method, ``sent`` and ``received`` the bytes of their bodies.
    """

    def __init__(self):
        self.lag, self.fail_every, self.is_dropped, self.number = 0.0, 0, False, 0
        self.born, self.counts, self.received, self.sent = {}, collections.Counter(), 0, 0
        self.moto = DomainDispatcherApplication(create_backend_app)
        self.lock = threading.Lock()
        self.http = make_server("127.0.0.1", 0, self, threaded=True, request_handler=MotoRequestHandler)
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()

    def stop(self):
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def __call__(self, environ, start_response):
        query, key = urllib.parse.parse_qs(environ["QUERY_STRING"]), environ["PATH_INFO"]
        kind = "LIST" if "list-type" in query else environ["REQUEST_METHOD"]
        with self.lock:
            self.number += 1
            self.counts[kind] += 1
            self.received += int(environ.get("CONTENT_LENGTH") or 0)
            fails = self.fail_every and self.number % self.fail_every == 0
        if fails and self.is_dropped:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            return []
        if fails:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("503 Service Unavailable", [("Content-Type", "application/xml")])
            return [b"<Error><Code>ServiceUnavailable</Code><Message>later</Message></Error>"]
        if kind == "PUT":
            self.born.setdefault(key, time.monotonic())
        answer = {}

        def catch(status, headers, *_):
            answer.update(status=status, headers=headers)

        body = b"".join(self.moto(environ, catch))
        if kind == "LIST" and self.lag:
            body = self.hide(body, key)
        self.sent += len(body)
        start_response(answer["status"], [(n, v) for n, v in answer["headers"] if n.lower() != "content-length"]
                       + ([("Content-Length", str(len(body)))] if kind != "HEAD" else []))  # fmt: skip
        return [body]

    def hide(self, body, bucket):
        """Take out of a listing what is younger than ``lag``, and folders in which all is."""
        tree, old = ET.fromstring(body), time.monotonic() - self.lag
        known = {key: born < old for key, born in self.born.items()}
        for entry in tree.findall(f"{XMLNS}Contents") + tree.findall(f"{XMLNS}CommonPrefixes"):
            name = (entry.find(f"{XMLNS}Key") if entry.tag.endswith("Contents") else entry.find(f"{XMLNS}Prefix")).text
            path = f"{bucket.rstrip('/')}/{name}"
            if not any(is_old for key, is_old in known.items() if key.startswith(path)):
                tree.remove(entry)
        return ET.tostring(tree)


@pytest.fixture(scope="module")
def server():
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def environment(server, monkeypatch, tmp_path):
    """An empty bucket ``runs``, credentials, and no local copies. Waits are short."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "hidden-secret", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server.address, "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(objects, "DELAYS", (0.01, 0.05))
    for backend in s3_backends.values():
        for each in backend.values():
            each.reset()
    server.lag, server.fail_every, server.is_dropped, server.number, server.born = 0.0, 0, False, 0, {}
    server.counts, server.sent, server.received = collections.Counter(), 0, 0
    import boto3

    boto3.client("s3").create_bucket(Bucket="runs")
    remote.COPIES.clear()


SIZES = ["--num-envs", "2", "--num-steps", "8", "--hidden", "4", "--seeds", "2", "--eval-episodes", "2", "--log-every", "5"]
TRAIN = ["train", "a2c", *SIZES, "--total-steps", "640", "--checkpoint-every", "0"]


def outcome(found):
    return found.returns, found.digests.tolist(), {name: x.tolist() for name, x in found.metrics.items()}


def test_smoke(capsys, server, tmp_path):
    assert cli.main([*TRAIN, "--run-dir", "s3://runs/one"]) == 0
    print(server.counts, server.sent, server.received)
    out = capsys.readouterr()
    print(out.out, out.err)
    found = results.read("s3://runs/one")
    assert cli.main([*TRAIN, "--run-dir", str(tmp_path / "one")]) == 0
    np.testing.assert_equal(outcome(found), outcome(results.read(tmp_path / "one")))
    act = jaxpg.load_policy("s3://runs/one", seed=1)
    print(server.counts, server.sent, server.received)
    print(sorted(server.born))
    assert 0
