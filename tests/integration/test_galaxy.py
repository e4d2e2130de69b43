"""What a team gets that installs the collection from Galaxy: the built archive alone, in a directory of its own."""

import json
import os
import re
import subprocess
import tarfile
import time
import uuid
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SERVER = "galaxy-server"
# Nothing in it may be taken for a quote, a variable, a template or an option on the way to MySQL, systemd and back.
PASSWORD = "a'b\"c$d{{ e }}%f\\g h#i-$(j)`k`;l"


def run(*command, cwd=ROOT, **environment):
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
    assert result.returncode == 0, f"{' '.join(map(str, command))}\n{result.stdout[-6000:]}\n{result.stderr[-3000:]}"
    return result.stdout


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    out = tmp_path_factory.mktemp("build")
    run("ansible-galaxy", "collection", "build", "--output-path", str(out))
    return next(out.glob("foobar-webstack-*.tar.gz"))


@pytest.fixture(scope="module")
def project(archive, tmp_path_factory):
    """An empty directory with the collection installed into it and an inventory, nothing of the checkout."""
    directory = tmp_path_factory.mktemp("project")
    run("ansible-galaxy", "collection", "install", str(archive), "--no-deps", "--offline", "--collections-path", str(directory / "collections"), cwd=directory)
    run("molecule", "create", "--scenario-name", "galaxy")
    networks = json.loads(run("docker", "inspect", SERVER))[0]["NetworkSettings"]["Networks"]
    host = {
        "ansible_connection": "community.docker.docker",
        "ansible_user": "root",
        "ansible_python_interpreter": "/usr/bin/python3",
        "webstack_address": networks["webstack-private"]["IPAddress"],
        "webstack_domain": "foobar.com",
        "webstack_app_database_password": PASSWORD,
        "mysql_repository": {
            "name": "sid",
            "uris": (ROOT / ".lab/mirror").read_text().strip(),
            "suites": "sid",
            "components": "main",
            "check_valid_until": False,
            "signed_by": "/usr/share/keyrings/debian-archive-keyring.gpg",
        },
        "mysql_apt_default_release": "sid",
        "mysql_packages": ["mysql-server"],
        "mysql_innodb_buffer_pool_size": "128M",
    }
    group = {"hosts": {SERVER: None}}
    inventory = directory / "inventory"
    inventory.mkdir()
    tiers = {"web": {"hosts": {SERVER: Unsafe.mark(host)}}, "app": group, "database": group, "loadbalancers": None, "monitoring": None}
    (inventory / "hosts.yml").write_text(yaml.dump(tiers, Dumper=Unsafe))
    yield directory
    run("molecule", "destroy", "--scenario-name", "galaxy")


class Unsafe(yaml.SafeDumper):
    """Writes the password with the tag that keeps Ansible from templating it."""

    @staticmethod
    def mark(host):
        return {**host, "webstack_app_database_password": Secret(PASSWORD)}


class Secret(str):
    pass


Unsafe.add_representer(Secret, lambda dumper, value: dumper.represent_scalar("!unsafe", str(value), style="'"))
Unsafe.ignore_aliases = lambda self, data: True


def play(project, *arguments):
    return run(
        "ansible-playbook", "-i", "inventory", *arguments, cwd=project,
        ANSIBLE_COLLECTIONS_PATH=str(project / "collections"), ANSIBLE_INJECT_FACT_VARS="False", ANSIBLE_NOCOLOR="1",
    )


def request(address, path="/", data=None):
    code = (
        "import sys, urllib.request as r; q = r.Request('http://%s%s' % (sys.argv[1], sys.argv[2]), data=sys.argv[3].encode() or None,"
        " headers={'Host': 'www.foobar.com', 'Content-Type': 'application/json'})\n"
        "try: a = r.urlopen(q, timeout=10)\n"
        "except r.HTTPError as error: a = error\n"
        "print(a.status); print(a.read().decode())"
    )
    status, _, body = run("docker", "exec", SERVER, "python3", "-c", code, address, path, json.dumps(data) if data else "").partition("\n")
    return int(status), body


def test_the_archive_holds_the_collection_and_nothing_else(archive):
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
    assert not [member.name for member in members if member.issym() or member.islnk()]
    top = {member.name.split("/")[0] for member in members}
    assert top == {
        "CHANGELOG.md", "FILES.json", "LICENSE", "MANIFEST.json", "README.md", "changelogs", "docs", "inventories", "meta", "playbooks", "plugins", "requirements.txt",
        "requirements.yml", "roles",
    }
    assert not [member.name for member in members if re.search(r"credentials|\.key$|\.pem$|__pycache__|(^|/)tests?/", member.name)]


def test_stage1_runs_by_name_and_keeps_a_strange_password(project):
    play(project, "foobar.webstack.stage1")
    address = yaml.safe_load((project / "inventory/hosts.yml").read_text().replace("!unsafe", ""))["web"]["hosts"][SERVER]["webstack_address"]
    entry = {"id": uuid.uuid4().hex, "name": "Galaxy", "text": "installed"}
    deadline = time.monotonic() + 10
    while request(address)[0] != 200 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert request(address, "/api/entries", entry)[0] == 201
    assert "installed" in request(address, "/api/entries")[1]


def test_the_status_of_the_site(project):
    assert "www.foobar.com is healthy" in " ".join(play(project, "foobar.webstack.status").split())
    assert json.loads((project / "status/status.json").read_text())["primary"] == SERVER
    assert (project / "status").stat().st_mode & 0o777 == 0o700
    assert SERVER in (project / "status/index.html").read_text()


def test_one_role_alone(project):
    (project / "firewall.yml").write_text(
        "- hosts: all\n  roles:\n    - role: foobar.webstack.firewall\n      vars:\n"
        "        firewall_admin_networks: [198.19.0.0/24]\n        firewall_rules: [{port: '80', proto: tcp}]\n"
    )
    play(project, "firewall.yml")
    assert "Status: active" in run("docker", "exec", SERVER, "ufw", "status")
    assert re.search(r"changed=0 .*failed=0", play(project, "firewall.yml"))
