"""What a team sees of the monitoring: samples, log lines and alerts arrive, and nobody else gets in."""
import base64
import json
import os
import re
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid

import pytest
import testinfra.utils.ansible_runner

DIRECTORY = os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]
RUNNER = testinfra.utils.ansible_runner.AnsibleRunner(os.environ["MOLECULE_INVENTORY_FILE"])
HOSTS = {name: RUNNER.get_host(name) for name in ("monitoring-server", "monitoring-trixie", "monitoring-bookworm")}
SERVER, AGENT = HOSTS["monitoring-server"], HOSTS["monitoring-trixie"]
ADDRESS = SERVER.check_output("hostname -I").split()[0]
PASSWORD = "p'a\"s s$w%o\\r{d"
TLS = ssl.create_default_context(cafile=f"{DIRECTORY}/ca.crt")

every_host = pytest.mark.parametrize("name", HOSTS)


def get(path, password=PASSWORD, scheme="https"):
    request = urllib.request.Request(f"{scheme}://{ADDRESS}:9090{path}")
    if password:
        request.add_header("Authorization", "Basic " + base64.b64encode(f"webstack:{password}".encode()).decode())
    with urllib.request.urlopen(request, context=TLS if scheme == "https" else None, timeout=10) as answer:
        return answer.read()


def query(expression, when=None):
    parameters = {"query": expression} | ({"time": when} if when else {})
    return json.loads(get("/api/v1/query?" + urllib.parse.urlencode(parameters)))["data"]["result"]


def eventually(look, seconds=60):
    end = time.time() + seconds
    while True:
        found = look()
        if found or time.time() > end:
            return found
        time.sleep(1)


def received(token, name="*", tag="*"):
    """Lines with the token that the log receiver has written."""
    return SERVER.run(f"grep -h {token} /var/log/remote/{name}/{tag}.log").stdout


@every_host
def test_samples_of_every_host_arrive_with_its_labels(name):
    found = eventually(lambda: query(f'node_load1{{host="{name}"}}'))
    assert found[0]["metric"]["stack"] == "foobar.com"
    assert found[0]["metric"]["instance"] == f"{name}:9100"
    assert found[0]["metric"]["tier"] == {"monitoring-server": "monitoring", "monitoring-trixie": "web,database"}.get(name, "web")
    assert query(f'node_systemd_unit_state{{host="{name}", name="vmagent.service", state="active"}} == 1')
    assert query(f'node_scrape_collector_success{{host="{name}", collector=~"netdev|filesystem|systemd|textfile"}} == 1')


def test_exporters_that_a_role_asked_for_are_scraped():
    for expression in ('up{job="nginx"}', 'up{job="mysql"}', 'up{job="prometheus"}', 'up{job="alertmanager"}'):
        found = eventually(lambda expression=expression: query(expression + " == 1"))
        assert len(found) == 1, expression


@pytest.mark.parametrize("password", [None, "wrong"])
def test_nobody_reads_without_the_password(password):
    with pytest.raises(urllib.error.HTTPError) as error:
        get("/api/v1/query?query=up", password)
    assert error.value.code == 401


def test_nobody_reads_in_clear():
    with pytest.raises(urllib.error.HTTPError) as error:
        get("/api/v1/query?query=up", scheme="http")
    assert error.value.code == 400


@every_host
def test_a_line_in_the_system_log_arrives(name):
    token = uuid.uuid4().hex
    HOSTS[name].check_output(f"logger -t shop 'order {token}'")
    assert re.fullmatch(rf"\S+ notice shop(\[\d+\])?: order {token}\n", eventually(lambda: received(token, name, "shop")))


def test_a_line_in_a_listed_file_arrives():
    token = uuid.uuid4().hex
    AGENT.check_output(f"echo '{token} 100% \"done\"' >> /var/log/test.log")
    assert f'{token} 100% "done"' in eventually(lambda: received(token, "monitoring-trixie", "test-file"))
    assert AGENT.run(f"grep -r {token} /var/log/syslog /var/log/user.log").stdout == "", "a file's lines are not copied locally"


