"""What nmap reaches, from every host and from outside, is what the roles declare: no port more, none less."""

import ipaddress
import json
import re
import subprocess
import xml.etree.ElementTree as ElementTree

import lab
import pytest
from attacker import addresses, everywhere, in_network_of

# The neighbour stands in both networks, but in no group of the inventory.
NEIGHBOUR, VISITOR = "lb3", "client"
SOURCES = [*lab.EVERY_HOST, NEIGHBOUR, VISITOR]
VRRP = 112

# Behind the firewall of a host it says what has come through: where nothing listens for UDP or VRRP silence would prove nothing.
LISTENER = """
import json, select, socket, sys
sockets = {socket.socket(family, socket.SOCK_RAW, number): (family, protocol)
           for family in (socket.AF_INET, socket.AF_INET6) for protocol, number in (("udp", 17), ("vrrp", 112))}
heard = set()
print("listening", flush=True)
while True:
    for ready in select.select([sys.stdin, *sockets], [], [])[0]:
        if ready is sys.stdin:
            print(json.dumps(sorted(heard)))
            sys.exit()
        packet, sender = ready.recvfrom(2048)
        family, protocol = sockets[ready]
        segment = packet[(packet[0] & 15) * 4:] if family == socket.AF_INET else packet
        heard.add((sender[0], protocol, int.from_bytes(segment[2:4], "big") if protocol == "udp" else 0))
"""


@pytest.fixture(scope="module")
def declared(intended):
    """{host: the rules that its roles give to the firewall}, as the playbook computes them. It also finds rules that were made by hand."""
    title = r"^TASK \[foobar.webstack.firewall : Compare the rules with those of the host\]"
    task = re.search(title + "(.*?)^TASK ", intended[0], re.DOTALL | re.MULTILINE).group(1)
    results = {found[1]: json.JSONDecoder().raw_decode(task, found.end())[0] for found in re.finditer(r"^ok: \[(\w+)\] => ", task, re.MULTILINE)}
    assert set(results) == set(lab.EVERY_HOST)
    assert {name: result["commands"] for name, result in results.items() if result["commands"]} == {}
    return {name: [parse(rule) for rule in result["rules"]] for name, result in results.items()}


def parse(rule):
    found = re.match(r"ipv(?P<family>4|6): (?P<action>\w+) (?P<out>out )?(?:(?:in )?on (?P<interface>\S+) )?from (?P<source>\S+) to (?P<target>\S+)"
                     r"(?: port (?P<port>\S+))?(?: proto (?P<proto>\S+))?", rule)
    assert found and not found["interface"], f"not understood: {rule}"
    return found


def covers(network, address):
    return network == "any" or ipaddress.ip_address(address) in ipaddress.ip_network(network)


def lets_in(rules, source, target, protocol, port=0):
    """The first rule that matches decides, and without one the answer is no."""
    for rule in rules:
        ports = [part.split(":") for part in (rule["port"] or "0:65535").split(",")]
        if (not rule["out"] and int(rule["family"]) == ipaddress.ip_address(source).version and (rule["proto"] or protocol) == protocol
                and covers(rule["source"], source) and covers(rule["target"], target)
                and any(int(part[0]) <= port <= int(part[-1]) for part in ports)):
            return rule["action"] in ("allow", "limit")
    return False


def numbers(ports):
    """{21, 22, 80} of "21-22,80"."""
    return {number for part in ports.split(",") if part for number in range(int(part.split("-")[0]), int(part.split("-")[-1]) + 1)}


@pytest.fixture(scope="module")
def ports(declared):
    """What is declared anywhere, what listens anywhere, and what nmap would try first."""
    def listening(name):
        seen = {protocol: lab.on(name).check_output(f"ss --no-header --listening --numeric --{protocol}").splitlines() for protocol in ("tcp", "udp")}
        return {protocol: {int(line.split()[3].rpartition(":")[2]) for line in lines} for protocol, lines in seen.items()}

    common = lab.on(VISITOR).check_output("nmap -v -oG - -sS --top-ports 100 2>&1; nmap -v -oG - -sU --top-ports 40 2>&1")
    found = {"tcp": numbers(re.search(r"TCP\(100;([\d,-]+)\)", common).group(1)), "udp": numbers(re.search(r"UDP\(40;([\d,-]+)\)", common).group(1))}
    found["tcp"] |= {number for rules in declared.values() for rule in rules for number in numbers((rule["port"] or "").replace(":", "-"))}
    for host in everywhere(lab.EVERY_HOST, listening).values():
        for protocol in found:
            found[protocol] |= host[protocol]
    assert {22, 443, 3306, 8405, 9100} <= found["tcp"]
    return found


