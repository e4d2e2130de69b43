"""Nobody notices a deploy, neither of a good release nor of a bad one.

CHAOS_ROUNDS above 1 asks 30,000 requests of a good deploy instead of 3,000, and judges the latencies.
"""
import hashlib
import json
import re
import shutil
import signal
import subprocess
import tarfile
import time

import lab
import pytest

from chaos import ROOT, ROUNDS, docker, play, report
from visitors import Visitors, figures

JUDGED = ROUNDS > 1
APPS, WEBS = lab.HOSTS["app"], lab.HOSTS["web"]
SITE = "from demo.site import create_app\n\napplication = create_app()\n"
# What is wrong with them shows at the start, at once, after a while, in the page only, and only where visitors come from.
BAD = {
    "crashes at start": (SITE + "raise RuntimeError('this release is broken')\n", "the service died 2 times"),
    "hangs": ("import time\n" + SITE + "application.before_request(lambda: time.sleep(3600))\n", "no answer"),
    "answers 500": (SITE + "application.view_functions['index'] = lambda: ('broken', 500)\n", "GET /: status 500"),
    "lies about its version": ("import os\nos.environ['APP_VERSION'] = 'a-lie'\n" + SITE, "version a-lie instead of"),
}
FOR_VISITORS = """
site = application

def application(environ, start):
    def lie(status, headers, *more):
        return start(status, [(name, "a-lie" if name == "X-App-Version" else value) for name, value in headers], *more)
    return site(environ, lie if "HTTP_X_LOAD_BALANCER" in environ else start)
"""
SECOND_START = """
import os, pathlib
count = pathlib.Path("/srv/app/shared/starts-" + os.environ["APP_VERSION"])
with count.open("a") as stream:
    stream.write(".")
if count.stat().st_size > 1:
    raise RuntimeError("one start was enough")
"""


def current(name):
    return docker("exec", name, "readlink", "/srv/app/current").stdout.strip().rpartition("/")[2]


def previous():
    return [docker("exec", name, "readlink", "/srv/app/previous", check=False).stdout for name in APPS]


ASK = """
import http.client, json, socket
connection = http.client.HTTPConnection("localhost")
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect("/run/app/app.sock")
connection.request("GET", "/healthz")
print(json.load(connection.getresponse())["version"])
"""


def live():
    """{release: the hosts that run it}, as the process says and not the link."""
    found = {}
    for name in APPS:
        found.setdefault(docker("exec", name, "timeout", "10", "python3", "-c", ASK).stdout.strip(), []).append(name)
    return found


def at_rest():
    """One release on all hosts, nothing left over."""
    releases = {current(name) for name in APPS + WEBS}
    assert len(releases) == 1 and live() == {releases.pop(): APPS}
    for name in APPS:
        assert docker("exec", name, "ls", "/run/app").stdout.split() == ["app.sock"]
        assert docker("exec", name, "systemctl", "is-active", "app-next.service", check=False).stdout.strip() in ("inactive", "failed")
    assert docker("exec", APPS[0], "test", "-e", "/srv/app/deploy.lock", check=False).returncode == 1
    return current(APPS[0])


@pytest.fixture(name="release")
def fixture_release(tmp_path):
    """Make a release of the demo site: another style sheet, and so another name of it, and perhaps another wsgi.py."""

    def make(name, wsgi=SITE):
        tree = tmp_path / name
        shutil.copytree(ROOT / "roles/app/files/demo", tree, ignore=shutil.ignore_patterns("__pycache__"))
        (tree / "wsgi.py").write_text(wsgi)
        style = next((tree / "static").glob("style.*.css"))
        text = style.read_text() + f"/* {name} */\n"
        style.unlink()
        (tree / f"static/style.{hashlib.sha256(text.encode()).hexdigest()[:10]}.css").write_text(text)
        return tree

    return make


def named(what):
    return f"{what}-{time.time_ns() % 10 ** 10}"


def gate_failed(log):
    """When a deploy knew that its release is bad."""
    line = re.search(r"^(\S+ \S+),(\d+) .*fatal: \[", log.read_text(), re.M)
    return time.mktime(time.strptime(line[1], "%Y-%m-%d %H:%M:%S")) + int(line[2]) / 1000


def options(tree, name, **more):
    return ["-e", json.dumps({"app_source": {"type": "directory", "path": str(tree)}, "release": name, **more})]


