"""Every alert: what it is about is done to the hosts, it arrives at Alertmanager, and after the repair it is gone.

Meanwhile Prometheus has a copy of the rules in which `for` is a minute at most and ranges of 10 and 15 minutes are three, and where DiskFullSoon and InodesLow look at tmpfs,
too: containers have no disk of their own. All else in the expressions is as shipped. What is not caused says so in docs/alerts.md (tests/rules sees to it).
After the test the shipped ranges still hold what happened: some of these alerts are back for a quarter of an hour, those of the error budget for their windows.
"""
import contextlib
import json
import re
import subprocess
import time

import lab
import pytest
import yaml

from chaos import DATABASES, asked, docker, followers, holders, play, primary, report
from visitors import Visitors

EDGE, WEBS, APPS, MONITOR = lab.HOSTS["loadbalancers"], lab.HOSTS["web"], lab.HOSTS["app"], lab.HOSTS["monitoring"][0]
RULES, SHIPPED = "/etc/prometheus/rules/webstack.yml", "/root/webstack-rules.yml"
TEXTFILES = "/var/lib/prometheus/node-exporter"
# Longer than a range of five minutes.
PATIENCE = 900
# Their shorter window alone is half an hour to six.
LASTING = {"6h", "1d", "3d"}

# Fills the buffer of the agent, and no more of it than is sent within a minute: the agent's own figures stand in the same queue.
FILLER = """
import os, random, time, urllib.request
agent, at = "http://127.0.0.1:8429", int(time.time() * 1000) - 600000
while not os.path.exists("/tmp/alerts-stop"):
    lines = urllib.request.urlopen(agent + "/metrics").read().decode().splitlines()
    if sum(float(line.split()[-1]) for line in lines if line.startswith("vmagent_remotewrite_pending_data_bytes")) < 1.8e6:
        for _ in range(200):
            at += 1
            block = "".join('chaos_filler{n="%d"} %r %d\\n' % (n, random.random(), at) for n in range(100))
            urllib.request.urlopen(agent + "/api/v1/import/prometheus", block.encode()).read()
    time.sleep(0.5)
"""
SESSIONS = """
import os, pymysql, time
kept = [pymysql.connect(unix_socket="/run/mysqld/mysqld.sock", user="root") for _ in range(60)]
while not os.path.exists("/tmp/alerts-stop"):
    time.sleep(1)
"""


def on(name, command):
    return docker("exec", name, "bash", "-c", command).stdout.strip()


def go_on(name, *command):
    """Until repaired() says that it is enough."""
    on(name, "rm -f /tmp/alerts-stop")
    docker("exec", "--detach", name, *command)


def repaired(name):
    on(name, "touch /tmp/alerts-stop")


def alert(alertname, **labels):
    return frozenset({"alertname": alertname, **labels}.items())


def firing():
    """The labels of each alert that Alertmanager has."""
    said = docker("exec", MONITOR, "amtool", "--alertmanager.url=http://127.0.0.1:9093", "-o", "json", "alert", "query").stdout
    return [found["labels"].items() for found in json.loads(said)]


def of(alerts):
    found = firing()
    return {wanted for wanted in alerts if any(wanted <= labels for labels in found)}


# -- The rules

def metrics(expression):
    """The names of the series that an expression asks for."""
    expression = re.sub(r'"[^"]*"|\[[^]]*\]', " ", re.sub(r"\{[^}]*\}", " ", expression))
    expression = re.sub(r"\b(by|on|without|ignoring)\s*\([^)]*\)", " ", expression)
    return set(re.findall(r"(?<![\w:])[a-z_:][\w:]*(?![\w:]|\s*\()", expression)) - {"and", "or", "unless", "bool", "offset"}


def shortened(rules, broken=False):
    rules = re.sub(r"\bfor: \d+[mh]\b", "for: 1m", rules)
    rules = re.sub(r"\[1[05]m\]", "[3m]", rules).replace('fstype!~"tmpfs|ramfs|', 'fstype!~"ramfs|')
    return rules + ("\n  - name: broken\n    rules:\n      - {record: 'chaos:broken', expr: up * on (job) up}\n" if broken else "")


