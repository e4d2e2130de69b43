"""What must hold in every role: documentation in step with defaults, the same rooms, only site reads the inventory."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())


class Loader(yaml.SafeLoader):
    """YAML with Ansible's tags read as plain values."""


Loader.add_multi_constructor("!", lambda loader, suffix, node: loader.construct_scalar(node))


def read(path):
    return yaml.load(path.read_text(), Loader) or {}


def normal(value):
    """Folded Jinja expressions differ in white space only."""
    return " ".join(value.split()) if isinstance(value, str) else value


@pytest.fixture(params=ROLES, ids=lambda path: path.name)
def role(request):
    return request.param


def test_argument_spec_has_the_defaults(role):
    defaults = read(role / "defaults/main.yml")
    specs = read(role / "meta/argument_specs.yml")["argument_specs"]
    options = specs["main"]["options"]
    assert set(defaults) == {name for name, option in options.items() if not option.get("required")} - undefaulted(options)
    for name, value in defaults.items():
        assert normal(options[name].get("default")) == normal(value), name


def undefaulted(options):
    """Options that stay undefined until the user gives them."""
    return {name for name, option in options.items() if "default" not in option}


def test_every_option_is_described(role):
    for entry in read(role / "meta/argument_specs.yml")["argument_specs"].values():
        assert entry.get("short_description")
        for name, option in entry.get("options", {}).items():
            assert option.get("description"), name
            assert option.get("type"), name


def test_names_carry_the_role(role):
    prefix = ("site_", "webstack_") if role.name == "site" else (role.name + "_",)
    assert all(name.startswith(prefix) for name in read(role / "defaults/main.yml"))


def test_rooms(role):
    for room in ("defaults/main.yml", "meta/main.yml", "meta/argument_specs.yml", "tasks/main.yml", "README.md"):
        assert (role / room).is_file(), room


@pytest.mark.parametrize("path", sorted((ROOT / "roles").rglob("*.y*ml")) + sorted((ROOT / "roles").rglob("*.j2")), ids=lambda p: str(p.relative_to(ROOT)))
def test_only_site_reads_the_inventory(path):
    if path.relative_to(ROOT).parts[1] != "site":
        assert not re.search(r"\b(groups|hostvars)\s*[\[.]|\bgroups\.get|\bansible_(?!facts|check_mode|managed|host\b|port\b|play|version|loop|diff|python_interpreter|playbook_python|user\b|become|connection|env)\w+\b(?=\s*[}|\]])", path.read_text())


def test_every_role_has_a_scenario():
    covered = " ".join(path.read_text() for path in (ROOT / "molecule").glob("*/*.yml")) + " ".join(
        path.read_text() for path in (ROOT / "playbooks").rglob("*.yml")
    )
    for role in ROLES:
        assert "foobar.webstack.%s" % role.name in covered, role.name


@pytest.mark.parametrize("path", sorted(str(path.relative_to(ROOT)) for pattern in ("roles/**/*.yml", "roles/**/*.j2", "playbooks/**/*.yml") for path in ROOT.glob(pattern)))
def test_order_is_kept(path):
    """These filters work on sets: another order in each run, and so a change in each run. Write select('in', ...) or reject('in', ...)."""
    for line in (ROOT / path).read_text().splitlines():
        assert not re.search(r"\| *(intersect|difference|symmetric_difference|union)\b(?!.*\| *length)", line), line


@pytest.mark.parametrize("path", sorted(str(path.relative_to(ROOT)) for pattern in ("roles/**/*.yml", "playbooks/**/*.yml") for path in ROOT.glob(pattern)))
def test_an_unreachable_host_does_not_end_the_play_silently(path):
    """run_once makes an unreachable host fatal for all, also with ignore_unreachable, unless errors are ignored as well."""

    def tasks(node):
        if isinstance(node, dict):
            yield node
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            yield from tasks(child)

    for task in tasks(read(ROOT / path)):
        assert not (task.get("run_once") and task.get("ignore_unreachable")) or task.get("ignore_errors"), task.get("name")


def test_handlers_have_names_of_their_own():
    """Ansible takes the last of the handlers of a play that share a name."""
    names = [handler["name"] for role in ROLES if (role / "handlers/main.yml").exists() for handler in read(role / "handlers/main.yml")]
    assert len(names) > 20
    assert [name for name in names if names.count(name) > 1] == []


def test_the_dashboards_are_those_that_their_program_writes(tmp_path):
    subprocess.run([sys.executable, ROOT / "scripts/dashboards", tmp_path], check=True)
    shipped = ROOT / "roles/monitoring_server/files/dashboards"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {path.name: path.read_text() for path in shipped.iterdir()}
