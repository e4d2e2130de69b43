"""After all the others: whatever was done to the hosts, the stage finds nothing to change."""
import pytest

from chaos import changed_tasks, play

pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.long]


def test_the_stage_finds_nothing_to_change():
    output, _ = play("stage4")
    # Docker writes a new /etc/hosts at each start of a container.
    assert changed_tasks(output) <= {"foobar.webstack.app : Point the database's names to the router on this host"}
