# -*- coding: utf-8 -*-
# Copyright: (c) 2026, The foobar.webstack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ufw_ruleset knows about ufw, as functions that touch no host.

ufw keeps its rules in two files, user.rules and user6.rules. Each rule is one line, the tuple,
followed by the iptables lines that ufw derives from it. Only the tuples are read and written here:

    ### tuple ### <action> <proto> <dport> <dst> <sport> <src> [<dapp> <sapp>] <direction>[_<interface>] [comment=<hex>]
"""

from __future__ import annotations

import binascii
import collections
import ipaddress
import re
import typing as t

ANYWHERE = {4: "0.0.0.0/0", 6: "::/0"}
ACTIONS = ("allow", "limit", "deny", "reject")
PROTOCOLS = ("tcp", "udp", "vrrp", "esp", "ah", "gre", "any")
POLICIES = {"allow": "ACCEPT", "deny": "DROP", "reject": "REJECT"}
CHAINS = {"incoming": "INPUT", "outgoing": "OUTPUT", "routed": "FORWARD"}
PREFIX = {4: "ufw", 6: "ufw6"}
# What ufw hangs into each built-in chain, in this order.
PRIMARY = ("before-logging", "before", "after", "after-logging", "reject", "track")
# What ufw loads when it shall not filter IPv6.
NO_IPV6 = "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT DROP [0:0]\n-A INPUT -i lo -j ACCEPT\n-A OUTPUT -o lo -j ACCEPT\nCOMMIT\n"
# The only doors that before.rules opens to whatever program listens behind them.
DISCOVERY = re.compile(r"^(?=-A ufw6?-before-input -p udp -d (224\.0\.0\.251|239\.255\.255\.250|ff02::fb?) --dport (5353|1900) -j ACCEPT\s*$)", re.MULTILINE)
KEYS = ("rule", "from", "to", "port", "proto", "direction", "interface", "log", "comment")


class Rule(t.NamedTuple):
    """One tuple of user.rules; ``match`` is what ufw itself compares: no two rules of a list may share it."""

    action: str
    proto: str
    dport: str
    dst: str
    sport: str
    src: str
    dapp: str
    sapp: str
    interfaces: str
    comment: str

    @property
    def match(self) -> tuple:
        return (self.action.startswith("route:"),) + tuple(self[1:9])

    @property
    def verdict(self) -> str:
        """allow, limit, deny or reject, without routing and logging."""
        return self.action.split(":")[-1].split("_")[0]


def parse_rules(text: str) -> list[Rule]:
    """The rules in user.rules or user6.rules, in order. What ufw itself would skip as malformed is skipped."""
    rules = []
    for line in text.splitlines():
        if not line.startswith("### tuple ###"):
            continue
        line, dummy, comment = line[len("### tuple ###"):].partition(" comment=")
        fields = line.split()
        if len(fields) in (6, 8):  # written by ufw before 0.30
            fields.append("in")
        if len(fields) == 7:
            fields[6:6] = ["-", "-"]
        if len(fields) == 9:
            rules.append(Rule(*fields, comment.strip()))
    return rules


def format_rules(rules: list[Rule]) -> str:
    """A rules file of tuples alone. ufw derives everything else when it writes the file the next time."""
    lines = ["*filter", "### RULES ###"]
    for rule in rules:
        fields = list(rule[:9])
        if rule.dapp == rule.sapp == "-":
            del fields[6:8]
        if rule.comment:
            fields.append("comment=" + rule.comment)
        lines += ["", "### tuple ### " + " ".join(fields)]
    return "\n".join(lines + ["", "### END RULES ###", "COMMIT", ""])


def show_rule(rule: Rule) -> str:
    """The rule as arguments of ufw, in the long form."""
    action, dummy, log = rule.action.partition("_")
    words = action.split(":")
    interfaces = rule.interfaces.split("!")
    for interface in interfaces:
        direction, dummy, name = interface.partition("_")
        if name:
            words += [direction, "on", name]
        elif direction == "out":
            words.append("out")
    if log:
        words.append(log)
    for word, address, port, app in (("from", rule.src, rule.sport, rule.sapp), ("to", rule.dst, rule.dport, rule.dapp)):
        words += [word, "any" if address in ANYWHERE.values() else address]
        if app != "-":
            words += ["app", "'%s'" % app.replace("%20", " ")]
        elif port != "any":
            words += ["port", port]
    if rule.proto != "any" and rule.dapp == rule.sapp == "-":
        words += ["proto", rule.proto]
    if rule.comment:
        words += ["comment", "'%s'" % decode_comment(rule.comment)]
    return " ".join(words)


def encode_comment(comment: str) -> str:
    return binascii.hexlify(comment.encode("utf-8")).decode("ascii")


def decode_comment(comment: str) -> str:
    try:
        return binascii.unhexlify(comment).decode("utf-8", "replace")
    except ValueError:
        return comment


def _address(value: str) -> tuple[str, int | None]:
    """An address as ufw writes it, and its family; the family of 'any' is None."""
    if value.lower() == "any":
        return "any", None
    try:
        network = ipaddress.ip_network(value)
    except ValueError as error:
        if "host bits" not in str(error):
            raise ValueError("is not an address, a network or any") from None
        interface = ipaddress.ip_interface(value)
        raise ValueError("has host bits set; write %s for the network or %s for the host" % (interface.network, interface.ip)) from None
    if network.prefixlen == network.max_prefixlen:
        return str(network.network_address), network.version
    return str(network), network.version


def _port(value: str) -> str:
    """Ports sorted as ufw sorts them."""
    ports = set()
    for part in value.split(","):
        ends = part.strip().split(":")
        if not all(re.match(r"^[0-9]{1,5}$", end) and 1 <= int(end) <= 65535 for end in ends) or len(ends) > 2:
            raise ValueError("is not a port; write a number from 1 to 65535, a range as 8000:8010, or several joined by commas")
        if len(ends) == 2 and int(ends[0]) >= int(ends[1]):
            raise ValueError("is not a range from a lower to a higher port")
        ports.add(tuple(int(end) for end in ends))
    if sum(len(part) for part in ports) > 15:
        raise ValueError("has more than the 15 ports that one rule can hold (a range counts as two); write several rules")
    return ",".join(":".join(str(end) for end in part) for part in sorted(ports))


def expand_rule(rule: dict) -> tuple[dict[int, Rule], list[str]]:
    """One declared rule as ufw's IPv4 and IPv6 rule (either may be missing), and everything wrong with it."""
    problems = []
    value = {key: "" if rule.get(key) is None else str(rule[key]).strip() for key in KEYS}

    def check(key: str, good: bool, advice: str) -> None:
        if not good:
            problems.append("%s: '%s' %s" % (key, value[key], advice))

    for key in sorted(set(rule) - set(KEYS), key=str):
        problems.append("'%s' is not a key of a rule; write one of %s" % (key, ", ".join(KEYS)))
    action = value["rule"] or "allow"
    check("rule", action in ACTIONS, "is not an action; write allow, limit, deny or reject")
    proto = value["proto"] or "any"
    check("proto", proto in PROTOCOLS, "is not known; write %s" % ", ".join(PROTOCOLS))
    direction = value["direction"] or "in"
    check("direction", direction in ("in", "out"), "is not a direction; write in or out")

    address, families = {}, {}
    for key in ("from", "to"):
        try:
            address[key], families[key] = _address(value[key] or "any")
        except ValueError as error:
            check(key, False, str(error))
    if len(address) == 2 and None not in families.values():
        check("to", families["from"] == families["to"],
              "and from '%s' are of different families; write both as IPv4 or both as IPv6" % value["from"])

    port = value["port"] or "any"
    if port != "any":
        try:
            port = _port(port)
        except ValueError as error:
            check("port", False, str(error))
        if proto in PROTOCOLS[2:6]:
            check("port", False, "cannot be with proto %s, which has no ports; leave it out" % proto)
        elif proto == "any" and ("," in port or ":" in port):
            check("port", False, "is more than one port and needs proto tcp or udp")

    if value["interface"]:
        check("interface", re.match(r"^(?!\.{1,2}$)[A-Za-z0-9_.+,=%@-]{1,15}$", value["interface"]) is not None,
              "is not an interface name; write one such as eth0 (at most 15 letters, digits, or _ . + , = % @ -; no alias)")
    log = {"": "", "false": "", "no": "", "true": "_log", "yes": "_log", "all": "_log-all"}.get(value["log"].lower())
    check("log", log is not None, "is not known; write true for new connections, all for every packet, or false")
    check("comment", value["comment"].isprintable(), "has a line break or control character; write one line of text")
    if problems:
        return {}, problems

    interface = direction + ("_" + value["interface"] if value["interface"] else "")
    expanded = {}
    for family, anywhere in ANYWHERE.items():
        if all(other in (None, family) for other in families.values()):
            source, destination = (anywhere if address[key] == "any" else address[key] for key in ("from", "to"))
            expanded[family] = Rule(action + (log or ""), proto, port, destination, "any", source, "-", "-",
                                    interface, encode_comment(value["comment"]))
    return expanded, []


