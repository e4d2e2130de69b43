"""Nothing of what the site carries crosses a wire in clear: looked for in all packets of both networks while it flows."""

import json
import subprocess
import uuid

import lab
import pytest
from attacker import docker, in_network_of

NETWORKS = ("webstack-public", "webstack-private")
TEXTFILE = "/var/lib/prometheus/node-exporter/canary.prom"


@pytest.fixture
def canary():
    """What goes where, and must not be seen."""
    return {place: f"canary{place}{uuid.uuid4().hex}" for place in ("url", "header", "body", "log", "metric", "onpurpose")}


@pytest.fixture
def wires(tmp_path):
    """Both networks are bridges of the machine: captures what all hosts send, until a text is seen in both that is sent last."""
    captures = {}
    for network in NETWORKS:
        bridge = "br-" + docker("network", "inspect", "--format", "{{.Id}}", network).stdout[:12]
        with open(tmp_path / network, "wb") as file:
            captures[network] = subprocess.Popen(
                ["docker", *in_network_of("host", "tcpdump", "-i", bridge, "-n", "-U", "-s", "0", "-B", "65536", "-w", "-")],
                stdout=file, stderr=subprocess.PIPE)
    for capture in captures.values():
        assert b"listening on" in capture.stderr.readline()

    def seen(last):
        assert lab.wait_for(lambda: all(last.encode() in (tmp_path / network).read_bytes() for network in NETWORKS)), "the capture misses what is sent in clear"
        for capture in captures.values():
            capture.terminate()
            assert b"\n0 packets dropped by kernel" in capture.communicate()[1]
        return {network: (tmp_path / network).read_bytes() for network in NETWORKS}

    yield seen
    for capture in captures.values():
        capture.kill()


def in_clear(name, address, text):
    """A datagram that the firewall drops on arrival; by then it has been on the wire."""
    docker("exec", name, "python3", "-c",
           "import socket, sys; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(sys.argv[2].encode(), (sys.argv[1], 40000))", address, text)


def test_nothing_is_seen(wires, canary, known):
    web, monitor = lab.on(lab.HOSTS["web"][0]), lab.on(lab.HOSTS["monitoring"][0])
    entry = {"id": uuid.uuid4().hex, "name": "A test", "text": canary["body"]}
    try:
        web.check_output("echo %s > %s", f'canary{{label="{canary["metric"]}"}} 1', TEXTFILE)
        for name in lab.EVERY_HOST:
            lab.on(name).check_output("logger %s", f"{canary['log']} of {name}")
        # Through every web and app server and into every database, and back from the replicas.
        for host in lab.HOSTS["web"] + lab.HOSTS["app"]:
            assert lab.site(f"/api/entries?limit=5&canary={canary['url']}", "--header", f"X-Canary: {canary['header']}").status == 200
        written = lab.site("/api/entries", "--header", "Content-Type: application/json", "--data", json.dumps(entry)).json
        for name in lab.HOSTS["database"]:
            assert lab.sql(name, f"SELECT WAIT_FOR_EXECUTED_GTID_SET('{written['gtid']}', 10)") == "0"
        assert canary["body"] in [row["text"] for row in lab.site("/api/entries?limit=5").json["entries"]]
        logs = [f"{canary['log']} of {name}" for name in lab.EVERY_HOST] + [canary["url"]]
        assert lab.wait_for(lambda: all(monitor.run("grep -rqF -e %s /var/log/remote", text).rc == 0 for text in logs), seconds=30, pause=1)
        assert lab.wait_for(lambda: lab.ask_monitoring(f'canary{{label="{canary["metric"]}"}}'), seconds=60, pause=2)
    finally:
        web.run("rm -f %s", TEXTFILE)
    in_clear("client", lab.PUBLIC[lab.HOSTS["loadbalancers"][0]], canary["onpurpose"])
    in_clear(lab.HOSTS["web"][0], lab.ADDRESS[lab.HOSTS["database"][0]], canary["onpurpose"])
    packets = wires(canary["onpurpose"])
    found = {network: [name for name, text in {**canary, **known}.items() if text.encode() in packets[network]] for network in NETWORKS}
    assert found == {network: ["onpurpose"] for network in NETWORKS}
