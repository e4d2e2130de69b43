# Copyright: (c) 2026, The foobar.webstack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest

from ansible_collections.foobar.webstack.plugins.module_utils import ufw

# Written by ufw 0.36.2.
BY_HAND = """\
*filter
### RULES ###

### tuple ### allow tcp 22 0.0.0.0/0 any 198.19.0.0/24 in comment=69742773202278223d79
-A ufw-user-input -p tcp --dport 22 -s 198.19.0.0/24 -j ACCEPT

### tuple ### allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 OpenSSH - in
-A ufw-user-input -p tcp --dport 22 -j ACCEPT -m comment --comment 'dapp_OpenSSH'

### tuple ### allow any 137,138 0.0.0.0/0 any 0.0.0.0/0 Some%20App - in

### tuple ### route:allow_log tcp 80 10.0.0.0/8 any 0.0.0.0/0 in_eth0!out_eth1

### tuple ### deny_log-all any any 0.0.0.0/0 any 203.0.113.9 out_eth0

### tuple ### allow tcp 25 0.0.0.0/0 any 0.0.0.0/0

### tuple ### nonsense

### END RULES ###
COMMIT
"""


def declare(*rules):
    lists, problems, dead = ufw.expand_rules(list(rules))
    assert problems == []
    return lists, dead


def shown(*rules):
    return ufw.show_rules(declare(*rules)[0])


def problems(*rules):
    return ufw.expand_rules(list(rules))[1]


class TestFiles:
    def test_parse(self):
        assert [ufw.show_rule(rule) for rule in ufw.parse_rules(BY_HAND)] == [
            "allow from 198.19.0.0/24 to any port 22 proto tcp comment 'it's \"x\"=y'",
            "allow from any to any app 'OpenSSH'",
            "allow from any to any app 'Some App'",
            "route allow in on eth0 out on eth1 log from any to 10.0.0.0/8 port 80 proto tcp",
            "deny out on eth0 log-all from 203.0.113.9 to any",
            "allow from any to any port 25 proto tcp",
        ]

    def test_what_is_parsed_is_written_unchanged(self):
        rules = ufw.parse_rules(BY_HAND)
        text = ufw.format_rules(rules)
        assert ufw.parse_rules(text) == rules
        for line in BY_HAND.splitlines():
            if line.startswith("### tuple") and "nonsense" not in line:
                assert line.replace("25 0.0.0.0/0 any 0.0.0.0/0", "25 0.0.0.0/0 any 0.0.0.0/0 in") in text

    @pytest.mark.parametrize("comment", ["it's", 'say "hi"', "a comment=b", "# ### tuple ###", "Grüße ✓", "${x} {{ y }} %20 \\"])
    def test_comments_come_back(self, comment):
        rule = declare({"port": "80", "comment": comment})[0][4][0]
        parsed = ufw.parse_rules(ufw.format_rules([rule]))[0]
        assert parsed == rule
        assert ufw.decode_comment(parsed.comment) == comment

    def test_a_comment_that_is_not_hex_is_shown_as_it_is(self):
        assert ufw.decode_comment("zz") == "zz"

    def test_no_rules(self):
        assert ufw.parse_rules("") == ufw.parse_rules(ufw.format_rules([])) == []