def routes():
    """{source: {(its address, address of a host): the host}} for each network that both are in."""
    at = everywhere(SOURCES, addresses)
    holder = next(name for name in lab.HOSTS["loadbalancers"] if f"inet {lab.VIP}/" in lab.on(name).run("ip -4 address").stdout)
    at[holder].append(("webstack-public", 4, lab.VIP))
    return {source: {(mine, theirs): target for target in lab.EVERY_HOST if target != source
                     for network, family, theirs in at[target]
                     for my_network, my_family, mine in at[source] if (my_network, my_family) == (network, family) and mine != lab.VIP}
            for source in SOURCES}


def asks_vrrp(source, target):
    """One way only: without ports, what comes back from where a host has sent something passes its firewall as an answer."""
    return source not in lab.EVERY_HOST or source < target


def scan(source, ways, ports):
    """{(address, protocol, port)} that answered; whoever answers has been reached."""
    def listed(protocol):
        return ",".join(map(str, sorted(ports[protocol])))

    fast = "-n -Pn --max-retries 2 --initial-rtt-timeout 100ms --max-rtt-timeout 400ms --min-rate 400 --max-scan-delay 5ms -oX -"
    commands = []
    for option, family in (("", 4), ("-6", 6)):
        targets = " ".join(sorted({theirs for _, theirs in ways if ipaddress.ip_address(theirs).version == family}))
        vrrp = " ".join(sorted({theirs for (_, theirs), target in ways.items()
                                if ipaddress.ip_address(theirs).version == family and asks_vrrp(source, target)}))
        commands += [f"nmap {option} {fast} -sS -p {listed('tcp')} {targets}", f"nmap {option} {fast} -sU -p {listed('udp')} {targets}",
                     f"nmap {option} {fast} -sO -p {VRRP} {vrrp}"]
    output = subprocess.run(["docker", *in_network_of(source, "sh", "-ec", "\n".join(f"{command}; echo END" for command in commands))],
                            capture_output=True, text=True, check=True).stdout
    reached = set()
    for report in output.split("END\n")[:-1]:
        for host in ElementTree.fromstring(report).iter("host"):
            address = host.find("address").get("addr")
            for port in host.iter("port"):
                if "filtered" not in port.find("state").get("state"):
                    reached.add((address, port.get("protocol"), int(port.get("portid"))))
            # Where many ports answer alike they are summed up.
            for more in host.iter("extraports"):
                if "filtered" not in more.get("state"):
                    for reason in more.iter("extrareasons"):
                        reached |= {(address, reason.get("proto"), number) for number in numbers(reason.get("ports"))}
    return {(address, "vrrp" if protocol == "ip" else protocol, 0 if protocol == "ip" else number) for address, protocol, number in reached}


def test_the_matrix(declared, ports):
    ways = routes()
    listeners = {name: subprocess.Popen(["docker", "exec", "--interactive", name, "python3", "-c", LISTENER],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for name in lab.EVERY_HOST}
    assert all(listener.stdout.readline() == "listening\n" for listener in listeners.values())
    answered = everywhere(SOURCES, lambda source: scan(source, ways[source], ports))
    heard = {name: json.loads(listener.communicate()[0]) for name, listener in listeners.items()}
    wanted, found = set(), set()
    for source in SOURCES:
        for (mine, theirs), target in ways[source].items():
            wanted |= {(source, target, theirs, protocol, port) for protocol in ports for port in ports[protocol]
                       if lets_in(declared[target], mine, theirs, protocol, port)}
            found |= {(source, target, *reached) for reached in answered[source] if reached[0] == theirs}
            found |= {(source, target, theirs, "udp", port) for sender, protocol, port in heard[target]
                      if (sender, protocol) == (mine, "udp") and port in ports["udp"]}
            if asks_vrrp(source, target):
                wanted |= {(source, target, theirs, "vrrp", 0)} if lets_in(declared[target], mine, theirs, "vrrp") else set()
                found |= {(source, target, theirs, "vrrp", 0) for sender, protocol, _ in heard[target] if (sender, protocol) == (mine, "vrrp")}
    assert len({source for source, *_ in wanted}) == len(SOURCES) and any(protocol == "vrrp" for _, _, _, protocol, _ in wanted)
    assert {"open but not declared": sorted(found - wanted), "declared but closed": sorted(wanted - found)} == \
        {"open but not declared": [], "declared but closed": []}
