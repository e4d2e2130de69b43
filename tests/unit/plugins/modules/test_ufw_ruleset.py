# Copyright: (c) 2026, The foobar.webstack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import pathlib

import pytest

from ansible_collections.foobar.webstack.plugins.module_utils import ufw
from ansible_collections.foobar.webstack.plugins.modules import ufw_ruleset

SSH = {"port": "22", "proto": "tcp"}


class Exit(Exception):
    pass


class Host:
    """A directory in place of /etc, and commands that are only written down."""

    def __init__(self, root, monkeypatch):
        self.root, self.monkeypatch, self.inputs = root, monkeypatch, {}
        self.commands, self.warnings, self.fails, self.installed, self.lost = [], [], (), True, {}
        for name, path in (("DEFAULTS", "/etc/default/ufw"), ("CONF", "/etc/ufw/ufw.conf")):
            monkeypatch.setattr(ufw_ruleset, name, str(root) + path)
        monkeypatch.setattr(ufw_ruleset.os, "geteuid", lambda: 0)
        monkeypatch.setattr(ufw_ruleset, "LOCK", str(root) + "/ufw.lock")
        monkeypatch.setattr(ufw_ruleset, "RULES", {4: str(root) + "/etc/ufw/user.rules", 6: str(root) + "/etc/ufw/user6.rules"})
        for name, file in (("BEFORE", "before"), ("AFTER", "after")):
            monkeypatch.setattr(ufw_ruleset, name, {4: "%s/etc/ufw/%s.rules" % (root, file), 6: "%s/etc/ufw/%s6.rules" % (root, file)})
            for path in getattr(ufw_ruleset, name).values():
                self.write(path.partition("/etc/")[2], "*filter\nCOMMIT\n")
        for name in ("ROLLBACK", "TIMER"):
            monkeypatch.setattr(ufw_ruleset, name, "%s/%s" % (root, name.lower()))
        for name in ("SYSTEMD", "IPV6"):
            monkeypatch.setattr(ufw_ruleset, name, str(root))
        self.write("default/ufw", 'IPV6=yes\nDEFAULT_INPUT_POLICY="DROP"\nDEFAULT_OUTPUT_POLICY="ACCEPT"\nDEFAULT_FORWARD_POLICY="DROP"\n')
        self.write("ufw/ufw.conf", "ENABLED=no\nLOGLEVEL=low\n")
        self.write("ufw/user.rules", ufw.format_rules([]))
        self.write("ufw/user6.rules", ufw.format_rules([]))
        monkeypatch.setattr(ufw_ruleset, "lacking", self.lacking)
        monkeypatch.setattr(ufw_ruleset, "kernel", lambda module, families: {family: "" for family in families})
        monkeypatch.setattr(ufw_ruleset, "ssh_connection", lambda module: None)
        monkeypatch.setattr(ufw_ruleset, "sshd_ports", lambda module: [])

    def lacking(self, dumps, settings):
        """What is loaded is no longer lacking, unless that fails."""
        lost = {} if any("restore -n" in command and "--test" not in command for command in self.commands) else self.lost
        return {family: lost.get(family, "") for family in dumps}

    def write(self, path, text):
        file = self.root / "etc" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def undo(self):
        return pathlib.Path(ufw_ruleset.ROLLBACK, "undo").read_text().splitlines()[1:]

    def rules(self, *rules):
        lists = ufw.expand_rules(list(rules))[0]
        self.write("ufw/user.rules", ufw.format_rules(lists[4]))
        self.write("ufw/user6.rules", ufw.format_rules(lists[6]))

    def run(self, check=True, **params):
        host, result = self, {}

        class Module:
            def __init__(self, argument_spec, supports_check_mode):
                defaults = {name: spec.get("default") for name, spec in argument_spec.items()}
                self.params, self.check_mode = {**defaults, **params}, check
                self.tmpdir = str(host.root)

            def get_bin_path(self, arg, required=False, opt_dirs=None):
                return None if arg == "ufw" and not host.installed else arg

            def run_command(self, args, **kwargs):
                host.commands.append(" ".join(args))
                if kwargs.get("data"):
                    host.inputs[" ".join(args)] = kwargs["data"]
                if args[0] == "systemd-run":
                    pathlib.Path(ufw_ruleset.TIMER).touch()
                return (1, "", "no") if args[0] in host.fails else (0, "", "")

            def atomic_move(self, src, dest):
                os.replace(src, dest)

            def warn(self, text):
                host.warnings.append(text)

            def exit_json(self, **kwargs):
                result.update(kwargs)
                raise Exit

            def fail_json(self, msg, **kwargs):
                result.update(kwargs, msg=msg, failed=True)
                raise Exit

        self.monkeypatch.setattr(ufw_ruleset, "AnsibleModule", Module)
        with pytest.raises(Exit):
            ufw_ruleset.main()
        return result


