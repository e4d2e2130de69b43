"""What can go wrong with a replica: mysql_replication_info names it, running the stage again repairs it, and the primary goes on meanwhile."""
import time
import uuid

import lab
import pytest

from chaos import CREDENTIALS, DATABASES, WRITES, Load, asked, break_applier, docker, followers, info, play, primary, whole, writable

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture
def replica():
    return followers(primary())[0]


@pytest.fixture
def filler():
    """64 MiB more on every server."""
    lab.sql(primary(), "CREATE TABLE site.filler (text LONGBLOB)")
    yield lambda: lab.sql(primary(), "INSERT INTO site.filler " + " UNION ALL ".join(["SELECT REPEAT('x', 16 << 20)"] * 4))
    lab.sql(primary(), "DROP TABLE site.filler")


def converge(check=True):
    return play("stage4", "--tags", "database", check=check)[0]


def problems(name):
    return " / ".join(info(name)["problems"])


def named(name, text):
    assert lab.wait_for(lambda: text in problems(name), seconds=30), problems(name)


def written():
    """A row that the primary could acknowledge."""
    key = uuid.uuid4().hex
    lab.sql(primary(), f"{WRITES}; INSERT INTO site.writes (id) VALUES ('{key}')")
    return key


def test_killed(replica):
    docker("kill", replica)
    source = primary()
    assert lab.wait_for(lambda: len(info(source)["replicas"]) == len(DATABASES) - 2, seconds=30)
    written()
    docker("start", replica)
    assert lab.wait_for(whole, seconds=60)


@pytest.mark.long
def test_broken_relay_log(replica):
    lab.sql(replica, "STOP REPLICA SQL_THREAD")
    keys = [written() for _ in range(20)]
    last = lab.on(replica).check_output("tail -n 1 /var/lib/mysql/$(hostname)-relay-bin.index")
    # The end of what was received.
    lab.on(replica).check_output(f"cd /var/lib/mysql; size=$(stat --format %s {last}); dd if=/dev/urandom of={last} bs=1 count=200 seek=$((size - 1000)) conv=notrunc")
    lab.sql(replica, "START REPLICA SQL_THREAD")
    named(replica, "the applier of the channel failed")
    converge()
    assert lab.wait_for(whole)
    assert lab.wait_for(lambda: asked(replica, f"SELECT COUNT(*) FROM site.writes WHERE id = '{keys[-1]}'") == "1")


@pytest.mark.long
def test_an_hour_behind(replica):
    lab.sql(replica, "STOP REPLICA SQL_THREAD; CHANGE REPLICATION SOURCE TO SOURCE_DELAY = 3600; START REPLICA SQL_THREAD")
    key = written()
    named(replica, "3600 s behind on purpose")
    converge()
    assert asked(replica, f"SELECT COUNT(*) FROM site.writes WHERE id = '{key}'") == "1"


@pytest.mark.long
def test_password_changed_behind_our_back(replica):
    account = lab.sql(primary(), "SELECT CONCAT(QUOTE(user), '@', QUOTE(host)) FROM mysql.user WHERE user = 'replication'").splitlines()
    lab.sql(primary(), "; ".join(f"ALTER USER {name} IDENTIFIED BY 'another'" for name in account))
    lab.sql(replica, "STOP REPLICA IO_THREAD; START REPLICA IO_THREAD")
    named(replica, "Access denied")
    converge()


@pytest.mark.long
def test_password_rotated():
    """As an operator does it: another secret, and the stage again."""
    secret = CREDENTIALS / "replication_password"
    secret.write_text(uuid.uuid4().hex)
    converge()
    assert whole()
    for name in followers(primary()):
        lab.sql(name, "STOP REPLICA IO_THREAD; START REPLICA IO_THREAD")
    assert lab.wait_for(whole)


@pytest.mark.long
def test_lost_disk_and_too_small_a_new_one(replica, filler):
    """The new one is too small for the data: refused before anything is copied; with more room the same command seeds the replica."""
    filler()
    on = lab.on(replica)
    on.check_output("systemctl stop mysql; mount -t tmpfs -o size=230m,uid=mysql,gid=mysql,mode=0700 tmpfs /var/lib/mysql")
    try:
        assert "MySQL" not in on.run("systemctl start mysql").stdout and asked(replica, "SELECT 1") == ""
        named(replica, "cannot connect")
        refused = converge(check=False)
        assert "nothing was changed" in refused and "MiB" in refused
        assert info(replica)["state"] == "virgin"
        written()
        on.check_output("mount -o remount,size=2g /var/lib/mysql")
        converge()
        assert whole()
        assert info(replica)["clone"]["percent"] == 100
    finally:
        # The old disk is found again, and catches up.
        on.check_output("systemctl stop mysql; umount /var/lib/mysql; systemctl start mysql")
    assert lab.wait_for(whole, seconds=60)


