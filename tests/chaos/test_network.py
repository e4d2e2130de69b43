"""Networks and disks that fail: packets that vanish, narrow lines, names that nobody resolves, logs without room; and all hosts rebooted at once."""
import contextlib
import json
import time

import lab
import pytest

from chaos import Load, alike, asked, changed_tasks, docker, followers, holders, play, primary, report, whole
from visitors import Visitors, figures

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("cluster")]
EDGE, WEBS, APPS, DATABASES = (lab.HOSTS[tier] for tier in ("loadbalancers", "web", "app", "database"))


def on(name, command):
    return docker("exec", name, "sh", "-c", command).stdout.strip()


@contextlib.contextmanager
def packets(hosts, *rules):
    """iptables has these rules on these hosts meanwhile."""
    try:
        for host in hosts:
            on(host, "; ".join(f"iptables -I {rule}" for rule in rules))
        yield
    finally:
        for host in hosts:
            on(host, "; ".join(f"iptables -D {rule} 2>/dev/null || :" for rule in rules))


def one_holder():
    return len(holders()) == 1 and lab.site("/healthz").status == 200


def test_load_balancers_that_hear_nothing_of_each_other():
    """Both hold the VIP, as VRRP has no majority; that is reported, both lead to the same site, and it ends when they hear each other."""
    with packets(EDGE, "INPUT -p vrrp -j DROP", "OUTPUT -p vrrp -j DROP"):
        assert lab.wait_for(lambda: len(holders()) == len(EDGE), seconds=10)
        assert lab.wait_for(lambda: lab.ask_monitoring('ALERTS{alertname="VipHolders", alertstate="firing"}'), seconds=180, pause=3)
        lab.write()
    start = time.monotonic()
    assert lab.wait_for(one_holder, seconds=10)
    report("VRRP unheard between two healthy load balancers, then heard", one_holder_after_s=round(time.monotonic() - start, 1))
    with Visitors(20, seconds=10) as visitors:
        time.sleep(10)
    visitors.nobody_failed()


@pytest.mark.parametrize("tier, port", [("web", 443), ("app", 8443)])
def test_packets_vanish_before_a_server(tier, port):
    """Nothing is refused, so only timeouts end the wait."""
    victim = lab.HOSTS[tier][0]
    with Visitors(40) as visitors, packets([victim], f"INPUT -p tcp --dport {port} -j DROP"):
        time.sleep(10)
    report(f"packets to a {tier} server vanish", **figures(visitors.numbers))
    visitors.nobody_failed("GET")
    # A write that had been sent may have been done: it is not sent again.
    assert visitors.numbers["POST"]["failed"] <= 24, visitors.numbers["reasons"]


@pytest.mark.parametrize("protocol", ["--http1.1", "--http2"])
def test_answers_cut_in_their_middle(protocol):
    """A visitor is told that it is not whole, never that it was all."""
    size, file = 2000000, "/srv/app/current/static/cut.0123456789.bin"

    def download():
        done = docker("exec", "client", "curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code} %{size_download}", protocol, "--max-time", "90",
                      "--cacert", lab.acme_root(), "https://www.foobar.com/static/cut.0123456789.bin", check=False)
        return done.returncode, *map(int, done.stdout.split())

    try:
        for name in WEBS:
            on(name, f"head -c {size} /dev/zero > {file}")
        assert download() == (0, 200, size)
        with packets(WEBS, "OUTPUT -p tcp --sport 443 -j DROP", "OUTPUT -p tcp --sport 443 -m quota --quota 500000 -j ACCEPT"):
            code, status, got = download()
        assert code in (18, 92, 95) and status == 200 and got < size, (code, status, got)
        assert lab.wait_for(lambda: download() == (0, 200, size), seconds=60)
    finally:
        for name in WEBS:
            on(name, f"rm -f {file}")


