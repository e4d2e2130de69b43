"""Hosts leave and join stage 4 while visitors look at the site; what left is forgotten everywhere and holds nothing any more."""

import os
import subprocess
import time
import uuid
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
VIP = "198.18.0.100"
ENTRY = uuid.uuid4().hex


def on(host, command):
    return subprocess.run(["docker", "exec", host, "sh", "-c", command], capture_output=True, text=True, check=False)


def holders():
    return [name for name in ("lb1", "lb2", "lb3") if f"inet {VIP}/" in on(name, "ip -4 address").stdout]


def answer(host="client"):
    page = on(host, "curl --silent --insecure --max-time 5 --output /dev/null --write-out '%{http_code}' https://www.foobar.com/")
    return page.stdout


def process(host):
    return on(host, "systemctl show --property MainPID --value mysql").stdout.strip()


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


class Moved:
    """Who is what before anything moves: tests before this one may have changed roles."""

    def __init__(self, directory):
        writable = {name: on(name, "mysql -BNe 'SELECT @@read_only'").stdout.strip() == "0" for name in ("db1", "db2", "db3")}
        self.primary = next(name for name in writable if writable[name])
        self.leaver = next(name for name in reversed(writable) if not writable[name])
        self.process = process(self.primary)
        self.file = directory / "hosts.yml"
        self.groups = yaml.safe_load((ROOT / "inventories/stage4/hosts.yml").read_text())

    def play(self, playbook, *options):
        self.file.write_text(yaml.safe_dump(self.groups))
        result = subprocess.run(
            # As tests/chaos/chaos.py does: the controller is on the hosts' own two cores, and a VIP moves under its load.
            ["nice", "-n", "15", "ansible-playbook", "-i", str(self.file), "-i", str(ROOT / ".lab/stage4.yml"), f"playbooks/{playbook}.yml", *options],
            cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORKS": "4"},
        )
        assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """lb3 takes the place of lb2, which holds the VIP, and a replica leaves, while a visitor asks about ten times a second. The hosts are left like that."""
    moved = Moved(tmp_path_factory.mktemp("inventory"))
    moved.groups["loadbalancers"]["hosts"] = {"lb1": None, "lb3": None}
    del moved.groups["database"]["hosts"][moved.leaver]
    moved.groups["decommissioned"] = {"hosts": {"lb2": None, moved.leaver: None}}
    # The lower priority does not get it back: nopreempt.
    if holders() != ["lb2"]:
        on("lb1", "systemctl stop keepalived")
        wait_for(lambda: holders() == ["lb2"], 30)
        on("lb1", "systemctl start keepalived")
    on("client", f"""curl -sk -H 'Content-Type: application/json' --data '{{"id": "{ENTRY}", "name": "A test", "text": "here"}}' https://www.foobar.com/api/entries""")
    on("client", """cat > /tmp/visitor <<'END'
        while [ ! -e /tmp/enough ]; do
          status=$(curl --silent --insecure --max-time 5 --include --output /tmp/visit --write-out '%{http_code}' https://www.foobar.com/)
          echo "$status"
          if [ "$status" != 200 ]; then { date --utc +%T.%N; head --bytes 1000 /tmp/visit; } >> /tmp/failed; fi
          sleep 0.1
        done > /tmp/visits
END
        rm -f /tmp/enough /tmp/failed; touch /tmp/failed""")
    visitor = subprocess.Popen(["docker", "exec", "client", "timeout", "1200", "bash", "/tmp/visitor"])
    try:
        moved.play("stage4")
        moved.play("decommission")
    finally:
        on("client", "touch /tmp/enough")
        visitor.wait(timeout=30)
    return moved


def test_no_visitor_noticed(moved):
    visits = on("client", "cat /tmp/visits").stdout.split()
    assert len(visits) > 100
    assert [status for status in visits if status != "200"] == [], on("client", "cat /tmp/failed").stdout


def test_the_primary_was_told_without_a_restart(moved):
    """One replica is left, so commits wait for it a second and no longer."""
    assert process(moved.primary) == moved.process != "0"
    settings = on(moved.primary, "mysql -BNe 'SELECT @@rpl_semi_sync_source_timeout, @@rpl_semi_sync_source_wait_no_replica, @@read_only'").stdout
    assert settings.split() == ["1000", "0", "0"]


def test_what_left_holds_nothing(moved):
    assert holders() in (["lb1"], ["lb3"])
    for host, services in (("lb2", "keepalived haproxy"), (moved.leaver, "mysql mysql-role-keeper mysql-role-check.socket mysql-certificate.path")):
        for service in services.split():
            assert on(host, f"systemctl is-active {service}").stdout.strip() in ("inactive", "failed"), f"{service} on {host}"
            assert on(host, f"systemctl is-enabled {service}").stdout.strip() != "enabled", f"{service} on {host}"


def test_the_new_load_balancer_takes_over(moved):
    """Also: the old member's rules and peers are gone, the new one's are there."""
    on("lb1", "systemctl stop keepalived")
    try:
        wait_for(lambda: holders() == ["lb3"], 5)
        assert answer() == "200"
    finally:
        on("lb1", "systemctl start keepalived")
    assert "198.19.0.12" not in on("lb1", "ufw status; cat /etc/keepalived/keepalived.conf").stdout
    assert f"198.19.0.4{moved.leaver[-1]}" not in on(moved.primary, "ufw status").stdout
    assert moved.leaver not in on("app1", "echo 'show servers state' | socat stdio /run/haproxy/admin.sock").stdout


def test_a_database_server_joins(moved):
    """An empty one, while the firewall of the primary keeps out whom it does not know."""
    on(moved.leaver, "find /var/lib/mysql -mindepth 1 -delete")
    moved.groups["database"]["hosts"][moved.leaver] = moved.groups["decommissioned"]["hosts"].pop(moved.leaver)
    moved.play("stage4", "--tags", "database")
    assert process(moved.primary) == moved.process
    assert on(moved.leaver, f"""mysql -BNe "SELECT text FROM site.entries WHERE id = '{ENTRY}'" """).stdout.strip() == "here"
    assert len(on(moved.primary, "mysql -BNe 'SHOW REPLICAS'").stdout.splitlines()) == 2