def syslog(text, context=None):
    """Speaks to the log receiver as a stranger; being refused is fine."""
    message = f"<13>1 2026-01-01T00:00:00Z intruder shop - - - {text}"
    try:
        with socket.create_connection((ADDRESS, 6514), timeout=10) as plain:
            connection = context.wrap_socket(plain, server_hostname="monitoring-server") if context else plain
            connection.sendall(f"{len(message)} {message}".encode())
            connection.settimeout(2)
            connection.recv(1)
    except OSError:
        pass


def test_strangers_cannot_write_logs():
    subprocess.run(
        "openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=stranger -keyout stranger.key -out stranger.csr"
        " && openssl x509 -req -in stranger.csr -CA ca.crt -CAkey ca.key -days 1 -out stranger.crt",
        shell=True, cwd=DIRECTORY, check=True, capture_output=True)
    stranger = ssl.create_default_context(cafile=f"{DIRECTORY}/ca.crt")
    stranger.load_cert_chain(f"{DIRECTORY}/stranger.crt", f"{DIRECTORY}/stranger.key")
    friend = ssl.create_default_context(cafile=f"{DIRECTORY}/ca.crt")
    friend.load_cert_chain(f"{DIRECTORY}/monitoring-trixie.crt", f"{DIRECTORY}/monitoring-trixie.key")
    # More than once: a driver that checks the name too late lets some in.
    refused = {uuid.uuid4().hex: context for context in 3 * (None, TLS, stranger)}
    for token, context in refused.items():
        syslog(token, context)
    token = uuid.uuid4().hex
    syslog(token, friend)
    assert eventually(lambda: received(token)), "a host of the stack is let in, so that the next line means something"
    assert not [token for token in refused if received(token)]


@every_host
def test_nothing_listens_beyond_what_is_meant(name):
    sockets = HOSTS[name].check_output("ss -tulnH").splitlines()
    listening = {line.split()[4].replace("[::1]", "127.0.0.1") for line in sockets}
    # But for the RELP service, which is the scenario's own.
    outside = {address for address in listening if not address.startswith("127.0.0.") and not address.endswith(":2514")}
    assert outside == ({f"{ADDRESS}:9090", f"{ADDRESS}:6514"} if name == "monitoring-server" else set())
    assert {"127.0.0.1:8429", "127.0.0.1:9100"} <= listening


@every_host
def test_nothing_ever_listened_elsewhere(name):
    journal = HOSTS[name].check_output("journalctl --no-pager -o cat")
    addresses = set(re.findall(r'(?:Listening on"? address=|listen(?:ing)? on )"?([\d.\[\]:]+:\d+)', journal, re.I))
    assert "127.0.0.1:9100" in addresses
    assert all(address.startswith("127.0.0.1:") or address == f"{ADDRESS}:9090" for address in addresses), addresses
    assert "Started victoria-metrics" not in journal


@every_host
def test_services_are_sandboxed(name):
    units = HOSTS[name].check_output("systemctl list-units --plain --no-legend 'prometheus*' 'vmagent*' 'webstack-metrics*' | cut -d' ' -f1").split()
    assert {"vmagent.service", "prometheus-node-exporter.service", "webstack-metrics.service"} <= set(units)
    for unit in units:
        HOSTS[name].run_expect([0], f"systemd-analyze security --no-pager --threshold=20 {unit}")


@every_host
def test_the_password_is_for_its_readers_alone(name):
    host = HOSTS[name]
    seen = [host.check_output(f"{{ {command}; }} | LC_ALL=C tr -cd '[:print:]'") for command in (
        "ps -eo args", "systemctl show '*' -p ExecStart -p Environment", "journalctl --no-pager -o cat",
        "find /etc /var/lib -xdev -type f -perm -o=r -size -64k -exec cat {} + 2>/dev/null")]
    assert not [index for index, text in enumerate(seen) if PASSWORD in text]


@every_host
def test_what_no_exporter_knows(name):
    address = HOSTS[name].check_output("hostname -I").split()[0]
    end = int(HOSTS[name].check_output("date +%s -d \"$(openssl x509 -noout -enddate -in /etc/webstack/pki/host.crt | cut -d= -f2)\""))
    for expression in (f'node_network_address_info{{host="{name}", address="{address}"}}',
                       f'node_systemd_service_restart_total{{host="{name}", name="vmagent.service"}}',
                       f'certificate_not_before_timestamp_seconds{{host="{name}", file="/etc/webstack/pki/host.crt"}} < {end} - 86400',
                       f'certificate_not_after_timestamp_seconds{{host="{name}", file="/etc/webstack/pki/host.crt"}} == {end}',
                       f'node_textfile_mtime_seconds{{host="{name}", file=~".*/webstack.prom"}}'):
        assert len(eventually(lambda expression=expression: query(expression), 90)) == 1, expression