def load(broken=False):
    rules = shortened(docker("exec", MONITOR, "cat", SHIPPED).stdout, broken)
    subprocess.run(["docker", "exec", "--interactive", MONITOR, "sh", "-c",
                    f"set -e; cat > /root/rules.yml; promtool check rules /root/rules.yml; install --mode=0644 /root/rules.yml {RULES}; systemctl reload prometheus"],
                   input=rules, text=True, check=True, capture_output=True)


@pytest.fixture(scope="module")
def short_rules():
    on(MONITOR, f"test -e {SHIPPED} || cp --archive {RULES} {SHIPPED}")
    try:
        load()
        yield
    finally:
        on(MONITOR, f"mv {SHIPPED} {RULES}; rm -f /root/rules.yml; systemctl reload prometheus")


# -- The faults. Each round is a list of (alerts, fault, repair); a repair may be asked for what was not broken yet, and the last one is the first.

def small_things():
    """With all of them at once the site goes on."""
    source = primary()
    stopped, late = followers(source)
    web, app, slow = WEBS[0], APPS[0], APPS[1]
    standby = next(name for name in EDGE if name not in holders())
    most = asked(late, "SELECT @@max_connections")

    def fill_up():
        on(slow, "cp --archive /etc/systemd/system/vmagent.service /root/vmagent.service && sed -i 's/-remoteWrite.queues=1/& -remoteWrite.rateLimit=40000/'"
                 " /etc/systemd/system/vmagent.service && systemctl daemon-reload && systemctl restart vmagent && sleep 5")
        go_on(slow, "python3", "-c", FILLER)

    def empty():
        repaired(slow)
        on(slow, "! test -e /root/vmagent.service || mv /root/vmagent.service /etc/systemd/system/vmagent.service; systemctl daemon-reload; systemctl restart vmagent")

    def many_sessions():
        go_on(late, "python3", "-c", SESSIONS)
        connected = lab.wait_for(lambda: (number := int(asked(late, "SHOW STATUS LIKE 'Threads_connected'").split()[1])) > 60 and number, seconds=30)
        lab.sql(late, f"SET GLOBAL max_connections = {int(connected * 1.15) + 1}")

    def few_sessions():
        repaired(late)
        lab.sql(late, f"SET GLOBAL max_connections = {most}")

    def write_behind():
        """The replica waits with what the primary wrote, and has something that the primary lacks."""
        lab.sql(late, "STOP REPLICA SQL_THREAD; CHANGE REPLICATION SOURCE TO SOURCE_DELAY = 3600; START REPLICA SQL_THREAD")
        lab.write()
        lab.sql(late, "SET GLOBAL super_read_only = OFF; CREATE DATABASE alerts; DROP DATABASE alerts; SET GLOBAL super_read_only = ON")

    def follow_again():
        lab.sql(late, "SET GLOBAL super_read_only = ON; STOP REPLICA SQL_THREAD; CHANGE REPLICATION SOURCE TO SOURCE_DELAY = 0; START REPLICA SQL_THREAD")
        # Nothing is in them: the primary gets transactions of the same names.
        executed = "REPLACE(@@GLOBAL.gtid_executed, CHAR(10), '')"
        for own in asked(late, f"SELECT GTID_SUBTRACT({executed}, '{asked(source, f'SELECT {executed}')}')").replace("\\n", "").split(","):
            uuid, *intervals = own.strip().split(":")
            for interval in intervals:
                first, _, last = interval.partition("-")
                for number in range(int(first), int(last or first) + 1):
                    lab.sql(source, f"SET GTID_NEXT = '{uuid}:{number}'; BEGIN; COMMIT; SET GTID_NEXT = AUTOMATIC")

    def semi_sync_again():
        lab.sql(source, "SET GLOBAL rpl_semi_sync_source_enabled = ON")
        for name in (late, stopped):
            lab.sql(name, "STOP REPLICA IO_THREAD; START REPLICA IO_THREAD")

    def age_backups():
        for name in DATABASES:
            on(name, "systemctl stop mysql-backup.timer mysql-backup-archive.timer; while systemctl show --property=ActiveState mysql-backup mysql-backup-archive"
                     f" | grep --quiet =activating; do sleep 1; done; cd {TEXTFILES}; ! test -e mysql_backup.prom || {{ cp --archive mysql_backup.prom /root/ && awk"
                     " -v at=$(date --date='30 hours ago' +%s) '/^mysql_backup_(last_success|binlog_archived)_timestamp/ {$2 = at} 1' /root/mysql_backup.prom > mysql_backup.prom; }")

    def backups_again():
        for name in DATABASES:
            on(name, f"! test -e /root/mysql_backup.prom || mv /root/mysql_backup.prom {TEXTFILES}/; systemctl start mysql-backup.timer mysql-backup-archive.timer")

    def by_hand(what):
        for name in EDGE:
            on(name, "; ".join(f"iptables -{what} {chain} -p vrrp -j DROP 2>/dev/null || :" for chain in ("INPUT", "OUTPUT")))

    faults = [
        ([alert("MySQLSemiSyncOff", host=source)], lambda: lab.sql(source, "SET GLOBAL rpl_semi_sync_source_enabled = OFF"), semi_sync_again),
        ([alert("MySQLDown", host=stopped)], lambda: on(stopped, "systemctl stop mysql"), lambda: on(stopped, "systemctl start mysql")),
        ([alert("MySQLReplicationLag", host=late), alert("MySQLErrantTransactions", host=source, server=late)], write_behind, follow_again),
        ([alert("MySQLConnections", host=late)], many_sessions, few_sessions),
        ([alert("MySQLBackupOld"), alert("MySQLBinlogArchiveOld")], age_backups, backups_again),
        ([alert("NginxDown", host=web), alert("BackendServerDown", server=web), alert("CertificateNotServed", host=web)],
         lambda: on(web, "systemctl stop nginx"), lambda: on(web, "systemctl start nginx")),
        ([alert("TargetDown", host=MONITOR, job="node")],
         lambda: on(MONITOR, "systemctl stop prometheus-node-exporter"), lambda: on(MONITOR, "systemctl start prometheus-node-exporter")),
        ([alert("HostGone", host=WEBS[1])], lambda: on(WEBS[1], "systemctl stop vmagent"), lambda: on(WEBS[1], "systemctl start vmagent")),
        ([alert("AgentBacklog", host=slow)], fill_up, empty),
        ([alert("LogsNotShipped", host=app)],
         lambda: on(app, "iptables -I OUTPUT -p tcp --dport 6514 -j REJECT --reject-with tcp-reset"),
         lambda: on(app, "iptables -D OUTPUT -p tcp --dport 6514 -j REJECT --reject-with tcp-reset 2>/dev/null || :")),
        ([alert("TextfileStale", host=stopped)],
         lambda: on(stopped, f"systemctl stop webstack-metrics; touch --date='20 minutes ago' {TEXTFILES}/webstack.prom"),
         lambda: on(stopped, "systemctl start webstack-metrics")),
        ([alert("ConvergeOld", host=app)],
         lambda: on(app, f"cd {TEXTFILES}; touch --reference=converge.prom /root/converge.prom && touch --date='31 days ago' converge.prom"),
         lambda: on(app, f"! test -e /root/converge.prom || {{ touch --reference=/root/converge.prom {TEXTFILES}/converge.prom; rm /root/converge.prom; }}")),
        ([alert("AlertingBroken", host=MONITOR)], lambda: load(broken=True), load),
        ([alert("DiskFullSoon", host=app, mountpoint="/opt/alerts"), alert("InodesLow", host=app, mountpoint="/opt/alerts")],
         # In the exporter's sandbox a mount is there from its next start on.
         lambda: on(app, "mkdir --parents /opt/alerts; mount -t tmpfs -o size=4m,nr_inodes=20 tmpfs /opt/alerts; head --bytes=8M /dev/zero > /opt/alerts/full 2>/dev/null;"
                         " for number in {1..20}; do touch /opt/alerts/$number 2>/dev/null; done; systemctl restart prometheus-node-exporter"),
         lambda: on(app, "umount --lazy /opt/alerts 2>/dev/null; rmdir /opt/alerts; systemctl restart prometheus-node-exporter")),
        ([alert("UnitFailed", host=app, name="alerts-failed.service")],
         lambda: on(app, "systemd-run --quiet --unit=alerts-failed false; sleep 1; systemctl is-failed alerts-failed"),
         lambda: on(app, "systemctl reset-failed alerts-failed 2>/dev/null || :")),
        ([alert("UnitRestarting", host=app, name="alerts-restarting.service")],
         lambda: on(app, "systemd-run --quiet --unit=alerts-restarting --property=Restart=always --property=RestartSec=5 sleep 1"),
         lambda: on(app, "systemctl stop alerts-restarting 2>/dev/null || :")),
        ([alert("FirewallDrift", host=app)],
         lambda: on(app, "iptables -I INPUT -p tcp --dport 9 -j ACCEPT"), lambda: on(app, "iptables -D INPUT -p tcp --dport 9 -j ACCEPT 2>/dev/null || :")),
        ([alert("VipHolders", address=lab.VIP)], lambda: by_hand("I"), lambda: by_hand("D")),
        ([alert("CertificateExpiry", host=standby, file="/etc/haproxy/certs/zz-alerts.pem")],
         lambda: on(standby, "cd /root && at() { date --utc --date=\"$1\" +%Y%m%d%H%M%SZ; } && umask 077 && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
                             " -subj /CN=alerts.invalid -not_before $(at '30 days ago') -not_after $(at '3 days') -keyout alerts.key -out alerts.crt 2>/dev/null"
                             " && cat alerts.crt alerts.key > /etc/haproxy/certs/zz-alerts.pem && rm alerts.key alerts.crt && systemctl restart webstack-metrics"),
         lambda: on(standby, "rm -f /etc/haproxy/certs/zz-alerts.pem; systemctl restart webstack-metrics")),
    ]
    # Where the machine keeps its clock, its kernel says so in every container.
    if lab.ask_monitoring(f'node_timex_sync_status{{host="{app}"}} == 0'):
        faults.append(([alert("ClockUnsynchronised", host=app)],
                       lambda: on(app, "systemd-run --quiet --unit=ntpsec sleep infinity"), lambda: on(app, "systemctl stop ntpsec 2>/dev/null || :")))
    return faults


