# Copyright: the foobar.webstack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the hosts of a site say, judged; and the page that shows it. Used by playbooks/status.yml alone."""

from __future__ import annotations

import datetime
import ipaddress
import json

import jinja2
from ansible_collections.foobar.webstack.plugins.filter.topology import TIERS, webstack_database_topology
from ansible_collections.foobar.webstack.plugins.module_utils import haproxy

DAY = 86400
# certbot renews 30 days before the end; 21 is when the alert CertificateExpiry fires.
WARN_DAYS = 21
ALARM_DAYS = 7
# What a tier cannot work without.
UNITS = {
    "loadbalancers": [("haproxy", None), ("keepalived", "cluster")],
    "web": [("nginx", None)],
    "app": [("app", None), ("haproxy", "router")],
    "database": [("mysql", None)],
    "monitoring": [("prometheus", "monitoring"), ("prometheus-alertmanager", "monitoring")],
}


def _line(value, most=300):
    text = " ".join(str(value).split())
    return text if len(text) <= most else text[:most] + " …"


def _and(names):
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)


def _same_address(one, other):
    return ipaddress.ip_address(one) == ipaddress.ip_address(other)


def _answer(registered):
    """(what the host said, why it said nothing); the reason is None where it was not asked."""
    if not registered or registered.get("skipped"):
        return {}, None
    try:
        return json.loads(registered.get("stdout") or ""), ""
    except ValueError:
        # The last line of a traceback says more than Ansible, which has no JSON to read.
        lines = (registered.get("module_stderr") or registered.get("stderr") or registered.get("msg") or "no answer").strip().splitlines()
        return {}, _line(lines[-1].removeprefix("Task failed: ").rpartition("can be reached over ssh: ")[2])


def _use(row):
    """Whether HAProxy sends to a server: up, out (an operator took it out) or down."""
    if row["status"].startswith(("DRAIN", "MAINT", "NOLB")):
        return "out"
    return ("up" if int(row["weight"] or 0) > 0 else "out") if haproxy.is_up(row) else "down"