@pytest.fixture
def host(tmp_path, monkeypatch):
    return Host(tmp_path, monkeypatch)


def test_first_enable_writes_the_rules_and_enables_last(host):
    result = host.run(rules=[SSH])
    assert result["changed"]
    assert result["commands"] == ["ufw --datadir=DIRECTORY logging low", "ufw --force enable"]
    assert result["added"] == ["ipv4: allow from any to any port 22 proto tcp", "ipv6: allow from any to any port 22 proto tcp"]
    assert "state: disabled" in result["diff"]["before"] and "state: enabled" in result["diff"]["after"]


def test_nothing_changes(host):
    host.write("ufw/ufw.conf", "ENABLED=yes\nLOGLEVEL=low\n")
    host.rules(SSH, {"port": "80", "proto": "tcp"})
    result = host.run(rules=[SSH, {"port": 80, "proto": "tcp"}])
    assert not result["changed"] and result["commands"] == host.commands == []
    assert result["diff"]["before"] == result["diff"]["after"]


@pytest.mark.parametrize("change", [
    {"rules": [SSH]},
    {"rules": [{"port": "80", "proto": "tcp"}, SSH]},
    {"rules": [SSH, {"port": "80", "proto": "tcp", "comment": "web"}]},
    {"logging": "high"},
    {"default_incoming": "reject"},
])
def test_a_running_firewall_changes_in_one_transaction(host, change):
    host.write("ufw/ufw.conf", "ENABLED=yes\nLOGLEVEL=low\n")
    rules = [SSH, {"port": "80", "proto": "tcp"}]
    host.rules(*rules)
    result = host.run(**{"rules": rules, **change})
    assert result["commands"] == ["ufw --datadir=DIRECTORY logging " + change.get("logging", "low"), "iptables-restore -n", "ip6tables-restore -n"]


def test_live_rules_are_tested_for_both_families_before_either_is_loaded(host):
    host.write("ufw/ufw.conf", "ENABLED=yes\nLOGLEVEL=low\n")
    assert host.run(check=False, rules=[SSH], default_incoming="reject")["changed"]
    assert [command for command in host.commands if "restore" in command] == [
        "iptables-restore -n --test", "ip6tables-restore -n --test", "iptables-restore -n", "ip6tables-restore -n"]
    commands, host.commands = host.commands, []
    assert commands[0].startswith("ufw --datadir=")
    assert not host.run(check=False, rules=[SSH], default_incoming="reject")["changed"] and host.commands == []


def test_rules_that_the_kernel_refuses_change_nothing(host):
    host.write("ufw/ufw.conf", "ENABLED=yes\nLOGLEVEL=low\n")
    host.fails = ("ip6tables-restore",)
    before = {path: path.read_text() for path in sorted((host.root / "etc").rglob("*")) if path.is_file()}
    result = host.run(check=False, rules=[SSH], default_incoming="reject")
    assert result["msg"] == "ip6tables-restore -n --test failed: no"
    assert "iptables-restore -n" not in host.commands
    assert before == {path: path.read_text() for path in before}


