"""HAProxy as visitors, web servers, applications and operators see it."""
import json
import os
import subprocess
import time

import pytest

CURL = "curl -sS --max-time 15 --cacert /etc/lab/ca.crt --resolve '*:443:127.0.0.1' --resolve '*:80:127.0.0.1' "
SITE = "https://www.example.com"


def curl(host, arguments):
    return host.check_output(CURL + arguments)


def admin(host, command):
    return host.check_output(f"echo '{command}' | socat -t 5 /run/haproxy/admin.sock -")


def servers(host, backend):
    """Status of each server, as the statistics say: UP, DOWN, DRAIN ..."""
    lines = admin(host, f"show stat {backend} 4 -1").splitlines()
    names = lines[0].lstrip("# ").split(",")
    return {row["svname"]: row["status"] for row in (dict(zip(names, line.split(","))) for line in lines[1:] if line)}


def wait_for(what, seconds=10):
    end = time.time() + seconds
    while not what():
        assert time.time() < end, "it did not happen in time"
        time.sleep(0.2)


def web_is_up(host, *names):
    return lambda: all(servers(host, "web")[name].startswith("UP") for name in names or ("web1", "web2"))


def seconds_until_down(host, signal, server):
    """Between the signal to a web server and HAProxy's log line, by the host's clock."""
    start = host.check_output(f"date +%s.%N; systemctl kill -s {signal} upstream@{server}")
    wait_for(lambda: servers(host, "web")[server] == "DOWN")
    log = host.check_output(f"journalctl -u haproxy -o short-unix --since @{int(float(start))} | grep 'Server web/{server} is DOWN' | head -1")
    return float(log.split()[0]) - float(start)


@pytest.fixture(autouse=True)
def all_is_well(host):
    host.check_output(
        "systemctl start haproxy upstream@web1 upstream@web2 upstream@lb1 upstream@lb2;"
        "echo 'set server web/web2 state ready' | socat -t 5 /run/haproxy/admin.sock - >/dev/null;"
        "echo primary > /run/lab/db1.role; echo replica | tee /run/lab/db2.role > /run/lab/db3.role"
    )
    wait_for(web_is_up(host))


# The edge

def test_round_robin(host):
    names = [json.loads(curl(host, SITE))["name"] for _ in range(6)]
    assert names.count("web1") == names.count("web2") == 3


def test_http2(host):
    assert curl(host, f"-o /dev/null -w '%{{http_version}}' {SITE}") == "2"


def test_listens_on_ipv6(host):
    assert host.run("curl -sS -g -o /dev/null -w '%{http_code}' http://[::1]/").stdout == "308"


@pytest.mark.parametrize("url, location", [
    ("http://www.example.com/a?b=c", "https://www.example.com/a?b=c"),
    ("http://example.com/a", "https://example.com/a"),
    ("https://example.com/a?b=c", "https://www.example.com/a?b=c"),
])
def test_redirects(host, url, location):
    assert curl(host, f"-k -o /dev/null -w '%{{http_code}} %{{redirect_url}}' '{url}'") == f"308 {location}"


@pytest.mark.parametrize("url", [SITE, "https://example.com"])
def test_hsts(host, url):
    assert "strict-transport-security: max-age=63072000\r" in curl(host, f"-k -o /dev/null -D - {url}")


def test_what_web_servers_learn_about_the_visitor(host):
    answer = curl(
        host,
        "-i -H 'X-Forwarded-For: 1.2.3.4' -H 'X-Forwarded-Host: evil' -H 'X-Real-IP: 1.2.3.4' -H 'Forwarded: for=1.2.3.4' -H 'X-Request-ID: mine' " + SITE,
    )
    head, body = answer.replace("\r", "").split("\n\n", 1)
    seen = json.loads(body)["headers"]
    assert seen["x-forwarded-for"] == "127.0.0.1"
    assert seen["x-forwarded-proto"] == "https"
    assert seen["x-load-balancer"] == host.backend.get_hostname()
    assert len(seen["x-request-id"]) == 36 and "x-request-id: " + seen["x-request-id"] in head
    assert not {"x-forwarded-host", "x-real-ip", "forwarded"} & set(seen)
    log = host.check_output(f"journalctl -u haproxy --since -1min | grep {seen['x-request-id']}")
    assert "https~ web/web" in log