def expand_rules(rules: list) -> tuple[dict[int, list[Rule]], list[str], list[str]]:
    """All declared rules as ufw's IPv4 and IPv6 list; what is wrong with them; which can never match.

    Of rules that match the same packets ufw keeps one, and the first one that matches decides: the first is kept.
    """
    lists: dict[int, list[Rule]] = {4: [], 6: []}
    origin: dict[tuple, int] = {}
    problems, dead = [], []

    def name(index: int) -> str:
        # With its content, because a list put together from several has no numbers that its authors know.
        return "rules[%d] {%s}" % (index, ", ".join("%s: %s" % pair for pair in rules[index].items()))

    for index, rule in enumerate(rules):
        if not isinstance(rule, dict):
            problems.append("rules[%d]: '%s' is not a dictionary; write for example {port: \"443\", proto: tcp}" % (index, rule))
            continue
        expanded, wrong = expand_rule(rule)
        problems += ["%s: %s" % (name(index), problem) for problem in wrong]
        rivals = set()
        for family, item in expanded.items():
            first = origin.setdefault((family, item.match), index)
            if first == index:
                lists[family].append(item)
            elif item.action != next(other for other in lists[family] if other.match == item.match).action:
                rivals.add(first)
        # Repeating a rule is harmless. Contradicting one is worth a word, unless one family of it still counts.
        if all(origin[family, item.match] != index for family, item in expanded.items()):
            dead += ["%s never matches, because %s matches the same packets first" % (name(index), name(first)) for first in sorted(rivals)]
    return lists, problems, dead


