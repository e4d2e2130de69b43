#!/usr/bin/env python3
"""A replica seeded by mysql_replica (CLONE) against dump and load, side by side on a running stage 4.

  seeding.py [ROUNDS [MEGABYTES]]     default: 3 rounds, 4096 MiB, about a quarter of an hour

Both count from the empty channel to a replica that has caught up. Writes a line to tests/output/benchmark.jsonl.
Ended within a dump, it leaves a replica with all the GTIDs and half of the data, which nobody can see by them. To seed it again:

  ansible-playbook -i inventories/stage4 -i .lab/stage4.yml playbooks/rejoin.yml -e server=db3 -e mysql_replica_seed=always -e mysql_replica_allow_data_loss=true
"""
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
os.environ.setdefault("MOLECULE_SCENARIO_NAME", "stage4")
os.environ.setdefault("MOLECULE_PROJECT_DIRECTORY", str(ROOT))
sys.path[:0] = [str(ROOT / "molecule/shared/tests"), str(ROOT / "tests/chaos")]

import lab  # noqa: E402
from chaos import CREDENTIALS, docker, followers, primary, report, whole  # noqa: E402

TLS = "--ssl-mode=VERIFY_CA --ssl-ca=/etc/webstack/pki/ca.crt"
KEEPER = "mysql-role-keeper"
DETACH = "STOP REPLICA; RESET REPLICA ALL"
FOLLOW = ("CHANGE REPLICATION SOURCE TO SOURCE_HOST='{source}', SOURCE_USER='replication', SOURCE_PASSWORD='{password}', SOURCE_AUTO_POSITION=1,"
          " SOURCE_SSL=1, SOURCE_SSL_CA='/etc/webstack/pki/ca.crt', SOURCE_SSL_VERIFY_SERVER_CERT=1, SOURCE_CONNECT_RETRY=1, SOURCE_HEARTBEAT_PERIOD=1;"
          " START REPLICA")


def caught_up(source, replica):
    goal = lab.sql(source, "SELECT @@gtid_executed").replace("\\n", "")
    assert lab.sql(replica, f"SELECT WAIT_FOR_EXECUTED_GTID_SET('{goal}', 600)").strip() == "0"


def fill(source, megabytes):
    lab.sql(source, "CREATE DATABASE benchmark; CREATE TABLE benchmark.filler (id INT AUTO_INCREMENT PRIMARY KEY, number INT, text VARCHAR(1000), KEY (number))")
    lab.sql(source, "USE benchmark; INSERT INTO filler (number, text) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)"
                    " SELECT RAND() * 1000000, CONCAT(SHA2(RAND(), 256), REPEAT(SHA2(i, 256), 14)) FROM n")
    while True:
        # What counts is data in tables, as both have to move it.
        size = int(lab.sql(source, "SELECT FILE_SIZE >> 20 FROM information_schema.INNODB_TABLESPACES WHERE NAME = 'benchmark/filler'"))
        if size >= megabytes:
            return size
        lab.sql(source, "INSERT INTO benchmark.filler (number, text) SELECT RAND() * 1000000, text FROM benchmark.filler LIMIT 40000")


def by_clone(source, replica):
    lab.sql(replica, DETACH)
    arguments = {"login_unix_socket": "/run/mysqld/mysqld.sock", "source_host": lab.ADDRESS[source], "source_user": "replication", "heartbeat_period": 1,
                 "source_password": (CREDENTIALS / "replication_password").read_text(), "source_ssl_ca": "/etc/webstack/pki/ca.crt", "seed": "clone"}
    start = time.monotonic()
    done = subprocess.run(["ansible", "-i", "inventories/stage4", "-i", ".lab/stage4.yml", replica, "--become", "-m", "foobar.webstack.mysql_replica", "-a", json.dumps(arguments)],
                          cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    print(*[line for line in done.stdout.splitlines() if "clone from" in line], sep="\n")
    return time.monotonic() - start


def by_dump(source, replica, account):
    # It would make a server without a channel read-only at once.
    lab.on(replica).check_output(f"systemctl stop {KEEPER}")
    lab.sql(replica, DETACH + "; SET GLOBAL super_read_only = OFF; SET GLOBAL read_only = OFF; DROP DATABASE IF EXISTS site; DROP DATABASE IF EXISTS benchmark; RESET BINARY LOGS AND GTIDS")
    password = (CREDENTIALS / "replication_password").read_text()
    start = time.monotonic()
    lab.on(replica).check_output(
        "bash -c %s",
        f"set -o pipefail; mysqldump {TLS} --host={lab.ADDRESS[source]} --user={account} --single-transaction --set-gtid-purged=ON --routines --events --triggers"
        " --databases site benchmark | mysql")
    lab.sql(replica, FOLLOW.format(source=lab.ADDRESS[source], password=password) + "; SET GLOBAL super_read_only = ON")
    caught_up(source, replica)
    seconds = time.monotonic() - start
    lab.on(replica).check_output(f"systemctl start {KEEPER}")
    return seconds


def main(rounds=3, megabytes=4096):
    assert lab.wait_for(whole, seconds=30), "stage 4 is not whole: make stage4"
    source = primary()
    replica = followers(source)[-1]
    seconds = {"clone": [], "dump": []}
    account = "dump"
    try:
        size = fill(source, int(megabytes))
        lab.sql(source, f"CREATE USER {account}@'{lab.ADDRESS[replica]}' REQUIRE SSL; GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, LOCK TABLES, RELOAD, PROCESS,"
                        f" REPLICATION CLIENT, SHOW_ROUTINE ON *.* TO {account}@'{lab.ADDRESS[replica]}'")
        for name in followers(source):
            caught_up(source, name)
        for _ in range(int(rounds)):
            seconds["dump"].append(by_dump(source, replica, account))
            seconds["clone"].append(by_clone(source, replica))
            print({name: [round(one, 1) for one in all_of] for name, all_of in seconds.items()}, flush=True)
        for name, took in seconds.items():
            report(f"seeding a replica with {size} MB by {name}: s", file="benchmark.jsonl", rounds=int(rounds), median=round(statistics.median(took), 1),
                   least=round(min(took), 1), most=round(max(took), 1))
    finally:
        docker("exec", replica, "systemctl", "start", KEEPER)
        docker("exec", source, "mysql", "--execute", f"DROP DATABASE IF EXISTS benchmark; DROP USER IF EXISTS {account}@'{lab.ADDRESS[replica]}'")
    assert lab.wait_for(whole, seconds=60)


main(*sys.argv[1:])