class TestExpand:
    @pytest.mark.parametrize("rule, expected", [
        ({"port": 443, "proto": "tcp"}, ["ipv4: allow from any to any port 443 proto tcp", "ipv6: allow from any to any port 443 proto tcp"]),
        ({"port": "53"}, ["ipv4: allow from any to any port 53", "ipv6: allow from any to any port 53"]),
        ({"from": "198.19.0.11", "port": "443, 80,8000:8010,80", "proto": "tcp"}, ["ipv4: allow from 198.19.0.11 to any port 80,443,8000:8010 proto tcp"]),
        ({"rule": "deny", "from": "203.0.113.0/24"}, ["ipv4: deny from 203.0.113.0/24 to any"]),
        ({"from": "198.19.0.11/32"}, ["ipv4: allow from 198.19.0.11 to any"]),
        ({"from": "FD00::0:1/128", "port": "22", "proto": "tcp"}, ["ipv6: allow from fd00::1 to any port 22 proto tcp"]),
        ({"from": "fd00::/64", "to": "fd00:1::1"}, ["ipv6: allow from fd00::/64 to fd00:1::1"]),
        ({"from": "any", "to": "198.18.0.100"}, ["ipv4: allow from any to 198.18.0.100"]),
        ({"from": "0.0.0.0/0", "port": "80"}, ["ipv4: allow from any to any port 80"]),
        ({"from": "198.19.0.12", "proto": "vrrp", "interface": "eth1"}, ["ipv4: allow in on eth1 from 198.19.0.12 to any proto vrrp"]),
        ({"proto": "vrrp", "direction": "out", "to": "224.0.0.18"}, ["ipv4: allow out from any to 224.0.0.18 proto vrrp"]),
        ({"rule": "reject", "direction": "out", "interface": "eth0.10", "log": "all", "to": "198.19.0.0/24"},
         ["ipv4: reject out on eth0.10 log-all from any to 198.19.0.0/24"]),
        ({"port": "80", "to": "198.19.0.1", "log": True}, ["ipv4: allow log from any to 198.19.0.1 port 80"]),
        ({"port": "80", "to": "198.19.0.1", "log": False, "comment": None}, ["ipv4: allow from any to 198.19.0.1 port 80"]),
    ])
    def test_rules(self, rule, expected):
        assert shown(rule) == expected

    def test_tuples_are_those_of_ufw(self):
        lists = declare({"rule": "limit", "port": "22", "proto": "tcp", "log": True, "interface": "eth0", "comment": "x"})[0]
        assert ufw.format_rules(lists[4]).splitlines()[3] == "### tuple ### limit_log tcp 22 0.0.0.0/0 any 0.0.0.0/0 in_eth0 comment=78"
        assert ufw.format_rules(lists[6]).splitlines()[3] == "### tuple ### limit_log tcp 22 ::/0 any ::/0 in_eth0 comment=78"

    def test_repetition_is_dropped(self):
        once = {"from": "198.19.0.0/24", "port": "22", "proto": "tcp"}
        lists, dead = declare(once, dict(once, comment="again"))
        assert len(lists[4]) == 1 and dead == []

    def test_the_first_of_two_that_match_the_same_counts_and_the_other_is_named(self):
        lists, dead = declare({"port": "22", "proto": "tcp"}, {"rule": "limit", "port": "22", "proto": "tcp"})
        assert ufw.show_rules(lists) == shown({"port": "22", "proto": "tcp"})
        assert dead == [
            "rules[1] {rule: limit, port: 22, proto: tcp} never matches, because rules[0] {port: 22, proto: tcp} matches the same packets first"]

    def test_a_rule_that_counts_in_one_family_is_not_dead(self):
        lists, dead = declare({"from": "0.0.0.0/0", "port": "22", "proto": "tcp"}, {"rule": "limit", "port": "22", "proto": "tcp"})
        assert ufw.show_rules(lists) == ["ipv4: allow from any to any port 22 proto tcp", "ipv6: limit from any to any port 22 proto tcp"]
        assert dead == []

    def test_allow_for_some_and_limit_for_all_are_two_rules(self):
        lists, dead = declare({"from": "198.19.0.0/24", "port": "22", "proto": "tcp"}, {"rule": "limit", "port": "22", "proto": "tcp"})
        assert len(lists[4]) == 2 and dead == []


