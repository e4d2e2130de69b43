"""How much a service could do to its host if somebody took it over, as systemd-analyze judges it: 0 nothing, 10 everything."""

import re

import lab
import pytest
from attacker import everywhere

AGENT = {"vmagent": 2.0, "prometheus-node-exporter": 2.0, "webstack-metrics": 2.0,
         # As the package leaves it.
         "rsyslog": 4.5}
LIMITS = {
    "loadbalancers": {"haproxy": 3.0, "keepalived": 2.5, "haproxy-health": 1.5, "certbot": 3.0},
    "web": {"nginx": 3.0, "prometheus-nginx-exporter": 2.0},
    "app": {"app": 1.5, "app-next": 1.5, "haproxy": 3.0},
    "database": {"mysql": 2.5, "mysql-role-check": 1.5, "mysql-role-keeper": 1.5, "mysql-certificate": 2.0, "mysql-backup": 2.0, "mysql-backup-archive": 2.0,
                 "prometheus-mysqld-exporter": 2.0},
    "monitoring": {"prometheus": 2.0, "prometheus-alertmanager": 2.0},
}
# Of the operating system.
SYSTEM = r"(systemd-.*|user@.*|user-runtime-dir@.*|modprobe@.*|dbus|ssh|kmod-static-nodes|ldconfig|e2scrub.*|ufw)\.service"


def exposure(name, units):
    report = lab.on(name).check_output("systemd-analyze security --no-pager " + " ".join(f"{unit}.service" for unit in units))
    return {unit: float(score) for unit, score in re.findall(r"exposure level for (\S+)\.service: ([\d.]+)", report)}


@pytest.mark.parametrize("tier", LIMITS)
def test_every_unit_is_sandboxed(tier):
    limits = {**LIMITS[tier], **AGENT}
    for name, scores in everywhere(lab.HOSTS[tier], lambda name: exposure(name, limits)).items():
        print(name, scores)
        assert set(scores) == set(limits)
        assert {unit: score for unit, score in scores.items() if score > limits[unit]} == {}, name


@pytest.mark.parametrize("tier", LIMITS)
def test_nothing_runs_that_was_not_judged(tier):
    for name in lab.HOSTS[tier]:
        units = lab.on(name).check_output("systemctl list-units --type=service --state=active --plain --no-legend").splitlines()
        running = {unit.split()[0] for unit in units if not re.fullmatch(SYSTEM, unit.split()[0])}
        assert running <= {f"{unit}.service" for unit in {**LIMITS[tier], **AGENT}}, name
