"""Operations run with --check end well on a running stage, and change nothing."""
import lab
import pytest

from chaos import DATABASES, asked, docker, holders, play, primary

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("cluster")]
STARTED = "systemctl show --property=ActiveEnterTimestamp,Id haproxy nginx mysql app keepalived; ip -4 -brief address; ls -l /srv/app /etc; ls /var/backups/mysql/backups 2>/dev/null || :"


def other():
    return next(name for name in DATABASES if name != primary())


# A new stage 4 has no former primary, no earlier release and no empty server: what needs one has nothing to do, or is refused.
OPERATIONS = {
    "switchover": lambda: ["-e", f"new_primary={other()}"],
    "rejoin": lambda: ["-e", f"server={other()}"],
    "deploy": lambda: ["-e", "release=not-yet"],
    "rollback": lambda: ["-e", "release=" + docker("exec", lab.HOSTS["app"][0], "readlink", "/srv/app/current").stdout.strip().rpartition("/")[2]],
    "backup": lambda: [],
    "patch": lambda: ["-e", "reboot=always"],
}
REFUSED = {
    "failover": (lambda: [], "nothing was changed"),
    "restore": (lambda: ["-e", f"server={other()}"], "nothing was changed"),
}


def state():
    return (primary(), holders(), [asked(name, "SELECT @@gtid_executed, @@read_only; SELECT COUNT(*) FROM site.entries") for name in DATABASES],
            {name: docker("exec", name, "sh", "-c", STARTED).stdout for name in lab.EVERY_HOST})


@pytest.mark.parametrize("name", OPERATIONS)
def test_nothing_changes(name):
    before = state()
    play(name, "--check", "--diff", *OPERATIONS[name]())
    assert state() == before


@pytest.mark.parametrize("name", REFUSED)
def test_nothing_changes_where_it_is_refused(name):
    options, reason = REFUSED[name]
    before = state()
    output, _ = play(name, "--check", "--diff", *options(), check=False)
    assert reason in output
    assert state() == before
