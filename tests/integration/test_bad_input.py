"""One clear message for each mistake, and hosts left as they were. Runs against the hosts of stage 4."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def inventory(tmp_path):
    """The inventory of stage 4, to be changed by a test; run it with the lab's connection and addresses."""

    def change(edit=lambda groups: None, **variables):
        groups = yaml.safe_load((ROOT / "inventories/stage4/hosts.yml").read_text())
        edit(groups)
        (tmp_path / "hosts.yml").write_text(yaml.safe_dump(groups))
        lab = yaml.safe_load((ROOT / ".lab/stage4.yml").read_text())
        lab["all"]["vars"].update(variables)
        named = {host for group in groups.values() for host in (group or {}).get("hosts") or {}}
        lab["all"]["hosts"] = {name: host for name, host in lab["all"]["hosts"].items() if name in named}
        (tmp_path / "lab.yml").write_text(yaml.safe_dump(lab))
        return tmp_path

    return change


def refused(directory, playbook="stage4", *options):
    """Run a playbook that must fail before it changes anything; returns what it said."""
    result = subprocess.run(
        ["ansible-playbook", "-i", str(directory / "hosts.yml"), "-i", str(directory / "lab.yml"), f"playbooks/{playbook}.yml", *options],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
    )
    assert result.returncode != 0
    assert not re.search(r"changed=[1-9]", result.stdout), result.stdout[-3000:]
    return " ".join((result.stdout + result.stderr).split())


def test_an_empty_group(inventory):
    assert "group 'web' has 0 host(s), stage 4 needs 2 or more" in refused(inventory(lambda groups: groups.update(web={"hosts": {}})))


def test_one_machine_twice(inventory):
    directory = inventory()
    lab = yaml.safe_load((directory / "lab.yml").read_text())
    lab["all"]["hosts"]["web2"]["webstack_address"] = lab["all"]["hosts"]["web1"]["webstack_address"]
    (directory / "lab.yml").write_text(yaml.safe_dump(lab))
    assert "hosts 'web1' and 'web2' have the same address" in refused(directory)


@pytest.mark.parametrize("domain", ["foo bar.com", 'foo".com', "foo$bar.com", "50%.com", "a'b.com"])
def test_a_domain_that_is_none(inventory, domain):
    assert "webstack_domain is" in refused(inventory(webstack_domain=domain))


def test_a_replication_password_that_is_too_long(inventory):
    """Before any server has it."""
    assert "has 33 characters, and MySQL takes no more than 32" in refused(inventory(webstack_replication_password=33 * "x"))


def test_everything_wrong_in_one_message(inventory):
    said = refused(inventory(webstack_vips="198.18.0.100/24", webstack_features={"tlss": True}, webstack_domain="", webstack_private_networks=["198.19.0.0"]))
    for words in ("webstack_vips is '198.18.0.100/24': write a list", "'tlss' cannot be switched", "webstack_domain is missing", "'198.19.0.0' is not a network"):
        assert words in said


def test_a_vip_outside_the_network(inventory):
    assert "is in no network of load balancer 'lb1'" in refused(inventory(webstack_vips=["203.0.113.100/24"]))


def test_an_unsupported_distribution(inventory):
    directory = inventory()
    swap = "cp --remove-destination /usr/lib/os-release /etc/os-release && sed -i 's/^VERSION_ID=.*/VERSION_ID=\"11\"/; s/13/11/g; s/trixie/bullseye/g' /etc/os-release"
    subprocess.run(["docker", "exec", "web1", "sh", "-c", f"cp /etc/debian_version /root/ && echo 11.9 > /etc/debian_version && {swap}"], check=True)
    try:
        assert "host 'web1' runs Debian 11" in refused(directory)
    finally:
        subprocess.run(["docker", "exec", "web1", "sh", "-c", "mv /root/debian_version /etc/debian_version && ln -sf ../usr/lib/os-release /etc/os-release"], check=True)


def test_lost_secrets_are_not_made_anew(inventory, tmp_path):
    said = refused(inventory(webstack_credentials_dir=str(tmp_path / "nothing-here")))
    assert "is set up already" in said
    assert not (tmp_path / "nothing-here").exists()


def replica(**arguments):
    """Declare a channel on db3 that must be refused."""
    given = {"source_host": "198.19.0.41", "source_user": "replication", "source_ssl_ca": "/etc/webstack/pki/ca.crt", "timeout": 10, **arguments}
    result = subprocess.run(
        ["ansible", "db3", "-i", "inventories/stage4", "-i", ".lab/stage4.yml", "--become", "-m", "foobar.webstack.mysql_replica",
         "-a", json.dumps({"login_unix_socket": "/run/mysqld/mysqld.sock", **given})],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
    )
    assert result.returncode != 0, result.stdout
    return result.stdout + result.stderr


def primary():
    ask = "docker exec {} mysql -BNe 'SELECT @@read_only'"
    return next(name for name in ("db1", "db2", "db3") if subprocess.run(ask.format(name), shell=True, check=True, capture_output=True, text=True).stdout.strip() == "0")


@pytest.mark.parametrize("playbook, options, words", [
    ("patch", "--limit {}", "would restart without a switchover"),
    ("rejoin", "-e server={}", "is the primary"),
    ("switchover", "-e new_primary=db9", "one of db1, db2, db3"),
])
def test_what_the_primary_is_not_for(inventory, playbook, options, words):
    assert words in refused(inventory(), playbook, *options.format(primary()).split())


def replication():
    query = ("SELECT * FROM performance_schema.replication_connection_configuration; SELECT SOURCE_UUID, SERVICE_STATE FROM performance_schema.replication_connection_status;"
             " SELECT @@super_read_only, @@gtid_executed")
    return subprocess.run(["docker", "exec", "db3", "mysql", "-BNe", query], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"source_host": "198.19.0.99", "source_password": "x"}, "198.19.0.99"),
        ({"source_password": "wrong"}, "replication"),
        # The system's, which knows nothing of the internal one.
        ({"source_password": "x", "source_ssl_ca": "/etc/ssl/certs/ca-certificates.crt"}, "the certificate of 198.19.0.41:3306 is not trusted"),
    ],
    ids=["a source that cannot be reached", "a wrong password", "a wrong CA"],
)
def test_a_source_that_does_not_work(arguments, words):
    before = replication()
    said = replica(**arguments)
    assert words in said and "Traceback" not in said
    assert replication() == before