def test_a_certificate_that_is_not_served_is_seen():
    expression = 'certificate_served{host="monitoring-server", file="/etc/webstack/pki/served*.crt"}'
    other = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=other -keyout /dev/null -out served-1.crt"
    try:
        for command, good in (("cp host.crt served-1.crt", 1), (other, 0), ("cp host.crt served-2.crt", 1)):
            SERVER.check_output(f"cd /etc/webstack/pki && {command} && systemctl restart webstack-metrics")
            assert eventually(lambda good=good: query(f"{expression} == {good}")), command
    finally:
        SERVER.check_output("rm /etc/webstack/pki/served-*")


def test_services_that_ask_for_a_certificate_are_looked_at_with_one():
    """So that they do not log each look as an intruder."""
    expression = f'certificate_served{{host="monitoring-server", file="/etc/webstack/pki/host.crt", address=~"{ADDRESS}:(9090|6514)"}} == 1'
    assert eventually(lambda: len(query(expression)) == 2, 90)
    begin = SERVER.check_output("date +%s")
    SERVER.check_output("systemctl restart webstack-metrics")
    time.sleep(5)
    assert "peer" not in SERVER.check_output(f"journalctl --unit=rsyslog --since=@{begin} --no-pager -o cat")


@every_host
def test_the_kernel_says_whether_its_clock_is_synchronised(name):
    """But nobody is alarmed where no service keeps it, as in a container."""
    assert eventually(lambda: query(f'node_timex_sync_status{{host="{name}"}}'))
    assert not query(f'ALERTS{{alertname="ClockUnsynchronised", host="{name}"}}')


def test_a_rule_opened_by_hand_is_seen():
    """But another program's chain is its own business, and a reload changes nothing."""
    host = HOSTS["monitoring-bookworm"]
    # The package's rules for IPv6 lack what ufw adds to them with the first rule of one's own.
    host.check_output("apt-get install -y --no-install-recommends ufw >/dev/null && ufw allow 22/tcp && ufw --force enable && (iptables -S; ip6tables -S) >/etc/ufw/applied")
    steps = [("true", 0), ("iptables -N other && iptables -A FORWARD -j other", 0), ("ufw allow 9999/tcp", 1), ("ufw delete allow 9999/tcp", 0), ("ufw reload", 0),
             ("iptables -I INPUT -p tcp --dport 9999 -j ACCEPT", 1)]
    try:
        for command, drift in steps:
            host.check_output(f"{command} && systemctl restart webstack-metrics")
            assert eventually(lambda drift=drift: query(f'firewall_drift{{host="monitoring-bookworm"}} == {drift}')), command
    finally:
        host.check_output("ufw disable; iptables -D FORWARD -j other; iptables -X other; iptables -D INPUT -p tcp --dport 9999 -j ACCEPT; rm /etc/ufw/applied; systemctl restart webstack-metrics")


def test_metrics_that_a_service_leaves_in_its_directory_arrive():
    AGENT.check_output("mkdir -p /run/shop && echo 'shop_orders 7' >/run/shop/metrics.prom && systemctl restart webstack-metrics")
    assert eventually(lambda: query('shop_orders{host="monitoring-trixie"} == 7'))
    AGENT.check_output("rm -r /run/shop && systemctl restart webstack-metrics")
    assert eventually(lambda: not query('shop_orders{host="monitoring-trixie"}'))
    assert not query('node_textfile_scrape_error{host="monitoring-trixie"} == 1')


def test_an_empty_file_tells_when_it_was_written():
    """So the last converge is kept."""
    AGENT.check_output("touch -d @1700000000 /var/lib/prometheus/node-exporter/converge.prom")
    assert eventually(lambda: query('node_textfile_mtime_seconds{host="monitoring-trixie", file=~".*/converge.prom"} == 1.7e9'))
    assert eventually(lambda: query('ALERTS{alertname="ConvergeOld", host="monitoring-trixie", alertstate="firing"}'))


