"""What a host has, whether a release works, and who may change it."""

import hashlib
import http.server
import json
import os
import pathlib
import socketserver
import subprocess
import sys
import threading
import time

import pytest

FILES = pathlib.Path(__file__).resolve().parents[3] / "roles" / "app" / "files"
sys.path.insert(0, str(FILES))

import gate  # noqa: E402  pylint: disable=wrong-import-position
import lock  # noqa: E402  pylint: disable=wrong-import-position
import look  # noqa: E402  pylint: disable=wrong-import-position


# look.py

def make(root, name, marker="APP_VERSION=1\n", **files):
    folder = root / "releases" / name
    folder.mkdir(parents=True)
    if marker:
        (folder / ".release").write_text(marker)
    for file, text in files.items():
        (folder / file.replace("_", ".")).write_text(text)
    return folder


def test_releases_of_a_host(tmp_path):
    assert look.releases("app1", str(tmp_path)) == []
    make(tmp_path, "v1")
    make(tmp_path, "v2", requirements_txt="x")
    make(tmp_path, "half", marker="")
    marker = hashlib.sha1(b"APP_VERSION=1\n").hexdigest()
    assert look.releases("app1", str(tmp_path)) == [
        {"id": "v1", "marker": marker, "requirements": False, "host": "app1"}, {"id": "v2", "marker": marker, "requirements": True, "host": "app1"}]
    (tmp_path / "current").symlink_to("releases/v2")
    assert look.release(str(tmp_path / "current"), "app1")["id"] == "v2"
    assert look.release(str(tmp_path / "previous"), "app1") == {}


@pytest.mark.parametrize("shown, age, expected", [
    ({}, 100, False),
    ({"ActiveState": "failed", "ActiveEnterTimestamp": ""}, -100, False),
    ({"ActiveState": "active"}, 100, False),
    ({"ActiveState": "active"}, -100, True),
    ({"ActiveState": "active", "NeedDaemonReload": "yes"}, 100, True),
])
def test_outdated(tmp_path, shown, age, expected):
    """The service was started now, its environment was written before or after."""
    now = time.time()
    (tmp_path / "environment").write_text("")
    os.utime(tmp_path / "environment", (now - age, now - age))
    shown = {"ActiveEnterTimestamp": time.strftime("%a %Y-%m-%d %H:%M:%S.123456 UTC", time.gmtime(now)), **shown}
    assert look.outdated(shown, [str(tmp_path / "environment"), str(tmp_path / "missing")]) == expected


def test_a_link_is_judged_by_its_own_age(tmp_path):
    make(tmp_path, "v1")
    (tmp_path / "current").symlink_to("releases/v1")
    os.utime(tmp_path / "releases/v1", (time.time() + 100,) * 2)
    shown = {"ActiveState": "active", "ActiveEnterTimestamp": time.strftime("%a %Y-%m-%d %H:%M:%S.000000 UTC", time.gmtime(time.time() + 10))}
    assert not look.outdated(shown, [str(tmp_path / "current")])


def test_free_space_where_nothing_is_yet(tmp_path):
    assert look.free(str(tmp_path / "a/b/c")) > 0


@pytest.mark.parametrize("text, found", [
    (None, {}),
    ('{"purpose": "rollback to rel', {}),
    ('{"purpose": "rollback to release v1 release 2"}', {"purpose": "rollback to", "release": "v1 release 2"}),
    ('{"purpose": "deploy of release v2"}', {"purpose": "deploy of", "release": "v2"}),
])
def test_what_was_begun(tmp_path, text, found):
    if text is not None:
        (tmp_path / "deploy.lock").write_text(text)
    assert look.lock(str(tmp_path)) == found


# gate.py

class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 20