def s_client(host, options):
    return host.run(f"openssl s_client -connect 127.0.0.1:443 -servername www.example.com -CAfile /etc/lab/ca.crt {options} </dev/null 2>&1").stdout


def test_tls(host):
    """Mozilla intermediate: what it accepts and what it refuses."""
    wanted = {
        "-tls1 -cipher ALL:@SECLEVEL=0": False,
        "-tls1_1 -cipher ALL:@SECLEVEL=0": False,
        "-tls1_2": True,
        "-tls1_3": True,
        "-tls1_2 -cipher ECDHE-ECDSA-AES128-GCM-SHA256": True,
        "-tls1_2 -cipher ECDHE-ECDSA-AES256-GCM-SHA384": True,
        "-tls1_2 -cipher ECDHE-ECDSA-CHACHA20-POLY1305": True,
        "-tls1_2 -cipher ECDHE-ECDSA-AES128-SHA256": False,
        "-tls1_2 -cipher ECDHE-ECDSA-AES128-SHA": False,
        "-tls1_2 -cipher ECDHE-ECDSA-AES128-CCM": False,
    }
    seen = {}
    for options in wanted:
        out = s_client(host, options)
        seen[options] = "Cipher is (NONE)" not in out and "Verify return code: 0 (ok)" in out
        assert "-tls1_3" in options or "TLS session ticket:" not in out
    assert seen == wanted


def test_post_quantum_key_exchange(host):
    if "3.0" in host.check_output("openssl version"):
        pytest.skip("needs OpenSSL 3.5")
    assert "X25519MLKEM768" in s_client(host, "-tls1_3")


def test_web_server_with_the_certificate_of_another_is_not_used(host):
    host.check_output("curl -sSf --cacert /etc/lab/ca.crt --cert /etc/lab/web1.pem --resolve other:9443:127.0.0.13 https://other:9443/")
    assert servers(host, "web")["web3"] == "DOWN"


def test_killed_web_server_costs_no_read(host):
    codes = host.check_output(
        "(sleep 0.3; systemctl kill -s KILL upstream@web1) & " + CURL + f"-o /dev/null -w '%{{http_code}}\\n' '{SITE}/?[1-300]' | sort | uniq -c; wait"
    )
    assert codes.split() == ["300", "200"]
    assert servers(host, "web")["web1"] == "DOWN"


# The timers say 0.9 and 2.7 s; what is above is for a busy machine.
def test_killed_web_server_is_marked_down(host):
    assert seconds_until_down(host, "KILL", "web1") < 1.2


def test_frozen_web_server_is_marked_down(host):
    try:
        assert seconds_until_down(host, "STOP", "web2") < 3.3
    finally:
        host.check_output("systemctl kill -s CONT upstream@web2")


def test_reads_are_retried_writes_are_not(host):
    """web1 answers 502 to /app-down, web2 does not, for reads; both do for writes."""
    assert {json.loads(curl(host, f"{SITE}/app-down"))["name"] for _ in range(4)} == {"web2"}
    host.check_output("rm -f /run/lab/*.posts")
    assert curl(host, f"-o /dev/null -w '%{{http_code}}' -d x=y {SITE}/app-down") == "502"
    assert host.check_output("cat /run/lab/*.posts") == "."


def test_page_when_no_web_server_answers(host):
    host.check_output("systemctl stop upstream@web1 upstream@web2")
    wait_for(lambda: set(servers(host, "web").values()) == {"DOWN"})
    answer = curl(host, f"-i {SITE}")
    assert answer.startswith("HTTP/2 503") and "text/html" in answer and "try again" in answer
    assert "strict-transport-security" in answer


