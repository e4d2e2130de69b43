#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, The foobar.webstack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ufw_ruleset
short_description: The whole rule set of ufw in one call
version_added: 1.0.0
author:
  - The foobar.webstack developers (@foobar)
description:
  - Makes ufw hold the declared rules, in the declared order, for IPv4 and IPv6, and removes all others.
  - Rules, default policies and logging of a running firewall change in one transaction per address family. ufw is neither reset nor reloaded,
    so that no packet passes unfiltered and no accepted one is dropped meanwhile; established connections stay.
  - Rules that something else has flushed are loaded again in the same way, and so are ufw's own chains.
  - The first enable happens after all rules are in place.
  - Refuses a rule set that would keep administrators from coming back by SSH, and can take one back that did (O(rollback_after)).
  - The time it takes does not depend on the number of rules, and no C(ufw) command runs where nothing has to change.
options:
  rules:
    description:
      - The rules; the first one that matches a packet decides.
      - C(rule) is V(allow) (default), V(limit), V(deny) or V(reject).
      - V(limit) refuses a source from its sixth connection within 30 seconds; the kernel counts those to all limited ports together.
      - C(from) and C(to) are an IPv4 or IPv6 address or network, or V(any) (default), which covers both families.
      - C(port) is the destination port, several joined by commas, or a range such as V(8000:8010); default any. Lists and ranges need a C(proto).
      - C(proto) is V(tcp), V(udp), V(vrrp), V(esp), V(ah), V(gre) or V(any) (default).
      - C(direction) is V(in) (default) or V(out); C(interface) the network interface that packets come in or leave by.
      - C(log) is V(true) to log new connections, V(all) to log every packet; default V(false).
      - C(comment) is shown by C(ufw status).
    type: list
    elements: dict
    default: []
  exclusive:
    description:
      - Whether to remove all rules that are not declared, routed ones and those of application profiles too,
        and what C(before.rules) and C(before6.rules) of ufw let in for mDNS and UPnP (commented out there).
      - If V(false), other rules keep their places and declared rules that are missing are added at the end.
    type: bool
    default: true
  state:
    description: Whether the firewall is active, now and after a boot. The rules are written in both cases.
    type: str
    choices: [enabled, disabled]
    default: enabled
  default_incoming:
    description: What happens to incoming packets that no rule matches.
    type: str
    choices: [allow, deny, reject]
    default: deny
  default_outgoing:
    description: What happens to outgoing packets that no rule matches.
    type: str
    choices: [allow, deny, reject]
    default: allow
  default_routed:
    description: What happens to forwarded packets that no rule matches.
    type: str
    choices: [allow, deny, reject]
    default: deny
  logging:
    description: How much ufw logs.
    type: str
    choices: ["off", low, medium, high, full]
    default: low
  ipv6:
    description:
      - Whether IPv6 is filtered by rules. If V(false), ufw drops all IPv6 but loopback, and IPv6 rules are left out.
    type: bool
    default: true
  ssh_ports:
    description:
      - TCP ports on which some rule must let SSH in.
      - Default is the port of the SSH connection in use, else 22.
      - One of those that sshd listens on must be open in any case.
    type: list
    elements: int
  allow_no_ssh:
    description: Accept a rule set that lets no SSH in, or not the connection in use.
    type: bool
    default: false
  rollback_after:
    description:
      - Seconds after which systemd puts the former rules back, unless C(systemctl stop ufw-rollback.timer) has been called.
        Call it over a new connection, which proves that the rules let one in.
      - Until then, another change keeps what is put back, and the time starts again.
      - V(0) for never. Hosts that systemd has not booted have no such timer.
    type: int
    default: 0
attributes:
  check_mode:
    support: full
    description: Works on hosts without ufw, too.
  diff_mode:
    support: full
    description: Shows the settings and all rules.
requirements:
  - ufw 0.36 or later
notes:
  - The SSH connection in use is found in the environment of this process or of those that started it, so also under sudo.
seealso:
  - module: community.general.ufw
"""

EXAMPLES = r"""
- name: Web server behind a load balancer
  foobar.webstack.ufw_ruleset:
    rules:
      - {from: 198.19.0.0/24, port: "22", proto: tcp, comment: SSH of the administrators}
      - {from: 198.19.0.11, port: "80,443", proto: tcp, comment: load balancer}
      - {rule: limit, port: "22", proto: tcp, comment: SSH from elsewhere}

- name: Add a rule beside those of others
  foobar.webstack.ufw_ruleset:
    exclusive: false
    rules:
      - {port: "22", proto: tcp}
      - {from: 198.19.0.12, proto: vrrp, interface: eth1}

- name: Rules that are taken back if they let nobody in
  foobar.webstack.ufw_ruleset:
    rules: "{{ firewall_rules }}"
    rollback_after: 110
  register: firewall