def test_a_good_release_and_back_under_load(release):
    """Old and new style sheets are served all the time, the migration runs once for each deploy."""
    before = at_rest()
    rate, least = (50, 30000) if JUDGED else (40, 3000)
    with Visitors(rate, 15, rate * 15) as quiet:
        pass
    name = named("good")
    tree, took = release(name), {"deploy": [], "rollback": []}
    with Visitors(rate, least=least) as visitors:
        for _ in range(ROUNDS):
            output, seconds = play("deploy", *options(tree, name, app_migrate_command="echo $APP_VERSION >> /srv/app/shared/migrated"))
            assert f"All hosts run release {name}" in output and at_rest() == name
            took["deploy"].append(round(seconds, 1))
            output, seconds = play("rollback")
            assert f"All hosts run release {before}" in output and at_rest() == before
            took["rollback"].append(round(seconds, 1))
    report("deploy and rollback", **took, quiet_get_p99_ms=quiet.numbers["GET"]["p99_ms"], quiet_post_p99_ms=quiet.numbers["POST"]["p99_ms"],
           vip_moves=len(visitors.vip_moves()), **figures(visitors.numbers))
    visitors.nobody_failed()
    assert visitors.numbers["GET"]["requests"] + visitors.numbers["POST"]["requests"] >= least
    assert visitors.numbers["hosts"] == {before: APPS, name: APPS}
    migrated = [docker("exec", host, "cat", "/srv/app/shared/migrated", check=False).stdout.split().count(name) for host in APPS]
    assert migrated == [ROUNDS] + [0] * (len(APPS) - 1)
    if JUDGED:
        for kind in ("GET", "POST"):
            assert visitors.numbers[kind]["p99_ms"] <= 3 * quiet.numbers[kind]["p99_ms"]


# The others are unit tests of the gate, too.
@pytest.mark.parametrize("what", BAD if JUDGED else ["answers 500"])
def test_a_bad_release_gets_no_visitor(release, what):
    before = at_rest()
    name = named("bad")
    wsgi, reason = BAD[what]
    with Visitors() as visitors:
        output, seconds = play("deploy", *options(release(name, wsgi), name, app_health_timeout=6 if what == "hangs" else 30), check=False)
    report(f"deploy of a release that {what}", command_s=round(seconds, 1), hosts_exposed=len(visitors.numbers["hosts"].get(name, [])), vip_moves=len(visitors.vip_moves()), **figures(visitors.numbers))
    assert reason in output and f"Release {name} does not work, so {before} is back" in output and f"{APPS[0]}: " in output
    assert at_rest() == before
    visitors.nobody_failed()
    assert visitors.numbers["hosts"] == {before: APPS}


@pytest.mark.long
@pytest.mark.parametrize("what, wsgi, reason", [
    ("lies to visitors only", SITE + FOR_VISITORS, "version a-lie and "),
    ("fails on a later host", SITE + f"import os\nif os.uname().nodename == '{APPS[-1]}':\n    raise RuntimeError('not on this host')\n", "not on this host"),
    ("works once", SITE + SECOND_START, "one start was enough"),
][0 if JUDGED else 2:])
def test_what_the_trial_cannot_see_meets_one_host(release, tmp_path, what, wsgi, reason):
    """The first is seen through the site while the old service is still warm, the last when the service was restarted."""
    before, earlier = at_rest(), previous()
    name = named("bad")
    with Visitors() as visitors:
        output, seconds = play("deploy", *options(release(name, wsgi), name), check=False, log=tmp_path / "log")
    hosts = {host for version, names in visitors.numbers["hosts"].items() if version != before for host in names}
    seen = [times for version, times in visitors.numbers["seen"].items() if version != before]
    back = max([last for _, last in seen], default=0) - gate_failed(tmp_path / "log")
    report(f"deploy of a release that {what}", command_s=round(seconds, 1), hosts_exposed=len(hosts),
           exposed_s=round(max([last - first for first, last in seen], default=0), 1), back_after_gate_s=max(0, round(back, 1)),
           vip_moves=len(visitors.vip_moves()), **figures(visitors.numbers))
    assert reason in output and f"Release {name} does not work, so {before} is back" in output
    # Nor is it what the next rollback would lead to.
    assert at_rest() == before and previous() == earlier
    visitors.nobody_failed()
    assert hosts <= {APPS[0]}
    assert not JUDGED or back <= 10