@pytest.mark.parametrize("first", ["knows nothing", "does not listen"])
def test_acme_challenge_is_answered_by_whoever_knows_it(host, first):
    if first == "does not listen":
        host.check_output("systemctl stop upstream@lb1")
    for _ in range(4):
        assert curl(host, "http://www.example.com/.well-known/acme-challenge/token") == "challenge"


# Loopback only

def test_metrics_stats_and_health(host):
    address = host.interface.default().addresses[0]
    metrics = host.check_output("curl -sS http://127.0.0.1:8405/metrics")
    assert 'haproxy_server_status{proxy="web",server="web1",state="UP"} 1' in metrics
    assert "Statistics Report" in host.check_output("curl -sS http://127.0.0.1:8405/stats")
    assert host.check_output("curl -sS http://127.0.0.1:8404/haproxy-health") == "ok"
    for port in (8404, 8405):
        assert host.run(f"curl -sS http://{address}:{port}/").rc == 7


# The app's TLS front

@pytest.mark.parametrize("certificate, code", [("web1", "200"), ("db1", "403"), (None, "000")])
def test_only_web_hosts_reach_the_app(host, certificate, code):
    name = host.backend.get_hostname()
    address = host.interface.default().addresses[0]
    option = f"--cert /etc/lab/{certificate}.pem" if certificate else ""
    result = host.run(
        f"curl -s --cacert /etc/lab/ca.crt --resolve {name}:8443:{address} {option} -o /dev/null -w '%{{http_code}}' https://{name}:8443/"
    )
    assert result.stdout == code


# The database router

def ask(host, port):
    return host.run(f"timeout 5 bash -c 'head -1 </dev/tcp/127.0.0.1/{port}'").stdout.strip()


def set_roles(host, **roles):
    host.check_output("; ".join(f"echo {role} > /run/lab/{name}.role" for name, role in roles.items()))


def test_writer_follows_the_primary(host):
    wait_for(lambda: ask(host, 6446) == "db1")
    set_roles(host, db1="replica", db2="primary")
    wait_for(lambda: ask(host, 6446) == "db2")


def test_demoted_primary_loses_its_sessions(host):
    wait_for(lambda: ask(host, 6446) == "db1")
    out = host.run(
        "bash -c 'exec 3<>/dev/tcp/127.0.0.1/6446; read -u3 name; echo none >/run/lab/db1.role; timeout 5 cat <&3 >/dev/null 2>&1; echo $name $?'"
    ).stdout
    assert out.startswith("db1 ") and "124" not in out


def test_two_primaries_get_nothing(host):
    wait_for(lambda: ask(host, 6446) == "db1")
    set_roles(host, db2="primary")
    wait_for(lambda: ask(host, 6446) == "")
    assert [ask(host, 6446) for _ in range(4)] == [""] * 4
    set_roles(host, db2="replica")
    wait_for(lambda: ask(host, 6446) == "db1")


def test_reader_uses_replicas_then_the_primary(host):
    wait_for(lambda: {ask(host, 6447) for _ in range(4)} == {"db2", "db3"})
    set_roles(host, db2="none", db3="none")
    wait_for(lambda: {ask(host, 6447) for _ in range(4)} == {"db1"})


# Proxies from variables

def test_operators_own_proxies(host):
    assert json.loads(host.check_output("curl -sS http://127.0.0.1:8081/"))["headers"]["x-added"] == "by the operator"
    assert ask(host, 8082) == "db1"


# The service

def test_reload_cuts_nothing_and_keeps_a_drained_server_drained(host):
    admin(host, "set server web/web2 state drain")
    out = host.check_output(
        f"{CURL} {SITE}/slow & bash -c 'exec 3<>/dev/tcp/127.0.0.1/8082; read -u3 a; sleep 0.5; systemctl reload haproxy; sleep 0.5;"
        " echo still here >&3; read -u3 b; echo $b'; wait"
    )
    assert "........" in out and "still here" in out
    assert servers(host, "web")["web2"].startswith("DRAIN")
    assert {json.loads(curl(host, SITE))["name"] for _ in range(4)} == {"web1"}
    admin(host, "set server web/web2 state ready")


