"""Every port with TLS, as nmap judges it: no protocol before TLS 1.2, no weak cipher."""

import subprocess
import xml.etree.ElementTree as ElementTree

import lab
import pytest
from attacker import in_network_of

BALANCER, WEB, APP = (lab.HOSTS[tier][0] for tier in ("loadbalancers", "web", "app"))


@pytest.mark.parametrize("source, tier, ports", [
    ("client", "loadbalancers", (443,)),
    (BALANCER, "web", (443,)),
    (BALANCER, "loadbalancers", (10000,)),
    (WEB, "app", (8443,)),
    (APP, "database", (3306, 8008)),
    (WEB, "monitoring", (6514, 9090)),
])
def test_no_old_protocol(source, tier, ports):
    targets = list(lab.PUBLIC[name] for name in lab.HOSTS[tier]) if source == "client" else [lab.ADDRESS[name] for name in lab.HOSTS[tier] if name != source]
    names = "tls.servername=www.foobar.com" if tier in ("loadbalancers", "web") else "tls.servername=app.internal"
    report = subprocess.run(
        ["docker", *in_network_of(source, "nmap", "-n", "-Pn", "--script", "+ssl-enum-ciphers", "--script-args", names,
                                  "-p", ",".join(map(str, ports)), "-oX", "-", *targets)],
        capture_output=True, text=True, check=True).stdout
    found = {}
    for host in ElementTree.fromstring(report).iter("host"):
        for port in host.iter("port"):
            key = host.find("address").get("addr"), int(port.get("portid"))
            script = port.find("script[@id='ssl-enum-ciphers']")
            found[key] = {} if script is None else {
                table.get("key"): {cipher.text for cipher in table.iter("elem") if cipher.get("key") == "strength"} for table in script.findall("table")}
    assert found == {(target, port): {"TLSv1.2": {"A"}, "TLSv1.3": {"A"}} for target in targets for port in ports}
