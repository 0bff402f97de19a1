"""Run directories at an address: an S3 server in this process whose listings lag, which fails now and then, and which dies."""

import collections
import contextlib
import dataclasses
import importlib.util
import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import threading
import time
import urllib.parse
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

import jaxpg
from jaxpg.lab.cli import commands as cli
from jaxpg.lab.engine import batches, experiment, launch, stopping
from jaxpg.lab.report import page
from jaxpg.lab.store import checkpoint, objects, remote, results
from jaxpg.lab.store.checkpoint import SEAL
from jaxpg.lab.store.files import read_json, write_json
from jaxpg.lab.store.stored import read_config

boto3 = pytest.importorskip("boto3")
pytest.importorskip("s3fs")
werkzeug_app = pytest.importorskip("moto.moto_server.werkzeug_app")
models = pytest.importorskip("moto.s3.models")
serving = pytest.importorskip("werkzeug.serving")

pytestmark = pytest.mark.usefixtures("programs_once", "no_figures", "environment")

ACCOUNT = "123456789012"  # of whoever asks moto
LAG = 2.0  # seconds until a listing shows an object
XMLNS = "{http://s3.amazonaws.com/doc/2006-03-01/}"


class Handler(werkzeug_app.MotoRequestHandler):
    """Writes no line for each request."""

    def log(self, type, message, *args):
        pass


class Server:
    """An S3 server: ``lag`` delays listings, every ``fail_every``-th request fails with 503, or is ``dropped``.

    ``counts`` has the requests by method, ``sent`` and ``received`` the bytes of their bodies.
    """

    def __init__(self):
        self.lag, self.fail_every, self.is_dropped, self.number = 0.0, 0, False, 0
        self.born, self.counts, self.received, self.sent = {}, collections.Counter(), 0, 0
        self.moto = werkzeug_app.DomainDispatcherApplication(werkzeug_app.create_backend_app)
        self.lock = threading.Lock()
        self.http = serving.make_server("127.0.0.1", 0, self, threaded=True, request_handler=Handler)
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
            start_response("503 Service Unavailable", [])
            return [b"nobody reads this"]
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
        headers = [(name, value) for name, value in answer["headers"] if kind == "HEAD" or name.lower() != "content-length"]
        if kind == "LIST" and self.lag:
            body = self.hide(body, key)
        self.sent += len(body)
        start_response(answer["status"], headers)
        return [body]

    def hide(self, body, bucket):
        """Take out of a listing what is younger than ``lag``, and folders in which all is."""
        tree, old = ElementTree.fromstring(body), time.monotonic() - self.lag  # noqa: S314
        known = {key: born < old for key, born in self.born.items()}
        for entry in tree.findall(f"{XMLNS}Contents") + tree.findall(f"{XMLNS}CommonPrefixes"):
            name = (entry.find(f"{XMLNS}Key") if entry.tag.endswith("Contents") else entry.find(f"{XMLNS}Prefix")).text
            path = f"{bucket.rstrip('/')}/{name}"
            if not any(is_old for key, is_old in known.items() if key.startswith(path)):
                tree.remove(entry)
        return ElementTree.tostring(tree)


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
    for backend in models.s3_backends.values():
        for each in backend.values():
            each.reset()
    server.lag, server.fail_every, server.is_dropped, server.number, server.born = 0.0, 0, False, 0, {}
    server.counts, server.sent, server.received = collections.Counter(), 0, 0
    boto3.client("s3").create_bucket(Bucket="runs")
    remote.COPIES.clear()


UPDATES = 40
ADDRESS = "s3://runs/one"
FIRST = "one/batches/0000000"


def command(directory, updates=UPDATES, **options):
    words = {"num-envs": 2, "num-steps": 8, "hidden": 4, "seeds": 2, "eval-episodes": 2, "log-every": 3}
    words |= {"total-steps": 16 * updates, "checkpoint-every": 0, "run-dir": directory} | options
    return ["train", "a2c", "--anneal", *(text for name, value in words.items() for text in (f"--{name}", str(value)))]