def merge_rules(present: list[Rule], declared: list[Rule], exclusive: bool) -> list[Rule]:
    """The list to reach. Not exclusive: undeclared rules keep their places, declared ones are among themselves in order."""
    if exclusive:
        return list(declared)
    unique: dict[tuple, Rule] = {}
    for rule in present:
        unique.setdefault(rule.match, rule)
    matches = {rule.match for rule in declared}
    waiting = iter(declared)
    merged = [next(waiting) if match in matches else rule for match, rule in unique.items()]
    return merged + list(waiting)


def lets_in(rules: list[Rule], default: str, port: int, connection: dict | None = None) -> bool:
    """Whether new TCP connections to the port get in: the one described, or without one those from somewhere.

    ``connection``: source and destination (addresses), interface (None when unknown).
    """
    for rule in rules:
        good = rule.verdict in ("allow", "limit")
        direction, dummy, interface = rule.interfaces.partition("_")
        if direction != "in" or rule.action.startswith("route:") or rule.proto not in ("tcp", "any") or rule.sport != "any":
            continue
        if rule.dport != "any" and not any(
            int(part.split(":")[0]) <= port <= int(part.split(":")[-1]) for part in rule.dport.split(",")
        ):
            continue
        if connection:
            if interface and connection.get("interface") not in (None, interface):
                continue
            if any(
                ipaddress.ip_address(connection[end]) not in ipaddress.ip_network(address, strict=False)
                for end, address in (("source", rule.src), ("destination", rule.dst))
            ):
                continue
        elif not good and (interface or rule.src not in ANYWHERE.values() or rule.dst not in ANYWHERE.values()):
            continue  # somebody else may still get in
        return good
    return default == "allow"


def sshd_ports(text: str) -> list[int]:
    """The ports at which sshd listens for others than this host, of what `ss -Hltnp` prints."""
    ports = set()
    for line in text.splitlines():
        fields = line.split()
        if len(fields) > 3 and '"sshd"' in line:
            address, dummy, port = fields[3].rpartition(":")
            if port.isdigit() and not re.match(r"127\.|\[::1\]$|\[::ffff:127\.", address):
                ports.add(int(port))
    return sorted(ports)