class TestProblems:
    @pytest.mark.parametrize("rule, expected", [
        ({"rule": "permit"}, "rule: 'permit' is not an action; write allow, limit, deny or reject"),
        ({"form": "any"}, "'form' is not a key of a rule; write one of rule, from, to, port, proto, direction, interface, log, comment"),
        ({"from": "198.19.0.300"}, "from: '198.19.0.300' is not an address, a network or any"),
        ({"from": "lb1"}, "from: 'lb1' is not an address, a network or any"),
        ({"from": "198.19.0.5/24"},
         "from: '198.19.0.5/24' has host bits set; write 198.19.0.0/24 for the network or 198.19.0.5 for the host"),
        ({"to": "fd00::1/64"}, "to: 'fd00::1/64' has host bits set; write fd00::/64 for the network or fd00::1 for the host"),
        ({"from": "198.19.0.1", "to": "fd00::1"},
         "to: 'fd00::1' and from '198.19.0.1' are of different families; write both as IPv4 or both as IPv6"),
        ({"port": "0"}, "port: '0' is not a port; write a number from 1 to 65535, a range as 8000:8010, or several joined by commas"),
        ({"port": "http", "proto": "tcp"}, "port: 'http' is not a port;"),
        ({"port": "80,", "proto": "tcp"}, "port: '80,' is not a port;"),
        ({"port": "1:2:3", "proto": "tcp"}, "port: '1:2:3' is not a port;"),
        ({"port": "65536"}, "port: '65536' is not a port;"),
        ({"port": "90:80", "proto": "tcp"}, "port: '90:80' is not a range from a lower to a higher port"),
        ({"port": ",".join(str(n) for n in range(1, 17)), "proto": "udp"}, "has more than the 15 ports"),
        ({"port": "80,443"}, "port: '80,443' is more than one port and needs proto tcp or udp"),
        ({"port": "80", "proto": "vrrp"}, "port: '80' cannot be with proto vrrp, which has no ports; leave it out"),
        ({"proto": "icmp"}, "proto: 'icmp' is not known; write tcp, udp, vrrp, esp, ah, gre, any"),
        ({"direction": "inwards"}, "direction: 'inwards' is not a direction; write in or out"),
        ({"interface": "eth0:1"}, "interface: 'eth0:1' is not an interface name"),
        ({"interface": "a" * 16}, "is not an interface name"),
        ({"interface": ".."}, "is not an interface name"),
        ({"interface": "eth0;reboot"}, "is not an interface name"),
        ({"log": "medium"}, "log: 'medium' is not known; write true for new connections, all for every packet, or false"),
        ({"comment": "two\nlines"}, "has a line break or control character; write one line of text"),
        ("allow 22", "rules[0]: 'allow 22' is not a dictionary; write for example {port: \"443\", proto: tcp}"),
    ])
    def test_each(self, rule, expected):
        found = problems(rule)
        assert len(found) == 1
        assert expected in found[0]

    def test_all_are_named(self):
        found = problems({"port": "x", "proto": "y"}, {"port": "22"}, {"from": "z", "rule": "w"})
        assert [text.partition(" is not")[0] for text in found] == [
            "rules[0] {port: x, proto: y}: proto: 'y'", "rules[0] {port: x, proto: y}: port: 'x'",
            "rules[2] {from: z, rule: w}: rule: 'w'", "rules[2] {from: z, rule: w}: from: 'z'"]


class TestMerge:
    A, B, C, X, Y = (ufw.expand_rule({"port": str(port), "proto": "tcp"})[0][4] for port in (1, 2, 3, 98, 99))

    def test_exclusive(self):
        assert ufw.merge_rules([self.X, self.A], [self.A, self.B], True) == [self.A, self.B]

    def test_exclusive_removes_profiles_and_routes(self):
        assert ufw.merge_rules(ufw.parse_rules(BY_HAND), [self.A], True) == [self.A]

    @pytest.mark.parametrize("present, expected", [
        ([], "ABC"),
        ("X", "XABC"),
        ("XAYB", "XAYBC"),
        ("CXA", "AXBC"),
        ("CBA", "ABC"),
        ("AXXA", "AXBC"),
    ])
    def test_others_keep_their_places_and_ours_their_order(self, present, expected):
        merged = ufw.merge_rules([getattr(self, name) for name in present], [self.A, self.B, self.C], False)
        assert merged == [getattr(self, name) for name in expected]
        assert ufw.merge_rules(merged, [self.A, self.B, self.C], False) == merged

    def test_a_changed_action_or_comment_replaces(self):
        limit = self.A._replace(action="limit", comment="78")
        assert ufw.merge_rules([self.X, self.A], [limit], False) == [self.X, limit]