@pytest.fixture(scope="module")
def local(programs_once, no_figures, tmp_path_factory):
    """The same experiment in a directory of this machine, with its outcome."""
    directory = tmp_path_factory.mktemp("local") / "one"
    assert cli.main(command(directory)) == 0
    return directory


@pytest.fixture
def at_update(monkeypatch):
    """``(update, do)``: have ``do`` called once, when the rows of the first log point from ``update`` on are written."""
    write, waiting = batches.Keeper.write, []

    def write_and_do(keeper, at, metrics):
        write(keeper, at, metrics)
        while waiting and at >= waiting[0][0]:
            waiting.pop(0)[1]()

    monkeypatch.setattr(batches.Keeper, "write", write_and_do)
    return lambda update, do: waiting.append((update, do))


def stop():
    signal.raise_signal(signal.SIGTERM)


STOPPED = 128 + signal.SIGTERM


def bucket():
    """The bucket as the server has it, without a request."""
    (found,) = [each.buckets["runs"] for each in models.s3_backends[ACCOUNT].values() if "runs" in each.buckets]
    return found.keys


def keys(prefix="one/"):
    return [key for key in bucket() if key.startswith(prefix)]


def content(key):
    return bucket()[key].value


def flip(key):
    """Change one bit of an object."""
    data = bytearray(content(key))
    data[len(data) // 2] ^= 1
    bucket()[key].value = bytes(data)


def download(to, prefix="one/"):
    """All objects as files, as any program for S3 would do it."""
    for key in keys(prefix):
        path = to / key.removeprefix(prefix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(key))
    return to


def outcome(directory):
    """Every bit of what came of an experiment; of a result all but what a clock measured."""
    found = {"summary": (directory / "summary.json").read_bytes()}
    for folder in sorted((directory / "batches").iterdir()):
        result = {name: value for name, value in read_json(folder / "result.json").items() if name != "seconds"}
        found[folder.name] = ((folder / "metrics.jsonl").read_bytes(), result)
    return found


def steps():
    """The updates of which there is a complete checkpoint."""
    return sorted(int(key.split("/")[-2]) for key in keys() if key.startswith(FIRST) and key.endswith(SEAL))


def forget():
    """Become another machine: no local copy, nothing read before."""
    shutil.rmtree(os.environ["XDG_CACHE_HOME"], ignore_errors=True)
    remote.COPIES.clear()


def last_line(capsys):
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("dropped", [False, True], ids=["answered with 503", "dropped"])
def test_where_listings_lag_and_requests_fail_it_is_the_experiment_of_a_local_directory(
    server, local, dropped, at_update, capsys, tmp_path
):
    server.lag, server.fail_every, server.is_dropped = LAG, 20, dropped
    for update in (10, 25):  # stopped twice, and continued by another machine at once
        at_update(update, stop)
        assert cli.main(command(ADDRESS)) == STOPPED
        said = capsys.readouterr().err.splitlines()
        assert said[-1] == f"jaxpg: interrupted (SIGTERM); what was done is saved; jaxpg resume {ADDRESS} continues"
        assert f"update {steps()[-1]} is saved" in said
        forget()
    assert cli.main(["resume", ADDRESS]) == 0
    forget()
    assert cli.main(["resume", ADDRESS]) == 0  # which is finished
    assert f"{ADDRESS} is finished" in capsys.readouterr().err
    assert outcome(download(tmp_path / "one")) == outcome(local)


@pytest.fixture
def finished(server, local):
    """The finished experiment at the address, as an upload of the local directory with manifests, without training."""
    with remote.writing(ADDRESS, print) as copy:
        shutil.copytree(local, copy.directory, dirs_exist_ok=True)
        copy.publish("config.json")
        for folder in results.folders(copy.directory):
            copy.publish_batch(folder, read_json(folder / "result.json")["log"])
        copy.publish_summary()
    forget()


def test_what_reads_a_local_directory_reads_an_address(server, finished, local, capsys, monkeypatch, tmp_path):
    server.fail_every = 20
    monkeypatch.setattr(page, "pictures", lambda *_: [])
    assert cli.main(["resume", ADDRESS]) == 0
    assert f"{ADDRESS} is finished" in capsys.readouterr().err
    found, there = results.read(ADDRESS), results.read(local)
    assert found.name == "one"
    np.testing.assert_equal(found.metrics, there.metrics)
    np.testing.assert_equal(found.digests, there.digests)
    obs = np.random.default_rng(0).normal(size=(6, 4))
    np.testing.assert_array_equal(jaxpg.load_policy(ADDRESS, seed=1)(obs), jaxpg.load_policy(local, seed=1)(obs))
    said = []
    for directory in (ADDRESS, local):
        assert cli.main(["evaluate", str(directory), "--json"]) == 0
        said.append(json.loads(capsys.readouterr().out))
    assert said[0] == said[1]
    assert cli.main(["report", ADDRESS, "--out", str(tmp_path / "page.html")]) == 0
    for directory in (ADDRESS, local):
        assert cli.main(["export", str(directory), "--out", str(tmp_path / "policy.bin")]) == 0
        said.append((tmp_path / "policy.md").read_text())
    assert said[2] == said[3]
    with pytest.raises(ValueError, match=f"^seed = 2: {ADDRESS} has the seeds 0 to 1$"):
        jaxpg.load_policy(ADDRESS, seed=2)


def test_a_listing_that_lags_hides_batches_from_readers_for_a_while(server, finished):
    server.lag = 10**6
    assert np.isnan(results.read(ADDRESS).returns["greedy_return"]).all()
    server.lag = 0.0
    assert np.isfinite(results.read(ADDRESS).returns["greedy_return"]).all()


def test_of_a_policy_only_its_checkpoint_is_fetched(server, at_update):
    at_update(10, stop)
    assert cli.main(command(ADDRESS)) == STOPPED
    assert cli.main(["resume", ADDRESS]) == 0
    first, last = steps()
    server.counts.clear()
    jaxpg.load_policy(ADDRESS)
    jaxpg.load_policy(ADDRESS, seed=1)
    fetched = {path.name for path in (remote.COPIES[ADDRESS].directory / "batches/0000000/checkpoints").glob(f"*/{SEAL}")}
    assert {path.parent.name for path in remote.COPIES[ADDRESS].directory.rglob(SEAL)} == {str(last)}, fetched
    assert server.counts["GET"] < 60
    jaxpg.load_policy(ADDRESS, step=first)
    with pytest.raises(
        ValueError, match=f"step = 3: {ADDRESS}/batches/0000000/checkpoints has checkpoints of the updates {first}, {last}"
    ):
        jaxpg.load_policy(ADDRESS, step=3)


def test_old_checkpoints_are_removed_and_a_copy_by_any_other_program_is_a_run_directory(server, local, tmp_path):
    assert cli.main(command(ADDRESS, **{"checkpoint-every": 1e-6})) == 0
    assert len(steps()) == 2
    directory = download(tmp_path / "one")
    np.testing.assert_equal(results.read(directory).digests, results.read(local).digests)
    assert jaxpg.load_policy(directory)(np.zeros(4)) in (0, 1)
    named = json.loads(content(f"{FIRST}/manifest.json"))["files"]
    assert {f"{FIRST}/{name}" for name in named} == {key for key in keys(FIRST) if not key.endswith("manifest.json")}


def test_trained_further_it_is_as_if_it_had_been_planned_so(server, tmp_path, at_update):
    assert cli.main(command(ADDRESS, updates=20)) == 0
    at_update(30, stop)
    assert cli.main(["resume", ADDRESS, "--total-steps", str(16 * UPDATES)]) == STOPPED
    assert f"{FIRST}/result.json" not in keys()
    forget()
    assert cli.main(["resume", ADDRESS]) == 0
    assert cli.main(command(tmp_path / "two", updates=20)) == 0
    assert cli.main(["resume", str(tmp_path / "two"), "--total-steps", str(16 * UPDATES)]) == 0
    assert outcome(download(tmp_path / "one")) == outcome(tmp_path / "two")


def test_a_server_that_is_gone_loses_nothing_and_a_resume_continues_where_training_ended(
    server, local, at_update, capsys, monkeypatch, tmp_path
):
    monkeypatch.setattr(objects, "PATIENCE", 0.3)
    every = {"checkpoint-every": 1e-6}
    at_update(20, lambda: setattr(server, "fail_every", 1))
    assert cli.main(command(ADDRESS, **every)) == 1
    lines = capsys.readouterr().err.splitlines()
    (copy,) = tmp_path.glob("cache/jaxpg/runs/*/one")
    assert re.fullmatch(
        rf"jaxpg: error: update {UPDATES} could not be saved \({ADDRESS} does not answer \(.*\)\); "
        rf"(no update|update \d+) is in {ADDRESS}; everything saved before is kept; what is not there is in the local copy "
        rf"{copy}; jaxpg resume {ADDRESS} continues",
        lines[-1],
    )
    assert any(re.fullmatch(r"jaxpg: update \d+ was not saved \(.*\); everything saved before is kept", line) for line in lines)
    assert not any("Traceback" in line for line in lines)
    server.fail_every = 0
    assert UPDATES not in steps()
    assert cli.main(["resume", ADDRESS]) == 0
    assert "training  " not in capsys.readouterr().err
    assert outcome(download(tmp_path / "one")) == outcome(local)


def test_training_does_not_wait_for_an_upload(server, at_update, monkeypatch, capsys):
    publish, gate = remote.Copy.publish_batch, threading.Event()

    def publish_late(copy, folder, log):
        assert threading.current_thread() is threading.main_thread() or gate.wait(60)
        publish(copy, folder, log)

    monkeypatch.setattr(remote.Copy, "publish_batch", publish_late)
    at_update(30, gate.set)
    assert cli.main(command(ADDRESS, **{"checkpoint-every": 1e-6})) == 0
    said = capsys.readouterr().err
    assert "not saved" not in said
    assert f"update {UPDATES} is saved" in said


def test_a_server_that_is_not_there_is_one_line(server, monkeypatch, capsys):
    monkeypatch.setattr(objects, "PATIENCE", 0.1)
    server.fail_every = 1
    for arguments in (command(ADDRESS), ["resume", ADDRESS], ["evaluate", ADDRESS], ["report", ADDRESS]):
        assert cli.main(arguments) == 1
        assert re.fullmatch(rf"jaxpg: error: {ADDRESS} does not answer \(.*\)(; nothing was written)?", last_line(capsys))
    server.fail_every = 0
    assert cli.main(command("s3://nowhere/one")) == 2
    assert "there is no such bucket" in last_line(capsys)
    assert cli.main(["evaluate", ADDRESS]) == 2
    assert last_line(capsys) == f"jaxpg: error: {ADDRESS} holds no experiment: there is no config.json"


def test_a_damaged_checkpoint_is_named_put_aside_and_made_good(server, local, at_update, capsys, tmp_path):
    for update in (10, 25):
        at_update(update, stop)
        assert cli.main(command(ADDRESS)) == STOPPED
    newest = steps()[-1]
    damaged = next(key for key in keys(f"{FIRST}/checkpoints/{newest}/rest/d/"))
    flip(damaged)
    forget()
    with pytest.warns(UserWarning, match=f"the checkpoint of update {newest} cannot be used: its checksums are wrong"):
        jaxpg.load_policy(ADDRESS)
    capsys.readouterr()
    assert cli.main(["resume", ADDRESS]) == 0
    named = f"the checkpoint of update {newest} was put aside in damaged/: its checksums are wrong"
    assert named in " ".join(capsys.readouterr().err.split())
    assert any(re.match(f"{FIRST}/damaged/{newest}-\\d+/rest/d/", key) for key in keys())
    shutil.rmtree(tmp_path / "cache")
    assert outcome(download(tmp_path / "one")) == outcome(local)
    assert cli.main(["resume", ADDRESS, "--total-steps", str(16 * UPDATES + 16)]) == 0  # what was put aside is not fetched
    assert not list(tmp_path.glob("cache/jaxpg/runs/*/one/batches/*/damaged"))


def test_a_damaged_result_is_named_put_aside_and_its_runs_are_trained_again(server, finished, local, capsys, tmp_path):
    flip(f"{FIRST}/result.json")
    bucket().pop("one/summary.json")
    assert cli.main(["resume", ADDRESS]) == 0
    assert "a batch of runs was put aside in damaged/ and is trained again" in " ".join(capsys.readouterr().err.split())
    assert [key for key in keys("one/damaged/") if key.endswith("result.json")]
    (tmp_path / "all").mkdir()
    assert outcome(download(tmp_path / "all" / "one")) == outcome(local)


def test_a_damaged_manifest_is_named_and_a_listing_is_used(server, finished, local, at_update, capsys, tmp_path):
    flip(f"{FIRST}/manifest.json")
    with pytest.warns(UserWarning, match=f"{ADDRESS}/batches/0000000/manifest.json was changed since it was written"):
        np.testing.assert_equal(results.read(ADDRESS).digests, results.read(local).digests)
    bucket().pop("one/summary.json")
    assert cli.main(["resume", ADDRESS]) == 0
    assert "a listing is used instead" in capsys.readouterr().err
    assert len(steps()) == 1


@pytest.mark.parametrize("name", ["../one.txt", "/one.txt", "a/../../one.txt", "..\\one.txt", "batch.json/one.txt"])
def test_a_manifest_cannot_name_a_file_outside_its_folder(name, tmp_path):
    files = {"batch.json": {"bytes": 2, "sha256": "1" * 64}}
    manifest = {"published": "", "files": files | {name: {"bytes": 1, "sha256": "0" * 64}}}
    write_json(tmp_path / "manifest.json", manifest)
    assert remote.parse_manifest((tmp_path / "manifest.json").read_bytes()) is None
    write_json(tmp_path / "manifest.json", {"published": "", "files": files})
    assert remote.parse_manifest((tmp_path / "manifest.json").read_bytes()) == files


# Two writers.


def test_only_one_process_may_write(server, local, capsys):
    with remote.writing(ADDRESS, print):
        assert cli.main(command(ADDRESS)) == 2
        taken = f"jaxpg: error: run_dir = {ADDRESS} is being written by another process; wait for it, or stop it"
        assert last_line(capsys) == taken
        assert keys() == ["one/.lock"]
    assert keys() == []


@contextlib.contextmanager
def elsewhere(monkeypatch, tmp_path):
    """Be another machine."""
    with monkeypatch.context() as patch:
        patch.setattr(socket, "gethostname", lambda: "elsewhere")
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
        yield


def test_a_lease_is_respected_while_it_is_renewed_and_taken_over_when_it_is_not(server, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(objects, "STALE", 1.0)
    monkeypatch.setattr(objects, "SETTLE", 0.0)
    monkeypatch.setattr(objects, "RENEW", 0.1)
    refused = pytest.raises(ValueError, match=f"run_dir = {ADDRESS} is being written by another process")
    with remote.writing(ADDRESS, print), elsewhere(monkeypatch, tmp_path), refused:
        remote.writing(ADDRESS, print).__enter__()
    monkeypatch.setattr(objects, "RENEW", 100.0)
    with remote.writing(ADDRESS, print) as first:
        (first.directory / "batches/0000000").mkdir(parents=True)
        (first.directory / "batches/0000000/batch.json").write_text("{}")
        capsys.readouterr()
        with elsewhere(monkeypatch, tmp_path), remote.writing(ADDRESS, print):
            assert f"{ADDRESS} was being written by a process on" in capsys.readouterr().out
            with pytest.raises(remote.Unreachable, match="is being written by another process, which took over"):
                first.publish_batch(first.directory / "batches/0000000", remote.EMPTY)
            assert f"{FIRST}/manifest.json" not in keys()
    assert "one/.lock" not in keys()


def test_each_batch_may_have_a_writer_of_its_own(server, tmp_path):
    with remote.writing(ADDRESS, print) as all_of_it, remote.writing(ADDRESS, print, batch="0000008") as one:
        assert one.directory != all_of_it.directory
        assert one.directory.name == all_of_it.directory.name
        with pytest.raises(ValueError, match="is being written by another process"):
            remote.writing(ADDRESS, print, batch="0000008").__enter__()
        (one.directory / "batches/0000008").mkdir(parents=True)
        (one.directory / "batches/0000008/batch.json").write_text("{}")
        one.publish_batch(one.directory / "batches/0000008", remote.EMPTY)
        all_of_it.fetch_results()
        assert (all_of_it.directory / "batches/0000008/batch.json").read_text() == "{}"


def test_workers_train_batches_at_an_address_and_the_driver_concludes(server, local, tmp_path):
    """As several machines do it: the configuration and a batch to the worker, the results back to the driver."""

    class Elsewhere:
        """A launcher whose workers share nothing with the driver but the address; no listing shows what they write."""

        def map(self, train, work, directory, stop):
            server.lag = 10**6
            yield from map(train, work)

    with remote.writing(ADDRESS, print) as driver:
        config = dataclasses.replace(read_config(local), run_dir=driver.run_dir)
        job = experiment.claim(experiment.prepare(config))
        launch.run(job, Elsewhere(), Console(quiet=True), stopping.Stop(), copy=driver)
    assert outcome(download(tmp_path / "one")) == outcome(local)


# The local copy.


def test_what_is_at_the_address_counts_and_what_was_not_uploaded_is_kept(server, finished, tmp_path, monkeypatch):
    def start():
        with remote.writing(ADDRESS, print) as copy:
            copy.fetch_batch("0000000")
            return copy.directory / "batches/0000000"

    folder = start()
    rows = (folder / "metrics.jsonl").read_bytes()
    (folder / "batch.json").write_bytes((folder / "batch.json").read_bytes().replace(b"1", b"2"))
    with open(folder / "metrics.jsonl", "ab") as file:
        file.write(b"a row that was not uploaded")
    (folder / "checkpoints/50").mkdir()
    (folder / "checkpoints/50/file").write_text("not uploaded")
    assert start() == folder
    assert (folder / "batch.json").read_bytes() == content(f"{FIRST}/batch.json")  # damaged here: fetched again
    assert (folder / "checkpoints/50/file").exists()
    assert (folder / "metrics.jsonl").read_bytes().startswith(rows + b"a row")
    with elsewhere(monkeypatch, tmp_path), remote.writing(ADDRESS, print) as copy:  # another machine trains meanwhile
        copy.fetch_batch("0000000")
        shutil.rmtree(copy.directory / "batches/0000000/checkpoints/40")
        copy.publish_batch(copy.directory / "batches/0000000", read_json(folder / "result.json")["log"])
    start()
    assert not (folder / "checkpoints").exists()
    assert (folder / "metrics.jsonl").read_bytes() == rows


def test_a_file_that_was_damaged_here_is_not_uploaded(server, finished, at_update, capsys):
    before = {key: content(key) for key in keys()}
    with remote.writing(ADDRESS, print) as copy:
        copy.fetch_batch("0000000")
        folder = copy.directory / "batches/0000000"
        shutil.copytree(folder / "checkpoints/40", folder / "checkpoints/50")
        path = next((folder / "checkpoints/50/rest/d").iterdir())
        path.write_bytes(path.read_bytes()[::-1])
        with pytest.raises(OSError, match="was changed since it was written"):
            copy.publish_batch(folder, read_json(folder / "result.json")["log"])
    assert content(f"{FIRST}/manifest.json") == before[f"{FIRST}/manifest.json"]
    assert not any(key.endswith(path.name) and "/50/" in key for key in keys())


def test_a_local_copy_of_an_experiment_that_was_removed_is_put_aside(server, finished, capsys):
    with remote.writing(ADDRESS, print):
        pass
    bucket().clear()
    with remote.writing(ADDRESS, print) as copy:
        assert not list(copy.directory.iterdir())
    assert "holds no experiment any more; its local copy was put aside as" in capsys.readouterr().out


def test_a_checkpoint_that_no_manifest_names_is_removed(server, finished):
    boto3.client("s3").put_object(Bucket="runs", Key=f"{FIRST}/checkpoints/60/file", Body=b"half of it")
    with remote.writing(ADDRESS, print) as copy:
        copy.fetch_batch("0000000")
    assert f"{FIRST}/checkpoints/60/file" not in keys()
    assert len(steps()) == 1


class Cut(Exception):
    """A process that ends in the middle of an upload."""


@pytest.mark.parametrize("is_answered", [True, False], ids=["before", "after"])
def test_wherever_an_upload_ends_there_is_one_state_at_the_address_or_the_next(is_answered, tmp_path, monkeypatch):
    """Ends before each request, or after it is served; the store is one in memory."""
    request, address = objects.Objects.request, "memory://cut/one"
    left = [10**6]

    def count(self, call, *arguments, **options):
        left[0] -= 1
        if left[0] == 0 and not is_answered:
            request(self, call, *arguments, **options)
        if left[0] <= 0:
            raise Cut
        return request(self, call, *arguments, **options)

    monkeypatch.setattr(objects.Objects, "request", count)

    def make_checkpoint(folder, step):
        (folder / f"checkpoints/{step}/d").mkdir(parents=True)
        for name in ("a", "d/b"):
            (folder / f"checkpoints/{step}/{name}").write_text(f"{name} of {step}")
        checkpoint.seal(folder / f"checkpoints/{step}")

    def open_copy(name):
        return remote.Copy(address, tmp_path / name, objects.Objects(address), print)

    def fetch(name):
        left[0] = 10**6
        copy = open_copy(name)
        copy.fetch_batch("0000000")
        return {path.relative_to(copy.directory).as_posix(): path.read_bytes() for path in copy.directory.rglob("*")
                if path.is_file() and path.name != "manifest.json"}  # fmt: skip

    folder = tmp_path / "before/batches/0000000"
    make_checkpoint(folder, 1)
    (folder / "batch.json").write_text("{}")
    (folder / "result.json").write_text("an old one")
    (folder / "metrics.jsonl").write_text("12345")
    store = objects.Objects(address).store
    store.rm("/", recursive=True)
    open_copy("before").publish_batch(folder, remote.describe(b"12345"))
    base, states = {path: store.cat_file(path) for path in store.find("/cut")}, [fetch("first")]
    continued = []
    for cut in itertools.count(1):
        store.rm("/", recursive=True)
        for path, data in base.items():
            store.pipe_file(path, data)
        shutil.copytree(tmp_path / "before", tmp_path / f"{cut}")
        folder = tmp_path / f"{cut}/batches/0000000"
        shutil.rmtree(folder / "checkpoints/1")
        make_checkpoint(folder, 2)
        (folder / "result.json").unlink()
        (folder / "metrics.jsonl").write_text("1234567, and what is not saved yet")
        left[0] = cut
        try:
            open_copy(f"{cut}").publish_batch(folder, remote.describe(b"1234567"))
        except Cut:
            states.append(fetch(f"{cut} there"))
            open_copy(f"{cut}").publish_batch(folder, remote.describe(b"1234567"))  # which continues
            continued.append(fetch(f"{cut} there"))
        else:
            break
    first, last = states[0], fetch("last")
    assert {path.split("/")[3] for path in last if "checkpoints" in path} == {"2"}
    assert last["batches/0000000/metrics.jsonl"] == b"1234567"
    assert "batches/0000000/result.json" not in last
    assert all(state in (first, last) for state in states)
    assert all(state == last for state in continued)
    assert 5 <= states.count(first) < len(states)


# Addresses.


@pytest.mark.parametrize(("address", "why"), [
    ("s3://key:hidden-secret@runs/one", "has credentials in it: remove them"),
    ("s3://", "is not the address of a directory"),
    ("s3://runs//one", "is not the address of a directory"),
    ("s3://runs/../one", "is not the address of a directory"),
    ("s3://runs/one?versionId=1", "has letters that the address of a directory cannot have"),
    ("gs://runs/one", "gcsfs is not installed; pip install 'jaxpg[cloud]'"),
    ("nonsense://runs/one", "Protocol not known"),
])  # fmt: skip
def test_an_address_that_cannot_be_is_one_line_without_secrets(address, why, capsys):
    if address.startswith("gs") and importlib.util.find_spec("gcsfs"):
        pytest.skip("gcsfs is installed")
    for arguments in (command(address), ["resume", address], ["evaluate", address]):
        assert cli.main(arguments) == 2
        said = last_line(capsys)
        assert why in said
        assert "hidden-secret" not in said
    with pytest.raises(ValueError, match="a Path cannot hold an address"):
        results.read(Path("s3://runs/one"))


def test_nothing_secret_is_stored_or_said(server, finished, monkeypatch, capsys):
    assert not any(b"hidden-secret" in content(key) for key in keys())
    monkeypatch.setattr(objects, "PATIENCE", 0.1)
    host = server.address.removeprefix("http://").split(":")[0]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://key:hidden-secret@{host}:9")
    assert cli.main(["resume", ADDRESS]) == 1
    said = capsys.readouterr()
    assert "hidden-secret" not in said.out + said.err


def test_another_experiment_at_the_address_is_refused_and_named(server, finished, capsys):
    before = {key: content(key) for key in keys()}
    assert cli.main(command(ADDRESS, updates=50)) == 2
    other = f"run_dir = {ADDRESS} holds another experiment: options: total_steps = 640 there and total_steps = 800 here"
    assert last_line(capsys) == f"jaxpg: error: {other}; jaxpg resume {ADDRESS} --total-steps 800 trains it further"
    assert {key: content(key) for key in keys()} == before


def test_an_algorithm_of_ones_own_is_trained_at_an_address_and_the_files_of_tensorboard_are_there(server):
    pytest.importorskip("tensorboardX")
    algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), num_envs=2, num_steps=8, hidden=(4,))
    options = {"seeds": 2, "eval_episodes": 2, "log_every": 3, "logger": "tensorboard"}
    found = jaxpg.run(algo, directory=ADDRESS, total_steps=160, **options)
    np.testing.assert_equal(results.read(ADDRESS).digests, found.digests)
    assert [key for key in keys("one/tensorboard/seed1/") if "tfevents" in key]
    assert jaxpg.load_policy(ADDRESS, algo=algo)(np.zeros(4)) in (0, 1)
    np.testing.assert_equal(jaxpg.run(algo, directory=ADDRESS, total_steps=160, **options).digests, found.digests)