def slow_writes():
    """The table is locked most of the time, each web server may have one write at once, and one of them comes and goes."""
    source, crowd = primary(), contextlib.ExitStack()

    def slow_down():
        for name in EDGE:
            # The averages begin anew.
            on(name, "systemctl reload haproxy; sleep 2")
            for server in WEBS:
                on(name, f"echo 'set maxconn server web_once/{server} 1' | socat -t 5 /run/haproxy/admin.sock -")
        go_on(source, "sh", "-c", "while [ ! -e /tmp/alerts-stop ]; do mysql --execute 'LOCK TABLES site.entries WRITE; DO SLEEP(8)'; sleep 0.2; done")
        crowd.enter_context(Visitors(20))

    def fast_again():
        repaired(source)
        crowd.close()
        for name in EDGE:
            on(name, "systemctl reload haproxy")

    def flap():
        for _ in range(6):
            on(WEBS[1], "systemctl stop nginx; sleep 3; systemctl start nginx; sleep 4")

    return [
        ([alert("LatencyHigh", proxy="web_once"), alert("RouteSlow", route="/api/entries", method="POST"), alert("BackendQueue", proxy="web_once")], slow_down, fast_again),
        ([alert("BackendServerFlapping", proxy="web", server=WEBS[1])], flap, lambda: on(WEBS[1], "systemctl start nginx")),
    ]


