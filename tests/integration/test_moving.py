"""docs/moving-the-database.md from end to end: stage 3 becomes stage 4, its data moves to database hosts, while visitors read and write."""

import os
import re
import subprocess
import time
import uuid
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
OLD, NEW = ["server1", "server2"], ["db1", "db2", "db3"]
VISITOR = """
while [ ! -e /tmp/enough ]; do
  id=$(tr -d - < /proc/sys/kernel/random/uuid)
  status=$(curl -sk --max-time 10 -o /dev/null -w '%{http_code}' -H 'Content-Type: application/json' --data "{\\"id\\": \\"$id\\", \\"name\\": \\"A visitor\\", \\"text\\": \\"on the move\\"}" \
    https://www.foobar.com/api/entries)
  echo "$(date +%T) POST $status $id"
  for _ in 1 2 3 4; do
    echo "$(date +%T) GET $(curl -sk --max-time 10 -o /dev/null -w '%{http_code}' https://www.foobar.com/)"
    sleep 0.1
  done
done > /tmp/visits
"""


def run(*command):
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "ANSIBLE_NOCOLOR": "1"})
    assert result.returncode == 0, (result.stdout + result.stderr)[-5000:]
    return result.stdout


def on(host, command):
    return subprocess.run(["docker", "exec", host, "sh", "-c", command], capture_output=True, text=True, check=False).stdout.strip()


def sql(host, statement):
    return on(host, f'mysql -BNe "{statement}"')


def primaries():
    return [name for name in OLD + NEW if sql(name, "SELECT @@read_only") == "0"]


class Site:
    """The inventory that its operator edits, step by step."""

    def __init__(self, directory):
        self.file = directory / "hosts.yml"

    def use(self, stage, **more):
        self.groups = yaml.safe_load((ROOT / f"inventories/{stage}/hosts.yml").read_text())
        self.groups.update(more)

    def play(self, playbook, *options):
        self.file.write_text(yaml.safe_dump(self.groups))
        return run("ansible-playbook", "-i", str(self.file), "-i", ".lab/stage3to4.yml", f"playbooks/{playbook}.yml", *options)


@pytest.fixture(scope="module")
def stage3(tmp_path_factory):
    run("scripts/lab", "down", "stages")
    run("molecule", "create", "--scenario-name", "stage3to4")
    try:
        run("molecule", "prepare", "--scenario-name", "stage3to4", "--force")
        site = Site(tmp_path_factory.mktemp("inventory"))
        site.use("stage3")
        site.play("stage3")
        yield site
    finally:
        run("scripts/lab", "down", "stages")


@pytest.fixture(scope="module")
def moved(stage3):
    """The visits of all that time."""
    on("client", f"rm -f /tmp/enough; cat > /tmp/visitor <<'END'\n{VISITOR}\nEND")
    visitor = subprocess.Popen(["docker", "exec", "client", "timeout", "3600", "bash", "/tmp/visitor"])
    try:
        for name in NEW:
            stage3.groups["database"]["hosts"][name] = {"mysql_semi_sync": True}
        stage3.play("stage3")
        assert primaries() == ["server1"]
        stage3.play("switchover", "-e", "new_primary=db1")
        assert primaries() == ["db1"]
        stage3.use("stage4", decommissioned={"hosts": dict.fromkeys(OLD)})
        stage3.play("stage4")
        stage3.play("decommission")
        time.sleep(5)
    finally:
        on("client", "touch /tmp/enough")
        visitor.wait(timeout=60)
    return [line.split() for line in on("client", "cat /tmp/visits").splitlines()]


def test_no_visitor_noticed(moved):
    assert len(moved) > 1000
    failed = [visit for visit in moved if visit[2] not in ("200", "201")]
    assert not failed, failed


def test_every_entry_is_on_the_new_servers(moved):
    written = {visit[3] for visit in moved if visit[1] == "POST" and visit[2] == "201"}
    for name in NEW:
        assert written <= set(sql(name, "SELECT id FROM site.entries").split()), name


def test_the_new_servers_are_a_stage_4(moved, stage3):
    assert primaries() == ["db1"]
    assert len(sql("db1", "SHOW REPLICAS").splitlines()) == 2
    assert sql("db1", "SHOW STATUS LIKE 'Rpl_semi_sync_source_clients'").split()[1] == "2"
    assert not re.search(r"changed=[1-9]", stage3.play("stage4"))


def test_the_old_servers_are_retired(moved):
    for name in OLD:
        for service in ("nginx", "haproxy", "app.socket", "mysql", "vmagent"):
            assert on(name, f"systemctl is-active {service}") in ("inactive", "failed"), f"{service} on {name}"
            assert on(name, f"systemctl is-enabled {service}") == "disabled", f"{service} on {name}"
        # Their data stays.
        assert on(name, "ls /var/lib/mysql/site")


def test_the_site_is_written_to(moved):
    entry = uuid.uuid4().hex
    status = on("client", "curl -sk -o /dev/null -w '%{http_code}' -H 'Content-Type: application/json' "
                f"""--data '{{"id": "{entry}", "name": "A test", "text": "here"}}' https://www.foobar.com/api/entries""")
    assert status == "201"
    assert sql("db1", f"SELECT text FROM site.entries WHERE id = '{entry}'") == "here"
