"""Operating system updates and reboots, one host at a time, under load from visitors."""
import re
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


# Ten packages: "10 upgraded" ends like "0 upgraded".
PACKAGES = """
mkdir -p /srv/canary && cd /srv/canary && rm -rf -- *
for version in 1 2; do
  rm -f ./*.deb
  for name in canary-{0..9}; do
    mkdir -p $name/DEBIAN
    printf 'Package: %s\\nVersion: %s\\nArchitecture: all\\nMaintainer: Lab <lab@example.com>\\nDescription: canary\\n' $name $version > $name/DEBIAN/control
    dpkg-deb --build $name $name.deb
  done
  [ $version = 2 ] || dpkg --install ./*.deb
done
for file in *.deb; do
  dpkg-deb --field $file && printf 'Filename: ./%s\\nSize: %s\\nSHA256: %s\\n\\n' $file $(stat --format %s $file) $(sha256sum < $file | cut -d' ' -f1)
done > Packages
echo 'deb [trusted=yes] file:/srv/canary ./' > /etc/apt/sources.list.d/canary.list
"""


@pytest.mark.long
def test_updates_are_installed():
    """Nobody has refreshed the package lists before."""
    host = lab.HOSTS["web"][0]
    docker("exec", host, "bash", "-ec", PACKAGES)
    try:
        assert "canary" not in docker("exec", host, "apt-get", "--simulate", "dist-upgrade").stdout
        play("patch", "-e", "reboot=never", "--limit", host)
        versions = docker("exec", host, "dpkg-query", "--show", "--showformat", "${Version} ", "canary-*").stdout
        assert versions.split() == ["2"] * 10
        output, _ = play("patch", "-e", "reboot=never", "--limit", host)
        assert not re.search(r"changed=[1-9]", output)
    finally:
        docker("exec", host, "bash", "-c", "dpkg --purge canary-{0..9}; rm -rf /etc/apt/sources.list.d/canary.list /srv/canary")


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
