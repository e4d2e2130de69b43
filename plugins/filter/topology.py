# Copyright: the foobar.webstack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The inventory and the live databases, judged. Used by the role site alone."""

from __future__ import annotations

import ipaddress
import re

from ansible.errors import AnsibleFilterError

TIERS = ("loadbalancers", "web", "app", "database", "monitoring")

# What each stage switches on, and what webstack_features may switch off: the stages cannot do without the others.
FEATURES = {
    "router": 2,
    "tls": 3,
    "certbot": 3,
    "firewall": 3,
    "monitoring": 3,
    "cluster": 4,
    "semi_sync": 4,
}
OPTIONAL = ("certbot", "firewall", "monitoring", "cluster", "semi_sync")

# Options of roles for one end of a connection; the other end, in another role or on another host, takes the port of the site.
ENDS = {
    "nginx_port": "web",
    "haproxy_web_port": "web",
    "haproxy_app_port": "app",
    "haproxy_writer_port": "writer",
    "haproxy_reader_port": "reader",
    "haproxy_database_port": "database",
    "mysql_port": "database",
    "mysql_replica_source_port": "database",
    "mysql_backup_port": "database",
    "haproxy_role_check_port": "role_check",
    "mysql_role_check_port": "role_check",
    "haproxy_acme_port": "acme",
    "certbot_http_port": "acme",
    "monitoring_server_port": "metrics",
    "monitoring_server_log_port": "logs",
}

DOMAIN = re.compile(r"(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
HOST_NAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9.-]{0,61}[a-zA-Z0-9])?")

# Releases the roles are tested on, and those they accept untested (distribution, lowest version).
TESTED = {("Debian", "12"), ("Debian", "13")}
ACCEPTED = ("Ubuntu", (24, 4))


def _address(value):
    try:
        return ipaddress.ip_address(str(value))
    except ValueError:
        return None


def _network(value):
    """An ip_network, or None: a network must be written with its prefix, so that a forgotten one is not read as a single host."""
    if not isinstance(value, str) or "/" not in value:
        return None
    try:
        return ipaddress.ip_network(value, strict=False)
    except ValueError:
        return None


def _hosts_of(groups, tier):
    return [str(name) for name in groups.get(tier, [])]


def _host_address(variables):
    """Where the other hosts reach this one: said in the inventory, else the address Ansible connects to, else the default route's."""
    if variables.get("webstack_address"):
        return str(variables["webstack_address"])
    if _address(variables.get("ansible_host")):
        return str(variables["ansible_host"])
    facts = variables.get("ansible_facts") or {}
    return str((facts.get("default_ipv4") or {}).get("address") or "")


def _tier_problems(stage, tiers):
    problems = []

    def need(tier, least, most=None):
        count = len(tiers[tier])
        if count < least or (most is not None and count > most):
            wanted = str(least) if most == least else "%d or more" % least if most is None else "at most %d" % most
            problems.append(
                "group '%s' has %d host(s), stage %d needs %s: write them under %s: hosts: in the inventory"
                % (tier, count, stage, wanted, tier)
            )

    if stage == 1:
        for tier in ("web", "app", "database"):
            need(tier, 1, 1)
        servers = {name for tier in ("web", "app", "database") for name in tiers[tier]}
        if len(servers) > 1:
            problems.append(
                "stage 1 is one server in the groups web, app and database, here they are %s: "
                "name the same host in all three, or run a higher stage" % ", ".join(sorted(servers))
            )
        if tiers["loadbalancers"]:
            balancers = ", ".join(tiers["loadbalancers"])
            problems.append("stage 1 has no load balancer, group 'loadbalancers' names %s: empty it, or run stage 2" % balancers)
    elif stage in (2, 3):
        need("loadbalancers", 1, 1)
        for tier in ("web", "app", "database"):
            need(tier, 2)
        if set(tiers["web"]) != set(tiers["app"]):
            problems.append(
                "stages 2 and 3 run nginx and the app on the same servers, 'web' has %s and 'app' has %s: "
                "name the same hosts in both, or run stage 4" % (", ".join(tiers["web"]) or "none", ", ".join(tiers["app"]) or "none")
            )
        for name in sorted(set(tiers["loadbalancers"]) & set(tiers["web"])):
            problems.append("host '%s' is in loadbalancers and web, and both want port 80: leave it in one group" % name)
    else:
        for tier in ("loadbalancers", "web", "app", "database"):
            need(tier, 2)
        for name in sorted({name for tier in TIERS for name in tiers[tier]}):
            member = [tier for tier in TIERS if name in tiers[tier]]
            if len(member) > 1:
                problems.append(
                    "host '%s' is in %s: stage 4 keeps each tier on machines of its own, leave it in one group" % (name, " and ".join(member))
                )
    if stage >= 3:
        # Agents send to one.
        need("monitoring", 0, 1)
    return problems