def test_first_enable_and_its_failure(host):
    host.run(check=False, rules=[SSH])
    assert host.commands[-1] == "ufw --force enable" and not any("restore" in command for command in host.commands)
    host.lost = {4: "chains"}
    host.write("ufw/ufw.conf", "ENABLED=no\nLOGLEVEL=low\n")
    assert "the kernel does not hold its rules" in host.run(check=False, rules=[SSH])["msg"]


def test_what_was_added_by_hand_is_removed_unless_not_exclusive(host):
    host.write("ufw/ufw.conf", "ENABLED=yes\nLOGLEVEL=low\n")
    host.rules(SSH)
    path = pathlib.Path(ufw_ruleset.RULES[4])
    path.write_text(path.read_text() + "### tuple ### allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 OpenSSH - in\n")
    assert host.run(rules=[SSH])["removed"] == ["ipv4: allow from any to any app 'OpenSSH'"]
    assert not host.run(rules=[SSH], exclusive=False)["changed"]


def test_ipv6_off(host):
    host.rules(SSH)
    result = host.run(rules=[SSH, {"from": "fd00::/64"}], ipv6=False)
    assert result["added"] == [] and "ipv6: false" in result["diff"]["after"]


def test_ipv6_switched_on_a_running_firewall_needs_no_reload(host):
    host.write("ufw/ufw.conf", "ENABLED=yes\nLOGLEVEL=low\n")
    host.rules(SSH)
    assert host.run(check=False, rules=[SSH], ipv6=False)["commands"][1:] == ["iptables-restore -n", "ip6tables-restore"]
    assert host.inputs["ip6tables-restore"] == ufw.NO_IPV6
    assert not host.run(check=False, rules=[SSH], ipv6=False)["changed"]
    assert host.run(check=False, rules=[SSH])["commands"][1:] == ["iptables-restore -n", "ip6tables-restore -n"]
    assert "-A INPUT -j ufw6-before-input" in host.inputs["ip6tables-restore -n"]


@pytest.mark.parametrize("lost, active, jumps", [("rules", True, False), ("chains", False, True)])
def test_what_the_kernel_lost_is_loaded_again_without_a_reload(host, lost, active, jumps):
    host.write("ufw/ufw.conf", "ENABLED=yes\nLOGLEVEL=low\n")
    host.rules(SSH)
    host.lost = {4: lost}
    result = host.run(check=False, rules=[SSH])
    assert result["changed"] and result["active"] == active
    assert result["commands"] == ["iptables-restore -n", "ip6tables-restore -n"]
    assert ("-A INPUT -j ufw-before-input" in host.inputs["iptables-restore -n"]) == jumps
    assert "-j ufw6-before-input" not in host.inputs["ip6tables-restore -n"]
    assert "state: enabled, but not loaded" in result["diff"]["before"] and "not loaded" not in result["diff"]["after"]


def test_mdns_and_upnp_are_closed_unless_not_exclusive(host):
    host.write("ufw/ufw.conf", "ENABLED=yes\nLOGLEVEL=low\n")
    host.rules(SSH)
    host.write("ufw/before.rules", "*filter\n-A ufw-before-input -p udp -d 224.0.0.251 --dport 5353 -j ACCEPT\nCOMMIT\n")
    assert not host.run(check=False, rules=[SSH], exclusive=False)["changed"]
    result = host.run(check=False, rules=[SSH])
    assert "discovery: open" in result["diff"]["before"] and "discovery: closed" in result["diff"]["after"]
    assert "-A INPUT -j ufw-before-input" in host.inputs["iptables-restore -n"] and "5353" not in host.inputs["iptables-restore -n"]
    assert "\n# -A ufw-before-input" in pathlib.Path(ufw_ruleset.BEFORE[4]).read_text()
    assert not host.run(check=False, rules=[SSH])["changed"]