class Copy:
    """A server works on a copy of its disk with 40 MiB to spare, and what it writes there is not on its disk."""

    def __init__(self, name):
        self.name, self.on = name, lab.on(name)
        self.on.check_output(
            "systemctl stop mysql; mkdir /mnt/small; mount -t tmpfs -o size=$(($(du --summarize --block-size=1M /var/lib/mysql | cut -f 1) + 40))m tmpfs /mnt/small;"
            " cp --archive /var/lib/mysql/. /mnt/small; chown mysql:mysql /mnt/small; mount --bind /mnt/small /var/lib/mysql; systemctl start mysql")
        assert lab.wait_for(whole, seconds=60)

    def grows(self):
        self.on.check_output("mount -o remount,size=2g /mnt/small")

    def is_lost(self):
        self.on.check_output("systemctl stop mysql; umount /var/lib/mysql /mnt/small; rmdir /mnt/small; systemctl start mysql")

    def end(self):
        if not self.on.file("/mnt/small").exists:
            return
        self.grows()
        if self.name in writable():
            play("switchover", "-e", f"new_primary={next(name for name in DATABASES if name != self.name)}")
        self.is_lost()
        play("rejoin", "-e", f"server={self.name}", "-e", "on_errant=reprovision")


@pytest.fixture
def copy_of_disk():
    copies = []

    def make(name):
        copies.append(Copy(name))
        return copies[-1]

    yield make
    for copy in copies:
        copy.end()


@pytest.mark.long
def test_full_disk(replica, filler, copy_of_disk):
    """The primary has its acknowledgements from the other replica. A receiver waits for room and goes on by itself, an applier that could not let a table grow has stopped."""
    copy = copy_of_disk(replica)
    load = Load("sql", 50)
    filler()
    named(replica, "nearly full")
    load.goes_on()
    copy.grows()
    assert lab.wait_for(whole, seconds=120)
    if asked(replica, "SELECT SERVICE_STATE FROM performance_schema.replication_applier_status") == "OFF":
        named(replica, "is full")
        converge()
    load.stop()
    assert not load.lost()


@pytest.mark.long
def test_full_disk_of_the_primary_and_an_older_copy_of_a_replicas(replica, copy_of_disk):
    """Writes wait, reads go on, nobody takes over; with room nothing that was acknowledged is missing. The older copy of the disk lacks what its own server wrote."""
    before = primary()
    copy = copy_of_disk(replica)
    play("switchover", "-e", f"new_primary={replica}")
    load = Load("sql", 50)
    docker("exec", replica, "sh", "-c", "head --bytes=100M /dev/zero > /mnt/small/filler", check=False)
    named(replica, "nearly full")
    assert lab.wait_for(lambda: max(load.acks().values()) < time.time() - 3, seconds=60)
    assert lab.site("/").status == 200 and primary() == replica
    copy.grows()
    load.goes_on()
    load.stop()
    assert not load.lost() and primary() == replica
    assert lab.wait_for(whole, seconds=60)
    play("switchover", "-e", f"new_primary={before}")
    copy.is_lost()
    assert "lacks transactions that it wrote itself" in converge(check=False)
    play("rejoin", "-e", f"server={replica}", "-e", "on_errant=reprovision")
    assert whole()


@pytest.mark.long
def test_an_older_copy_of_the_primarys_disk(copy_of_disk):
    """It stays read-only, as its replicas have more; all that was acknowledged is on them, which only the operator can know."""
    source = primary()
    copy = copy_of_disk(source)
    load = Load("sql", 50)
    load.goes_on()
    copy.is_lost()
    assert lab.wait_for(lambda: "has transactions that this server lacks" in docker(
        "exec", source, "journalctl", "--unit=mysql-role-keeper", "--since=-30s", "--output=cat", "--no-pager").stdout, seconds=30)
    assert writable() == []
    assert "answers" in play("failover", check=False)[0]
    lab.on(source).check_output("systemctl stop mysql")
    assert "allow_data_loss goes on" in play("failover", check=False)[0]
    play("failover", "-e", "allow_data_loss=true")
    load.goes_on()
    load.stop()
    assert not load.lost()
    play("rejoin", "-e", f"server={source}", "-e", "on_errant=reprovision")
    assert whole()


@pytest.mark.long
def test_data_that_differ(replica):
    """The applier fails, the stage does not skip it, and a new seed is one command."""
    def cloned():
        return asked(replica, "SELECT BEGIN_TIME FROM performance_schema.clone_status")

    before = cloned()
    break_applier(replica)
    named(replica, "the applier of the channel failed")
    assert "applier" in converge(check=False)
    play("rejoin", "-e", f"server={replica}", "-e", "mysql_replica_seed=always")
    assert whole() and cloned() not in ("", before)