def _platform_problem(name, facts):
    distribution = facts.get("distribution")
    if not distribution:
        return None
    version = str(facts.get("distribution_version", ""))
    if (distribution, version.split(".", maxsplit=1)[0]) in TESTED:
        return None
    if distribution == ACCEPTED[0] and tuple(int(part) for part in re.findall(r"\d+", version)[:2]) >= ACCEPTED[1]:
        return None
    return "host '%s' runs %s %s: use Debian 12 or 13 (tested), or Ubuntu 24.04 or later (accepted, untested)" % (name, distribution, version)


def _host_networks(facts):
    """Every network this host has an address in."""
    networks = []
    for interface in facts.get("interfaces", []):
        details = facts.get(str(interface).replace("-", "_")) or {}
        ipv4 = details.get("ipv4") or {}
        for entry in ([ipv4] if isinstance(ipv4, dict) else list(ipv4)) + list(details.get("ipv4_secondaries") or []):
            if entry.get("address") and entry.get("netmask"):
                networks.append(ipaddress.ip_network("%s/%s" % (entry["address"], entry["netmask"]), strict=False))
        for entry in details.get("ipv6") or []:
            if entry.get("address") and entry.get("prefix") and entry.get("scope") != "link":
                networks.append(ipaddress.ip_network("%s/%s" % (entry["address"], entry["prefix"]), strict=False))
    return networks


def _list_of_networks(variables, key, problems):
    value = variables.get(key, [])
    if not isinstance(value, (list, tuple)):
        problems.append("%s is %r: write a list, for example [198.51.100.0/24]" % (key, value))
        return []
    for item in value:
        if _network(item) is None:
            problems.append("%s: %r is not a network: write address/prefix, for example 198.51.100.0/24" % (key, item))
    return [str(item) for item in value]


