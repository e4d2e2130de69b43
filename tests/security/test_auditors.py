"""What testssl.sh says of the edge, and lynis of each kind of host."""
import json
import subprocess

import lab
import pytest
from attacker import IMAGE, docker, in_network_of

pytestmark = pytest.mark.long
# Of the lab's image: its package mirror has no repository of security updates, and a container has no kernel to restart into.
OF_THE_LAB = {"PKGS-7388", "KRNL-5830"}
# The certificate is the test server's; compressed pages are a choice, docs/security.md.
REMARKS = {"cert_extlifeSpan", "cert_revocation", "BREACH"}
LYNIS = ["/usr/share/lynis", "/usr/sbin/lynis", "/etc/lynis"]
AUDIT = f"lynis audit system --quick --quiet --no-colors --logfile /dev/null --report-file /run/lynis >/dev/null 2>&1; cat /run/lynis; rm -rf /run/lynis {' '.join(LYNIS)}"


def test_testssl_gives_the_edge_an_a_plus():
    root = docker("exec", "client", "cat", lab.acme_root()).stdout
    command = f"cat > /tmp/ca.pem; testssl --quiet --color 0 --add-ca /tmp/ca.pem --ip {lab.VIP} --jsonfile /tmp/found.json https://www.foobar.com >/dev/null; cat /tmp/found.json"
    found = {row["id"]: row for row in json.loads(docker(*in_network_of("client", "sh", "-c", command), input=root).stdout)}
    assert found["overall_grade"]["finding"] == "A+", found["overall_grade"]
    worse = {name: row["finding"] for name, row in found.items() if row["severity"] in ("MEDIUM", "HIGH", "CRITICAL")}
    assert set(worse) <= REMARKS, worse


@pytest.mark.parametrize("name", [hosts[0] for hosts in lab.HOSTS.values() if hosts])
def test_lynis_warns_of_nothing_that_is_ours(name):
    tools = subprocess.run(["docker", "run", "--rm", "--entrypoint", "tar", IMAGE, "--create", "--file=-", *LYNIS], capture_output=True, check=True).stdout
    subprocess.run(["docker", "exec", "--interactive", name, "tar", "--extract", "--directory=/"], input=tools, check=True)
    report = docker("exec", name, "sh", "-c", AUDIT).stdout.splitlines()
    print(name, *[line for line in report if line.startswith(("hardening_index", "warning", "suggestion"))], sep="\n")
    index, = (line for line in report if line.startswith("hardening_index="))
    assert int(index.partition("=")[2]) >= 60, index
    assert [line for line in report if line.startswith("warning[]") and line[10:].split("|")[0] not in OF_THE_LAB] == []
