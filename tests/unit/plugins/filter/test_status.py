from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from ansible_collections.foobar.webstack.plugins.filter.status import webstack_status, webstack_status_page
from ansible_collections.foobar.webstack.plugins.filter.topology import FEATURES, TIERS

NOW = 1_800_000_000
DAY = 86400
TEMPLATE = (Path(__file__).resolve().parents[4] / "playbooks/templates/status.html.j2").read_text()
UNITS = {
    "loadbalancers": ["haproxy", "keepalived"], "web": ["nginx"], "app": ["app", "haproxy"], "database": ["mysql"],
    "monitoring": ["prometheus", "prometheus-alertmanager"],
}


def alert(name="Watchdog", severity="none", host="", summary="The path of alerts works"):
    return {"labels": {"alertname": name, "severity": severity, "host": host}, "annotations": {"summary": summary}, "startsAt": "2027-01-15T08:00:00.000Z"}


def stat(*rows):
    """`show stat` with the columns that are read: (proxy, server, status, type)."""
    names = "# pxname,svname,scur,status,weight,type,req_rate,last_chk,"
    return "\n".join([names] + ["%s,%s,1,%s,1,%s,3,," % row for row in rows])


def topology(stage=4, **tiers):
    servers = ["server1", "server2"] if stage > 1 else ["server1"]
    wanted = {
        "loadbalancers": ["lb1", "lb2"] if stage == 4 else ["lb1"] if stage > 1 else [],
        "web": ["web1", "web2"] if stage == 4 else servers, "app": ["app1", "app2"] if stage == 4 else servers,
        "database": ["db1", "db2", "db3"] if stage == 4 else servers, "monitoring": ["monitor1"] if stage > 2 else [],
    }
    wanted.update(tiers)
    names = list(dict.fromkeys(name for members in wanted.values() for name in members))
    webstack = {tier: [{"name": name, "address": "198.19.0.%d" % (names.index(name) + 1)} for name in wanted[tier]] for tier in TIERS}
    return dict(
        webstack, stage=stage, server_names=["www.foobar.com", "foobar.com"], features={name: stage >= first for name, first in FEATURES.items()},
        vips=["198.18.0.100/24"] if stage == 4 else [], public_addresses=["198.18.0.100"],
    )


def channel(source):
    return {"source_host": source, "source_uuid": "uuid-db1", "io_state": "ON", "sql_state": "ON", "lag_seconds": 0.2}