class TestSsh:
    CONNECTION = {"source": "198.19.0.1", "destination": "198.19.0.21", "port": 22, "interface": "eth0"}
    SSH = {"port": "22", "proto": "tcp"}

    def check(self, *rules, ports=(22,), connection=None, default="deny"):
        return ufw.ssh_problems(declare(*rules)[0], default, list(ports), connection)

    @pytest.mark.parametrize("rules", [
        [SSH],
        [{"port": "22"}],
        [dict(SSH, rule="limit")],
        [{"port": "20:30,80", "proto": "tcp"}],
        [{}],
        [{"from": "198.19.0.0/24"}],
        [dict(SSH, **{"from": "fd00::/64"})],
        [dict(SSH, rule="deny", **{"from": "203.0.113.0/24"}), SSH],
        [dict(SSH, rule="deny", interface="eth9"), SSH],
        [dict(SSH, **{"from": "198.19.0.0/24"}), dict(SSH, rule="deny")],
        [{"rule": "deny", "direction": "out"}, SSH],
        [{"rule": "deny", "proto": "udp"}, SSH],
    ])
    def test_somebody_gets_in(self, rules):
        assert self.check(*rules) == []

    @pytest.mark.parametrize("rules", [
        [],
        [{"port": "2222", "proto": "tcp"}],
        [{"port": "22", "proto": "udp"}],
        [dict(SSH, direction="out")],
        [dict(SSH, rule="deny")],
        [dict(SSH, rule="reject"), dict(SSH, **{"from": "198.19.0.0/24"})],
        [{"rule": "deny"}, SSH],
    ])
    def test_nobody_gets_in(self, rules):
        assert self.check(*rules) == ["no rule lets SSH in on port 22"]

    def test_default_allow(self):
        assert self.check(default="allow") == []
        assert self.check(dict(self.SSH, rule="deny"), default="allow") == ["no rule lets SSH in on port 22"]

    def test_every_port_counts(self):
        assert self.check(self.SSH, ports=[22, 2222]) == ["no rule lets SSH in on port 2222"]

    def test_by_hand_rules_with_routes_and_source_ports_do_not_count(self):
        lists = {4: ufw.parse_rules("### tuple ### route:allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in\n### tuple ### allow tcp 22 0.0.0.0/0 1024 0.0.0.0/0 in")}
        assert ufw.ssh_problems(lists, "deny", [22], None)

    @pytest.mark.parametrize("rules", [
        [SSH],
        [dict(SSH, **{"from": "198.19.0.0/24", "to": "198.19.0.21", "interface": "eth0"})],
        [dict(SSH, rule="deny", **{"from": "198.19.0.2"}), SSH],
        [dict(SSH, rule="deny", interface="eth1"), SSH],
    ])
    def test_the_connection_in_use_stays(self, rules):
        assert self.check(*rules, connection=self.CONNECTION) == []

    @pytest.mark.parametrize("rules", [
        [dict(SSH, **{"from": "203.0.113.0/24"})],
        [dict(SSH, **{"from": "fd00::/64"})],
        [dict(SSH, interface="eth1")],
        [dict(SSH, to="198.18.0.100")],
        [dict(SSH, rule="deny", **{"from": "198.19.0.0/24"}), SSH],
    ])
    def test_the_connection_in_use_would_be_cut(self, rules):
        assert self.check(*rules, connection=self.CONNECTION) == ["the SSH connection in use, from 198.19.0.1 to port 22, would not be accepted again"]

    def test_ipv6_without_rules_for_it(self):
        connection = dict(self.CONNECTION, source="fd00::1", destination="fd00::2")
        assert ufw.ssh_problems({4: declare(self.SSH)[0][4]}, "allow", [22], connection)

    @pytest.mark.parametrize("text, expected", [
        ("198.19.0.1 50000 198.19.0.21 2222", ("198.19.0.1", "198.19.0.21", 2222)),
        ("::ffff:198.19.0.1 50000 ::ffff:198.19.0.21 22", ("198.19.0.1", "198.19.0.21", 22)),
        ("fe80::1%eth0 50000 fe80::2%eth0 22", ("fe80::1", "fe80::2", 22)),
    ])
    def test_parse(self, text, expected):
        connection = ufw.parse_ssh_connection(text)
        assert (connection["source"], connection["destination"], connection["port"]) == expected

    @pytest.mark.parametrize("text", ["", "UNKNOWN 65535 UNKNOWN 65535", "198.19.0.1 50000", "127.0.0.1 50000 127.0.0.1 22", "::1 50000 ::1 22",
                                      "198.19.0.21 50000 198.19.0.21 22"])
    def test_parse_nothing(self, text):
        assert ufw.parse_ssh_connection(text) is None


