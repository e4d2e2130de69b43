"""After all the others: whatever was done to the hosts, the stage finds nothing to change."""
import re

import lab
import pytest

from chaos import changed_tasks, docker, followers, play, primary, whole

pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.long]


def test_the_stage_goes_on_without_dead_hosts():
    """And says which they are; the database's topology is left as it is."""
    source = primary()
    dead = {lab.HOSTS["web"][1], followers(source)[0]}
    docker("kill", *dead)
    try:
        output, _ = play("stage4", check=False)
        ends = {name: (unreachable, failed) for name, unreachable, failed in re.findall(r"(\S+) : ok=\d+ changed=\d+ unreachable=(\d+) failed=(\d+)", output)}
        assert ends == {name: ("1", "0") if name in dead else ("0", "0") for name in ends} and dead < set(ends)
        assert primary() == source and lab.site("/").status == 200
    finally:
        docker("start", *dead)
    assert lab.wait_for(whole, seconds=60)


def test_the_stage_finds_nothing_to_change():
    output, _ = play("stage4")
    # Docker writes a new /etc/hosts at each start of a container.
    assert changed_tasks(output) <= {"foobar.webstack.app : Point the database's names to the router on this host"}
