"""Hosts leave and join stage 4 while visitors look at the site; what left is forgotten everywhere and holds nothing any more."""

import os
import subprocess
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
VIP = "198.18.0.100"


def on(host, command):
    return subprocess.run(["docker", "exec", host, "sh", "-c", command], capture_output=True, text=True, check=False)


def play(directory, playbook, *options):
    result = subprocess.run(
        ["ansible-playbook", "-i", str(directory / "hosts.yml"), "-i", str(ROOT / ".lab/stage4.yml"), f"playbooks/{playbook}.yml", *options],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
    )
    assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
    return result.stdout


def holders():
    return [name for name in ("lb1", "lb2", "lb3") if f"inet {VIP}/" in on(name, "ip -4 address").stdout]


def answer(host="client"):
    page = on(host, "curl --silent --insecure --max-time 5 --output /dev/null --write-out '%{http_code}' https://www.foobar.com/")
    return page.stdout


def process(host):
    return on(host, "systemctl show --property MainPID --value mysql").stdout.strip()


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """lb3 takes the place of lb2, db3 leaves, while a visitor asks about ten times a second. The hosts are left like that."""
    directory = tmp_path_factory.mktemp("inventory")
    groups = yaml.safe_load((ROOT / "inventories/stage4/hosts.yml").read_text())
    groups["loadbalancers"]["hosts"] = {"lb1": None, "lb3": None}
    del groups["database"]["hosts"]["db3"]
    groups["decommissioned"] = {"hosts": {"lb2": None, "db3": None}}
    (directory / "hosts.yml").write_text(yaml.safe_dump(groups))
    on("client", """cat > /tmp/visitor <<'END'
        while [ ! -e /tmp/enough ]; do
          status=$(curl --silent --insecure --max-time 5 --include --output /tmp/visit --write-out '%{http_code}' https://www.foobar.com/)
          echo "$status"
          if [ "$status" != 200 ]; then { date --utc +%T.%N; head --bytes 1000 /tmp/visit; } >> /tmp/failed; fi
          sleep 0.1
        done > /tmp/visits
END
        rm -f /tmp/enough /tmp/failed; touch /tmp/failed""")
    before = process("db1")
    visitor = subprocess.Popen(["docker", "exec", "client", "timeout", "1200", "bash", "/tmp/visitor"])
    try:
        play(directory, "stage4")
        play(directory, "decommission")
    finally:
        on("client", "touch /tmp/enough")
        visitor.wait(timeout=30)
    return before, directory


def test_no_visitor_noticed(moved):
    visits = on("client", "cat /tmp/visits").stdout.split()
    assert len(visits) > 100
    assert [status for status in visits if status != "200"] == [], on("client", "cat /tmp/failed").stdout


def test_the_primary_was_told_without_a_restart(moved):
    """One replica is left, so commits wait for it a second and no longer."""
    assert process("db1") == moved[0] != "0"
    settings = on("db1", "mysql -BNe 'SELECT @@rpl_semi_sync_source_timeout, @@rpl_semi_sync_source_wait_no_replica, @@read_only'").stdout
    assert settings.split() == ["1000", "0", "0"]


def test_what_left_holds_nothing(moved):
    assert holders() in (["lb1"], ["lb3"])
    for host, services in (("lb2", "keepalived haproxy"), ("db3", "mysql mysql-role-keeper mysql-role-check.socket")):
        for service in services.split():
            assert on(host, f"systemctl is-active {service}").stdout.strip() in ("inactive", "failed"), f"{service} on {host}"
            assert on(host, f"systemctl is-enabled {service}").stdout.strip() != "enabled", f"{service} on {host}"


def test_the_new_load_balancer_takes_over(moved):
    """Also: the old member's rules and peers are gone, the new one's are there."""
    on("lb1", "systemctl stop keepalived")
    try:
        end = time.monotonic() + 5
        while holders() != ["lb3"] and time.monotonic() < end:
            time.sleep(0.1)
        assert holders() == ["lb3"]
        assert answer() == "200"
    finally:
        on("lb1", "systemctl start keepalived")
    assert "198.19.0.12" not in on("lb1", "ufw status; cat /etc/keepalived/keepalived.conf").stdout
    assert "198.19.0.43" not in on("db1", "ufw status").stdout
    assert "db3" not in on("app1", "echo 'show servers state' | socat stdio /run/haproxy/admin.sock").stdout


def test_a_database_server_joins(moved):
    """An empty one, while the firewall of the primary keeps out whom it does not know."""
    on("db3", "find /var/lib/mysql -mindepth 1 -delete")
    groups = yaml.safe_load((moved[1] / "hosts.yml").read_text())
    groups["database"]["hosts"]["db3"] = groups["decommissioned"]["hosts"].pop("db3")
    (moved[1] / "hosts.yml").write_text(yaml.safe_dump(groups))
    play(moved[1], "stage4", "--tags", "database")
    assert process("db1") == moved[0]
    with_all = on("db1", "mysql -BNe 'SELECT COUNT(*) FROM site.entries'").stdout
    assert with_all and on("db3", "mysql -BNe 'SELECT COUNT(*) FROM site.entries'").stdout == with_all
    assert len(on("db1", "mysql -BNe 'SHOW REPLICAS'").stdout.splitlines()) == 2