def webstack_topology(hostvars, groups, stage, settings):
    """Return {problems: [...], webstack: {...}}: the inventory checked against the stage, and the fact that the roles read.

    settings holds the inventory-wide variables (webstack_domain, webstack_vips, ...), already templated.
    """
    problems = []
    if stage not in (1, 2, 3, 4):
        raise AnsibleFilterError("webstack_stage is %r: run one of the playbooks stage1 to stage4" % (stage,))
    tiers = {tier: _hosts_of(groups, tier) for tier in TIERS}
    problems += _tier_problems(stage, tiers)

    features = {name: stage >= first for name, first in FEATURES.items()}
    wanted = settings.get("webstack_features") or {}
    if not isinstance(wanted, dict):
        problems.append("webstack_features is %r: write a dictionary, for example {monitoring: false}" % (wanted,))
        wanted = {}
    for name, value in wanted.items():
        if name not in OPTIONAL:
            problems.append("webstack_features: '%s' cannot be switched: those that can are %s" % (name, ", ".join(OPTIONAL)))
        elif not isinstance(value, bool):
            problems.append("webstack_features: %s is %r: write true or false" % (name, value))
        elif value and not features[name]:
            problems.append("webstack_features: %s comes with stage %d: run that, or leave it out" % (name, FEATURES[name]))
        else:
            features[name] = value

    domain = settings.get("webstack_domain")
    if not domain:
        problems.append("webstack_domain is missing: write the site's domain, for example foobar.com")
    elif not isinstance(domain, str) or not DOMAIN.fullmatch(domain):
        problems.append(
            "webstack_domain is %r: write a domain name in lower case letters, digits, dots and hyphens, for example foobar.com" % (domain,)
        )
    server_names = settings.get("webstack_server_names") or (["www.%s" % domain, str(domain)] if domain else [])
    if not isinstance(server_names, (list, tuple)):
        problems.append("webstack_server_names is %r: write a list, for example [www.foobar.com, foobar.com]" % (server_names,))
        server_names = []
    for name in server_names:
        if name not in ("www.%s" % domain, domain) and (not isinstance(name, str) or not DOMAIN.fullmatch(name)):
            problems.append("webstack_server_names: %r is not a domain name" % (name,))

    private_networks = _list_of_networks(settings, "webstack_private_networks", problems)
    admin_networks = _list_of_networks(settings, "webstack_admin_networks", problems)
    if stage >= 2 and not settings.get("webstack_private_networks"):
        problems.append(
            "webstack_private_networks is missing: write the networks in which the hosts talk to each other, for example [198.51.100.0/24]"
        )

    hosts, addresses = {}, {}
    for name in sorted({name for tier in TIERS for name in tiers[tier]}):
        variables = hostvars[name]
        if not HOST_NAME.fullmatch(name):
            problems.append("host '%s': certificates and configuration files need a name of letters, digits, dots and hyphens" % name)
        address = _host_address(variables)
        if not _address(address):
            problems.append(
                "host '%s' has no usable address (%r): write webstack_address: the IP address by which the other hosts reach it" % (name, address)
            )
        else:
            if address in addresses:
                problems.append(
                    "hosts '%s' and '%s' have the same address %s: each host is named once, with its own webstack_address"
                    % (addresses[address], name, address)
                )
            addresses[address] = name
            if stage >= 2 and _address(address).version != 4:
                problems.append(
                    "host '%s': hosts reach each other over IPv4, and its address is %s: write webstack_address: an IPv4 address" % (name, address)
                )
            networks = [net for net in map(_network, private_networks) if net is not None]
            if networks and not any(_address(address) in net for net in networks):
                problems.append(
                    "host '%s': its address %s is in none of webstack_private_networks (%s)" % (name, address, ", ".join(private_networks))
                )
        hosts[name] = address
        problem = _platform_problem(name, variables.get("ansible_facts") or {})
        if problem:
            problems.append(problem)

    vips = settings.get("webstack_vips") or []
    if not isinstance(vips, (list, tuple)):
        problems.append("webstack_vips is %r: write a list, for example [203.0.113.100/24]" % (vips,))
        vips = []
    if features["cluster"] and not vips:
        problems.append(
            "webstack_vips is missing: write the address that moves between the load balancers, with its prefix, for example [203.0.113.100/24]"
        )
    for vip in vips:
        if _network(vip) is None:
            problems.append("webstack_vips: %r is not an address with a prefix: write for example 203.0.113.100/24" % (vip,))
            continue
        interface = ipaddress.ip_interface(vip)
        if str(interface.ip) in addresses:
            problems.append(
                "webstack_vips: %s is the address of host '%s': choose one that no machine has" % (interface.ip, addresses[str(interface.ip)])
            )
        for name in tiers["loadbalancers"]:
            networks = _host_networks(hostvars[name].get("ansible_facts") or {})
            if networks and not any(interface.ip in network for network in networks):
                problems.append(
                    "webstack_vips: %s is in no network of load balancer '%s' (it has %s): choose an address of one of them"
                    % (vip, name, ", ".join(sorted({str(network) for network in networks if not network.is_loopback})))
                )

    # As the kernel writes them: roles and alerts compare text.
    vips = [str(ipaddress.ip_interface(vip)) for vip in vips if _network(vip)]

    if features["monitoring"] and not tiers["monitoring"] and not settings.get("monitoring_agent_remote_write_url"):
        problems.append(
            "monitoring has nowhere to send to: name a host in group 'monitoring', or set monitoring_agent_remote_write_url, "
            "or webstack_features: {monitoring: false}"
        )
    if features["tls"] and not features["certbot"] and not settings.get("haproxy_certificates"):
        problems.append("webstack_features: without certbot the site has no certificate: write yours into haproxy_certificates")
    if features["certbot"] and not settings.get("certbot_email") and tiers["loadbalancers"]:
        problems.append("certbot_email is missing: write the address to which the certificate authority sends warnings")
    credentials_dir = str(settings.get("webstack_credentials_dir") or "")
    if credentials_dir and not credentials_dir.startswith("/"):
        problems.append(
            "webstack_credentials_dir is %r: write the whole path, for example /home/me/secrets or {{ inventory_dir }}/secrets" % credentials_dir
        )
    if not credentials_dir:
        problems.append(
            "webstack_credentials_dir has no default without an inventory directory: write a directory on this machine where generated secrets are kept"
        )

    public = [vip.split("/")[0] for vip in vips] if features["cluster"] else []
    if not public:
        edge = (tiers["loadbalancers"] or tiers["web"])[:1]
        public = [str(hostvars[name].get("webstack_public_address") or hosts.get(name, "")) for name in edge]

    ports = {
        "web": 443 if features["tls"] else 80,
        "app": 8443,
        "database": 3306,
        "writer": 6446 if features["router"] else 3306,
        "reader": 6447 if features["router"] else 3306,
        "role_check": 8008,
        "acme": 8888,
        "peers": 10000,
        "metrics": 9090,
        "logs": 6514,
    }
    if stage >= 2:
        given = set()
        for name in hosts:
            variables = hostvars[name]
            given |= {(option, str(variables.get(option))) for option in ENDS}
        for option, port in sorted(given):
            if port not in ("None", str(ports[ENDS[option]])):
                problems.append("%s is %s: in the stages both ends use %d, leave it out" % (option, port, ports[ENDS[option]]))

    def members(tier):
        return [{"name": name, "address": hosts[name]} for name in tiers[tier]]

    return {
        "problems": problems,
        "webstack": {
            "stage": stage,
            "domain": domain,
            "server_names": list(server_names),
            "features": features,
            "loadbalancers": members("loadbalancers"),
            "web": members("web"),
            "app": members("app"),
            "database": members("database"),
            "monitoring": members("monitoring"),
            "leaving": _hosts_of(groups, "decommissioned"),
            "vips": vips if features["cluster"] else [],
            "public_addresses": public,
            "private_networks": private_networks,
            "admin_networks": admin_networks,
            "ports": ports,
            "names": {"writer": "writer.mysql.internal", "reader": "reader.mysql.internal", "app": "app.internal"},
            "pki": {
                "ca": "/etc/webstack/pki/ca.crt",
                "certificate": "/etc/webstack/pki/host.crt",
                "key": "/etc/webstack/pki/host.key",
                "bundle": "/etc/webstack/pki/host.pem",
                "group": "webstack-pki",
            },
            "credentials_dir": settings.get("webstack_credentials_dir"),
        },
    }


