"""playbooks/status.yml over the hosts of stage 4: what it says, what it shows in a browser, and what it says of a site that is broken."""

import functools
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BROWSER = next((path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path), "chromium")
VIP = "198.18.0.100"
ALERTS_RESOLVE = 300


def on(host, *command, check=True):
    return subprocess.run(["docker", "exec", host, *command], capture_output=True, text=True, check=check).stdout.strip()


def browse(page, directory, *options):
    """The page as the browser has understood it."""
    return subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--hide-scrollbars", "--allow-file-access-from-files", f"--user-data-dir={directory}/browser", *options,
         "--dump-dom", f"file://{page}"],
        capture_output=True, text=True, check=True, timeout=120).stdout


class Report:
    def __init__(self, directory, *options):
        result = subprocess.run(
            ["ansible-playbook", "-i", "inventories/stage4", "-i", ".lab/stage4.yml", "playbooks/status.yml", "-e", f"status_directory={directory}", *options],
            cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "ANSIBLE_NOCOLOR": "1"})
        self.code, self.output, self.directory = result.returncode, " ".join((result.stdout + result.stderr).split()), directory
        self.page = directory / "index.html"
        self.status = json.loads((directory / "status.json").read_text()) if (directory / "status.json").exists() else {}

    @functools.cached_property
    def dom(self):
        return browse(self.page, self.directory)

    def nodes(self):
        """[(name, state, text)] of the picture, as the browser has it."""
        found = re.findall(r'<li class="node (\w+)"><h4>(.*?)</h4>(.*?)</li>', self.dom, re.S)
        return [(text_of(name), state, text_of(what)) for state, name, what in found if state != "entry"]


def text_of(html):
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


@pytest.fixture(scope="module")
def silence():
    """What fires because the machine under the lab is busy or fills up, and what remembers the errors of earlier tests, is silenced, as an operator would;
    the page leaves it out."""
    amtool = ["amtool", "--alertmanager.url=http://127.0.0.1:9093", "silence"]
    made = on("monitor1", *amtool, "add", "--duration=20m", "--author=test", "--comment=test", "alertname=~DiskFullSoon|LatencyHigh|ErrorBudgetBurn")
    yield
    on("monitor1", *amtool, "expire", made)


@pytest.fixture(scope="module")
def healthy(silence, tmp_path_factory):
    """What was broken before this test may still be firing."""
    directory, end = tmp_path_factory.mktemp("status"), time.monotonic() + ALERTS_RESOLVE
    while True:
        report = Report(directory)
        if report.code == 0:
            return report
        assert time.monotonic() < end, report.output[-3000:]


def test_a_healthy_site(healthy):
    assert healthy.status["healthy"] is True and healthy.status["problems"] == []
    assert "www.foobar.com is healthy" in healthy.output and "changed=1" not in healthy.output


def test_the_page_says_what_the_hosts_say(healthy):
    """Asked on the hosts, not taken from the playbook."""
    holder = next(name for name in ("lb1", "lb2") if f"inet {VIP}/" in on(name, "ip", "-4", "address"))
    primary = next(name for name in ("db1", "db2", "db3") if on(name, "mysql", "-BNe", "SELECT @@super_read_only") == "0")
    releases = {name: on(name, "readlink", "/srv/app/current").rpartition("/")[2] for name in ("web1", "web2", "app1", "app2")}
    shown = {name: what for name, _, what in healthy.nodes()}
    assert list(shown) == ["lb1", "lb2", "web1", "web2", "app1", "app2", "db1", "db2", "db3", "monitor1"]
    assert [name for name, what in shown.items() if f"holds {VIP}" in what] == [holder]
    assert [name for name, what in shown.items() if what.startswith("primary")] == [primary]
    assert [name for name, what in shown.items() if f"behind {primary}" in what] == [name for name in ("db1", "db2", "db3") if name != primary]
    for name, release in releases.items():
        assert f"release {release}" in shown[name]
    assert "takes traffic" in shown["web1"] and "takes traffic" in shown["web2"]


def test_page_and_json_agree(healthy):
    status, facts = healthy.status, dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", healthy.dom, re.S))
    assert [(node["name"], node["state"]) for nodes in status["tiers"].values() for node in nodes] == [(name, state) for name, state, _ in healthy.nodes()]
    assert facts[f"VIP {VIP}"] == status["entrances"][0]["holders"][0]
    assert facts["Primary"] == status["primary"]
    assert text_of(facts["Release"]) == status["release"]
    assert facts["Certificate ends in"] == f"{status['certificate_days']} days"
    assert facts["Alerts"] == ("%d firing" % len(status["alerts"]) if status["alerts"] else "none")


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(healthy, tmp_path, width):
    frame = tmp_path / "frame.html"
    frame.write_text(f"""<iframe src="file://{healthy.page}" style="width:{width}px;height:900px;border:0"
                         onload="document.title = this.contentDocument.documentElement.scrollWidth"></iframe>""")
    dom = browse(frame, tmp_path, "--window-size=1400,1000", "--virtual-time-budget=5000")
    assert f"<title>{width}</title>" in dom


def test_an_empty_directory_is_refused():
    result = subprocess.run(
        ["ansible-playbook", "-i", "inventories/stage4", "-i", ".lab/stage4.yml", "playbooks/status.yml", "-e", "status_directory="],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "ANSIBLE_NOCOLOR": "1"})
    assert result.returncode != 0
    assert "status_directory is empty: write the directory" in " ".join((result.stdout + result.stderr).split())


def test_a_broken_site(healthy, tmp_path):
    """A dead host, a stopped service, stopped replication: each is named, on the page too, and nothing else is."""
    replica = next(node["name"] for node in reversed(healthy.status["tiers"]["database"]) if node["role"] == "replica")
    standby = next(node["name"] for node in healthy.status["tiers"]["loadbalancers"] if not node["holds"])
    subprocess.run(["docker", "pause", "web2"], check=True, capture_output=True)
    on(standby, "systemctl", "stop", "haproxy")
    on(replica, "mysql", "-e", "STOP REPLICA")
    try:
        report = Report(tmp_path)
        nodes = {name: (state, what) for name, state, what in report.nodes()}
        dom = text_of(report.dom)
    finally:
        subprocess.run(["docker", "unpause", "web2"], check=True, capture_output=True)
        on(standby, "systemctl", "start", "haproxy")
        on(replica, "mysql", "-e", "START REPLICA")
    assert report.code != 0 and report.status["healthy"] is False
    assert {problem["host"] for problem in report.status["problems"] if problem["host"]} == {"web2", standby, replica}
    assert "www.foobar.com: not healthy" in dom
    for words in ("web2 cannot be asked: ", f"{standby} haproxy is inactive", f"{replica} the applier of the channel is stopped"):
        assert words in dom
        assert words.replace(" ", ": ", 1) in report.output
    assert {name for name, (state, _) in nodes.items() if state == "problem"} == {"web2", standby, replica}
    assert "does not serve" in nodes[standby][1] and "gave no answer" in nodes["web2"][1] and "lag not known" in nodes[replica][1]


def test_it_is_healthy_again(healthy, tmp_path):
    """Asked in check mode, which writes nothing."""
    end = time.monotonic() + ALERTS_RESOLVE
    while (report := Report(tmp_path / "none", "--check")).code != 0:
        assert time.monotonic() < end, report.output[-3000:]
    assert "www.foobar.com is healthy" in report.output and not (tmp_path / "none").exists()