def nobody_acknowledges():
    """One replica does not receive, the other one no longer knows from whom."""
    source = primary()
    forgetful, stopped = followers(source)
    return [
        ([alert("MySQLReplicationStopped", host=forgetful)],
         lambda: lab.sql(forgetful, "STOP REPLICA; RESET REPLICA ALL"), lambda: play("stage4", "--tags", "database")),
        ([alert("MySQLReplicationStopped", host=stopped), alert("MySQLSemiSyncWaiting", host=source)],
         lambda: lab.sql(stopped, "STOP REPLICA"), lambda: lab.sql(stopped, "START REPLICA")),
    ]


def site_down():
    source, crowd = primary(), contextlib.ExitStack()

    def stop():
        for name in APPS:
            on(name, "systemctl stop app.socket app.service")
        crowd.enter_context(Visitors(40))

    def start():
        for name in APPS:
            on(name, "systemctl start app.socket app.service")
        crowd.close()

    return [
        ([alert("MySQLWritableServers"), alert("BackendDown", proxy="database_writer")],
         lambda: lab.sql(source, "SET GLOBAL super_read_only = ON"), lambda: lab.sql(source, "SET GLOBAL super_read_only = OFF; SET GLOBAL read_only = OFF")),
        ([alert("BackendDown", proxy="app"), *(alert("ErrorBudgetBurn", window=window) for window in ("1h", "6h", "1d", "3d"))], stop, start),
    ]