def ssh_problems(lists: dict[int, list[Rule]], default: str, ports: list[int], connection: dict | None, listening: t.Iterable[int] = ()) -> list[str]:
    """Why this rule set would cut SSH; empty when it does not. Each port in ``ports`` must be reachable by somebody, one of those
    at which sshd is ``listening``, and the ``connection`` in use (with its port) must be accepted again."""
    def reachable(port: int) -> bool:
        return any(lets_in(rules, default, port) for rules in lists.values())

    problems = ["no rule lets SSH in on port %d" % port for port in ports if not reachable(port)]
    if set(listening) - set(ports) and not any(reachable(port) for port in listening):
        problems.append("sshd listens on port %s, where no rule lets SSH in" % " and ".join(str(port) for port in listening))
    if connection:
        family = ipaddress.ip_address(connection["source"]).version
        if family not in lists or not lets_in(lists[family], default, connection["port"], connection):
            problems.append("the SSH connection in use, from %s to port %d, would not be accepted again"
                            % (connection["source"], connection["port"]))
    return problems


def parse_ssh_connection(text: str) -> dict | None:
    """The variable SSH_CONNECTION: client address, client port, server address, server port. None for one over loopback, which ufw accepts."""
    fields = text.split()
    try:
        source, destination = (ipaddress.ip_address(fields[i].partition("%")[0]) for i in (0, 2))
        port = int(fields[3])
    except (IndexError, ValueError):
        return None
    ends = [getattr(end, "ipv4_mapped", None) or end for end in (source, destination)]
    if ends[0].is_loopback or ends[0] == ends[1]:
        return None
    return {"source": str(ends[0]), "destination": str(ends[1]), "port": port, "interface": None}


def get_option(text: str, name: str) -> str:
    """The value of NAME=value in /etc/default/ufw or ufw.conf, in lower case as ufw reads it; the last one counts."""
    found = re.findall(r'^%s=["\']?(\w*)' % re.escape(name), text, re.MULTILINE)
    return found[-1].lower() if found else ""


def set_option(text: str, name: str, value: str) -> str:
    """The text with NAME=value, where it stood before."""
    line = "%s=%s" % (name, value)
    pattern = re.compile(r"^%s=.*$" % re.escape(name), re.MULTILINE)
    if pattern.search(text):
        return pattern.sub(lambda dummy: line, text)
    return "%s%s\n" % (text if not text or text.endswith("\n") else text + "\n", line)


def read_settings(defaults: str, conf: str) -> dict:
    """What /etc/default/ufw and ufw.conf say, in the words of the module's options."""
    words = {target.lower(): word for word, target in POLICIES.items()}
    settings = {
        "state": "enabled" if get_option(conf, "ENABLED") == "yes" else "disabled",
        "logging": get_option(conf, "LOGLEVEL"),
        "ipv6": get_option(defaults, "IPV6") == "yes",
    }
    for direction, chain in CHAINS.items():
        settings["default_" + direction] = words.get(get_option(defaults, "DEFAULT_%s_POLICY" % chain))
    return settings


def write_settings(defaults: str, conf: str, settings: dict) -> tuple[str, str]:
    """Both texts with these settings; only lines that must change do, and the state stays, which ufw alone may write."""
    present = read_settings(defaults, conf)
    for direction, chain in CHAINS.items():
        if settings["default_" + direction] != present["default_" + direction]:
            defaults = set_option(defaults, "DEFAULT_%s_POLICY" % chain, '"%s"' % POLICIES[settings["default_" + direction]])
    if settings["ipv6"] != present["ipv6"]:
        defaults = set_option(defaults, "IPV6", "yes" if settings["ipv6"] else "no")
    if settings["logging"] != present["logging"]:
        conf = set_option(conf, "LOGLEVEL", settings["logging"])
    return defaults, conf


def show_rules(lists: dict[int, list[Rule]]) -> list[str]:
    return ["ipv%d: %s" % (family, show_rule(rule)) for family in sorted(lists) for rule in lists[family]]


def describe(settings: dict, rules: list[str]) -> str:
    """A firewall as text, for the diff."""
    return "\n".join(["%s: %s" % (key, str(value).lower()) for key, value in settings.items()] + rules) + "\n"


def policy(settings: dict, direction: str) -> str:
    """The policy of a built-in chain; there is none that rejects."""
    target = POLICIES[settings["default_" + direction]]
    return "DROP" if target == "REJECT" else target