class Site:
    """Collects what is wrong while it looks at one tier after the other."""

    def __init__(self, hostvars, webstack, now):
        self.hostvars, self.webstack, self.now, self.features = hostvars, webstack, now, webstack["features"]
        self.address = {host["name"]: host["address"] for tier in TIERS for host in webstack[tier]}
        self.names = {tier: [host["name"] for host in webstack[tier]] for tier in TIERS}
        self.said, self.reason, self.stat = {}, {}, {}
        self.problems, self.warnings, self.links = [], [], []
        for name in self.address:
            said, self.reason[name] = _answer((hostvars.get(name) or {}).get("__status_look"))
            self.said[name] = said
            try:
                self.stat[name] = haproxy.parse_stat(said.get("haproxy") or "")
            except ValueError:
                self.stat[name] = {}

    def problem(self, host, tier, text):
        self.problems.append({"host": host, "tier": tier, "text": text})

    def warning(self, host, tier, text):
        self.warnings.append({"host": host, "tier": tier, "text": text})

    def link(self, kind, source, target, state):
        self.links.append({"kind": kind, "from": source, "to": target, "state": state})

    def runs(self, name, *units):
        return bool(self.said[name]) and all(self.said[name]["units"].get(unit) in ("active", "reloading") for unit in units)

    def state(self, name, tier=None):
        def here(found):
            return any(one["host"] == name and (tier is None or one["tier"] in (None, tier)) for one in found)

        return "problem" if here(self.problems) else "unknown" if not self.said[name] else "warning" if here(self.warnings) else "ok"

    def hosts(self):
        missing = [name for name, reason in self.reason.items() if reason is None]
        if missing:
            self.warning(None, None, "not asked, because of --limit: %s" % _and(missing))
        for name, said in self.said.items():
            if self.reason[name]:
                self.problem(name, None, "cannot be asked: %s" % self.reason[name])
            if not said:
                continue
            for tier in (tier for tier in TIERS if name in self.names[tier]):
                for unit, feature in UNITS[tier]:
                    if (not feature or self.features[feature]) and not self.runs(name, unit):
                        self.problem(name, tier, "%s is %s" % (unit, said["units"].get(unit, "not installed")))
            if self.features["monitoring"] and not self.runs(name, "vmagent"):
                self.problem(name, None, "vmagent is %s: no metrics come from here" % said["units"].get("vmagent", "not installed"))
            others = [unit for unit in said["failed"] if unit.rpartition(".")[0] not in said["units"]]
            if others:
                self.warning(name, None, "failed: %s (systemctl status, journalctl -u)" % _and(others))
            self.certificate(name, None, "its internal certificate", said["certificate"])

    def certificate(self, host, tier, what, found):
        """Whole days that it is still good for."""
        if not found:
            return None
        days = int((found["ends"] - self.now) // DAY)
        if days < WARN_DAYS:
            say = self.problem if days < ALARM_DAYS else self.warning
            say(host, tier, "%s %s" % (what, "has expired" if days < 0 else "ends in %d day%s" % (days, "" if days == 1 else "s")))
        return days

    def edge(self):
        """Where visitors come in: the VIPs and who holds them, what each load balancer (or the web server of stage 1) answers."""
        tier = "loadbalancers" if self.names["loadbalancers"] else "web"
        vips = [vip.split("/")[0] for vip in self.webstack["vips"]]
        entrances = []
        for vip in vips:
            holders = [name for name in self.names[tier] if any(_same_address(vip, address) for address in self.said[name].get("addresses") or [])]
            entrances.append({"address": vip, "vip": True, "holders": holders, "answers": []})
            if len(holders) > 1:
                self.problem(None, tier, "%s is held by %s at once" % (vip, _and(holders)))
            elif not holders and all(self.said[name] for name in self.names[tier]):
                self.problem(None, tier, "no load balancer holds %s" % vip)
        # Without VIPs the address may be one that a router in front of the site has: each host is asked at its own alone.
        if not vips:
            first = self.names[tier][:1]
            entrances = [{"address": address, "vip": False, "holders": first, "answers": []} for address in self.webstack["public_addresses"]]
        days = {}
        for name in self.names[tier]:
            for visit in self.said[name].get("visits") or []:
                outside = visit["address"] != self.address[name]
                wrong = visit["error"] or ("status %d" % visit["status"] if visit["status"] >= 500 else "")
                for entrance in entrances:
                    if _same_address(visit["address"], entrance["address"]) if vips else name in entrance["holders"]:
                        entrance["answers"].append({"to": name, "status": visit["status"], "milliseconds": visit["milliseconds"]})
                if wrong and (outside or self.runs(name, "haproxy" if tier == "loadbalancers" else "nginx")):
                    what = "%s does not answer it" % visit["address"] if outside else "the site does not answer here"
                    self.problem(name, tier, "%s: %s" % (what, wrong))
                if not outside and visit["certificate"]:
                    days[name] = self.certificate(name, tier, "the certificate that it serves", visit["certificate"])
                    if visit["certificate"]["own"]:
                        self.problem(name, tier, "it serves a stand-in certificate, the real one was never issued")
                    elif not visit["certificate"]["named"]:
                        self.problem(name, tier, "the certificate that it serves is not for %s" % self.webstack["server_names"][0])
        return entrances, days

    def loadbalancers(self, entrances, days):
        nodes = []
        for name in self.names["loadbalancers"]:
            stat = self.stat[name]
            front = [row for (proxy, server), row in stat.items() if server == "FRONTEND" and proxy in ("http", "https")]
            held = [entrance["address"] for entrance in entrances if entrance["vip"] and name in entrance["holders"]]
            uses = {server: _use(row) for (proxy, server), row in stat.items() if proxy == "web" and server not in ("FRONTEND", "BACKEND")}
            if uses and "up" not in uses.values():
                self.problem(name, "loadbalancers", "no web server is up for it: visitors get errors")
            for entrance in entrances:
                self.link("visitors", entrance["address"], name, "up" if name in entrance["holders"] else "idle" if self.runs(name, "haproxy") else "down")
            for server in self.names["web"]:
                use = uses.get(server, "unknown")
                self.link("web", name, server, "idle" if use == "up" and self.webstack["vips"] and not held else use)
            nodes.append({
                "name": name, "holds": held, "serves": self.runs(name, "haproxy"), "certificate_days": days.get(name),
                "requests_per_second": sum(int(row.get("req_rate") or 0) for row in front), "sessions": sum(int(row.get("scur") or 0) for row in front),
            })
        return nodes

    def web(self, entrances):
        nodes, balancers = [], [name for name in self.names["loadbalancers"] if self.stat[name]]
        for name in self.names["web"]:
            links = {link["from"]: link["state"] for link in self.links if link["kind"] == "web" and link["to"] == name and link["from"] in balancers}
            down, out = ([balancer for balancer, state in links.items() if state == wanted] for wanted in ("down", "out"))
            if down and not (self.said[name] and not self.runs(name, "nginx")):
                check = self.stat[down[0]].get(("web", name), {})
                reason = " ".join(part for part in (check.get("status"), check.get("last_chk")) if part)
                self.problem(name, "web", "gets no visitors from %s: %s" % (_and(down), reason))
            if out:
                self.warning(name, "web", "was taken out of service on %s" % _and(out))
            if links:
                traffic = "up" if not down + out else "partly" if len(down + out) < len(links) else "out" if out else "down"
            else:
                traffic = "unknown" if self.names["loadbalancers"] or not self.said[name] else "up" if self.runs(name, "nginx") else "down"
                for entrance in entrances if not self.names["loadbalancers"] else []:
                    self.link("visitors", entrance["address"], name, traffic)
            nodes.append({"name": name, "traffic": traffic, "release": self.said[name].get("release") or None})
        return nodes

    def app(self):
        nodes = []
        for name in self.names["app"]:
            said, answer = self.said[name], self.said[name].get("app") or {}
            current, running = said.get("release") or None, answer.get("version") or None
            answers = answer.get("status") == 200
            if self.runs(name, "app") and not answers:
                self.problem(name, "app", "the app does not answer its health check: %s" % (answer.get("error") or "status %s" % answer.get("status")))
            elif current and running and current != running:
                self.warning(name, "app", "release %s runs, %s is deployed" % (running, current))
            for server in self.names["web"]:
                # nginx of a host that has both asks its own.
                if server == name or server not in self.names["app"]:
                    self.link("app", server, name, "down" if said and not answers else "up" if said and self.runs(server, "nginx") else "unknown")
            nodes.append({"name": name, "answers": answers if said else None, "release": running or current})
        deployed = {}
        for name in dict.fromkeys(self.names["app"] + self.names["web"]):
            if self.said[name].get("release"):
                deployed.setdefault(self.said[name]["release"], []).append(name)
            elif self.said[name]:
                self.problem(name, None, "no release is deployed")
        if len(deployed) > 1:
            found = ("%s on %s" % (release, _and(names)) for release, names in deployed.items())
            self.warning(None, "app", "hosts have different releases: %s" % "; ".join(found))
        return nodes, next(iter(deployed)) if len(deployed) == 1 else None

    def database(self):
        names = self.names["database"]
        known = {name: (self.hostvars.get(name) or {}).get("__site_database_server") or {} for name in names}
        uuids = {known[name]["server_uuid"]: name for name in names if known[name].get("reachable")}
        by_address = {self.address[name]: name for name in names}
        found = webstack_database_topology(self.hostvars, names)
        primary = found["primary"] if not found["new"] else None
        if found["new"]:
            self.warning(None, "database", "the database is empty")
        elif found["problem"] and all(self.reason[name] is not None for name in names):
            self.problem(None, "database", found["problem"])
        semi_sync = (known.get(primary) or {}).get("semi_sync") or {}
        if primary and self.features["semi_sync"] and semi_sync.get("state") == "off":
            self.problem(primary, "database", "semi-synchronous replication is off: an acknowledged write may exist here alone")
        nodes = []
        for name in names:
            server = known[name]
            channels = server.get("channels") or []
            node = {"name": name, "role": server.get("role") or "unknown", "source": None, "lag_seconds": None, "reads": None, "version": server.get("version")}
            if not server.get("reachable"):
                if self.runs(name, "mysql"):
                    self.problem(name, "database", "MySQL cannot be asked: %s" % _line(server.get("reason") or server.get("msg") or "no answer"))
            else:
                for text in server["problems"]:
                    self.problem(name, "database", _line(text))
                if primary and name != primary and not channels:
                    self.problem(name, "database", "follows no other server")
            for channel in channels:
                source = uuids.get(channel["source_uuid"]) or by_address.get(channel["source_host"], channel["source_host"])
                works = channel["io_state"] == "ON" and channel["sql_state"] == "ON"
                node.update(source=source, lag_seconds=channel["lag_seconds"])
                if primary and source not in names:
                    self.problem(name, "database", "follows %s, which is not in group database" % _line(source))
                if source in names:
                    self.link("replication", source, name, "up" if works else "down")
            node["reads"] = self.router(name, primary)
            nodes.append(node)
        return nodes, primary, semi_sync

    def router(self, name, primary):
        """What the app hosts send to this server; whether any of them reads from it."""
        reads, missing = None, []
        for app in self.names["app"]:
            stat = self.stat[app]
            if not self.features["router"]:
                self.link("database", app, name, "write" if name == primary else "down")
                continue
            uses = {proxy: _use(stat[proxy, name]) == "up" for proxy in ("database_writer", "database_reader") if (proxy, name) in stat}
            if not uses:
                self.link("database", app, name, "unknown")
                continue
            reads = reads or uses["database_reader"]
            self.link("database", app, name, "write" if uses["database_writer"] else "read" if uses["database_reader"] else "down")
            if not any(uses.values()):
                missing.append(app)
        if missing and self.state(name, "database") != "problem":
            self.problem(name, "database", "gets no connections from %s" % _and(missing))
        return reads

    def routes(self):
        for app in self.names["app"] if self.features["router"] else []:
            writers = [server for (proxy, server), row in self.stat[app].items() if proxy == "database_writer" and row.get("type") == "2" and _use(row) == "up"]
            if self.stat[app] and len(writers) != 1:
                self.problem(app, "app", "its router writes nowhere: %s" % ("%s are writable" % _and(writers) if writers else "no primary is up for it"))

    def alerts(self):
        """[{name, severity, host, summary, since}]; None where nobody could be asked."""
        asked, found = False, {}
        for name in self.names["monitoring"] if self.features["monitoring"] else []:
            given = self.said[name].get("alerts")
            if given is None:
                if self.runs(name, "prometheus-alertmanager"):
                    self.problem(name, "monitoring", "Alertmanager does not answer")
                continue
            asked = True
            if not any(alert["labels"].get("alertname") == "Watchdog" for alert in given):
                self.warning(name, "monitoring", "alerts do not arrive: Watchdog, which always fires, is not there")
            for alert in given:
                labels = alert["labels"]
                if labels.get("severity") != "none":
                    key = json.dumps(labels, sort_keys=True)
                    found[key] = {
                        "name": labels.get("alertname", ""), "severity": labels.get("severity", ""), "host": labels.get("host", ""),
                        "summary": _line(alert.get("annotations", {}).get("summary", "")), "since": alert.get("startsAt", "")[:16].replace("T", " "),
                    }
        firing = sorted(found.values(), key=lambda alert: (alert["severity"] != "critical", alert["since"], alert["name"], alert["host"]))
        for alert in firing:
            say = self.problem if alert["severity"] == "critical" else self.warning
            say(None, "monitoring", "%s: %s" % (alert["name"], alert["summary"]))
        return firing if asked else None


def _summary(name, site, vips, primary, release, certificate_days):
    facts = ["%s holds %s" % (_and(vip["holders"]), vip["address"]) for vip in vips if vip["holders"]]
    if primary:
        facts.append("%s is the primary" % primary)
    if release:
        facts.append("release %s" % release)
    if certificate_days is not None:
        facts.append("the certificate is good for %d days" % certificate_days)
    lines = ["%s is not healthy" % name if site.problems else ": ".join(part for part in ("%s is healthy" % name, ", ".join(facts)) if part)]
    for kind, found in (("problem", site.problems), ("warning", site.warnings)):
        lines += ["%s: %s%s" % (kind, one["host"] + ": " if one["host"] else "", one["text"]) for one in found]
    return "\n".join(lines)


def webstack_status(hostvars, webstack, now):
    """Return {healthy, problems, warnings, …}: the site as its hosts describe it.

    webstack: the fact that the roles read. Each host has the registered answers of playbooks/files/status.py in __status_look,
    a database host that of mysql_replication_info in __site_database_server. now: seconds since 1970.
    """
    site = Site(hostvars, webstack, now)
    site.hosts()
    entrances, days = site.edge()
    balancers, web, (app, release), (database, primary, semi_sync) = site.loadbalancers(entrances, days), site.web(entrances), site.app(), site.database()
    site.routes()
    alerts = site.alerts()
    monitoring = [{"name": name, "alerts": None if alerts is None else len(alerts)} for name in site.names["monitoring"]]
    tiers = dict(zip(TIERS, (balancers, web, app, database, monitoring)))
    for tier, nodes in tiers.items():
        for node in nodes:
            node.update(state=site.state(node["name"], tier), asked=bool(site.said[node["name"]]))
    name = webstack["server_names"][0]
    certificate_days = min((value for value in days.values() if value is not None), default=None)
    return {
        "healthy": not site.problems,
        "summary": _summary(name, site, [entrance for entrance in entrances if entrance["vip"]], primary, release, certificate_days),
        "problems": site.problems,
        "warnings": site.warnings,
        "site": {
            "name": name, "url": "%s://%s/" % ("https" if webstack["features"]["tls"] else "http", name), "stage": webstack["stage"],
            "time": datetime.datetime.fromtimestamp(now, datetime.timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC"),
        },
        "entrances": entrances,
        "certificate_days": certificate_days,
        "release": release,
        "primary": primary,
        "semi_sync": semi_sync.get("state"),
        "tiers": tiers,
        "links": site.links,
        "alerts": alerts,
        "hosts": [
            {
                "name": host, "address": site.address[host], "state": site.state(host), "uptime_seconds": int(said["uptime"]) if said else None,
                "load": round(said["load"], 2) if said else None, "cpus": said.get("cpus"),
                "certificate_days": int((said["certificate"]["ends"] - now) // DAY) if said.get("certificate") else None,
            }
            for host, said in site.said.items()
        ],
    }


def webstack_status_page(status, template):
    """The page. What hosts say is escaped: their names and error texts are theirs."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(str(template)).render(status=json.loads(json.dumps(status)))


class FilterModule:
    def filters(self):
        return {"webstack_status": webstack_status, "webstack_status_page": webstack_status_page}
