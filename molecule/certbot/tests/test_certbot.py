"""Certificates as visitors get them, and the records that lead there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

INTERNET = "certbot-internet"
NODES = ("certbot-lb1", "certbot-lb2")
NAME = "www.foobar.com"
LIVE = f"/etc/letsencrypt/live/{NAME}"
FILE = f"/etc/haproxy/certs/{NAME}.pem"


def on(name, command, check=True):
    done = subprocess.run(["docker", "exec", name, "sh", "-c", command], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"{name}: {command}: {done.stdout}{done.stderr}"
    return done.stdout


def address(name):
    return on(name, "hostname -I").split()[0]


def served(name):
    """Serial and names of the certificate that a load balancer shows."""
    out = on(INTERNET, f"openssl s_client -connect {address(name)}:443 -servername {NAME} </dev/null 2>/dev/null"
                       " | openssl x509 -noout -serial -ext subjectAltName")
    return re.search(r"serial=(\w+)", out).group(1), sorted(re.findall(r"DNS:([^,\s]+)", out))


def serial(name, path):
    return on(name, f"openssl x509 -in {path} -noout -serial").strip().partition("=")[2]


def processes(name):
    return sorted(on(name, "pgrep -x haproxy").split())


def play(**variables):
    return subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), "-i", os.environ["MOLECULE_INVENTORY_FILE"], "--limit", "certbot-lb2",
         "--extra-vars", json.dumps(variables), str(Path(__file__).parents[1] / "converge.yml")],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        env=os.environ | {"ANSIBLE_COLLECTIONS_PATH": str(Path(__file__).parents[3] / ".collections"), "ANSIBLE_FORCE_COLOR": "0",
                          "ANSIBLE_NOCOLOR": "1"})


@pytest.mark.parametrize("name", [NAME, "foobar.com"])
def test_names_point_to_the_load_balancer(name):
    assert on(INTERNET, f"dig +short @127.0.0.1 {name} A").split() == [address(NODES[0])]


@pytest.mark.parametrize("node", NODES)
def test_visitors_get_a_certificate_of_the_acme_server(node):
    on(INTERNET, "curl -sfk https://127.0.0.1:15000/roots/0 > /tmp/root.pem")
    for name in (NAME, "foobar.com"):
        assert on(INTERNET, f"curl -sf --cacert /tmp/root.pem --resolve {name}:443:{address(node)} https://{name}/") == "hello"
    assert served(node)[0] == serial(node, f"{LIVE}/cert.pem") == serial(node, FILE)
    assert "id-ecPublicKey" in on(node, f"openssl x509 -in {FILE} -noout -text")


def test_each_has_its_own():
    assert served(NODES[0])[0] != served(NODES[1])[0]


@pytest.mark.parametrize("node", NODES)
def test_nobody_else_reads_the_key(node):
    assert on(node, f"stat -c '%a %U' {FILE} $(dirname {FILE})").split() == ["600", "root", "700", "root"]
    assert on(node, "systemctl is-enabled certbot.timer").strip() == "enabled"


@pytest.mark.parametrize("node", NODES)
def test_renewal_swaps_the_certificate_in_the_running_process(node):
    before, pids = served(node)[0], processes(node)
    on(node, "REQUESTS_CA_BUNDLE=/etc/ssl/acme-server.crt certbot renew --quiet --force-renewal --no-random-sleep-on-renew")
    assert served(node)[0] != before
    assert served(node)[0] == serial(node, f"{LIVE}/cert.pem") == serial(node, FILE)
    assert processes(node) == pids, "no reload, no new worker"
    on(node, "systemctl reload haproxy")
    assert served(node)[0] == serial(node, FILE), "disk and process agree"


def test_a_certificate_of_six_days_is_renewed_in_its_second_half():
    """certbot 4.0, which asks for such a profile."""
    node, renew = NODES[1], "env REQUESTS_CA_BUNDLE=/etc/ssl/acme-server.crt certbot renew --quiet --no-random-sleep-on-renew"
    before = served(node)[0]
    on(node, f"openssl x509 -in {FILE} -noout -checkend $((5 * 86400)) && ! openssl x509 -in {FILE} -noout -checkend $((6 * 86400 + 60))")
    for days, due in ((2, False), (4, True)):
        on(node, f"faketime -f +{days}d {renew}")
        assert (served(node)[0] != before) == due, days
    assert served(node)[0] == serial(node, f"{LIVE}/cert.pem") == serial(node, FILE)


def test_the_timer_repairs_what_haproxy_does_not_serve():
    node = NODES[1]
    wanted = served(node)[0]
    on(node, f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=wrong -addext subjectAltName=DNS:{NAME}"
             f" -keyout {FILE} -out {FILE} 2>/dev/null; systemctl reload haproxy")
    # The old process may take a last connection.
    assert any(served(node)[0] != wanted for _ in range(20))
    on(node, "systemctl start certbot.service")
    assert served(node)[0] == wanted


def test_a_hook_that_does_not_get_through_fails():
    """Something else listens on the port: the file is right, what visitors get is not."""
    node = NODES[1]
    try:
        on(node, "systemctl stop haproxy; openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=other"
                 " -keyout /tmp/other.pem -out /tmp/other.pem 2>/dev/null;"
                 " systemd-run --quiet --unit other openssl s_server -accept 443 -cert /tmp/other.pem -key /tmp/other.pem -quiet;"
                 " timeout 10 sh -c 'until ss -Hltn sport = 443 | grep -q .; do sleep 0.1; done'")
        output = on(node, "cp /tmp/other.pem /root/; /etc/letsencrypt/renewal-hooks/deploy/haproxy 2>&1; echo rc=$?", check=False)
        assert "rc=0" not in output and "rc=" in output
    finally:
        on(node, "systemctl stop other; systemctl start haproxy", check=False)


def test_bad_input_changes_nothing():
    done = play(certbot_domains=["https://www.foobar.com", "*.foobar.com"], certbot_email="nobody", certbot_challenge="http-01")
    assert done.returncode == 2 and "changed=0" in done.stdout
    output = " ".join(done.stdout.split())
    assert '"https://www.foobar.com" is not a domain name' in output
    assert "the wildcard *.foobar.com needs certbot_challenge: dns-01" in output
    assert '"nobody" is not an e-mail address' in output


def test_a_failed_order_keeps_the_old_certificate():
    before = served(NODES[1])
    done = play(certbot_domains=[NAME, "nowhere.foobar.com"], dns_record_server="")
    assert done.returncode == 2
    output = " ".join(done.stdout.split())
    assert f"{NAME}. 300 IN A {address(NODES[0])}" in output, "says which records to create"
    assert f"Each of {NAME}, nowhere.foobar.com must point to {address(NODES[0])}" in output
    assert served(NODES[1]) == before


def test_dns_01_and_a_changed_list_of_names():
    done = play(certbot_challenge="dns-01", certbot_domains=[NAME, "foobar.com", "*.static.foobar.com"], certbot_rfc2136_server=address(INTERNET),
                certbot_rfc2136_key_name="webstack", certbot_rfc2136_key_secret="bm90IGEgc2VjcmV0LCBvbmx5IGZvciB0aGlzIHRlc3Q=",
                certbot_rfc2136_propagation_seconds=1)
    assert done.returncode == 0, done.stdout
    assert served(NODES[1])[1] == ["*.static.foobar.com", "foobar.com", NAME]
    assert on(NODES[1], f"stat -c %a /etc/letsencrypt/{NAME}-rfc2136.ini").strip() == "600"
