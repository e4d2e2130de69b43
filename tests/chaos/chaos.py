"""Load, faults and the history of what was acknowledged, against the hosts of stage 4."""

import json
import os
import re
import subprocess
import time
import uuid
from collections import Counter
from pathlib import Path

import lab
import yaml

ROOT = Path(lab.ROOT)
ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "1"))
DATABASES = lab.HOSTS["database"]
CREDENTIALS = Path(lab.LAB["vars"]["webstack_credentials_dir"])
# What writers write: nothing in it keeps a key from being there twice.
WRITES = "CREATE TABLE IF NOT EXISTS site.writes (number BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY, id CHAR(32) CHARACTER SET ascii NOT NULL, KEY (id))"


def docker(*command, check=True):
    return subprocess.run(["docker", *command], check=check, capture_output=True, text=True)


def play(playbook, *options, check=True, log=""):
    """Run a playbook, one of ours or a path without its .yml; returns its output and the seconds that it took. A log has the time of each line."""
    start = time.monotonic()
    result = subprocess.run(
        # The controller is on the hosts' own two cores, where all hosts together weigh as much as one process of it: without `nice`, and with twenty tasks at once,
        # it would be a load of its own, under which a VIP moves.
        ["nice", "-n", "15", "ansible-playbook", "-i", "inventories/stage4", "-i", ".lab/stage4.yml", os.path.join("playbooks", f"{playbook}.yml"), *options],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORKS": "4", **({"ANSIBLE_LOG_PATH": str(log)} if log else {})})
    output = " ".join((result.stdout + result.stderr).split())
    if check:
        text = result.stdout + result.stderr
        assert result.returncode == 0, text[max(0, text.find("[ERROR]")):][:5000]
    else:
        assert result.returncode != 0, output[-3000:]
    return output, time.monotonic() - start


def changed_tasks(output):
    """The names of the tasks that changed something, in the output of play()."""
    return {task for task, text in re.findall(r"TASK \[([^]]+)\]((?:(?!TASK \[).)*)", output) if "changed: [" in text}


def info(name):
    """What mysql_replication_info says of a server, asked on its host."""
    result = subprocess.run(
        ["ansible", "-i", "inventories/stage4", "-i", ".lab/stage4.yml", name, "--become", "-m", "foobar.webstack.mysql_replication_info",
         "-a", "login_unix_socket=/run/mysqld/mysqld.sock fail_on_unreachable=false"],
        cwd=ROOT, capture_output=True, text=True, check=True, env={**os.environ, "ANSIBLE_NOCOLOR": "1"})
    return yaml.safe_load(result.stdout.split("=>", 1)[1])


def running(name):
    return docker("inspect", "--format", "{{.State.Running}} {{.State.Paused}}", name).stdout.strip() == "true false"


def asked(name, statement):
    """The answer of a server, or nothing where it does not answer."""
    if not running(name):
        return ""
    result = docker("exec", name, "timeout", "3", "mysql", "--batch", "--skip-column-names", "--execute", statement, check=False)
    return result.stdout.strip()


def writable():
    return [name for name in DATABASES if asked(name, "SELECT @@read_only") == "0"]


def primary():
    names = writable()
    assert len(names) == 1, names
    return names[0]


def followers(of):
    uuid = asked(of, "SELECT @@server_uuid")
    return sorted(
        name for name in DATABASES
        if name != of and uuid and uuid == asked(name, "SELECT s.SOURCE_UUID FROM performance_schema.replication_connection_status s WHERE s.SERVICE_STATE = 'ON'"))


def whole():
    """One primary, which all others follow and which waits for them."""
    names = writable()
    return len(names) == 1 and len(followers(names[0])) == len(DATABASES) - 1 and \
        asked(names[0], "SELECT VARIABLE_VALUE FROM performance_schema.global_status WHERE VARIABLE_NAME = 'Rpl_semi_sync_source_clients'") == str(len(DATABASES) - 1)


def long_write(statement, sessions=1):
    """As the app would, through the writer port."""
    program = ("import os, pymysql, ssl, threading; e = os.environ; write = lambda: pymysql.connect(host=e['DB_WRITER_HOST'], port=int(e['DB_WRITER_PORT']),"
               " user=e['DB_USER'], password=e['DB_PASSWORD'], database=e['DB_NAME'], autocommit=True, ssl=ssl.create_default_context(cafile=e['DB_SSL_CA']))"
               f".cursor().execute({statement!r}); [threading.Thread(target=write).start() for _ in range({sessions})]")
    docker("exec", "--detach", lab.HOSTS["app"][0], "bash", "-c", 'set -a; . /etc/app/environment; exec python3 -c "$0"', program)


def break_applier(replica):
    """It has a row that its source then writes as well. Returns the statement that takes the row away."""
    key, source = uuid.uuid4().hex, primary()
    lab.sql(source, "CREATE TABLE IF NOT EXISTS site.differing (id CHAR(32) CHARACTER SET ascii PRIMARY KEY)")
    assert lab.wait_for(lambda: asked(replica, "SELECT COUNT(*) FROM site.differing") != "")
    by_hand(replica, f"INSERT INTO site.differing VALUES ('{key}')")
    lab.sql(source, f"INSERT INTO site.differing VALUES ('{key}')")
    assert lab.wait_for(lambda: asked(replica, "SELECT SERVICE_STATE FROM performance_schema.replication_applier_status") == "OFF")
    return f"DELETE FROM site.differing WHERE id = '{key}'"


def by_hand(replica, statement):
    """Past its being read-only, and past the binary log."""
    lab.sql(replica, f"SET GLOBAL super_read_only = OFF; SET SESSION sql_log_bin = 0; {statement}; SET GLOBAL super_read_only = ON")


class Load:
    """Writers inside the lab, or visitors who read, and what they were told."""

    started = []

    @classmethod
    def end(cls):
        """Also after a test that failed."""
        while cls.started:
            cls.started.pop().stop()

    def __init__(self, kind, rate, seconds=300):
        self.host = lab.HOSTS["app"][0] if kind == "sql" else "client"
        self.kind = kind
        self.directory = f"/tmp/chaos-{kind}"
        self.table = {"sql": "site.writes", "http": "site.entries"}.get(kind)
        if kind == "sql":
            lab.sql(primary(), WRITES)
        else:
            lab.acme_root()
        docker("exec", self.host, "rm", "-rf", self.directory)
        docker("cp", str(ROOT / "tests/chaos/writer.py"), f"{self.host}:/root/writer.py")
        start = "set -a; . /etc/app/environment; exec python3" if kind == "sql" else "exec python3"
        self.process = subprocess.Popen(["docker", "exec", self.host, "bash", "-c", f"{start} /root/writer.py {kind} {rate} {seconds} {self.directory}"])
        self.started.append(self)
        assert lab.wait_for(lambda: len(self.acks()) > 20, seconds=20), self.errors()[-3:]

    def _lines(self, name):
        return [line.split(" ", 1) for line in docker("exec", self.host, "cat", f"{self.directory}/{name}", check=False).stdout.splitlines() if " " in line]

    def acks(self):
        return {key: float(at) for key, at in self._lines("acks")}

    def errors(self):
        return [(float(at), text) for at, text in self._lines("errors")]

    def unknown(self):
        """Keys that nobody knows of whether they are there."""
        return {key for key, _ in self._lines("unknown")}

    def back(self):
        """Pages that were older than what their session had seen."""
        return [(float(at), text) for at, text in self._lines("back")]

    def old(self):
        """Pages that said that they may be."""
        return [(float(at), text) for at, text in self._lines("old")]

    def stop(self):
        docker("exec", self.host, "touch", f"{self.directory}/stop")
        self.process.wait(timeout=30)

    def goes_on(self):
        """Waits for an acknowledgement that is younger than this call."""
        now = time.time()
        assert lab.wait_for(lambda: max(self.acks().values(), default=0) > now, seconds=60), self.errors()[-3:]

    def pause(self, after, before=float("inf")):
        """The longest time without an acknowledgement."""
        times = sorted(at for at in self.acks().values() if after <= at <= before)
        return max((later - earlier for earlier, later in zip(times, times[1:])), default=float("inf"))

    def lost(self):
        """(server, key, times) where a key that was acknowledged is not there once, or one that nobody knows of is there twice. Servers that do not answer are left out."""
        acks, unknown, found = set(self.acks()), self.unknown(), set()
        executed = lab.sql(primary(), r"SELECT REPLACE(@@GLOBAL.gtid_executed, '\n', '')")
        for name in DATABASES:
            if asked(name, "SELECT 1"):
                # A replica may still be applying, and one whose disk was full looks for room once a minute; the primary has it all.
                lab.sql(name, f"SELECT WAIT_FOR_EXECUTED_GTID_SET('{executed}', 120)")
                there = Counter(lab.sql(name, f"SELECT id FROM {self.table}").splitlines())
                found |= {(name, key, there[key]) for key in acks if there[key] != 1} | {(name, key, there[key]) for key in unknown if there[key] > 1}
        return found


def alike():
    """All servers hold the same rows."""
    def sums():
        return {asked(name, "CHECKSUM TABLE site.writes, site.entries") for name in DATABASES}
    return lab.wait_for(lambda: len(sums()) == 1 and "" not in sums(), seconds=30)


def holders():
    """Load balancers that hold the VIP."""
    return [name for name in lab.HOSTS["loadbalancers"] if running(name) and f"inet {lab.VIP}/" in docker("exec", name, "ip", "-4", "address").stdout]


def vip_moves(since):
    """When, since then. On a machine that is too busy a load balancer may believe that the other one is dead."""
    logs = [docker("exec", name, "journalctl", "--unit=keepalived", f"--since=@{int(since)}", "--output=short-unix", "--no-pager").stdout
            for name in lab.HOSTS["loadbalancers"]]
    return [float(line.split()[0]) for log in logs for line in log.splitlines() if "Entering" in line]


def report(name, file="chaos.jsonl", **figures):
    """For the tables in docs/: one line of JSON for each measurement."""
    line = json.dumps({"name": name, **figures})
    print(line)
    (ROOT / "tests/output").mkdir(exist_ok=True)
    with open(ROOT / "tests/output" / file, "a", encoding="utf-8") as lines:
        lines.write(line + "\n")


def milliseconds(output, words=r"writes paused for (\d+) ms"):
    """A figure that a playbook says."""
    found = re.search(words, output)
    assert found, (words, output[-3000:])
    return int(found[1])
