import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
# The stage tests' way to look at the site.
os.environ.setdefault("MOLECULE_SCENARIO_NAME", "stage4")
os.environ.setdefault("MOLECULE_PROJECT_DIRECTORY", str(ROOT))
sys.path[:0] = [str(ROOT / "molecule/shared/tests"), str(ROOT / "molecule/shared/tests/protected"), str(Path(__file__).parent)]


def pytest_collection_modifyitems(items):
    """What is quick comes first, what restarts services last."""
    order = ["test_units", "test_auditors", "test_tls", "test_clear_text", "test_secrets", "test_firewall", "test_certificates"]
    items.sort(key=lambda item: order.index(item.path.stem) if item.path.stem in order else -1)


@pytest.fixture(scope="session")
def known():
    from attacker import secrets

    return secrets()


def pytest_configure(config):
    config.addinivalue_line("markers", "long: for `make chaos`, where every test runs it would take too long")


@pytest.fixture(scope="session")
def intend(tmp_path_factory):
    """What the stage says with -vvv, --diff and --check when secrets are about to change, and those new secrets."""

    def run(*options):
        # That of the replication is tried also in check mode, and refused.
        names = ("app_database_password", "app_secret_key", "cluster_admin_password", "monitoring_password")
        new = {f"webstack_{name}": f"canary{number:026d}" for number, name in enumerate(names)}
        file = tmp_path_factory.mktemp("intended") / "secrets.yml"
        file.write_text(yaml.safe_dump(new))
        result = subprocess.run(
            ["ansible-playbook", "-i", "inventories/stage4", "-i", ".lab/stage4.yml", "playbooks/stage4.yml", "--check", "--diff", "-vvv", "-e", f"@{file}", *options],
            cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"})
        output = result.stdout + result.stderr
        assert result.returncode == 0, output[-4000:]
        return output, new

    return run


@pytest.fixture(scope="session")
def intended(intend):
    return intend("--tags", "firewall")
