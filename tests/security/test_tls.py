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


# Mozilla's guideline 6.0, "intermediate", for a certificate with an ECDSA key. nmap calls the suites of TLS 1.3 AKE.
SUITES = {
    "TLSv1.2": {"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"},
    "TLSv1.3": {"TLS_AKE_WITH_AES_128_GCM_SHA256", "TLS_AKE_WITH_AES_256_GCM_SHA384", "TLS_AKE_WITH_CHACHA20_POLY1305_SHA256"},
}
GROUPS = ["X25519MLKEM768", "X25519", "prime256v1", "secp384r1"]
# The client's OpenSSL knows them, too.
NOT_OFFERED = ["secp521r1", "X448", "ffdhe2048", "SecP256r1MLKEM768"]


@pytest.mark.parametrize("name", lab.HOSTS["loadbalancers"])
def test_the_edge_is_what_mozilla_calls_intermediate(name):
    target = lab.PUBLIC[name]
    report = subprocess.run(
        ["docker", *in_network_of("client", "nmap", "-n", "-Pn", "--script", "+ssl-enum-ciphers", "--script-args", "tls.servername=www.foobar.com",
                                  "-p", "443", "-oX", "-", target)], capture_output=True, text=True, check=True).stdout
    script = ElementTree.fromstring(report).find(".//script[@id='ssl-enum-ciphers']")
    assert {table.get("key"): {elem.text for elem in table.iter("elem") if elem.get("key") == "name"} for table in script.findall("table")} == SUITES

    def taken(group):
        answer = lab.on("client").run(f"openssl s_client -connect {target}:443 -servername www.foobar.com -tls1_3 -groups {group} </dev/null")
        return "Cipher is TLS_" in answer.stdout

    assert [group for group in GROUPS + NOT_OFFERED if taken(group)] == GROUPS
    assert "max-age=63072000" in lab.site("/").headers["strict-transport-security"]
