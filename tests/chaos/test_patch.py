"""Operating system updates and reboots, one host at a time, under load from visitors."""
import time

import lab
import pytest

from chaos import ROUNDS, docker, holders, play, report, whole
from visitors import Visitors, figures

HOSTS = [name for tier in ("loadbalancers", "web", "app", "database", "monitoring") for name in lab.HOSTS[tier]]


def booted(name):
    return docker("exec", name, "systemctl", "show", "--property=UserspaceTimestampMonotonic", "--value").stdout.strip()


@pytest.mark.parametrize("all_hosts", [False, pytest.param(True, marks=pytest.mark.long)])
def test_reboots_under_load(all_hosts, cluster):
    """An app host and the holder of the VIP, or all."""
    hosts = HOSTS if all_hosts else [lab.HOSTS["app"][0], *holders()]
    before = {name: booted(name) for name in HOSTS}
    with Visitors(40, least=30000 if ROUNDS > 1 and all_hosts else 0) as visitors:
        _, seconds = play("patch", "-e", "reboot=always", "--limit", ",".join(hosts))
    report("patch.yml, " + " ".join(hosts), command_s=round(seconds), vip_moves=len(visitors.vip_moves()), **figures(visitors.numbers))
    assert {name for name in HOSTS if booted(name) != before[name]} == set(hosts)
    assert lab.wait_for(whole, seconds=60)
    # A planned move is no excuse for a failed request.
    assert visitors.numbers["reasons"] == []


@pytest.mark.long
def test_a_host_that_does_not_come_back_ends_it():
    """What was left behind is put right by the next run, and whoever came after it was not touched."""
    before = booted("web2")
    docker("exec", "web1", "systemctl", "mask", "nginx")
    try:
        start = time.monotonic()
        output, _ = play("patch", "-e", "reboot=always", "--limit", "web1,web2", check=False)
        assert "web1" in output and booted("web2") == before, output[-2000:]
        assert time.monotonic() - start < 300
    finally:
        docker("exec", "web1", "systemctl", "unmask", "nginx")
        docker("exec", "web1", "systemctl", "start", "nginx")
    play("patch", "-e", "reboot=never", "--limit", "web1")
    play("patch", "--check")