@pytest.fixture(name="site")
def fixture_site(tmp_path):
    """Answers on a socket: {path: [(status, version, body), ...]}, the last one again and again."""
    answers, asked = {}, []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            queue = answers[self.path]
            status, version, body = queue.pop(0) if len(queue) > 1 else queue[0]
            self.send_response(status)
            if version:
                self.send_header("X-App-Version", version)
            self.end_headers()
            self.wfile.write(body)

        def address_string(self):
            return "socket"

        def log_message(self, *_arguments):
            pass

    with Server(str(tmp_path / "app.sock"), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def check(*more, version="v2", seconds="1.5"):
            return gate.main(["--path", "/healthz", "--version", version, "--seconds", seconds, "--socket", str(tmp_path / "app.sock"), *more])

        yield answers, asked, check
        server.shutdown()


OK, OLD, BROKEN = (200, "v2", b""), (200, "v1", b""), (500, None, b"")


def test_three_good_answers_in_a_row(site):
    answers, asked, check = site
    answers["/healthz"] = [BROKEN, OK, OK, OLD, OK]
    assert check(seconds="5") == 0 and len(asked) == 7


@pytest.mark.parametrize("answer, reason", [
    (BROKEN, "GET /healthz: status 500, for 1.5 s"),
    (OLD, "version v1 instead of v2"),
    ((200, None, b"{}"), "neither a header X-App-Version nor JSON"),
    ((200, None, b'{"version": "v1"}'), "version v1 instead of v2"),
])
def test_what_is_wrong(site, answer, reason):
    answers, _asked, check = site
    answers["/healthz"] = [answer]
    assert reason in check()


def test_version_in_json_or_none_wanted(site):
    answers, _asked, check = site
    answers["/healthz"] = [(200, None, b'{"version": "v2"}')]
    assert check() == 0
    answers["/healthz"] = [(200, None, b"")]
    assert check(version="") == 0


def test_pages_may_not_fail(site):
    answers, asked, check = site
    answers.update({"/healthz": [OK], "/": [(404, None, b"")], "/shop": [OK, OK, (503, None, b"")]})
    assert check("--page", "/") == 0 and asked.count("/") == 3
    assert check("--page", "/", "--page", "/shop") == "GET /shop: status 503"


def test_nobody_there(tmp_path):
    assert "no answer (FileNotFoundError" in gate.main(["--path", "/", "--seconds", "0.3", "--socket", str(tmp_path / "none")])


def test_a_service_that_keeps_dying(site, monkeypatch):
    answers, _asked, check = site
    answers["/healthz"] = [BROKEN]
    deaths = iter(range(100))
    monkeypatch.setattr(gate, "restarts", lambda unit: next(deaths))
    assert check("--unit", "app.service", seconds="60") == "GET /healthz: status 500; the service died 2 times"


def test_visitors_meet_other_versions_and_dead_load_balancers(tmp_path):
    versions = ["v1", "v2", "v1", "v2", "v1", "v2"]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.headers["Host"] == "www.example.com" else 421)
            self.send_header("X-App-Version", versions.pop(0))
            self.end_headers()

        def log_message(self, *_arguments):
            pass

    class Plain(socketserver.ThreadingMixIn, socketserver.TCPServer):
        daemon_threads = True

    with Plain(("127.0.0.1", 0), Handler) as server, Plain(("127.0.0.1", 0), Handler) as dead:
        gone = dead.server_address[1]
        dead.server_close()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        # Looking whether an address answers costs an empty connection.
        sites = [f"--site=http://127.0.0.1:{gone}", f"--site=http://127.0.0.1:{server.server_address[1]}"]
        assert gate.main(["--path", "/healthz", "--version", "v2", "--seconds", "5", "--name", "www.example.com", *sites]) == 0
        assert versions == []
        versions.extend(["v1"] * 1000)
        problem = gate.main(["--path", "/healthz", "--version", "v2", "--seconds", "2", "--name", "www.example.com", *sites])
        assert "version v1 instead of v2" in problem
        # A wrong name is answered 421: what visitors see is not looked at for long.
        versions[:] = ["v2"] * 100
        wrong = ["--path", "/healthz", "--version", "v2", "--seconds", "60", "--name", "other.example.com", *sites]
        assert gate.main(wrong) == "GET /healthz: status 421, 3 times"
        server.shutdown()


# lock.py

def decide(held="", force=False):
    return lock.decide({"held": held, "purpose": "deploy of release v2", "break": force})


def changed(**more):
    return json.dumps({**json.loads(decide()["mine"]), **more})


def test_a_free_lock():
    mine = json.loads(decide()["mine"])
    assert decide()["problem"] == "" and mine["purpose"] == "deploy of release v2" and mine["pid"] > 1


def test_a_lock_whose_process_lives():
    problem = decide(decide()["mine"])["problem"]
    assert "is at work: deploy of release v2, since " in problem and "-e break_lock=true" in problem
    assert decide(decide()["mine"], force=True)["problem"] == ""


def test_a_lock_whose_process_is_dead():
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert decide(changed(pid=process.pid))["problem"] == ""
    # Another process has its number.
    assert decide(changed(start="1"))["problem"] == ""
    # The controller has been restarted.
    assert decide(changed(boot="another"))["problem"] == ""


def test_a_lock_of_another_controller_is_not_judged():
    assert "ops on elsewhere is at work" in decide(changed(by="ops", host="elsewhere", boot="another"))["problem"]
    assert decide(changed(namespace="pid:[1]"))["problem"] != ""


@pytest.mark.parametrize("held", ["{", "[]", "{}", "null"])
def test_a_lock_that_was_cut_off(held):
    assert decide(held)["problem"] == ""
