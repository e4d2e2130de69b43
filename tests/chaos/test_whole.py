"""After all the others: whatever was done to the hosts, the stage finds nothing to change."""
import re

import pytest

from chaos import play

pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.long]


def test_the_stage_finds_nothing_to_change():
    output, _ = play("stage4")
    changed = {task for task, text in re.findall(r"TASK \[([^]]+)\]((?:(?!TASK \[).)*)", output) if "changed: [" in text}
    # Docker writes a new /etc/hosts at each start of a container.
    assert changed <= {"foobar.webstack.app : Point the database's names to the router on this host"}
