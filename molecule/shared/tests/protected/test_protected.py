"""What stage 3 adds: HTTPS, a firewall on each machine, TLS between them, metrics and logs that arrive."""

import json
import time
import uuid

import lab
import pytest

testinfra_hosts = ["client"]

# Every port that something of ours may listen on.
PORTS = (22, 80, 443, 3306, 6446, 6447, 6514, 8008, 8080, 8404, 8405, 8406, 8428, 8429, 8443, 8888, 9090, 9093, 9100, 9104, 9113, 10000, 33060)

PROBE = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
def open_(target):
    try:
        socket.create_connection(target, 1).close()
        return True
    except ConnectionRefusedError:
        return "refused"
    except OSError:
        return False
targets = [(host, port) for host in sys.argv[1].split(",") for port in map(int, sys.argv[2].split(","))]
with ThreadPoolExecutor(64) as pool:
    print(json.dumps([[*target, answer] for target, answer in zip(targets, pool.map(open_, targets))]))
"""


def probe(source, addresses):
    """{address: ports that can be connected to}; a refused connection got through the firewall, too."""
    found = json.loads(lab.on(source).check_output("python3 -c %s %s %s", PROBE, ",".join(addresses), ",".join(map(str, PORTS))))
    return {address: {port for host, port, answer in found if host == address and answer} for address in addresses}


def allowed(source, target):
    """The declared matrix: which ports of target its firewall lets source reach."""
    tiers = {tier: set(members) for tier, members in lab.HOSTS.items()}
    ports = {22}
    if target in tiers["loadbalancers"]:
        ports |= {80, 443}
        if source in tiers["loadbalancers"]:
            ports |= {8888, 10000}
    if target in tiers["web"] and source in tiers["loadbalancers"]:
        ports |= {443}
    if target in tiers["app"] - tiers["web"] and source in tiers["web"]:
        ports |= {8443}
    if target in tiers["database"] and source in tiers["app"] | tiers["database"]:
        ports |= {3306}
    if target in tiers["database"] and source in tiers["app"]:
        ports |= {8008}
    if target in tiers["monitoring"] and source in lab.EVERY_HOST:
        ports |= {9090, 6514}
    return ports


@pytest.mark.parametrize("source", [*lab.EVERY_HOST, "client"])
def test_the_port_matrix(source):
    if source == "client":
        found = {name: probe(source, [address])[address] for name, address in lab.PUBLIC.items() if name in lab.HOSTS["loadbalancers"]}
    else:
        others = [name for name in lab.EVERY_HOST if name != source]
        by_address = probe(source, [lab.ADDRESS[name] for name in others])
        found = {name: by_address[lab.ADDRESS[name]] for name in others}
    assert found == {name: allowed(source, name) for name in found}


def test_the_certificate_is_of_the_acme_server_and_for_both_names():
    assert lab.site().status == 200
    assert lab.curl("https://foobar.com/").status in (301, 308)


def test_http_leads_to_https_and_stays_there():
    answer = lab.curl("http://www.foobar.com/some?query=1")
    assert answer.status in (301, 308)
    assert answer.headers["location"] == "https://www.foobar.com/some?query=1"
    assert int(lab.site().headers["strict-transport-security"].split("max-age=")[1].split(";")[0]) >= 63072000


def test_old_protocols_are_refused():
    client = lab.on("client")
    for version, works in (("-tls1_1", False), ("-tls1_2", True), ("-tls1_3", True)):
        result = client.run("openssl s_client -connect %s:443 -servername www.foobar.com %s -cipher ALL:@SECLEVEL=0 </dev/null", lab.EDGE, version)
        assert (result.rc == 0) is works, result.stderr


def test_web_servers_answer_load_balancers_only():
    balancer, web = lab.on(lab.HOSTS["loadbalancers"][0]), lab.HOSTS["web"][0]
    without = balancer.run(
        "python3 -c 'import ssl, socket, sys; c = ssl.create_default_context(cafile=\"/etc/webstack/pki/ca.crt\"); c.check_hostname = False;"
        " s = c.wrap_socket(socket.create_connection((sys.argv[1], 443), 3)); s.sendall(b\"GET / HTTP/1.0\\r\\nHost: www.foobar.com\\r\\n\\r\\n\");"
        " print(s.recv(100).decode())' %s",
        lab.ADDRESS[web],
    )
    assert without.rc != 0 or " 400 " in without.stdout or " 403 " in without.stdout, without.stdout


@pytest.mark.parametrize(
    "metric, tier",
    [
        ("node_load1", None),
        ("haproxy_process_current_run_queue", "loadbalancers"),
        ("nginx_up == 1", "web"),
        ("mysql_up == 1", "database"),
        ('app_request_duration_seconds_count{route="/", status="200"}', "app"),
    ],
)
def test_metrics_of_every_host_arrive(metric, tier):
    wanted = set(lab.HOSTS[tier] if tier else lab.EVERY_HOST)
    seen = lab.wait_for(lambda: wanted <= {row["metric"]["host"] for row in lab.ask_monitoring(metric)}, seconds=60, pause=2)
    assert seen, {row["metric"].get("host") for row in lab.ask_monitoring(metric)}


def test_metrics_of_the_app_are_not_for_visitors():
    assert lab.site("/metrics").status == 404
    assert lab.site("/metrics", "--header", "X-Forwarded-For;").status == 404


def test_a_log_line_of_every_host_arrives():
    token = uuid.uuid4().hex
    for name in lab.EVERY_HOST:
        lab.on(name).check_output("logger --tag proof %s", f"{token}-{name}-end")
    monitor = lab.on(lab.HOSTS["monitoring"][0])
    wanted = {f"{token}-{name}-end" for name in lab.EVERY_HOST}
    end = time.monotonic() + 30
    found = set()
    while found != wanted and time.monotonic() < end:
        found = set(monitor.run("grep -rhoE %s /var/log/remote", f"{token}-[a-z0-9]+-end").stdout.split())
    assert found == wanted


def test_nothing_that_listens_for_itself_is_reachable():
    """Exporters, agent, statistics and runtime sockets are on loopback."""
    for name in lab.EVERY_HOST:
        listening = lab.on(name).check_output("ss --tcp --listening --numeric --no-header")
        for line in listening.splitlines():
            address, _, port = line.split()[3].rpartition(":")
            if int(port) in (8080, 8404, 8405, 8406, 8428, 8429, 9093, 9094, 9100, 9104, 9113, 6446, 6447, 33060):
                assert address.strip("[]") in ("127.0.0.1", "::1"), f"{name}: {line}"