def test_sandbox(host):
    assert host.run("systemd-analyze security --no-pager --threshold=30 haproxy").rc == 0
    user = host.check_output("ps -o user= --ppid $(systemctl show -p MainPID --value haproxy)")
    assert set(user.split()) == {"haproxy"}


def test_life_is_written_for_keepalived(host):
    state = host.file("/run/haproxy-alive/state")
    assert state.content_string.strip() == "0"
    host.check_output("systemctl stop haproxy")
    assert state.content_string.strip() == "1"
    host.check_output("systemctl start haproxy")
    assert state.content_string.strip() == "0"


def test_comes_back_after_a_crash(host):
    admin(host, "set server web/web2 state drain")
    host.check_output("systemctl reload haproxy")
    admin(host, "set server web/web2 state ready")
    host.check_output("kill -9 $(systemctl show -p MainPID --value haproxy)")
    wait_for(lambda: host.run("curl -sS http://127.0.0.1:8404/haproxy-health").stdout == "ok")
    wait_for(web_is_up(host))


# Further runs of the role

def play(host, **variables):
    return subprocess.run(
        ["ansible-playbook", "-vvv", "--diff", "-i", os.environ["MOLECULE_INVENTORY_FILE"], "--limit", host.backend.get_hostname(),
         "-e", json.dumps(variables), os.path.join(os.environ["MOLECULE_SCENARIO_DIRECTORY"], "converge.yml")],
        capture_output=True, text=True, check=False, timeout=300)


def test_broken_configuration_is_refused_and_the_old_one_serves(host):
    before = host.file("/etc/haproxy/haproxy.cfg").sha256sum
    result = play(host, haproxy_global_config=["no-such-keyword"])
    assert result.returncode != 0 and "unknown keyword 'no-such-keyword'" in result.stdout + result.stderr
    assert host.file("/etc/haproxy/haproxy.cfg").sha256sum == before
    assert curl(host, f"-o /dev/null -w '%{{http_code}}' {SITE}") == "200"


def test_bad_variables_are_all_named(host):
    if "bookworm" in host.backend.get_hostname():
        pytest.skip("the same on every release")
    result = play(host, haproxy_web_servers=[], haproxy_certificates=[{"name": "a b", "content": "x"}])
    for problem in ("haproxy_web_servers is empty", '"a b"', "need a certificate and its private key"):
        assert problem in " ".join((result.stdout + result.stderr).split())


def test_port_taken_by_another_program_fails_the_play(host):
    """Where HAProxy can say so; 2.6 cannot."""
    if "2.6" in host.check_output("haproxy -v"):
        pytest.skip("HAProxy 2.6")
    listen = [{"name": "taken", "mode": "tcp", "binds": ["127.0.0.21:3306"]}]
    assert play(host, haproxy_listens=listen).returncode != 0
    assert curl(host, f"-o /dev/null -w '%{{http_code}}' {SITE}") == "200"
    assert play(host).returncode == 0


def test_certificates_come_and_go_and_a_new_port_is_used(host):
    """A server's saved state must not bring its old port back."""
    pem = host.check_output(
        "cd /run/lab && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=own.example.org"
        " -addext subjectAltName=DNS:own.example.org -keyout own.key -out own.crt 2>/dev/null; cat own.crt own.key"
    )
    subject = "openssl s_client -connect 127.0.0.1:443 -servername own.example.org </dev/null 2>/dev/null | openssl x509 -noout -subject"
    result = play(host, haproxy_web_port=9444, haproxy_certificates=[{"name": "own", "content": pem + "\n"}])
    assert result.returncode == 0, result.stdout + result.stderr
    assert "PRIVATE KEY" not in result.stdout + result.stderr
    wait_for(lambda: set(servers(host, "web").values()) == {"DOWN"})
    assert "own.example.org" in host.check_output(subject)
    assert play(host).returncode == 0
    wait_for(web_is_up(host))
    assert "www.example.com" in host.check_output(subject)