class TestSettings:
    DEFAULTS = '# IPV6=no\nIPV6=yes\nDEFAULT_INPUT_POLICY="DROP"\nDEFAULT_OUTPUT_POLICY="ACCEPT"\nDEFAULT_FORWARD_POLICY="DROP"\nMANAGE_BUILTINS=no\n'
    CONF = "ENABLED=yes\n# comment\nLOGLEVEL=low\n"
    SETTINGS = {"state": "enabled", "logging": "low", "ipv6": True, "default_incoming": "deny", "default_outgoing": "allow", "default_routed": "deny"}

    def test_read(self):
        assert ufw.read_settings(self.DEFAULTS, self.CONF) == self.SETTINGS

    def test_what_is_right_is_not_touched(self):
        assert ufw.write_settings(self.DEFAULTS, self.CONF, self.SETTINGS) == (self.DEFAULTS, self.CONF)

    def test_write(self):
        wanted = dict(self.SETTINGS, logging="off", ipv6=False, default_incoming="reject", default_routed="allow")
        defaults, conf = ufw.write_settings(self.DEFAULTS, self.CONF, wanted)
        assert ufw.read_settings(defaults, conf) == wanted
        assert defaults.startswith("# IPV6=no\nIPV6=no\n") and "MANAGE_BUILTINS=no\n" in defaults and "# comment\n" in conf

    def test_the_state_is_left_to_ufw(self):
        assert ufw.write_settings(self.DEFAULTS, self.CONF, dict(self.SETTINGS, state="disabled")) == (self.DEFAULTS, self.CONF)

    def test_missing_options_are_added(self):
        assert ufw.set_option("A=1", "B", "2") == "A=1\nB=2\n"
        assert ufw.read_settings(*ufw.write_settings("", "", dict(self.SETTINGS, state="disabled"))) == dict(self.SETTINGS, state="disabled")