def webstack_database_topology(hostvars, names, created_before=None):
    """Choose the primary by what the servers say, never by the inventory alone.

    names: the database hosts in inventory order; each has the registered answer of mysql_replication_info in __site_database_server, or was not reached.
    Its state is virgin, absent (no server installed yet), read_only, writable or unreachable.
    created_before: the server on which this inventory's database was first created, if it was.
    Returns {primary, replicas, new, problem}.
    """
    states = []
    for name in names:
        answer = hostvars[name].get("__site_database_server") or {}
        states.append({"name": str(name), "state": str(answer.get("state", "unreachable"))})
    by_state = {}
    for server in states:
        by_state.setdefault(server["state"], []).append(server["name"])
    writable = by_state.get("writable", [])
    read_only = by_state.get("read_only", [])
    unreachable = by_state.get("unreachable", [])
    empty = [server["name"] for server in states if server["state"] in ("virgin", "absent")]
    result = {"primary": None, "replicas": [], "new": False, "problem": ""}

    if len(writable) > 1:
        result["problem"] = (
            "%s are writable and hold data: two primaries. Stop writes to one of them (SET GLOBAL super_read_only = 1), "
            "compare their transactions, then run again" % " and ".join(writable)
        )
    elif writable:
        result["primary"] = writable[0]
        result["replicas"] = [server["name"] for server in states if server["name"] != writable[0] and server["state"] != "unreachable"]
    elif unreachable:
        result["problem"] = (
            "no database server is writable and %s cannot be reached: it may be the primary. Bring it back, "
            "or take it out of group 'database' if it is gone for good; where --limit left it out, write --limit database" % " and ".join(unreachable)
        )
    elif read_only:
        result["problem"] = (
            "%s hold(s) data and no server is writable; journalctl -u mysql-role-keeper says why on each. Bring the missing server back, "
            "or make the rightful primary writable (SET GLOBAL super_read_only = 0; SET GLOBAL read_only = 0) and run again" % " and ".join(read_only)
        )
    elif created_before:
        result["problem"] = (
            "every database server is empty, but this inventory's database was created before (on %s): "
            "add the servers that hold the data to group 'database', or restore one with playbooks/restore.yml; "
            "to start empty on purpose remove the file database_created_on from webstack_credentials_dir" % created_before
        )
    elif empty:
        result.update(primary=empty[0], replicas=empty[1:], new=True)
    else:
        result["problem"] = "group 'database' has no host"
    return result


class FilterModule:
    def filters(self):
        return {
            "webstack_topology": webstack_topology,
            "webstack_database_topology": webstack_database_topology,
        }