@pytest.mark.long
def test_cut_off_and_two_at_once(release):
    """A second operator is refused; after SIGKILL in the middle visitors notice nothing, and the next run repairs."""
    before = at_rest()
    name = named("again")
    tree = release(name)
    command = ["ansible-playbook", "-i", "inventories/stage4", "-i", ".lab/stage4.yml", "playbooks/deploy.yml", *options(tree, name)]
    with Visitors() as visitors:
        first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert lab.wait_for(lambda: docker("exec", APPS[0], "test", "-e", "/srv/app/deploy.lock", check=False).returncode == 0, seconds=120, pause=0.1)
        first.send_signal(signal.SIGSTOP)
        output, _ = play("deploy", *options(tree, name), check=False)
        first.send_signal(signal.SIGCONT)
        assert "is at work: deploy of release " + name in output and "break_lock=true" in output
        # The new release stands in for the service, or is current already.
        assert lab.wait_for(lambda: name in live(), seconds=180, pause=0.1)
        first.kill()
        first.wait()
        assert name in live() and before in live()
        output, seconds = play("deploy", *options(tree, name))
        assert at_rest() == name
    # The stage knows nothing of this release, and keeps it.
    output, _ = play("stage4", "--tags", "app")
    assert not re.search(r"(app|web)\d : ok=\d+ changed=[1-9]", output) and at_rest() == name
    # A rollback goes on, too: what the first host now calls previous is the release that it came from.
    first = subprocess.Popen(["ansible-playbook", "-i", "inventories/stage4", "-i", ".lab/stage4.yml", "playbooks/rollback.yml"],
                             cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert lab.wait_for(lambda: current(APPS[0]) == before, seconds=120, pause=0.1)
    first.kill()
    first.wait()
    assert current(APPS[-1]) == name
    play("rollback")
    assert at_rest() == before
    report("deploy cut off and run again", again_s=round(seconds, 1), vip_moves=len(visitors.vip_moves()), **figures(visitors.numbers))
    visitors.nobody_failed()


def refused(*more):
    """Nothing is changed; what was said."""
    result = subprocess.run(["ansible-playbook", "-i", "inventories/stage4", "-i", ".lab/stage4.yml", "playbooks/deploy.yml", *more],
                            cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode != 0 and not re.search(r"changed=[1-9]", result.stdout), result.stdout[-3000:]
    return " ".join(result.stdout.split())


def test_what_cannot_be_deployed_is_refused_before_anything_changes(release, tmp_path):
    before = at_rest()
    tree = release("refused")
    with tarfile.open(tmp_path / "site.tar.gz", "w:gz") as archive:
        archive.add(tree, "site")
    assert "app_source.checksum says sha256:00" in refused("-e", f"archive={tmp_path / 'site.tar.gz'}", "-e", "checksum=sha256:00")
    assert "is not a file on the controller" in refused("-e", f"archive={tmp_path / 'none.tar.gz'}")
    subprocess.run(["git", "init", "--quiet", str(tmp_path / "repository")], check=True)
    source = {"app_source": {"type": "git", "url": str(tmp_path / "repository"), "revision": "main"}, "release": "v99"}
    assert "git has no revision 'v99'" in refused("-e", json.dumps(source))
    (tree / "wsgi.py").unlink()
    assert "app_source has no file wsgi.py" in refused(*options(tree, "refused"))
    assert at_rest() == before


def test_a_full_disk_is_seen_before_anything_changes(release):
    """A copy of the releases on a small file system, mounted over them on a web host."""
    before = at_rest()
    host = WEBS[-1]
    docker("exec", host, "sh", "-c",
           "mkdir -p /tmp/full && mount -t tmpfs -o size=8m tmpfs /tmp/full && cp -a /srv/app/releases/. /tmp/full && mount --bind /tmp/full /srv/app/releases")
    try:
        assert f"{host}: /srv/app/releases has " in refused(*options(release("full"), "full"))
    finally:
        docker("exec", host, "sh", "-c", "umount /srv/app/releases /tmp/full")
    assert at_rest() == before


def test_rollback_to_what_nobody_has():
    output, _ = play("rollback", "-e", "release=none", check=False)
    assert "No host has release none: say -e release=NAME, one of " in output and current(APPS[0]) in output