class TestLive:
    FILE = "*filter\n:ufw6-user-input - [0:0]\n-A ufw6-user-input -p tcp --dport 22 -j ACCEPT\nCOMMIT\n"

    def test_rules_and_policies_are_one_transaction(self):
        text = ufw.live_rules(self.FILE, 6, {"default_incoming": "reject", "default_outgoing": "allow", "default_routed": "deny"})
        lines = text.splitlines()
        assert lines[0] == "*filter" and lines[-1] == "COMMIT" and lines.count("COMMIT") == 1
        assert lines[1:5] == [":INPUT DROP [0:0]", ":ufw6-reject-input - [0:0]", ":ufw6-track-input - [0:0]", ":ufw6-skip-to-policy-input - [0:0]"]
        assert ":OUTPUT ACCEPT [0:0]" in lines and ":FORWARD DROP [0:0]" in lines
        assert [line for line in lines if line.startswith("-A")] == [
            "-A ufw6-user-input -p tcp --dport 22 -j ACCEPT",
            "-A ufw6-reject-input -j REJECT",
            "-A ufw6-skip-to-policy-input -j REJECT",
            "-A ufw6-track-output -p tcp -m conntrack --ctstate NEW -j ACCEPT",
            "-A ufw6-track-output -p udp -m conntrack --ctstate NEW -j ACCEPT",
            "-A ufw6-skip-to-policy-output -j ACCEPT",
            "-A ufw6-skip-to-policy-forward -j DROP",
        ]

    BEFORE = """\
*nat
-A POSTROUTING -j MASQUERADE
COMMIT
*filter
:ufw6-before-input - [0:0]
# comment
-A ufw6-before-input -i lo -j ACCEPT
-A ufw6-before-input -p udp -d ff02::fb --dport 5353 -j ACCEPT
COMMIT
"""
    AFTER = "*filter\n:ufw6-after-input - [0:0]\n-A ufw6-after-input -p udp --dport 137 -j ufw6-skip-to-policy-input\nCOMMIT\n"
    SETTINGS = {"default_incoming": "deny", "default_outgoing": "allow", "default_routed": "deny", "ipv6": True}
    DUMP = "\n".join(
        ["-P INPUT DROP", "-P FORWARD DROP", "-P OUTPUT ACCEPT", "-N ufw6-user-input"]
        + ["-A %s -j ufw6-%s-%s" % (chain, kind, chain.lower()) for chain in ("INPUT", "FORWARD", "OUTPUT")
           for kind in ("before-logging", "before", "after", "after-logging", "reject", "track")]
        + ["-A ufw6-before-input -i lo -j ACCEPT", "-A ufw6-before-input -d ff02::fb/128 -p udp -m udp --dport 5353 -j ACCEPT"]
        + ["-A ufw6-before-%s -j ufw6-user-%s" % (chain, chain) for chain in ("input", "forward", "output")]
        + ["-A ufw6-after-input -p udp -m udp --dport 137 -j ufw6-skip-to-policy-input", "-A ufw6-user-input -p tcp -m tcp --dport 22 -j ACCEPT"]) + "\n"

    def lacks(self, dump, **settings):
        return ufw.lacks(dump, self.BEFORE, self.FILE, self.AFTER, 6, {**self.SETTINGS, **settings})

    def whole(self, dump):
        return ufw.whole_rules(dump, self.BEFORE, self.FILE, self.AFTER, 6, self.SETTINGS).splitlines()

    def test_loaded(self):
        assert self.lacks(self.DUMP) == ""
        assert self.lacks("-A INPUT -j other\n" + self.DUMP + "-A ufw6-before-input -j other\n") == ""

    @pytest.mark.parametrize("line", range(len(DUMP.splitlines())))
    def test_not_loaded_when_a_part_is_missing(self, line):
        lines = self.DUMP.splitlines()
        gone = lines.pop(line)
        assert self.lacks("\n".join(lines)) == ("" if gone.startswith("-N") else "rules" if gone.startswith(("-P", "-A ufw6-user")) else "chains")

    def test_not_loaded_with_another_policy_or_one_rule_more(self):
        assert self.lacks(self.DUMP, default_incoming="allow") == self.lacks(self.DUMP, default_routed="allow") == "rules"
        assert self.lacks(self.DUMP + "-A ufw6-user-input -j ACCEPT\n") == "rules"

    def test_not_loaded_in_another_order(self):
        first, second = "-A INPUT -j ufw6-before-input\n", "-A INPUT -j ufw6-after-input\n"
        assert self.lacks(self.DUMP.replace(first + second, second + first)) == "chains"

    def test_ipv6_switched_off(self):
        assert self.lacks(ufw.NO_IPV6.replace(" [0:0]", "").replace(":", "-P "), ipv6=False) == ""
        assert self.lacks(self.DUMP, ipv6=False) == "chains"

    def test_everything_is_one_transaction(self):
        lines = self.whole("-P INPUT DROP\n-A INPUT -j other\n")
        filters, nat = lines[:lines.index("COMMIT") + 1], lines[lines.index("COMMIT") + 1:]
        assert nat == ["*nat", "-A POSTROUTING -j MASQUERADE", "COMMIT"]
        rules = [line for line in filters if line.startswith("-")]
        assert filters == ["*filter"] + [line for line in filters if line.startswith(":")] + rules + ["COMMIT"]
        assert len({line for line in filters if line.startswith(":")}) + len(rules) + 2 == len(filters), "no chain twice"
        assert set(self.whole("")) >= set(ufw.live_rules(self.FILE, 6, self.SETTINGS).splitlines())
        assert rules.index("-A ufw6-before-input -p udp -d ff02::fb --dport 5353 -j ACCEPT") < rules.index("-A ufw6-before-input -j ufw6-user-input")
        assert [line for line in self.DUMP.splitlines() if line.startswith("-A INPUT")] == [line for line in rules if "INPUT" in line]

    def test_what_is_there_is_not_added_again(self):
        lines = self.whole(self.DUMP)
        assert not any(" INPUT -j" in line or line == "*nat" for line in lines)
        assert "-A ufw6-before-input -j ufw6-user-input" in lines

    def test_jumps_in_another_order_are_made_anew(self):
        lines = self.whole("-A INPUT -j ufw6-after-input\n-A INPUT -j ufw6-after-input\n-A INPUT -j other\n")
        assert [line for line in lines if " INPUT -j" in line] == ["-D INPUT -j ufw6-after-input"] * 2 + [
            line for line in self.DUMP.splitlines() if line.startswith("-A INPUT")]

    def test_discovery_is_closed_once(self):
        text = ufw.close_discovery(self.BEFORE)
        assert text == self.BEFORE.replace("-A ufw6-before-input -p udp", "# -A ufw6-before-input -p udp")
        assert ufw.close_discovery(text) == text

    @pytest.mark.parametrize("line", ["-A ufw-before-input -p udp -d 224.0.0.251 --dport 5353 -j ACCEPT",
                                      "-A ufw-before-input -p udp -d 239.255.255.250 --dport 1900 -j ACCEPT",
                                      "-A ufw6-before-input -p udp -d ff02::f --dport 1900 -j ACCEPT"])
    def test_what_ufw_opens_for_discovery(self, line):
        assert ufw.close_discovery("a\n%s\nb" % line) == "a\n# %s\nb" % line
        assert ufw.close_discovery(line.replace("udp", "tcp")) == line.replace("udp", "tcp")


