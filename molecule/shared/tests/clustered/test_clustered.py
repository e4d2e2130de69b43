"""What stage 4 adds: the site goes on when any one machine of the edge, web or app tier is gone."""

import json
import pathlib
import subprocess

import lab
import pytest

testinfra_hosts = ["client"]


def holders():
    return [name for name in lab.HOSTS["loadbalancers"] if f"inet {lab.VIP}/" in lab.on(name).run("ip -4 address").stdout]


def answers():
    return lab.site("/", "--connect-timeout", "2").status == 200


def test_exactly_one_load_balancer_holds_the_vip():
    assert len(holders()) == 1


def test_each_load_balancer_has_a_certificate_of_its_own():
    serials = {
        lab.on("client").check_output("openssl s_client -connect %s:443 -servername www.foobar.com </dev/null 2>/dev/null | openssl x509 -noout -serial", lab.PUBLIC[name])
        for name in lab.HOSTS["loadbalancers"]
    }
    assert len(serials) == len(lab.HOSTS["loadbalancers"])


def test_writes_are_acknowledged_by_a_replica():
    primary = next(name for name in lab.HOSTS["database"] if lab.sql(name, "SELECT @@read_only") == "0")

    def acknowledged():
        return int(lab.sql(primary, "SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_source_yes_tx'").split()[1])

    assert lab.sql(primary, "SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_source_status'").split()[1] == "ON"
    before = acknowledged()
    lab.write()
    assert acknowledged() > before


@pytest.fixture
def gone():
    """Kill a machine as a power cut would; it boots again afterwards and must come back by itself."""
    killed = []

    def kill(name):
        subprocess.run(["docker", "kill", name], check=True, capture_output=True)
        killed.append(name)

    yield kill
    for name in killed:
        subprocess.run(["docker", "start", name], check=True, capture_output=True)
        assert lab.wait_for(lambda name=name: lab.on(name).run("systemctl is-system-running").stdout.strip() in ("running", "degraded"), seconds=60)
    assert lab.wait_for(lambda: len(holders()) == 1 and answers(), seconds=60)


def test_the_load_balancer_with_the_vip_dies(gone):
    holder = holders()[0]
    gone(holder)
    assert lab.wait_for(answers, seconds=10)
    assert lab.site().hops["Load balancer"] != holder


@pytest.mark.parametrize("tier", ["web", "app"])
@pytest.mark.parametrize("number", [0, 1])
def test_a_server_dies(gone, tier, number):
    victim = lab.HOSTS[tier][number]
    gone(victim)
    assert lab.wait_for(answers, seconds=15)
    assert all(answers() for _ in range(10))
    lab.write()


def test_a_load_balancer_that_is_stopped_in_order_gives_the_vip_away():
    holder = holders()[0]
    lab.on(holder).check_output("systemctl stop keepalived")
    try:
        assert lab.wait_for(lambda: holders() and holders() != [holder], seconds=5)
        assert answers()
    finally:
        lab.on(holder).check_output("systemctl start keepalived")
    assert lab.wait_for(lambda: len(holders()) == 1)


def test_load_balancers_count_visitors_together():
    """A visitor past a tenth of the limit whom the holder of the VIP counts is known to the other one; nobody else is."""
    def busy(name):
        return lab.on(name).check_output("echo 'show table busy_visitors' | socat -t 5 /run/haproxy/admin.sock -")

    visitor = lab.on("client").check_output("ip -4 -brief address show dev eth0").split()[2].split("/")[0]
    for name in lab.HOSTS["loadbalancers"]:
        lab.on(name).check_output("echo 'clear table visitors; clear table busy_visitors' | socat -t 5 /run/haproxy/admin.sock -")
    assert lab.site("/").status == 200
    assert not any(visitor in busy(name) for name in lab.HOSTS["loadbalancers"])
    lab.on("client").check_output("hey -n 400 -c 4 https://www.foobar.com/nothing-here")
    assert lab.wait_for(lambda: all(visitor in busy(name) for name in lab.HOSTS["loadbalancers"]), seconds=5)


def test_every_expression_of_the_dashboards_has_an_answer():
    """Whatever an exporter's new version calls it."""
    left = {target["expr"].replace("$stack", ".+") for path in pathlib.Path(lab.ROOT, "roles/monitoring_server/files/dashboards").glob("*.json")
            for panel in json.loads(path.read_text())["panels"] for target in panel["targets"]}
    assert len(left) > 40
    lab.site("/")

    def answered():
        left.difference_update([query for query in left if lab.ask_monitoring(query)])
        return not left

    assert lab.wait_for(answered, seconds=60, pause=5), left
