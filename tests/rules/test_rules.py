"""The rules as the role renders them, under promtool; each alert fires in one test, stays silent in another, and has its section in docs/alerts.md."""
import io
import re
import subprocess
import tarfile
from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar, trust_as_template

ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "roles/monitoring_server"
RUNBOOKS = "https://example.com/alerts.md"
# What the inventory would say.
STACK = {
    "monitoring_server_hosts": ["lb1", "lb2", "db1"],
    "monitoring_server_vips": ["192.0.2.1", "192.0.2.2"],
    "monitoring_server_runbook_url": RUNBOOKS,
}
TESTS = yaml.safe_load((ROOT / "tests/rules/alerts.yml").read_text())
for _case in TESTS["tests"]:
    for _test in _case.get("alert_rule_test", []):
        for _alert in _test["exp_alerts"]:
            _alert["exp_annotations"]["runbook_url"] = f"{RUNBOOKS}#{_test['alertname'].lower()}"


def render(**inventory):
    """By the role's own task: its template, its delimiters, its defaults."""
    init_plugin_loader()
    loader = DataLoader()
    task = next(task for task in _tasks(yaml.safe_load((ROLE / "tasks/configure.yml").read_text())) if task["name"] == "Write the rules")
    options = {key: value for key, value in task["ansible.builtin.template"].items() if key.startswith("variable_")}
    variables = {"ansible_managed": "managed", "ansible_facts": {}, "options": options, "template": str(ROLE / "templates/rules.yml.j2")}
    for file in ("defaults/main.yml", "vars/main.yml"):
        variables |= loader.load_from_file(str(ROLE / file), trusted_as_template=True)
    question = trust_as_template("{{ lookup('ansible.builtin.template', template, **options) }}")
    return Templar(loader, variables | STACK | inventory).template(question)


def _tasks(tasks):
    for task in tasks:
        yield task
        yield from _tasks(task.get("block", []))


RULES = render()
ALERTS = [rule for group in yaml.safe_load(RULES)["groups"] for rule in group["rules"] if "alert" in rule]
NAMES = sorted({alert["alert"] for alert in ALERTS})


@pytest.mark.parametrize("suite", ["trixie", "bookworm"])
def test_promtool(suite):
    """In the lab's image, which holds the package without installing it."""
    sent = io.BytesIO()
    with tarfile.open(fileobj=sent, mode="w") as archive:
        for name, text in (("webstack.yml", RULES), ("alerts.yml", yaml.safe_dump(TESTS))):
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    # Debian 13 has promtool in a package of its own.
    script = """set -e; cd /tmp; tar -x
        for package in $(find /var/cache/apt/archives -name 'promtool_*') /var/cache/apt/archives/prometheus_*; do test -x usr/bin/promtool || dpkg -x $package .; done
        usr/bin/promtool check rules webstack.yml; usr/bin/promtool test rules alerts.yml"""
    result = subprocess.run(
        ["docker", "run", "--rm", "--interactive", "--network", "none", "--entrypoint", "sh", f"webstack-lab/host:{suite}", "-c", script],
        input=sent.getvalue(), capture_output=True, timeout=300)
    assert result.returncode == 0, (result.stdout + result.stderr).decode()


def expectations(name):
    return [test for case in TESTS["tests"] for test in case.get("alert_rule_test", []) if test["alertname"] == name]


@pytest.mark.parametrize("name", NAMES)
def test_each_alert_is_seen_firing_and_silent(name):
    assert [test for test in expectations(name) if test["exp_alerts"]], "no test in which it fires"
    # The dead man's switch always fires.
    assert name == "Watchdog" or [test for test in expectations(name) if not test["exp_alerts"]], "no test in which it stays silent"


def test_every_burn_rate_is_seen():
    windows = {alert["labels"]["window"] for alert in ALERTS if alert["alert"] == "ErrorBudgetBurn"}
    assert windows == {found["exp_labels"]["window"] for test in expectations("ErrorBudgetBurn") for found in test["exp_alerts"]} == {"1h", "6h", "1d", "3d"}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"] + alert["labels"].get("window", ""))
def test_each_alert_says_what_happened_and_links_its_runbook(alert):
    assert alert["annotations"]["runbook_url"] == f"{RUNBOOKS}#{alert['alert'].lower()}"
    assert alert["labels"]["severity"] in ("critical", "warning", "none")
    if alert["alert"] != "Watchdog":
        assert re.search(r"\$labels\.(host|stack|proxy|address)", alert["annotations"]["summary"]), "on which host, or of what"


def test_the_play_for_a_service_of_the_users_writes_the_same_rules(tmp_path):
    """The one in docs/monitoring.md, with the checkout's path, over the inventory of stage 4."""
    text = (ROOT / "docs/monitoring.md").read_text()
    play, = yaml.safe_load(re.search(r"```yaml\n(- hosts: localhost.*?)```", text, re.S)[1])
    play["tasks"][0]["ansible.builtin.template"]["src"] = str(ROLE / "templates/rules.yml.j2")
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    subprocess.run(["ansible-playbook", "--connection=local", "-i", ROOT / "inventories/stage4", tmp_path / "play.yml"], cwd=tmp_path, check=True, capture_output=True)
    written, hosts = (tmp_path / "webstack-rules.yml").read_text(), ["lb1", "lb2", "web1", "web2", "app1", "app2", "db1", "db2", "db3"]
    runbooks = "https://github.com/foobar/webstack/blob/main/docs/alerts.md"
    assert yaml.safe_load(written) == yaml.safe_load(
        render(monitoring_server_hosts=hosts, monitoring_server_vips=["203.0.113.100"], monitoring_server_runbook_url=runbooks))


def test_no_backups_are_missed_where_none_are_made():
    names = {rule.get("alert") for group in yaml.safe_load(render(mysql_backup_enabled=False))["groups"] for rule in group["rules"]}
    assert set(NAMES) - names == {"MySQLBackupOld", "MySQLBinlogArchiveOld"}


def test_each_alert_has_a_section_and_each_section_an_alert():
    sections = re.findall(r"^## (\w+)$", (ROOT / "docs/alerts.md").read_text(), re.M)
    assert sorted(sections) == NAMES


def test_each_alert_is_caused_on_stage_4_or_says_why_not():
    caused = set(re.findall(r'\balert\("(\w+)"', (ROOT / "tests/chaos/test_alerts.py").read_text()))
    sections = dict(re.findall(r"^## (\w+)$(.*?)(?=^## |\Z)", (ROOT / "docs/alerts.md").read_text(), re.M | re.S))
    excused = {name for name, text in sections.items() if "Not caused on stage 4:" in text}
    assert sorted([*caused, *excused]) == NAMES


def test_tests_name_alerts_that_exist():
    named = {test["alertname"] for case in TESTS["tests"] for test in case.get("alert_rule_test", [])}
    assert named == set(NAMES)