class TestSshd:
    def test_ports(self):
        assert ufw.sshd_ports("""\
LISTEN 0 128          0.0.0.0:2222      0.0.0.0:*    users:(("sshd",pid=100,fd=3))
LISTEN 0 128             [::]:2222         [::]:*    users:(("sshd",pid=100,fd=4))
LISTEN 0 128  198.19.0.21%eth0:22       0.0.0.0:*    users:(("sshd",pid=100,fd=5),("systemd",pid=1,fd=50))
LISTEN 0 128        127.0.0.1:6010      0.0.0.0:*    users:(("sshd",pid=200,fd=9))
LISTEN 0 128            [::1]:6010         [::]:*    users:(("sshd",pid=200,fd=8))
LISTEN 0 511          0.0.0.0:80        0.0.0.0:*    users:(("nginx",pid=300,fd=6))
""") == [22, 2222]
        assert ufw.sshd_ports("") == []

    def test_one_of_them_is_enough(self):
        lists = declare({"port": "22", "proto": "tcp"})[0]
        assert ufw.ssh_problems(lists, "deny", [22], None, [22, 2222]) == []
        assert ufw.ssh_problems(lists, "deny", [22], None, [2222]) == ["sshd listens on port 2222, where no rule lets SSH in"]
        assert ufw.ssh_problems(lists, "allow", [22], None, [2222]) == []


def test_describe():
    assert ufw.describe({"state": "enabled", "ipv6": True}, ["ipv4: allow from any to any"]) == "state: enabled\nipv6: true\nipv4: allow from any to any\n"
