"""The app as its neighbours see it, over the socket."""

import json
import re

from helpers import ask, current


def test_demo_answers(host):
    ((status, version, body),) = ask(host)
    assert status == 200 and version == current(host) == json.loads(body)["version"] and re.fullmatch("[0-9a-f]{12}", version)
    assert json.loads(body)["host"] == host.check_output("hostname")
    assert ask(host, "/readyz")[0][0] == 503
    status, _version, page = ask(host, "/")[0]
    assert status == 503 and "App server" in page
    assert ("No database is configured" if host.system_info.codename == "trixie" else "cannot be reached") in page
    style = re.search(r"/static/style\.[0-9a-f]{10}\.css", page).group()
    assert host.file(f"/srv/app/current{style}").exists and host.file(f"/srv/app/current{style}.gz").exists


def test_demo_counts_what_it_answers(host):
    """All of its processes together, to the monitoring agent alone."""
    def seen():
        text = ask(host, "/metrics")[0][2]
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith('app_request_duration_seconds_count{') and 'route="/healthz"' in line)

    before = seen()
    assert [answer[0] for answer in ask(host, count=40)] == [200] * 40
    assert seen() == before + 40
    assert "no-such-page" not in (ask(host, "/no-such-page"), ask(host, "/metrics"))[1][0][2]


def test_only_the_proxy_gets_in(host):
    assert host.check_output("stat --format=%G:%a /run/app/app.sock") == ("www-data:660" if host.system_info.codename == "trixie" else "haproxy:660")
    assert "PermissionError" in ask(host, group="nogroup")[0][2]
    assert host.run("runuser -u app -- cat /etc/app/environment").rc != 0
    assert host.run("runuser -u app -- touch /srv/app/current/x").rc != 0
    assert host.run("runuser -u app -- touch /srv/app/shared/x && rm /srv/app/shared/x").rc == 0


def test_sandbox(host):
    level = re.search(r"exposure level for app.service: ([0-9.]+)", host.run("systemd-analyze security --no-pager app.service").stdout)
    assert float(level.group(1)) <= 1.5


def test_both_units_come_back_after_a_boot(host):
    assert host.service("app.service").is_enabled and host.service("app.socket").is_enabled


def test_restart_refuses_nothing(host):
    before = host.check_output("systemctl show --value --property=MainPID app.service")
    host.run("(until pgrep --full 'client[.]py /healthz 60'; do sleep 0.05; done; systemctl restart app.service) >/dev/null 2>&1 &")
    answers = ask(host, count=60, pause=0.03)
    assert [answer for answer in answers if answer[0] != 200] == []
    assert host.check_output("systemctl show --value --property=MainPID app.service") != before