class Lab:
    """A healthy site that a test breaks."""

    def __init__(self, stage=4, **tiers):
        self.webstack = topology(stage, **tiers)
        self.address = {host["name"]: host["address"] for tier in TIERS for host in self.webstack[tier]}
        self.members = {tier: [host["name"] for host in self.webstack[tier]] for tier in TIERS}
        self.look = {name: self.healthy(name) for name in self.address}
        self.mysql = {name: self.server(name) for name in self.members["database"]}
        self.result = {}

    def healthy(self, name):
        tiers = [tier for tier in TIERS if name in self.members[tier]]
        edge = name in (self.members["loadbalancers"] or self.members["web"])
        names, rows = self.members["database"], []
        if "loadbalancers" in tiers:
            rows += [("https", "FRONTEND", "OPEN", 0)] + [("web", web, "UP", 2) for web in self.members["web"]] + [("web", "BACKEND", "UP", 1)]
        if "app" in tiers and self.webstack["features"]["router"]:
            for proxy, up in (("database_writer", names[:1]), ("database_reader", names[1:])):
                rows += [(proxy, server, "UP" if server in up else "DOWN", 2) for server in names]
        served = {"ends": NOW + 60.5 * DAY, "own": False, "named": True} if self.webstack["features"]["tls"] else {}
        addresses = [self.address[name]] + [vip.split("/")[0] for vip in self.webstack["vips"]]
        return {
            "uptime": 100_000, "load": 0.5, "cpus": 2, "addresses": addresses[: 2 if name == "lb1" else 1], "failed": [],
            "units": {unit: "active" for tier in tiers for unit in UNITS[tier]} | ({"vmagent": "active"} if self.webstack["features"]["monitoring"] else {}),
            "haproxy": stat(*rows) if rows else "", "release": "v1" if {"web", "app"} & set(tiers) else "",
            "app": {"status": 200, "version": "v1", "error": ""} if "app" in tiers else {},
            "visits": [{"address": address, "status": 200, "milliseconds": 40, "error": "", "certificate": served} for address in addresses] if edge else [],
            "certificate": {"ends": NOW + 300.5 * DAY, "own": False, "named": False}, "alerts": [alert()] if "monitoring" in tiers else None,
        }

    def server(self, name):
        primary = name == self.members["database"][0]
        return {
            "reachable": True, "reason": "", "state": "writable" if primary else "read_only", "role": "primary" if primary else "replica", "version": "9.7.4",
            "server_uuid": "uuid-" + name, "channels": [] if primary else [channel(self.address[self.members["database"][0]])], "problems": [],
            "semi_sync": {"state": "active" if primary and self.webstack["features"]["semi_sync"] else "off"},
        }

    def broken(self, *fields, **values):
        """Set look[host][…] to a value: broken('lb2', 'units', haproxy='failed')."""
        place = self.look
        for field in fields:
            place = place[field]
        place.update(values)
        return self

    def gone(self, name, **result):
        self.look[name] = None
        self.result[name] = result
        self.mysql.pop(name, None)
        return self

    def status(self):
        hostvars = {name: {"__status_look": {"stdout": json.dumps(look)} if look else self.result[name]} for name, look in self.look.items()}
        for name, server in self.mysql.items():
            hostvars[name]["__site_database_server"] = server
        return webstack_status(hostvars, self.webstack, NOW)

    def page(self):
        return webstack_status_page(self.status(), TEMPLATE)


def said(found):
    return ["%s: %s" % (one["host"], one["text"]) if one["host"] else one["text"] for one in found]


def states(status, tier):
    return {node["name"]: node["state"] for node in status["tiers"][tier]}


@pytest.mark.parametrize("stage", [1, 2, 3, 4])
def test_a_healthy_site_of_each_stage(stage):
    status = Lab(stage).status()
    assert said(status["problems"]) == [] and said(status["warnings"]) == []
    assert status["healthy"] is True and status["release"] == "v1"
    assert status["primary"] == ("db1" if stage == 4 else "server1")
    assert {node["state"] for nodes in status["tiers"].values() for node in nodes} == {"ok"}
    assert status["certificate_days"] == (60 if stage > 2 else None)
    assert status["alerts"] == ([] if stage > 2 else None)
    assert not {link["state"] for link in status["links"]} & ({"unknown"} if stage > 1 else {"unknown", "down", "idle"})


def test_who_holds_the_vip_and_where_traffic_goes():
    status = Lab().status()
    assert status["entrances"][0]["holders"] == ["lb1"]
    links = {(link["from"], link["to"]): link["state"] for link in status["links"]}
    assert links["198.18.0.100", "lb1"] == "up" and links["198.18.0.100", "lb2"] == "idle"
    assert links["lb1", "web2"] == "up" and links["lb2", "web2"] == "idle"
    assert links["app1", "db1"] == "write" and links["app1", "db2"] == "read" and links["db1", "db3"] == "up"
    assert status["summary"] == (
        "www.foobar.com is healthy: lb1 holds 198.18.0.100, db1 is the primary, release v1, the certificate is good for 60 days")


def test_a_dead_host_is_named_with_the_reason():
    lab = Lab().gone("web2", unreachable=True, msg=(
        'Task failed: Data could not be sent to remote host "198.19.0.4". Make sure this host can be reached over ssh: '
        "ssh: connect to host 198.19.0.4 port 22: Connection timed out\r\n"))
    status = lab.status()
    assert said(status["problems"]) == ["web2: cannot be asked: ssh: connect to host 198.19.0.4 port 22: Connection timed out"]
    assert states(status, "web") == {"web1": "ok", "web2": "problem"}


