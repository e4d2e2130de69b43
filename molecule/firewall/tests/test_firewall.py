"""What the neighbour sees of the firewall, and what the module does to a firewall that runs."""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import threading
import time

import pytest
import testinfra

SCENARIO = pathlib.Path(__file__).resolve().parents[1]
COLLECTIONS = SCENARIO.parents[1] / ".collections"
INVENTORY = os.environ["MOLECULE_INVENTORY_FILE"]
HOST, NEIGHBOUR = "firewall-trixie", "firewall-neighbour"
# The monitoring's own words for what of the kernel's rules is compared.
RULES = re.search(r"^rules\(\) \{ (.*); \}$", (SCENARIO.parents[1] / "roles/monitoring_agent/templates/webstack-metrics.j2").read_text(), re.MULTILINE)[1]
ENVIRONMENT = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS), "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_STDOUT_CALLBACK": "default",
               "ANSIBLE_HOST_KEY_CHECKING": "False", "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"}

# Connects again and again; says how often, and how often in vain.
KNOCK = """
import socket, sys, time
address, port, source, seconds, times = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4]), int(sys.argv[5])
end, tries, failed = time.time() + seconds, 0, 0
while time.time() < end and tries < times:
    s = socket.socket()
    s.settimeout(0.3)
    tries += 1
    try:
        if source != '-':
            s.bind((source, 0))
        s.connect((address, port))
    except OSError:
        failed += 1
    s.close()
    time.sleep(0.02)
print(tries, failed)
"""

# One datagram every 1.2 ms to each address and port, until the input ends; says how many each got.
SEND = """
import select, socket, sys, time
*addresses, ports = sys.argv[1:]
targets = [(socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM), (address, int(port)))
           for address in addresses for port in ports.split(",")]
end, sent = time.monotonic() + 240, 0
while not select.select([sys.stdin], [], [], 0.0012)[0] and sent < 100000 and time.monotonic() < end:
    for sender, target in targets:
        sender.sendto(b"x", target)
    sent += 1
print(sent)
"""

# Counts what has come through the firewall to each port. It never answers: so each datagram is a new connection to the firewall, judged by its rules.
LISTEN = """
import select, socket, struct, sys
counts = {}
for port in sys.argv[1:]:
    listener = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
    listener.bind(("", int(port)))
    if port == "5353":
        group = socket.inet_pton(socket.AF_INET6, "ff02::fb") + struct.pack("@I", socket.if_nametoindex("eth0"))
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
        group = socket.inet_aton("224.0.0.251") + bytes(4) + struct.pack("@i", socket.if_nametoindex("eth0"))
        listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
    counts[listener] = 0
print("listening", flush=True)
while True:
    ready = select.select([sys.stdin, *counts], [], [])[0]
    if ready == [sys.stdin]:
        sys.exit(print(*counts.values()))
    for listener in set(ready) - {sys.stdin}:
        listener.recv(9)
        counts[listener] += 1
"""