@pytest.mark.parametrize("percent", [5, 30])
def test_packets_get_lost_between_app_and_database(percent):
    """It gets slower, nothing is acknowledged that is not there, and nobody takes over."""
    before = primary()
    load = Load("sql", 50)
    with packets(DATABASES, f"INPUT -i eth0 -p tcp --dport 3306 -m statistic --mode random --probability {percent / 100} -j DROP"):
        time.sleep(20)
    load.goes_on()
    load.stop()
    report(f"{percent} % of the packets to the databases get lost", acknowledged=len(load.acks()), errors=len(load.errors()))
    assert not load.lost()
    assert primary() == before
    assert lab.wait_for(whole, seconds=60)
    assert alike()


def test_a_narrow_line_between_databases():
    """1 Mbit/s out of the primary: a write of a megabyte waits until a replica has it, and nobody takes over."""
    source = primary()
    interfaces = on(source, "ip -o -4 address | awk '/198[.]19[.]/ {print $2}'").split()
    lab.sql(source, "CREATE TABLE site.narrow (text BLOB)")
    try:
        for interface in interfaces:
            on(source, f"tc qdisc add dev {interface} root tbf rate 1mbit burst 32kbit latency 400ms")
        start = time.monotonic()
        lab.sql(source, "INSERT INTO site.narrow SELECT RANDOM_BYTES(1024) FROM information_schema.columns LIMIT 1000")
        seconds = time.monotonic() - start
    finally:
        for interface in interfaces:
            on(source, f"tc qdisc del dev {interface} root")
    report("1 MB over 1 Mbit/s between the databases", acknowledged_after_s=round(seconds, 1))
    assert seconds > 5 and primary() == source
    assert lab.wait_for(whole, seconds=60)
    assert lab.wait_for(lambda: {asked(name, "SELECT COUNT(*) FROM site.narrow") for name in DATABASES} == {"1000"}, seconds=60)
    lab.sql(source, "DROP TABLE site.narrow")


def test_what_a_primary_acknowledged_alone_is_not_called_safe():
    """It dies while its replicas catch up. Once they have caught up and nobody writes, nothing speaks against a failover."""
    source = primary()
    replicas = followers(source)
    interfaces = on(source, "ip -o -4 address | awk '/198[.]19[.]/ {print $2}'").split()
    lab.sql(source, "DROP TABLE IF EXISTS site.alone; CREATE TABLE site.alone (text BLOB)")
    for name in replicas:
        lab.sql(name, "STOP REPLICA")
    # The role keeper would switch it on again while it still counts one.
    assert lab.wait_for(lambda: asked(source, "SHOW STATUS LIKE 'Rpl_semi_sync_source_clients'").split()[1] == "0", seconds=30)
    time.sleep(2)
    lab.sql(source, "SET GLOBAL rpl_semi_sync_source_wait_no_replica = OFF")
    for _ in range(20):
        lab.sql(source, "INSERT INTO site.alone SELECT RANDOM_BYTES(1024) FROM information_schema.columns LIMIT 100")
    time.sleep(6)
    for interface in interfaces:
        on(source, f"tc qdisc add dev {interface} root tbf rate 1mbit burst 32kbit latency 400ms")
    for name in replicas:
        lab.sql(name, "START REPLICA")
    assert lab.wait_for(lambda: 0 < max(int(asked(name, "SELECT COUNT(*) FROM site.alone")) for name in replicas) < 2000, seconds=20)
    docker("kill", source)
    output, _ = play("failover", check=False)
    assert "loss unknown" in output and "was still catching up" in output and "allow_data_loss" in output, output[-2000:]
    # Nothing was changed: it is back with all that it had.
    docker("start", source)
    assert lab.wait_for(lambda: whole() and {asked(name, "SELECT COUNT(*) FROM site.alone") for name in DATABASES} == {"2000"}, seconds=90)
    assert primary() == source
    time.sleep(3)
    docker("kill", source)
    output, _ = play("failover")
    assert "acknowledged writes lost: none" in output
    docker("start", source)
    assert lab.wait_for(lambda: asked(source, "SELECT 1") == "1", seconds=60)
    play("rejoin", "-e", f"server={source}", "-e", "on_errant=reprovision")
    lab.sql(primary(), "DROP TABLE site.alone")