def test_nothing_is_claimed_of_a_host_that_cannot_be_asked():
    """It may hold the VIP: the other load balancer gets an answer there."""
    status = Lab().gone("lb1", msg="timed out").status()
    assert said(status["problems"]) == ["lb1: cannot be asked: timed out"]
    assert status["entrances"][0]["holders"] == [] and status["entrances"][0]["answers"][0]["status"] == 200


def test_the_last_line_of_a_traceback_is_the_reason():
    lab = Lab().gone("web2", msg="no JSON", module_stderr="Traceback\n  File\nOSError: disk gone\n")
    assert said(lab.status()["problems"]) == ["web2: cannot be asked: OSError: disk gone"]


def test_a_host_outside_the_limit_is_no_problem():
    lab = Lab()
    for name in lab.address:
        if name != "web1":
            lab.gone(name)
    status = lab.status()
    assert said(status["problems"]) == []
    assert said(status["warnings"]) == ["not asked, because of --limit: lb1, lb2, web2, app1, app2, db1, db2, db3 and monitor1"]


@pytest.mark.parametrize("break_it, problem", [
    (lambda lab: lab.broken("lb2", "units", haproxy="failed"), "lb2: haproxy is failed"),
    (lambda lab: lab.broken("lb2", addresses=["198.18.0.100"]), "198.18.0.100 is held by lb1 and lb2 at once"),
    (lambda lab: lab.broken("lb1", addresses=[]), "no load balancer holds 198.18.0.100"),
    (lambda lab: lab.look["lb2"]["visits"][0].update(status=503), "lb2: the site does not answer here: status 503"),
    (lambda lab: lab.look["lb2"]["visits"][1].update(status=0, error="timed out"), "lb2: 198.18.0.100 does not answer it: timed out"),
    (lambda lab: lab.look["lb1"]["visits"][0]["certificate"].update(ends=NOW - 5), "lb1: the certificate that it serves has expired"),
    (lambda lab: lab.look["lb1"]["visits"][0]["certificate"].update(ends=NOW + 1.5 * DAY), "lb1: the certificate that it serves ends in 1 day"),
    (lambda lab: lab.look["lb1"]["visits"][0]["certificate"].update(own=True), "lb1: it serves a stand-in certificate, the real one was never issued"),
    (lambda lab: lab.look["lb1"]["visits"][0]["certificate"].update(named=False), "lb1: the certificate that it serves is not for www.foobar.com"),
    (lambda lab: lab.broken("lb1", haproxy=stat(("web", "web1", "UP", 2), ("web", "web2", "DOWN", 2))), "web2: gets no visitors from lb1: DOWN"),
    (lambda lab: lab.broken("lb1", haproxy=stat(("web", "web1", "MAINT", 2), ("web", "web2", "DRAIN", 2))),
     "lb1: no web server is up for it: visitors get errors"),
    (lambda lab: lab.broken("web1", "units", nginx="inactive"), "web1: nginx is inactive"),
    (lambda lab: lab.broken("web1", release=""), "web1: no release is deployed"),
    (lambda lab: lab.broken("app1", "app", status=500), "app1: the app does not answer its health check: status 500"),
    (lambda lab: lab.broken("app1", haproxy=lab.look["app1"]["haproxy"].replace("database_writer,db1,1,UP", "database_writer,db1,1,DOWN")),
     "app1: its router writes nowhere: no primary is up for it"),
    (lambda lab: lab.mysql["db3"].update(problems=["the applier of the channel is stopped"]), "db3: the applier of the channel is stopped"),
    (lambda lab: lab.mysql["db3"].update(channels=[]), "db3: follows no other server"),
    (lambda lab: lab.mysql.update(db3={"reachable": False, "reason": "Can't connect", "state": "unreachable"}), "db3: MySQL cannot be asked: Can't connect"),
    (lambda lab: lab.mysql["db1"]["semi_sync"].update(state="off"),
     "db1: semi-synchronous replication is off: an acknowledged write may exist here alone"),
    (lambda lab: lab.broken("db2", "units", vmagent="failed"), "db2: vmagent is failed: no metrics come from here"),
    (lambda lab: lab.broken("monitor1", alerts=None), "monitor1: Alertmanager does not answer"),
    (lambda lab: lab.broken("monitor1", alerts=[alert(), alert("MySQLDown", "critical", "db1", "db1 is down")]),
     "MySQLDown: db1 is down"),
])
def test_what_makes_a_site_unhealthy(break_it, problem):
    lab = Lab()
    break_it(lab)
    status = lab.status()
    assert problem in said(status["problems"])
    assert status["healthy"] is False and problem in status["summary"]
    assert problem.partition(": ")[2].replace("'", "&#39;").strip() in lab.page()