@contextlib.contextmanager
def prober(*addresses, ports=(8011, 8012), at=HOST):
    """What got to each port meanwhile, as shares of what the neighbour sent; by default to one that is let in and one that is not."""
    def start(host, *command):
        return subprocess.Popen(["docker", "exec", "--interactive", host, "python3", "-c", *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    seen = {}
    listener = start(at, LISTEN, *map(str, ports))
    assert listener.stdout.readline() == "listening\n"
    sender = start(NEIGHBOUR, SEND, *addresses, ",".join(map(str, ports)))
    try:
        time.sleep(1)
        yield seen
        time.sleep(1)
    finally:
        sent = int(sender.communicate()[0]) * len(addresses)
        time.sleep(0.5)
        seen.update(zip(ports, map(int, listener.communicate()[0].split())), sent=sent)
        print(seen)
    assert sent > 500


@pytest.fixture(scope="module")
def neighbour():
    host = testinfra.get_host("docker://" + NEIGHBOUR)
    host.check_output("ip address replace 198.19.0.125/24 dev eth0; ip address replace 198.19.0.126/24 dev eth0")
    return host


@pytest.fixture(scope="module", params=[HOST, "firewall-bookworm"])
def firewall(request):
    return testinfra.get_host("docker://" + request.param)


@pytest.fixture(scope="module")
def trixie():
    return testinfra.get_host("docker://" + HOST)


def address(host, family=4):
    return re.search(r"inet6? ([^/]+)", host.check_output("ip -%s -o address show dev eth0 scope global", str(family))).group(1)


def scan(neighbour, firewall, ports, *options, family=4):
    """The ports that nmap finds open."""
    command = "nmap -n -Pn --max-retries 1 -T4 -p %s %s -oG - %s" % (ports, " ".join(options), address(firewall, family))
    return {int(port) for port in re.findall(r"(\d+)/open/", neighbour.check_output(command + (" -6" if family == 6 else "")))}


def knock(neighbour, firewall, port, source="-", seconds=10.0, times=10000):
    result = neighbour.check_output("python3 -c %s %s %s %s %s %s", KNOCK, address(firewall), str(port), source, str(seconds), str(times))
    return tuple(int(number) for number in result.split())


def play(*arguments, **environment):
    return subprocess.run(["ansible-playbook", "-i", INVENTORY, "-l", HOST, str(SCENARIO / "converge.yml"), *arguments],
                          env={**ENVIRONMENT, **environment}, capture_output=True, text=True, check=False)


def converge(*arguments, **environment):
    """The role again; how many tasks changed something."""
    result = play(*arguments, **environment)
    assert result.returncode == 0, result.stdout + result.stderr
    return int(re.search(r"changed=(\d+)", result.stdout).group(1))


def held(host):
    return host.check_output("iptables -S | sort; ip6tables -S | sort; ufw show added; cat /etc/ufw/*.rules /etc/ufw/ufw.conf /etc/default/ufw")


def drift(host):
    """What the kernel holds otherwise than the role left it, as the monitoring compares it."""
    return host.run("LC_ALL=C bash -c %s", f"rules() {{ {RULES}; }}; diff <(rules </etc/ufw/applied) <((iptables -S; ip6tables -S) | rules)").stdout


def ruleset(*options, **params):
    """The module alone; what it returns."""
    result = subprocess.run(["ansible", HOST, "-i", INVENTORY, "-m", "foobar.webstack.ufw_ruleset", "-a", json.dumps(params), *options],
                            env=ENVIRONMENT, capture_output=True, text=True, check=False)
    return json.loads(result.stdout[result.stdout.index(" => {") + 4:])


def test_default_deny_ipv4(neighbour, firewall):
    assert firewall.check_output("ss -Hltn | grep -c :80") == "10"
    assert scan(neighbour, firewall, "22,8001-8010") == {22, 8001, 8002, 8005, 8006}


def test_default_deny_ipv6(neighbour, firewall):
    assert scan(neighbour, firewall, "22,8001-8010", family=6) == {22, 8001, 8002, 8004, 8005, 8006}


def test_default_deny_udp(neighbour, firewall):
    assert scan(neighbour, firewall, "8001-8010", "-sU") == {8003}


def test_ssh_answers(neighbour, firewall):
    assert "SSH-2.0" in neighbour.check_output("nmap -n -Pn -sV -p 22 %s -oN - | grep 22/tcp && echo | socat -T2 - TCP:%s:22",
                                               address(firewall), address(firewall))


def test_ssh_is_limited_except_from_the_admin_networks(neighbour, firewall):
    assert knock(neighbour, firewall, 22, "198.19.0.126", times=9) == (9, 4)
    assert knock(neighbour, firewall, 22, "198.19.0.125", times=9) == (9, 0)


def test_what_was_done_by_hand_is_undone(neighbour, trixie):
    source = address(neighbour)
    trixie.check_output("ufw allow 8007/tcp && ufw allow OpenSSH && ufw route allow in on eth0 to 10.0.0.0/8 && ufw delete limit 8002/tcp"
                        " && ufw insert 1 deny from %s to any port 8001 proto tcp", source)
    assert scan(neighbour, trixie, "8001,8002,8007") == {8007}
    assert "8007" in drift(trixie)
    assert converge() == 1
    assert drift(trixie) == ""
    trixie.check_output("ufw reload")
    assert drift(trixie) == "", "the rules are the same, however they were loaded"
    trixie.check_output("iptables -P FORWARD ACCEPT")
    assert "FORWARD" in drift(trixie)
    assert converge() == 1
    assert drift(trixie) == ""
    assert scan(neighbour, trixie, "8001,8002,8007") == {8001, 8002}
    assert "OpenSSH" not in trixie.check_output("ufw show added") and "route" not in trixie.check_output("ufw show added")
    assert converge() == 0


def test_no_moment_open_or_closed(neighbour, trixie):
    """Order, rules, logging and default policy change twice; 8001 is always let in, 8007 never."""
    ssh, kept = {"port": "22", "proto": "tcp"}, {"port": "8001", "proto": "tcp"}
    more = [{"port": str(port), "proto": "tcp"} for port in range(9000, 9020)]
    seen = {}
    threads = [threading.Thread(target=lambda port=port: seen.update({port: knock(neighbour, trixie, port, seconds=8)})) for port in (8001, 8007)]
    for thread in threads:
        thread.start()
    first = ruleset(rules=more + [kept, ssh], default_incoming="reject", logging="medium")
    second = ruleset(rules=[ssh, kept, {"rule": "deny", "from": "203.0.113.0/24"}] + more[::-1])
    for thread in threads:
        thread.join()
    for result in (first, second):
        assert result["changed"] and [command.split()[0] for command in result["commands"]] == ["ufw", "iptables-restore", "ip6tables-restore"]
    assert seen[8001][0] > 100 and seen[8001][1] == 0
    assert seen[8007][0] > 10 and seen[8007][0] == seen[8007][1]


def test_no_packet_slips_through_and_none_is_lost(trixie):
    converge()
    both = [address(trixie), address(trixie, 6)]
    with prober(*both) as seen:
        trixie.check_output("ufw reload")
    assert seen[8012] > 0, "the prober sees what ufw itself lets slip through"
    with prober(*both) as seen:
        assert converge() == 0
    assert (seen[8011], seen[8012]) == (seen["sent"], 0)
    with prober(*both) as seen:
        assert converge("-e", json.dumps({"firewall_rules": [{"port": str(port), "proto": "udp"} for port in (*range(9000, 9020), 8011)],
                                          "firewall_logging": "medium"})) == 1
        assert converge() == 1
    assert (seen[8011], seen[8012]) == (seen["sent"], 0)


def test_the_role_and_its_metrics_compare_the_same():
    assert "rules() { %s; }" % RULES in (SCENARIO.parents[1] / "roles/firewall/tasks/add.yml").read_text()


def test_ufw_itself_would_write_the_same(trixie):
    """What is loaded live is what ufw loads at boot, whatever the policies are."""
    for policies in ({"default_incoming": "reject", "default_routed": "allow"}, {}):
        ruleset(rules=[{"port": "22", "proto": "tcp", "log": True}, {"from": "fd00::/64", "proto": "vrrp"}], logging="medium", **policies)
        live = trixie.check_output("iptables -S | sort; ip6tables -S | sort")
        trixie.check_output("ufw reload")
        assert trixie.check_output("iptables -S | sort; ip6tables -S | sort") == live
    assert "Rules" not in trixie.check_output("ufw limit 22/tcp; ufw delete limit 22/tcp; ufw status verbose | grep -i medium")


def test_rules_that_somebody_flushed_come_back(neighbour, trixie):
    """Nothing slips through while they are missing, as the policy stays, nor while they come back."""
    converge()
    before = held(trixie)
    with prober(address(trixie), address(trixie, 6)) as seen:
        for command in ("iptables -F ufw-user-input", "ip6tables -F ufw6-before-input && iptables -F ufw-before-input", "iptables -F && iptables -X",
                        "iptables -D INPUT -j ufw-after-input && iptables -F ufw-user-limit-accept && iptables -P OUTPUT DROP"):
            trixie.check_output(command)
            assert held(trixie) != before
            assert converge() == 1
            assert held(trixie) == before, command
    assert seen[8012] == 0 and seen[8011] > 0
    assert scan(neighbour, trixie, "8001,8007") == {8001}
    assert converge() == 0


def test_a_host_that_somebody_opened_is_closed(neighbour, trixie):
    before = held(trixie)
    trixie.check_output("nft flush ruleset")
    assert scan(neighbour, trixie, "8001,8007") == {8001, 8007}
    assert converge() == 1
    assert scan(neighbour, trixie, "8001,8007") == {8001}
    assert held(trixie) == before


def test_no_multicast_for_discovery(trixie):
    """Declared, it comes in."""
    addresses = ["224.0.0.251", "ff02::fb%eth0"]
    with prober(*addresses, ports=(5353,)) as seen:
        pass
    assert seen[5353] == 0
    assert trixie.run("iptables -S; ip6tables -S").stdout.count("1900") == 0
    ssh = {"port": "22", "proto": "tcp"}
    ruleset(rules=[ssh, {"to": "224.0.0.251", "port": "5353", "proto": "udp"}, {"to": "ff02::fb", "port": "5353", "proto": "udp"}])
    with prober(*addresses, ports=(5353,)) as seen:
        pass
    assert seen[5353] == seen["sent"]
    converge()


def test_nothing_is_routed(neighbour, trixie):
    """From the neighbour through one host to an address behind it, where the other firewall lets it in."""
    other, ssh = testinfra.get_host("docker://firewall-bookworm"), {"port": "22", "proto": "tcp"}
    trixie.check_output("mount -o remount,rw /proc/sys && sysctl -qw net.ipv4.ip_forward=1 && ip route replace 10.99.0.1 via %s", address(other))
    other.check_output("ip address replace 10.99.0.1/32 dev lo")
    neighbour.check_output("ip route replace 10.99.0.1 via %s", address(trixie))
    try:
        with prober("10.99.0.1", ports=(8011,), at="firewall-bookworm") as seen:
            pass
        assert seen[8011] == 0
        assert ruleset(rules=[ssh], default_routed="allow")["changed"]
        with prober("10.99.0.1", ports=(8011,), at="firewall-bookworm") as seen:
            pass
        assert seen[8011] == seen["sent"]
        with prober("10.99.0.1", ports=(8011,), at="firewall-bookworm") as seen:
            assert converge() == 1
        assert 0 < seen[8011] < seen["sent"]
    finally:
        neighbour.check_output("ip route delete 10.99.0.1")
        trixie.check_output("ip route delete 10.99.0.1")
        other.check_output("ip address delete 10.99.0.1/32 dev lo")


def test_not_exclusive(trixie):
    trixie.check_output("ufw insert 1 deny from 203.0.113.9")
    result = ruleset(rules=[{"port": "8008", "proto": "tcp"}], exclusive=False)
    assert result["rules"][0] == "ipv4: deny from 203.0.113.9 to any"
    assert result["added"] == ["ipv%d: allow from any to any port 8008 proto tcp" % family for family in (4, 6)]


def test_wrong_rules_are_all_named_and_change_nothing(trixie):
    before = trixie.check_output("ufw show added; iptables -S")
    result = subprocess.run(["ansible-playbook", "-i", INVENTORY, str(SCENARIO / "converge.yml"), "-l", HOST, "-e",
                             json.dumps({"firewall_rules": [{"port": "http"}, {"port": "80"}, {"from": "10.0.0.1/8"}]})],
                            env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "{port: http}: port: 'http' is not a port" in result.stdout + result.stderr
    assert "write 10.0.0.0/8 for the network or 10.0.0.1 for the host" in result.stdout + result.stderr
    assert trixie.check_output("ufw show added; iptables -S") == before


@pytest.fixture
def by_ssh(trixie, tmp_path):
    """Options for SSH as an unprivileged user with sudo, which forgets the variable that says where SSH comes from."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
    trixie.check_output("install -d -o admin -m 700 ~admin/.ssh && echo %s > ~admin/.ssh/authorized_keys && chown admin ~admin/.ssh/authorized_keys",
                        (tmp_path / "key.pub").read_text())

    def options(to):
        return ["-c", "ssh", "-u", "admin", "-b", "-e", json.dumps({"ansible_user": "admin", "ansible_host": to, "ansible_connection": "ssh"}),
                "--private-key", str(tmp_path / "key")]
    return options


def test_ssh_is_never_cut(trixie, by_ssh):
    ssh = by_ssh(address(trixie))
    before = trixie.check_output("ufw show added")
    assert "no rule lets SSH in on port 22" in ruleset(rules=[{"port": "80", "proto": "tcp"}])["msg"]
    result = ruleset(*ssh, rules=[{"from": "203.0.113.0/24", "port": "22", "proto": "tcp"}])
    assert re.search("the SSH connection in use, from .* to port 22, would not be accepted again", result["msg"])
    assert trixie.check_output("ufw show added") == before
    result = ruleset(*ssh, rules=[{"from": "203.0.113.0/24", "port": "22", "proto": "tcp"}, {"port": "22", "proto": "tcp", "interface": "eth0"}])
    assert result["changed"], result


def test_ssh_is_not_cut_where_sshd_listens_elsewhere(trixie):
    """Without SSH in use nothing but sshd itself tells."""
    trixie.check_output("systemctl stop ssh && install -d /run/sshd && /usr/sbin/sshd -p 2222 -o PidFile=/run/sshd-2222.pid")
    try:
        assert "sshd listens on port 2222, where no rule lets SSH in" in ruleset(rules=[{"port": "22", "proto": "tcp"}], ssh_ports=[22])["msg"]
        assert "failed" not in ruleset(rules=[{"port": "22,2222", "proto": "tcp"}], ssh_ports=[22])
    finally:
        trixie.check_output("kill $(cat /run/sshd-2222.pid); systemctl start ssh")
        converge()


class TestRollback:
    """Rules for an interface at which the address of the connection in use is, but its packets are not: the guard cannot know."""
    ADDRESS = "198.19.0.124"
    WRONG = {"port": "22", "proto": "tcp", "interface": "lo"}
    ROLE = {"firewall_rules": [WRONG], "firewall_admin_networks": [], "firewall_ssh_elsewhere": "deny", "__firewall_rollback_after": 10}

    @pytest.fixture(autouse=True)
    def address_at_loopback(self, trixie):
        trixie.check_output("ip address replace %s/32 dev lo", self.ADDRESS)
        yield
        trixie.check_output("ip address delete %s/32 dev lo", self.ADDRESS)

    def answers(self, neighbour, seconds=1.0):
        return neighbour.run("socat -T 1 -u TCP:%s:22,connect-timeout=%s - | grep -q SSH", self.ADDRESS, str(seconds)).rc == 0

    def timers(self, host):
        return host.check_output("systemctl list-units --all --plain --no-legend 'ufw-rollback.*'")

    def back(self, neighbour, host, before):
        """How long it takes until SSH answers; everything is then as it was."""
        begin = time.monotonic()
        while not self.answers(neighbour):
            assert time.monotonic() < begin + 30
            time.sleep(0.5)
        seconds = time.monotonic() - begin
        time.sleep(2)
        assert held(host) == before and self.timers(host) == ""
        return seconds

    def test_the_module(self, neighbour, trixie, by_ssh):
        converge()
        before = held(trixie)
        with prober(address(trixie), address(trixie, 6)) as seen:
            result = ruleset(*by_ssh(self.ADDRESS), rules=[self.WRONG], rollback_after=10)
            assert result["changed"] and result["rollback_armed"]
            assert not self.answers(neighbour)
            assert self.back(neighbour, trixie, before) < 20
        assert seen[8012] == 0
        assert "Nobody has confirmed the new rules" in trixie.check_output("journalctl --unit ufw-rollback.service")

    def test_the_role(self, neighbour, trixie, by_ssh):
        before = held(trixie)
        result = play(*by_ssh(self.ADDRESS), "-e", json.dumps(self.ROLE))
        assert result.returncode != 0 and "over a new connection" in result.stdout.rpartition("TASK")[2], result.stdout
        self.back(neighbour, trixie, before)
        assert converge() == 0 and drift(trixie) == ""

    def test_the_first_activation(self, neighbour, trixie, by_ssh):
        assert converge("-e", '{"firewall_enabled": false}') == 1
        result = play(*by_ssh(self.ADDRESS), "-e", json.dumps(self.ROLE))
        assert result.returncode != 0
        begin = time.monotonic()
        while not self.answers(neighbour):
            assert time.monotonic() < begin + 30
        assert "Status: inactive" in trixie.check_output("sleep 2; ufw status")
        assert converge() == 1

    def test_a_good_run_leaves_nothing_behind(self, trixie, by_ssh):
        """With Mitogen, where that is in use, and without."""
        for strategy in {"linear", os.environ.get("ANSIBLE_STRATEGY", "linear")}:
            more = ("-e", json.dumps({"firewall_rules": [{"port": "9000", "proto": "tcp", "comment": strategy}], "firewall_admin_networks": ["198.19.0.0/24"]}))
            assert converge(*by_ssh(self.ADDRESS), *more, ANSIBLE_STRATEGY=strategy) == 1
            assert self.timers(trixie) == "" and strategy in trixie.check_output("ufw status")
        assert converge(*by_ssh(self.ADDRESS), *more, ANSIBLE_STRATEGY=strategy) == 0
        assert converge() == 1

    def test_a_run_that_was_cut_off_is_confirmed_by_the_next_one(self, trixie):
        before = held(trixie)
        ruleset(rules=[{"port": "22", "proto": "tcp"}], rollback_after=60)
        assert ruleset(rules=[{"port": "22", "proto": "tcp"}])["rollback_armed"]
        assert self.timers(trixie) != ""
        assert converge() == 1
        assert self.timers(trixie) == "" and held(trixie) == before


def test_off_and_ipv6_off_and_on_again(neighbour, trixie):
    assert converge("-e", '{"firewall_enabled": false}') == 1
    assert scan(neighbour, trixie, "8007") == {8007}
    assert converge("-e", '{"firewall_ipv6": false}') == 1
    assert scan(neighbour, trixie, "22,8001,8007") == {22, 8001}
    assert scan(neighbour, trixie, "22,8001,8007", family=6) == set()
    assert converge() == 1
    assert scan(neighbour, trixie, "8001,8007", family=6) == {8001}
    assert converge() == 0
    before = held(trixie)
    with prober(address(trixie), address(trixie, 6)) as seen:
        assert converge("-e", '{"firewall_ipv6": false}') == 1
        assert scan(neighbour, trixie, "8001,8007", family=6) == set()
        assert converge() == 1
    assert seen[8012] == 0 and seen["sent"] // 2 < seen[8011] < seen["sent"]
    assert drift(trixie) == ""
    assert [line for line in held(trixie).splitlines() if " lo " not in line] == [line for line in before.splitlines() if " lo " not in line]


def test_active_after_a_boot(firewall):
    name = firewall.backend.name
    subprocess.run(["docker", "restart", "--time", "20", name], check=True, capture_output=True)
    firewall.check_output("until systemctl is-system-running --wait 2> /dev/null; do sleep 0.2; done")
    firewall.check_output("iptables -S | grep -x -e '-P INPUT DROP' && ip6tables -S | grep -x -e '-P INPUT DROP' && iptables -S ufw-user-input | grep 8003")
    assert firewall.service("ufw").is_enabled
    assert drift(firewall) == ""


def test_outgoing_connections_where_they_are_declared(neighbour, trixie):
    other = testinfra.get_host("docker://firewall-bookworm")

    def reached(port):
        tries, failed = knock(trixie, other, port, times=3)
        return tries - failed

    needs = {"app": {"firewall_rules": [{"direction": "out", "to": address(other), "port": "8001", "proto": "tcp"}]}}
    assert (reached(8001), reached(8005)) == (3, 3)
    assert converge("-e", json.dumps({"webstack_exports": needs})) == 1 and reached(8005) == 3, "nothing is denied unless it is asked for"
    denied = ("-e", json.dumps({"webstack_exports": needs, "firewall_default_outgoing": "deny"}))
    assert converge(*denied) == 1
    assert (reached(8001), reached(8005)) == (3, 0)
    assert knock(neighbour, trixie, 8001, times=3) == (3, 0), "answers pass"
    assert converge(*denied) == 0
    assert converge() == 1
    assert reached(8005) == 3