def test_alerts_reach_alertmanager():
    def watchdog():
        return json.loads(SERVER.check_output("amtool --alertmanager.url=http://127.0.0.1:9093 -o json alert query alertname=Watchdog"))
    assert eventually(watchdog)
    assert not query('ALERTS{alertname=~"HostGone|AlertingBroken|MetricsDropped"}')


def test_samples_of_an_outage_arrive_afterwards():
    """Of a service that is silent, not gone: an agent that asked it anything before it starts would wait for the answer."""
    SERVER.check_output("systemctl kill --signal=STOP prometheus")
    time.sleep(10)
    AGENT.check_output("systemctl restart vmagent")
    time.sleep(10)
    end = time.time()
    SERVER.check_output("systemctl kill --signal=CONT prometheus")

    def kept():
        try:
            found = query('count_over_time(node_load1{host="monitoring-trixie"}[25s])', end)
        except OSError:
            return False
        return found and int(found[0]["value"][1]) >= 3
    assert eventually(kept, 90), "five scrapes, of which the restart may cost two"


def test_lines_of_an_outage_arrive_afterwards():
    tokens = [uuid.uuid4().hex for _ in range(3)]
    SERVER.check_output("systemctl stop rsyslog syslog.socket")
    AGENT.check_output("systemctl restart webstack-metrics")
    assert eventually(lambda: query('log_receiver_connections{host="monitoring-trixie"} == 0'), 120)
    for token in tokens:
        AGENT.check_output(f"logger -t shop {token}")
        time.sleep(2)
    AGENT.check_output("systemctl restart rsyslog")
    SERVER.check_output("systemctl start syslog.socket rsyslog")
    # TCP cannot tell that the first one went into a connection that was just closed.
    assert all(eventually(lambda token=token: received(token, "monitoring-trixie")) for token in tokens[1:])
    AGENT.check_output("systemctl restart webstack-metrics")
    # Who sent what lay on disk takes its connection along; the other worker's comes within half a minute, and the next look a minute after the first.
    assert eventually(lambda: query('log_receiver_connections{host="monitoring-trixie"} > 0'), 120)
    # What waited in memory was kept over the restart.
    assert query('log_buffer_bytes{host="monitoring-trixie"} > 0')


def test_received_lines_are_kept_as_long_as_declared():
    """Also of a host that is gone, whose log no rotation looks at any more."""
    SERVER.check_output("mkdir -p /var/log/remote/gone && cd /var/log/remote/gone && touch -d '-29 days' kept.log && touch -d '-31 days' old.log old.log.1.gz")
    SERVER.check_output("systemd-tmpfiles --clean /etc/tmpfiles.d/webstack-remote.conf")
    assert SERVER.check_output("ls /var/log/remote/gone") == "kept.log"
    SERVER.check_output("rm -r /var/log/remote/gone")


def test_relp_loses_no_line_when_the_receiver_restarts():
    token = uuid.uuid4().hex
    HOSTS["monitoring-bookworm"].check_output(f"(for n in $(seq 100); do logger -t relp {token}-$n.; sleep 0.05; done) </dev/null >/dev/null 2>&1 &")
    time.sleep(2)
    SERVER.check_output("systemctl restart rsyslog")
    expected = {f"{token}-{number}." for number in range(1, 101)}
    assert eventually(lambda: expected == set(re.findall(rf"{token}-\d+[.]", received(token, "monitoring-bookworm", "relp"))))