def test_nobody_resolves_names():
    """Nothing on the way of a request asks DNS, neither do reloads."""
    # Docker's resolver, of which every host's resolv.conf names nothing else.
    with packets(EDGE + WEBS + APPS + DATABASES, "OUTPUT -d 127.0.0.11 -j DROP"):
        assert docker("exec", APPS[0], "timeout", "3", "getent", "hosts", "internet", check=False).returncode != 0
        with Visitors(20) as visitors:
            for name in EDGE:
                on(name, "systemctl reload haproxy")
            for name in WEBS:
                on(name, "systemctl reload nginx")
            time.sleep(10)
    report("DNS is dead", **figures(visitors.numbers))
    visitors.nobody_failed()


def test_no_room_for_logs():
    """A web server whose logs have no room goes on."""
    host = WEBS[0]
    # In the unit's sandbox a mount is there from its next start on.
    on(host, "mount -t tmpfs -o size=64k tmpfs /var/log/nginx && systemctl restart nginx && head -c 60000 /dev/zero > /var/log/nginx/filler")
    try:
        assert lab.wait_for(lambda: lab.site("/").hops["Web server"] == host)
        assert lab.wait_for(lambda: lab.site("/") and "100%" in on(host, "df /var/log/nginx"), seconds=60)
        # The last page of memory has room for some ten lines more.
        with Visitors(20, least=400) as visitors:
            pass
    finally:
        on(host, "umount --lazy /var/log/nginx && systemctl restart nginx")
    report("no room for nginx's logs", **figures(visitors.numbers))
    visitors.nobody_failed()


def test_outgoing_connections_are_denied():
    """What the roles declare is enough for visitors, a switchover, a renewed certificate and the monitoring."""
    def reached():
        return docker("exec", WEBS[0], "timeout", "3", "bash", "-c", f"</dev/tcp/{lab.ADDRESS[DATABASES[0]]}/22", check=False).returncode == 0

    # The lab's ACME server has ports of its own.
    wanted = {"firewall_default_outgoing": "deny", "firewall_outgoing_rules": [
        {"port": "53"}, {"port": "123", "proto": "udp"}, {"port": "80,443,14000,15000", "proto": "tcp"}]}
    assert reached()
    try:
        with Visitors(20) as visitors:
            play("stage4", "--tags", "firewall", "-e", json.dumps(wanted))
            assert not reached()
            play("switchover", "-e", f"new_primary={next(name for name in DATABASES if name != primary())}")
            on(holders()[0], "REQUESTS_CA_BUNDLE=/etc/ssl/acme-server.crt certbot renew --quiet --force-renewal --no-random-sleep-on-renew")
        report("outgoing connections denied", **figures(visitors.numbers))
        visitors.nobody_failed()
        assert lab.wait_for(whole, seconds=30)
        assert lab.wait_for(lambda: {row["metric"]["host"] for row in lab.ask_monitoring("time() - timestamp(node_load1) < 20")} == set(lab.EVERY_HOST), seconds=60, pause=3)
    finally:
        play("stage4", "--tags", "firewall")
    assert reached()


def test_all_hosts_reboot_at_once():
    """Everything comes back in its role by itself, nothing acknowledged is lost, and the stage has nothing to change."""
    hosts = [name for tier in lab.HOSTS.values() for name in tier]
    load = Load("http", 20)
    before = primary()
    docker("kill", *hosts)
    start = time.monotonic()
    docker("start", *hosts)
    assert lab.wait_for(lambda: whole() and one_holder(), seconds=180)
    report("all hosts die at once, and boot", site_after_s=round(time.monotonic() - start))
    assert primary() == before
    load.goes_on()
    load.stop()
    assert not load.lost()
    output, _ = play("stage4")
    # Docker writes a new /etc/hosts at each start of a container.
    assert changed_tasks(output) <= {"foobar.webstack.app : Point the database's names to the router on this host"}