- name: Leave the connection, which the rules do not concern
  ansible.builtin.meta: reset_connection

- name: Keep the rules, over a new connection
  ansible.builtin.command: systemctl stop ufw-rollback.timer
  when: firewall.rollback_armed

- name: Show what would change, on any host
  foobar.webstack.ufw_ruleset:
    rules: "{{ firewall_rules }}"
  check_mode: true
  diff: true
"""

RETURN = r"""
added:
  description: Rules added or changed, as arguments of C(ufw) in its long form, headed by the address family.
  returned: always
  type: list
  elements: str
  sample: ["ipv4: allow from 198.19.0.11 to any port 80,443 proto tcp comment 'load balancer'"]
removed:
  description: Rules removed or changed.
  returned: always
  type: list
  elements: str
  sample: ["ipv4: allow from any to any port 8080 proto tcp", "ipv6: allow from any to any port 8080 proto tcp"]
rules:
  description: All rules, in order.
  returned: always
  type: list
  elements: str
commands:
  description: Commands that changed the firewall, or would change it. DIRECTORY is a temporary copy in which ufw writes the new rules files.
  returned: always
  type: list
  elements: str
  sample: ["ufw --datadir=DIRECTORY logging low", "iptables-restore -n", "ip6tables-restore -n"]
installed:
  description: Whether ufw is installed. V(false) only in check mode, otherwise the module fails.
  returned: always
  type: bool
active:
  description: Whether the firewall was enabled before, with ufw's chains in the kernel.
  returned: always
  type: bool
rollback_armed:
  description: Whether C(ufw-rollback.timer) runs, of this call or of one before.
  returned: always
  type: bool
