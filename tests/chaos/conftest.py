import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# The stage tests' way to look at the site.
os.environ.setdefault("MOLECULE_SCENARIO_NAME", "stage4")
os.environ.setdefault("MOLECULE_PROJECT_DIRECTORY", str(ROOT))
sys.path[:0] = [str(ROOT / "molecule/shared/tests"), str(Path(__file__).parent)]


def pytest_configure(config):
    config.addinivalue_line("markers", "long: for `make chaos`, where every test runs it would take too long")


@pytest.fixture
def cluster():
    """A test that asks for it starts from a whole cluster and leaves one behind."""
    import lab
    from chaos import DATABASES, Load, alike, docker, followers, running, whole, writable

    assert lab.wait_for(whole, seconds=60), (writable(), [followers(name) for name in writable()])
    yield
    Load.end()
    for name in DATABASES:
        if not running(name):
            docker("unpause", name, check=False)
            docker("start", name)
    assert lab.wait_for(whole, seconds=120), (writable(), [followers(name) for name in writable()])
    assert alike()