@pytest.mark.parametrize("break_it, warning", [
    (lambda lab: [lab.broken(name, haproxy=stat(("web", "web1", "UP", 2), ("web", "web2", "MAINT", 2))) for name in ("lb1", "lb2")],
     "web2: was taken out of service on lb1 and lb2"),
    (lambda lab: lab.look["lb1"]["visits"][0]["certificate"].update(ends=NOW + 20.5 * DAY), "lb1: the certificate that it serves ends in 20 days"),
    (lambda lab: lab.broken("web2", release="v2"), "hosts have different releases: v1 on app1, app2 and web1; v2 on web2"),
    (lambda lab: lab.broken("app2", "app", version="v0"), "app2: release v0 runs, v1 is deployed"),
    (lambda lab: lab.broken("web1", failed=["logrotate.service"]), "web1: failed: logrotate.service (systemctl status, journalctl -u)"),
    (lambda lab: lab.broken("monitor1", alerts=[]), "monitor1: alerts do not arrive: Watchdog, which always fires, is not there"),
])
def test_what_only_warns(break_it, warning):
    lab = Lab()
    break_it(lab)
    status = lab.status()
    assert said(status["warnings"]) == [warning]
    assert status["healthy"] is True and warning in status["summary"]


def test_two_primaries():
    lab = Lab()
    lab.mysql["db2"].update(state="writable", role="primary", channels=[])
    status = lab.status()
    assert any(text.startswith("db1 and db2 are writable and hold data: two primaries") for text in said(status["problems"]))
    assert status["primary"] is None


def test_what_hosts_say_is_escaped():
    evil = "<script>alert(1)</script>\"'&{{ 7 * 7 }}"
    lab = Lab().gone("web2", msg=evil)
    lab.mysql["db3"].update(problems=[evil], version=evil)
    lab.broken("web1", release=evil)
    lab.broken("monitor1", alerts=[alert(), alert(evil, evil, evil, evil)])
    page = lab.page()
    assert "<script" not in page and "&lt;script&gt;" in page and "{{ 7 * 7 }}" in page


@pytest.mark.parametrize("stage", [1, 2, 3, 4])
def test_the_page_draws_every_host_of_every_tier(stage):
    lab = Lab(stage)
    page = lab.page()
    nodes = re.findall(r'<li class="node ok"><h4><svg.*?</svg>(.*?)</h4>', page)
    assert nodes == [name for tier in TIERS for name in lab.members[tier]]
    assert "<script" not in page and "http://" not in page.replace("http://www.w3.org/2000/svg", "").replace("http://www.foobar.com/", "")


def test_the_page_of_a_large_site():
    lab = Lab(web=["web%d" % number for number in range(8)], app=["app%d" % number for number in range(4)])
    assert 'class="nodes huge" style="--count: 8"' in lab.page() and 'class="nodes wide" style="--count: 4"' in lab.page()


def test_the_page_of_a_site_that_is_all_dead():
    lab = Lab()
    for name in lab.address:
        lab.gone(name, msg="no route to host")
    status = lab.status()
    assert len([text for text in said(status["problems"]) if text.endswith("cannot be asked: no route to host")]) == len(lab.address)
    assert "not healthy" in lab.page()
