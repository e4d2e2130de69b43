"""What the neighbour sees of the firewall, and what the module does to a firewall that runs."""

import json
import os
import pathlib
import re
import subprocess
import threading

import pytest
import testinfra

SCENARIO = pathlib.Path(__file__).resolve().parents[1]
COLLECTIONS = SCENARIO.parents[1] / ".collections"
INVENTORY = os.environ["MOLECULE_INVENTORY_FILE"]
HOST = "firewall-trixie"
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


@pytest.fixture(scope="module")
def neighbour():
    host = testinfra.get_host("docker://firewall-neighbour")
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


def converge(*arguments):
    """The role again; how many tasks changed something."""
    result = subprocess.run(["ansible-playbook", "-i", INVENTORY, "-l", HOST, str(SCENARIO / "converge.yml"), *arguments],
                            env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return int(re.search(r"changed=(\d+)", result.stdout).group(1))


def drift(host):
    """What the kernel holds otherwise than the role left it, as the monitoring compares it."""
    chains = "grep -E '^-[PA] (INPUT|OUTPUT|ufw)' | grep -vE -e '-[io] lo ' | LC_ALL=C sort -s -k 2,2"
    return host.run(f"bash -c \"diff <(cat /etc/ufw/applied | {chains}) <((iptables -S; ip6tables -S) | {chains})\"").stdout


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


def test_ufw_itself_would_write_the_same(trixie):
    """What is loaded live is what ufw loads at boot, whatever the policies are."""
    for policies in ({"default_incoming": "reject", "default_routed": "allow"}, {}):
        ruleset(rules=[{"port": "22", "proto": "tcp", "log": True}, {"from": "fd00::/64", "proto": "vrrp"}], logging="medium", **policies)
        live = trixie.check_output("iptables -S | sort; ip6tables -S | sort")
        trixie.check_output("ufw reload")
        assert trixie.check_output("iptables -S | sort; ip6tables -S | sort") == live
    assert "Rules" not in trixie.check_output("ufw limit 22/tcp; ufw delete limit 22/tcp; ufw status verbose | grep -i medium")


def test_rules_that_somebody_flushed_come_back(neighbour, trixie):
    converge()
    trixie.check_output("iptables -F ufw-user-input")
    assert scan(neighbour, trixie, "8001") == set()
    assert converge() == 1
    assert scan(neighbour, trixie, "8001") == {8001}


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


def test_ssh_is_never_cut(trixie, tmp_path):
    """Over SSH as an unprivileged user with sudo, which forgets the variable that says where SSH comes from."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
    trixie.check_output("install -d -o admin -m 700 ~admin/.ssh && echo %s > ~admin/.ssh/authorized_keys && chown admin ~admin/.ssh/authorized_keys",
                        (tmp_path / "key.pub").read_text())
    ssh = ["-c", "ssh", "-u", "admin", "-b", "-e", json.dumps({"ansible_user": "admin", "ansible_host": address(trixie), "ansible_connection": "ssh"}),
           "--private-key", str(tmp_path / "key")]
    before = trixie.check_output("ufw show added")
    assert "no rule lets SSH in on port 22" in ruleset(rules=[{"port": "80", "proto": "tcp"}])["msg"]
    result = ruleset(*ssh, rules=[{"from": "203.0.113.0/24", "port": "22", "proto": "tcp"}])
    assert re.search("the SSH connection in use, from .* to port 22, would not be accepted again", result["msg"])
    assert trixie.check_output("ufw show added") == before
    assert ruleset(*ssh, rules=[{"from": "203.0.113.0/24", "port": "22", "proto": "tcp"}, {"port": "22", "proto": "tcp", "interface": "eth0"}])["changed"]


def test_off_and_ipv6_off_and_on_again(neighbour, trixie):
    assert converge("-e", '{"firewall_enabled": false}') == 1
    assert scan(neighbour, trixie, "8007") == {8007}
    assert converge("-e", '{"firewall_ipv6": false}') == 1
    assert scan(neighbour, trixie, "22,8001,8007") == {22, 8001}
    assert scan(neighbour, trixie, "22,8001,8007", family=6) == set()
    assert converge() == 1
    assert scan(neighbour, trixie, "8001,8007", family=6) == {8001}
    assert converge() == 0


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