class TestRollback:
    def test_armed_after_the_test_and_before_the_change(self, host):
        host.write("ufw/ufw.conf", "ENABLED=yes\nLOGLEVEL=low\n")
        host.rules(SSH)
        assert host.run(check=False, rules=[SSH, {"port": "80", "proto": "tcp"}], rollback_after=110)["rollback_armed"]
        assert [command.split()[0] for command in host.commands[1:]] == ["iptables-restore", "ip6tables-restore", "systemd-run", "iptables-restore",
                                                                         "ip6tables-restore"]
        assert "--on-active=110" in host.commands[3]
        *copies, ipv4, ipv6 = host.undo()
        assert [copy.split()[0] for copy in copies] == ["cp"] * 6
        rollback = ufw_ruleset.ROLLBACK
        assert (ipv4, ipv6) == (f"iptables-restore -n <{rollback}/ipv4", f"ip6tables-restore -n <{rollback}/ipv6")
        assert len(ufw.parse_rules(pathlib.Path(rollback, "user.rules").read_text())) == 1
        assert "tuple ### allow tcp 80 " not in pathlib.Path(rollback, "ipv4").read_text()
        assert "tuple ### allow tcp 80 " in pathlib.Path(ufw_ruleset.RULES[4]).read_text()

    def test_first_enable_and_missing_chains(self, host):
        host.run(check=False, rules=[SSH], rollback_after=110)
        assert host.undo()[0] == "ufw disable" and host.undo()[-1].startswith("cp ")
        pathlib.Path(ufw_ruleset.TIMER).unlink()
        host.write("ufw/ufw.conf", "ENABLED=yes\nLOGLEVEL=low\n")
        host.lost = {4: "chains"}
        host.run(check=False, rules=[SSH], rollback_after=110)
        assert host.undo()[-1] == "ufw reload"

    def test_a_second_change_keeps_what_is_put_back(self, host):
        host.write("ufw/ufw.conf", "ENABLED=yes\nLOGLEVEL=low\n")
        host.rules(SSH)
        host.run(check=False, rules=[SSH, {"port": "80", "proto": "tcp"}], rollback_after=110)
        undo = host.undo()
        host.run(check=False, rules=[SSH, {"port": "81", "proto": "tcp"}], rollback_after=110)
        assert host.undo() == undo and host.commands.count("systemctl stop ufw-rollback.timer") == 1
        assert "tuple ### allow tcp 80 " not in pathlib.Path(ufw_ruleset.ROLLBACK, "user.rules").read_text()

    def test_a_timer_that_a_cut_off_run_left_is_told(self, host):
        host.write("ufw/ufw.conf", "ENABLED=yes\nLOGLEVEL=low\n")
        host.rules(SSH)
        assert not host.run(rules=[SSH], rollback_after=110)["rollback_armed"]
        pathlib.Path(ufw_ruleset.TIMER).touch()
        result = host.run(rules=[SSH], rollback_after=110)
        assert result["rollback_armed"] and not result["changed"]

    @pytest.mark.parametrize("params", [{"rules": [SSH]}, {"rules": [], "state": "disabled", "rollback_after": 110}])
    def test_not_armed_unless_asked_for_nor_where_the_firewall_is_switched_off(self, host, params):
        host.write("ufw/ufw.conf", "ENABLED=yes\nLOGLEVEL=low\n")
        result = host.run(check=False, **params)
        assert result["changed"] and not result["rollback_armed"]

    def test_nothing_is_changed_where_it_cannot_be_armed(self, host):
        host.write("ufw/ufw.conf", "ENABLED=yes\nLOGLEVEL=low\n")
        host.fails = ("systemd-run",)
        assert host.run(check=False, rules=[SSH], rollback_after=110)["failed"]
        assert "iptables-restore -n" not in host.commands and ufw.parse_rules(pathlib.Path(ufw_ruleset.RULES[4]).read_text()) == []

    def test_without_systemd(self, host, monkeypatch):
        monkeypatch.setattr(ufw_ruleset, "SYSTEMD", "/nonexistent")
        result = host.run(check=False, rules=[SSH], rollback_after=110)
        assert result["changed"] and not result["rollback_armed"]