def live_rules(text: str, family: int, settings: dict) -> str:
    """A rules file that ufw has written, with the default policies, for one transaction of ip(6)tables-restore.

    `ufw default` unloads the firewall and loads it again: packets pass in between. Here both change at once.
    The lines are those of ufw-init-functions.
    """
    prefix = PREFIX[family]
    head, tail = [], []
    for direction, chain in CHAINS.items():
        target = POLICIES[settings["default_" + direction]]
        head.append(":%s %s [0:0]" % (chain, policy(settings, direction)))
        for kind in ("reject", "track", "skip-to-policy"):
            head.append(":%s-%s-%s - [0:0]" % (prefix, kind, chain.lower()))
        if target == "REJECT":
            tail.append("-A %s-reject-%s -j REJECT" % (prefix, chain.lower()))
        elif target == "ACCEPT":
            tail += ["-A %s-track-%s -p %s -m conntrack --ctstate NEW -j ACCEPT" % (prefix, chain.lower(), proto) for proto in ("tcp", "udp")]
        tail.append("-A %s-skip-to-policy-%s -j %s" % (prefix, chain.lower(), target))
    body = text.strip().splitlines()
    return "\n".join(body[:1] + head + body[1:-1] + tail + body[-1:]) + "\n"


def split_tables(text: str) -> tuple[list[str], list[str]]:
    """The lines of a rules file that count: those inside its table filter, and its other tables whole."""
    inside, others, table = [], [], ""
    for line in (line.strip() for line in text.splitlines()):
        if not line or line.startswith("#"):
            continue
        table = line if line.startswith("*") else table
        if table != "*filter":
            others.append(line)
        elif line not in (table, "COMMIT"):
            inside.append(line)
    return inside, others


def _jumps(family: int) -> list[list[str]]:
    """The rules by which each built-in chain leads to ufw's."""
    return [["-A %s -j %s-%s-%s" % (chain, PREFIX[family], kind, chain.lower()) for kind in PRIMARY] for chain in CHAINS.values()]


def _user_jumps(family: int) -> list[str]:
    return ["-A {0}-before-{1} -j {0}-user-{1}".format(PREFIX[family], chain.lower()) for chain in CHAINS.values()]


def whole_rules(dump: str, before: str, text: str, after: str, family: int, settings: dict) -> str:
    """All that ufw loads when it starts, in one transaction, for a kernel that holds what `iptables -S` says.

    `ufw reload` does the same in a second during which packets pass.
    """
    present = dump.splitlines()
    lines = [":%s-%s-%s - [0:0]" % (PREFIX[family], kind, chain.lower()) for kind in PRIMARY for chain in CHAINS.values()]
    others: list[str] = []
    for jumps in _jumps(family):
        there = [line for line in present if line in jumps]
        if there != jumps:
            lines += ["-D" + line[2:] for line in there] + jumps
    for file in (before, after):
        inside, tables = split_tables(file)
        lines += inside
        # Rules of other tables would be there twice, unless ufw's are all gone.
        others += [] if any(line in jumps for jumps in _jumps(family) for line in present) else tables
    lines += split_tables(live_rules(text, family, settings))[0] + _user_jumps(family)
    chains = list(dict.fromkeys(line for line in lines if line.startswith(":")))
    return "\n".join(["*filter"] + chains + [line for line in lines if not line.startswith(":")] + ["COMMIT"] + others) + "\n"


def lacks(dump: str, before: str, text: str, after: str, family: int, settings: dict) -> str:
    """What the kernel (`iptables -S`) lacks of what the files say: "chains" of ufw's own, "rules" of the user or policies, or nothing.

    Rules are counted; their text cannot be compared, iptables prints it in another form. One line of before.rules may be several there.
    """
    lines = dump.splitlines()
    if family == 6 and not settings["ipv6"]:
        return "" if all("-P %s DROP" % chain in lines for chain in CHAINS.values()) else "chains"

    def count(rules: list[str]) -> collections.Counter:
        return collections.Counter(line.split()[1] for line in rules if line.startswith(("-A ", "-I ")))

    held = count([line for line in lines if line not in _user_jumps(family)])
    own, user = count(split_tables(before)[0] + split_tables(after)[0]), split_tables(text)[0]
    if (any([line for line in lines if line in jumps] != jumps for jumps in _jumps(family))
            or any(line not in lines for line in _user_jumps(family))
            or any(held[chain] < number for chain, number in own.items() if chain.startswith(PREFIX[family] + "-"))):
        return "chains"
    wanted = count(user)
    if (any("-P %s %s" % (chain, policy(settings, direction)) not in lines for direction, chain in CHAINS.items())
            or any(held[chain] != wanted[chain] for chain in (line[1:].split()[0] for line in user if line.startswith(":")))):
        return "rules"
    return ""


def close_discovery(text: str) -> str:
    """before.rules without what it lets in for mDNS and UPnP, from whoever sends it."""
    return DISCOVERY.sub("# ", text)