"""

import fcntl
import os
import shutil
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.foobar.webstack.plugins.module_utils import ufw

DEFAULTS = "/etc/default/ufw"
CONF = "/etc/ufw/ufw.conf"
RULES = {4: "/etc/ufw/user.rules", 6: "/etc/ufw/user6.rules"}
BEFORE = {4: "/etc/ufw/before.rules", 6: "/etc/ufw/before6.rules"}
AFTER = {4: "/etc/ufw/after.rules", 6: "/etc/ufw/after6.rules"}
IPTABLES = {4: "iptables", 6: "ip6tables"}
LOCK = "/run/ufw.lock"  # ufw's own
SBIN = ["/usr/sbin", "/sbin"]
ROLLBACK = "/run/ufw-rollback"
TIMER = "/run/systemd/transient/ufw-rollback.timer"
SYSTEMD = "/run/systemd/system"
IPV6 = "/proc/sys/net/ipv6"


def read(path):
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as stream:
            return stream.read()
    except FileNotFoundError:
        return ""


def write(path, text):
    with open(path, "w", encoding="utf-8", errors="surrogateescape") as stream:
        stream.write(text)


def ssh_connection(module):
    """The SSH connection that this process descends from; sudo drops the variable, its parents still have it."""
    text, pid = os.environ.get("SSH_CONNECTION", ""), os.getppid()
    while not text and pid > 1:
        try:
            environment = read("/proc/%d/environ" % pid).split("\0")
            pid = int(read("/proc/%d/stat" % pid).rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            break
        text = next((item.partition("=")[2] for item in environment if item.startswith("SSH_CONNECTION=")), "")
    connection = ufw.parse_ssh_connection(text)
    if connection:
        ip = module.get_bin_path("ip", opt_dirs=SBIN)
        out = module.run_command([ip, "-o", "address", "show", "to", connection["destination"]])[1].split() if ip else []
        connection["interface"] = out[1] if len(out) > 1 else None
    return connection


def find(module, program):
    return module.get_bin_path(program, required=True, opt_dirs=SBIN)


def run(module, arguments, **kwargs):
    rc, out, err = module.run_command(arguments, **kwargs)
    if rc != 0:
        module.fail_json(msg="%s failed: %s" % (" ".join(arguments), (err or out).strip()))
    return out


def kernel(module, families):
    """What the kernel holds, by family, as `iptables -S` prints it."""
    return {family: run(module, [find(module, IPTABLES[family]), "-S"]) for family in families}


def lacking(dumps, settings):
    """What the kernel lacks of what the files say, by family; see ufw.lacks."""
    return {family: ufw.lacks(dump, read(BEFORE[family]), read(RULES[family]), read(AFTER[family]), family, settings) for family, dump in dumps.items()}


def render(module, program, files, level):
    """Let ufw write the complete rules files from our tuples, in a copy of its files: one call for any number of rules."""
    scratch = tempfile.mkdtemp(dir=module.tmpdir)
    os.makedirs(scratch + "/lib/ufw")
    os.makedirs(scratch + os.path.dirname(DEFAULTS))
    shutil.copytree(os.path.dirname(CONF), scratch + os.path.dirname(CONF))
    for path, text in files.items():
        write(scratch + path, ufw.set_option(text, "ENABLED", "no") if path == CONF else text)
    run(module, [program, "--datadir=" + scratch, "logging", level])
    write(scratch + CONF, files[CONF])
    return scratch


def sshd_ports(module):
    program = module.get_bin_path("ss", opt_dirs=SBIN)
    return ufw.sshd_ports(module.run_command([program, "-Hltnp"])[1]) if program else []


def guard_ssh(module, lists, default):
    connection, listening = ssh_connection(module), sshd_ports(module)
    ports = module.params["ssh_ports"]
    if ports is None:
        ports = [connection["port"] if connection else 22]
    problems = ufw.ssh_problems(lists, default, ports, connection, listening)
    if problems:
        module.fail_json(msg="Nothing was changed, because these rules would cut SSH: %s. Declare {rule: limit, port: \"%d\", proto: tcp} "
                             "before any rule that denies it, or set allow_no_ssh: true."
                             % ("; ".join(problems), connection["port"] if connection else (listening or ports)[0]))


def arm(module, paths, first, last, live):
    """Let systemd put back the files of now, between the commands `first` and `last`, unless somebody stops its timer.

    A timer that runs already keeps what it has, as nobody has confirmed what came after it.
    """
    if os.path.exists(TIMER):
        run(module, [find(module, "systemctl"), "stop", "ufw-rollback.timer"])
    else:
        shutil.rmtree(ROLLBACK, ignore_errors=True)
        os.mkdir(ROLLBACK, 0o700)
        copies = {path: "%s/%s" % (ROLLBACK, os.path.basename(path)) for path in paths if os.path.exists(path)}
        for path, copy in copies.items():
            shutil.copy2(path, copy)
        for family, text in live.items():
            write("%s/ipv%d" % (ROLLBACK, family), text)
            last = last + ["%s-restore -n <%s/ipv%d" % (IPTABLES[family], ROLLBACK, family)]
        script = ["echo 'Nobody has confirmed the new rules of ufw in time: the former ones come back.'"] + first
        write(ROLLBACK + "/undo", "\n".join(script + ["cp -p %s %s" % (copy, path) for path, copy in copies.items()] + last) + "\n")
    run(module, [find(module, "systemd-run"), "--quiet", "--collect", "--unit=ufw-rollback", "--on-active=%d" % module.params["rollback_after"],
                 "--timer-property=AccuracySec=1s", "/bin/sh", ROLLBACK + "/undo"])


def main():
    policy = dict(type="str", choices=["allow", "deny", "reject"])
    module = AnsibleModule(
        argument_spec=dict(
            rules=dict(type="list", elements="dict", default=[]),
            exclusive=dict(type="bool", default=True),
            state=dict(type="str", choices=["enabled", "disabled"], default="enabled"),
            default_incoming=dict(default="deny", **policy),
            default_outgoing=dict(default="allow", **policy),
            default_routed=dict(default="deny", **policy),
            logging=dict(type="str", choices=["off", "low", "medium", "high", "full"], default="low"),
            ipv6=dict(type="bool", default=True),
            ssh_ports=dict(type="list", elements="int"),
            allow_no_ssh=dict(type="bool", default=False),
            rollback_after=dict(type="int", default=0),
        ),
        supports_check_mode=True,
    )
    params = module.params
    if os.geteuid() != 0:
        module.fail_json(msg="ufw needs root; set become: true")
    declared, problems, dead = ufw.expand_rules(params["rules"])
    if problems:
        module.fail_json(msg="Nothing was changed. These rules are wrong:\n" + "\n".join(problems))
    for text in dead:
        module.warn(text)
    program = module.get_bin_path("ufw", opt_dirs=SBIN)
    if not program and not module.check_mode:
        module.fail_json(msg="ufw is not installed; install the package ufw first")
    if not module.check_mode:
        lock = open(LOCK, "w")
        fcntl.lockf(lock, fcntl.LOCK_EX)

    # What is there, and what shall be there.
    defaults, conf = read(DEFAULTS), read(CONF)
    before = ufw.read_settings(defaults, conf)
    after = {key: params[key] for key in before}
    present = {family: ufw.parse_rules(read(path)) for family, path in RULES.items()}
    stacks = (4, 6) if os.path.exists(IPV6) else (4,)
    families = stacks if after["ipv6"] else (4,)
    wanted = {family: ufw.merge_rules(present[family], declared[family], params["exclusive"]) for family in families}
    new_defaults, new_conf = ufw.write_settings(defaults, conf, after)
    base = {family: read(BEFORE[family]) for family in families}
    new_base = {family: ufw.close_discovery(text) if params["exclusive"] else text for family, text in base.items()}
    enable, was_enabled = after["state"] == "enabled", before["state"] == "enabled"
    if enable and not params["allow_no_ssh"]:
        guard_ssh(module, wanted, after["default_incoming"])

    live = enable and was_enabled
    dumps = kernel(module, stacks) if live else {}
    lost = lacking(dumps, before)
    changed_base = [family for family in families if new_base[family] != base[family]]
    changed_files = [path for path, differs in [(DEFAULTS, new_defaults != defaults), (CONF, new_conf != conf)] if differs]
    changed_files += [BEFORE[family] for family in changed_base]
    changed_rules = [family for family in families if wanted[family] != present[family]]
    commands = []
    if changed_files or changed_rules:
        commands.append("ufw --datadir=DIRECTORY logging " + after["logging"])
    # Families of which everything is loaded, and not only the rules and policies.
    whole = [family for family in dumps if lost[family] == "chains" or family in changed_base or family == 6 and before["ipv6"] != after["ipv6"]]
    loads = {family: [] if family == 6 and not after["ipv6"] else ["-n"] for family in stacks if family in families or family in whole}
    if live and (commands or any(lost.values())):
        commands += [" ".join([IPTABLES[family] + "-restore"] + options) for family, options in loads.items()]
    elif enable and not was_enabled:
        commands.append("ufw --force enable")
    elif was_enabled and not enable:
        commands.append("ufw disable")

    old, new = ufw.show_rules(present), ufw.show_rules({**present, **wanted})
    shown = [{**before}, {**after}]
    if any(lost.values()):
        shown[0]["state"] = "enabled, but not loaded"
    for settings, texts in zip(shown, (base, new_base)):
        settings["discovery"] = "open" if any(ufw.DISCOVERY.search(text) for text in texts.values()) else "closed"
    result = dict(
        changed=bool(commands),
        added=[rule for rule in new if rule not in old],
        removed=[rule for rule in old if rule not in new],
        rules=new,
        commands=commands,
        installed=bool(program),
        active=was_enabled and "chains" not in lost.values(),
        rollback_armed=os.path.exists(TIMER),
        diff=dict(before_header="ufw", after_header="ufw", before=ufw.describe(shown[0], old), after=ufw.describe(shown[1], new)),
    )
    if module.check_mode or not commands:
        module.exit_json(**result)

    texts, scratch = {family: read(RULES[family]) for family in families}, None
    if changed_files or changed_rules:
        files = {DEFAULTS: new_defaults, CONF: new_conf}
        files.update({RULES[family]: ufw.format_rules(wanted[family]) for family in families})
        files.update({BEFORE[family]: new_base[family] for family in changed_base})
        scratch = render(module, program, files, after["logging"])
        texts = {family: read(scratch + RULES[family]) for family in families}
        unknown = [rule for family in families for rule in set(wanted[family]) - set(ufw.parse_rules(texts[family]))]
        if unknown:
            module.fail_json(msg="Nothing was changed. This ufw does not know: " + "; ".join(ufw.show_rule(rule) for rule in unknown))
    inputs = {}
    for family in loads if live else ():
        if family not in families:
            inputs[family] = ufw.NO_IPV6
        elif family in whole:
            inputs[family] = ufw.whole_rules(dumps[family], new_base[family], texts[family], read(AFTER[family]), family, after)
        else:
            inputs[family] = ufw.live_rules(texts[family], family, after)
    for family, text in inputs.items():
        run(module, [find(module, IPTABLES[family] + "-restore")] + loads[family] + ["--test"], data=text)
    if enable and params["rollback_after"] and os.path.isdir(SYSTEMD):
        undo = {family: ufw.live_rules(read(RULES[family]), family, before) for family in families} if live and not whole else {}
        arm(module, [DEFAULTS, CONF] + [path[family] for path in (RULES, BEFORE) for family in stacks],
            [] if was_enabled else ["ufw disable"], ["ufw reload"] if whole else [], undo)
        result["rollback_armed"] = True
    for family, text in inputs.items():
        run(module, [find(module, IPTABLES[family] + "-restore")] + loads[family], data=text)
    if scratch:
        for path in changed_files + [RULES[family] for family in families]:
            module.atomic_move(scratch + path, path)

    lock.close()  # what follows takes it
    if enable and not live:
        run(module, [program, "--force", "enable"])
    elif was_enabled and not enable:
        run(module, [program, "disable"])
    if enable and any(lacking(kernel(module, stacks), after).values()):
        module.fail_json(msg="ufw is enabled, but the kernel does not hold its rules: something else has removed its chains. "
                             "Reboot, or run: iptables -F; iptables -X; ip6tables -F; ip6tables -X; ufw reload")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