def test_disable(host):
    host.write("ufw/ufw.conf", "ENABLED=yes\nLOGLEVEL=low\n")
    assert host.run(rules=[], state="disabled")["commands"] == ["ufw disable"]


def test_disabled_and_no_rule_is_nothing_to_do(host):
    assert not host.run(rules=[], state="disabled")["changed"]


def test_without_ufw(host):
    host.installed = False
    for path in (ufw_ruleset.DEFAULTS, ufw_ruleset.CONF, *ufw_ruleset.RULES.values()):
        pathlib.Path(path).unlink()
    result = host.run(rules=[SSH])
    assert result["changed"] and not result["installed"]
    assert host.run(rules=[SSH], check=False)["msg"] == "ufw is not installed; install the package ufw first"


def test_not_root(host, monkeypatch):
    monkeypatch.setattr(ufw_ruleset.os, "geteuid", lambda: 1000)
    assert host.run(rules=[SSH])["msg"] == "ufw needs root; set become: true"


def test_a_rule_that_this_ufw_does_not_know_changes_nothing(host, monkeypatch):
    render = ufw_ruleset.render

    def forget(*args):
        scratch = render(*args)
        pathlib.Path(scratch + ufw_ruleset.RULES[4]).write_text(ufw.format_rules([]))
        return scratch

    monkeypatch.setattr(ufw_ruleset, "render", forget)
    assert host.run(check=False, rules=[SSH])["msg"] == "Nothing was changed. This ufw does not know: allow from any to any port 22 proto tcp"
    assert ufw.parse_rules(pathlib.Path(ufw_ruleset.RULES[4]).read_text()) == []


def test_wrong_rules_are_named_before_anything_else(host):
    result = host.run(rules=[{"port": "x"}, {"from": "y"}], check=False)
    assert result["failed"] and "rules[0] {port: x}: port: 'x'" in result["msg"] and "rules[1] {from: y}: from: 'y'" in result["msg"]
    assert host.commands == []


def test_a_dead_rule_is_a_warning(host):
    host.run(rules=[SSH, dict(SSH, rule="deny")])
    assert len(host.warnings) == 1 and "never matches" in host.warnings[0]


def test_ssh_is_not_cut(host):
    assert "no rule lets SSH in on port 22. Declare" in host.run(rules=[])["msg"]
    assert "on port 2222" in host.run(rules=[SSH], ssh_ports=[22, 2222])["msg"]
    assert host.run(rules=[], allow_no_ssh=True)["changed"]
    assert not host.run(rules=[], state="disabled").get("failed")


def test_the_port_of_the_connection_in_use_counts(host, monkeypatch):
    connection = {"source": "198.19.0.1", "destination": "198.19.0.21", "port": 2222, "interface": "eth0"}
    monkeypatch.setattr(ufw_ruleset, "ssh_connection", lambda module: connection)
    assert "from 198.19.0.1 to port 2222" in host.run(rules=[SSH])["msg"]
    assert host.run(rules=[{"port": "2222", "proto": "tcp"}])["changed"]


def test_the_port_that_sshd_listens_on_counts(host, monkeypatch):
    monkeypatch.setattr(ufw_ruleset, "sshd_ports", lambda module: [2222])
    message = host.run(rules=[SSH], ssh_ports=[22])["msg"]
    assert "sshd listens on port 2222, where no rule lets SSH in. Declare {rule: limit, port: \"2222\"" in message
    assert host.run(rules=[SSH, {"port": "2222", "proto": "tcp"}], ssh_ports=[22])["changed"]


def test_rules_left_by_others_count_for_ssh(host):
    host.rules(SSH)
    assert host.run(rules=[], exclusive=False)["changed"]