def test_file_addresses_are_paths(tmp_path):
    assert remote.open_copy(f"file://{tmp_path}/one").directory == tmp_path / "one"


# With processes.


def test_killed_at_a_random_moment_and_continued_elsewhere_it_is_the_uninterrupted_experiment(
    server, jaxpg_process, tmp_path, monkeypatch
):
    server.lag, server.fail_every = LAG, 20
    much = {"checkpoint-every": 0.3, "log-every": 100}
    reference = jaxpg_process(command(tmp_path / "one", updates=4_000, **much), tmp_path / "reference.log")
    arguments, log = command(ADDRESS, updates=4_000, **much), tmp_path / "log"
    process = jaxpg_process(arguments, log)
    while "is saved" not in log.read_text():
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    time.sleep(random.uniform(0.0, 1.0))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert "one/summary.json" not in keys()
    (saved,) = {max(int(update.replace(",", "")) for update in re.findall("update ([\\d,]+) is saved", log.read_text()))}
    assert max(steps()) >= saved
    forget()
    process = jaxpg_process(arguments, log)
    assert process.wait(200) == 0, log.read_text()
    assert reference.wait(200) == 0
    assert "that ended; continuing" in log.read_text()
    assert "Traceback" not in log.read_text()
    (tmp_path / "there").mkdir()
    assert outcome(download(tmp_path / "there" / "one")) == outcome(tmp_path / "one")
    assert "one/.lock" not in keys()