@pytest.mark.long
@pytest.mark.parametrize("faults", [small_things, slow_writes, nobody_acknowledges, site_down], ids=lambda faults: faults.__name__)
def test_alerts_arrive_and_go(cluster, short_rules, faults):
    faults = faults()
    every = {wanted for alerts, _, _ in faults for wanted in alerts}
    passing = {wanted for wanted in every if dict(wanted).get("window") not in LASTING}
    assert of([alert("Watchdog")])
    # Of an earlier fault.
    lab.wait_for(lambda: not of(passing), seconds=PATIENCE, pause=10)
    assert of(passing) == set()
    begun, arrived, gone = {}, {}, {}

    def seen():
        arrived.update({wanted: time.monotonic() - begun[wanted] for wanted in of(every - set(arrived)) if wanted in begun})
        return every == set(arrived)

    def left():
        gone.update({wanted: time.monotonic() - end for wanted in passing & set(arrived) - set(gone) - of(passing)})
        return passing & set(arrived) == set(gone)

    with contextlib.ExitStack() as repairs:
        for alerts, fault, repair in faults:
            repairs.callback(repair)
            fault()
            begun.update(dict.fromkeys(alerts, time.monotonic()))
            seen()
        lab.wait_for(seen, seconds=PATIENCE, pause=5)
    end = time.monotonic()
    lab.wait_for(left, seconds=PATIENCE, pause=5)
    for wanted, seconds in sorted(arrived.items(), key=lambda item: item[1]):
        labels = dict(wanted)
        what = f"alert {labels.pop('alertname')} ({', '.join(sorted(labels.values()))})"
        report(what.removesuffix(" ()"), arrived_after_s=round(seconds), **({"gone_after_s": round(gone[wanted])} if wanted in gone else {}))
    assert [dict(wanted) for wanted in every - set(arrived)] == [], "did not arrive"
    assert [dict(wanted) for wanted in passing - set(gone)] == [], "stayed"


def test_every_metric_of_the_rules_exists():
    """Whatever an exporter's new version calls it: all are there on a site that is well."""
    rules = yaml.safe_load(docker("exec", MONITOR, "cat", RULES).stdout)
    left = set().union(*(metrics(rule["expr"]) for group in rules["groups"] for rule in group["rules"]))
    assert len(left) > 50
    lab.site("/")

    def found():
        left.difference_update([name for name in left if lab.ask_monitoring(f"count({name})")])
        return not left

    # The first backup is made within five minutes.
    assert lab.wait_for(found, seconds=400, pause=5), left