# Somebody else's service for metrics: it notes who wrote.
TAKER = """
import http.server, ssl
class Taker(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        size = len(self.rfile.read(int(self.headers["Content-Length"])))
        print(self.path, self.headers["Authorization"], size > 100, flush=True)
        self.send_response(204)
        self.end_headers()
server = http.server.ThreadingHTTPServer(("", 9443), Taker)
tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
tls.load_cert_chain("/etc/webstack/pki/host.crt", "/etc/webstack/pki/host.key")
server.socket = tls.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


def test_services_of_the_users_get_samples_by_token_and_the_whole_journal(tmp_path):
    """The last one: the agent leaves the stack's own service."""
    SERVER.check_output(
        "systemctl is-active taker || { mkdir -p /var/log/uploaded && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends systemd-journal-remote"
        " && systemd-run --unit=taker python3 -c %s && systemd-run --unit=uploaded /lib/systemd/systemd-journal-remote --listen-https=19532"
        " --key=/etc/webstack/pki/host.key --cert=/etc/webstack/pki/host.crt --output=/var/log/uploaded; } >/dev/null", TAKER)
    pki = "/etc/webstack/pki"
    variables = {
        "monitoring_agent_remote_write_url": "https://monitoring-server:9443/write", "monitoring_agent_remote_write_bearer_token": "t0k/en==",
        "monitoring_agent_remote_write_ca": f"{pki}/ca.crt", "monitoring_agent_scrape_interval": "5s",
        "monitoring_agent_log_transport": "journal-upload", "monitoring_agent_journal_upload_url": "https://monitoring-server:19532",
        "monitoring_agent_log_ca": f"{pki}/ca.crt", "monitoring_agent_log_certificate": f"{pki}/host.crt", "monitoring_agent_log_key": f"{pki}/host.key"}
    # As systemd finds it on a machine; in Docker's mounts a unit does not see its credentials.
    AGENT.check_output("mount --make-rshared /")
    AGENT.check_output("grep -q monitoring-server /etc/hosts || echo '%s monitoring-server' >>/etc/hosts", ADDRESS)
    play = {"hosts": "monitoring-trixie", "become": True, "vars": variables, "roles": ["foobar.webstack.monitoring_agent"]}
    (tmp_path / "play.yml").write_text(json.dumps([play]))
    command = ["ansible-playbook", "-i", os.environ["MOLECULE_INVENTORY_FILE"], str(tmp_path / "play.yml")]
    runs = [subprocess.run(command, capture_output=True, text=True) for _ in range(2)]
    assert [run.returncode for run in runs] == [0, 0], runs[0].stdout[-3000:]
    assert "changed=0" in runs[1].stdout and "t0k/en" not in runs[0].stdout + runs[0].stderr
    assert eventually(lambda: "/write Bearer t0k/en== True" in SERVER.check_output("journalctl --unit=taker --output=cat --no-pager"))
    token = uuid.uuid4().hex
    AGENT.check_output(f"logger -t shop {token}")
    assert eventually(lambda: token in SERVER.check_output("journalctl --directory=/var/log/uploaded --output=cat --identifier=shop --no-pager"))


@pytest.mark.parametrize("role, variables, messages", [
    ("monitoring_agent", {}, ["add a host to the group monitoring", "monitoring_agent_log_host is empty"]),
    ("monitoring_agent", {"monitoring_agent_remote_write_url": "http://x/", "monitoring_agent_remote_write_bearer_token": "t",
                          "monitoring_agent_log_transport": "none"}, ["not https"]),
    ("monitoring_agent", {"monitoring_agent_scrape_targets": [{"exporter": "apache"}]}, ["must be one of: nginx, mysqld"]),
    ("monitoring_agent", {"monitoring_agent_certificates": [{"file": "a b.pem"}]}, ["not a b.pem"]),
    ("monitoring_agent", {"monitoring_agent_log_files": [{"path": "log", "tag": "a/b"}]}, ["absolute paths, not log", "not a/b"]),
    ("monitoring_server", {}, ["monitoring_server_password is empty", "monitoring_server_ca,", "monitoring_server_hosts is empty"]),
    ("monitoring_server", {"monitoring_server_slo": 100}, ["monitoring_server_slo is not between"]),
    ("monitoring_server", {"monitoring_server_password": "ü" * 37}, ["at most 72 bytes"]),
])
def test_bad_input_is_refused_with_one_message(role, variables, messages, tmp_path):
    play = [{"hosts": "localhost", "connection": "local", "gather_facts": False, "roles": [f"foobar.webstack.{role}"]}]
    (tmp_path / "play.yml").write_text(json.dumps(play))
    result = subprocess.run(
        ["ansible-playbook", "--check", "-i", "localhost,", "-e", json.dumps(variables), "play.yml"],
        cwd=tmp_path, capture_output=True, text=True)
    output = re.sub(r"\s+", " ", result.stdout + result.stderr)
    assert result.returncode == 2
    assert "changed=0" in output
    for message in messages:
        assert message in output
