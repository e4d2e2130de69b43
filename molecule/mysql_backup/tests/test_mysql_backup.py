"""Backups under writes, an accident, a restore to the moment before it on an empty server, and then the loss of all servers."""
import contextlib
import datetime
import json
import os
import pathlib
import subprocess
import time

import pytest
import testinfra

ROOT = pathlib.Path(os.environ['MOLECULE_PROJECT_DIRECTORY'])
SCENARIO = ROOT / 'molecule/mysql_backup'
DB1, DB2, DB3 = SERVERS = 'backup-db1', 'backup-db2', 'backup-db3'
PROGRAM = '/usr/local/sbin/mysql-backup'
STORE = '/var/backups/mysql'
ON = {name: testinfra.get_host('docker://' + name) for name in SERVERS}
# What the tests tell each other.
SEEN = {}


def sql(name, query):
    return ON[name].check_output('mysql --batch --raw --skip-column-names --execute %s', query)


def executed(name):
    return sql(name, 'SELECT @@GLOBAL.gtid_executed').replace('\n', '')


def playbook(path, *options):
    """(succeeded, what it printed on one line)"""
    result = subprocess.run(
        ['ansible-playbook', '-i', os.environ['MOLECULE_INVENTORY_FILE'], '-e', '@%s' % (SCENARIO / 'vars/lab.yml'), str(path), *options],
        cwd=ROOT, capture_output=True, text=True, check=False, env=dict(os.environ, ANSIBLE_NOCOLOR='1', ANSIBLE_CALLBACK_RESULT_FORMAT='json'))
    return result.returncode == 0, ' '.join((result.stdout + result.stderr).replace('\\n', ' ').split())


def restore(**options):
    return playbook(ROOT / 'playbooks/restore.yml', *[part for name, value in options.items() for part in ('-e', json.dumps({name: value}))])


def plan(name, *options):
    result = ON[name].run('%s plan %s' % (PROGRAM, ' '.join(options)))
    return json.loads(result.stdout) if result.rc == 0 else None, result.stderr


def backups(name):
    return [backup['id'] for backup in json.loads(ON[name].check_output(PROGRAM + ' list'))['backups']]


def now():
    return datetime.datetime.now(datetime.timezone.utc).strftime('%Y-%m-%d %H:%M:%S.%f')


def wait_for(probe, seconds=30):
    deadline = time.time() + seconds
    while True:
        value = probe()
        if value or time.time() > deadline:
            return value
        time.sleep(0.3)


def empty(name):
    """As a host that the stage has just set up."""
    ON[name].check_output('systemctl stop mysql && find /var/lib/mysql -mindepth 1 -delete'
                          ' && mysqld --initialize-insecure --user=mysql && systemctl start mysql')


def copy_store(source, target):
    """Stands in for the storage that the directory is on."""
    subprocess.run('docker exec %s tar -C %s -c . | docker exec -i %s tar -C %s -x' % (source, STORE, target, STORE), shell=True, check=True)


@contextlib.contextmanager
def writing(file):
    """Someone who writes a row every few milliseconds, and notes what was acknowledged."""
    program = ('rm -f /tmp/stop; i=$(cat %s | wc -l); while [ ! -e /tmp/stop ]; do i=$((i + 1));'
               ' mysql -e "INSERT INTO site.entry VALUES ($i, UUID())" && echo $i >> %s; done' % (file, file))
    with subprocess.Popen(['docker', 'exec', DB1, 'sh', '-c', 'touch %s; %s' % (file, program)]) as writer:
        try:
            yield lambda: int(ON[DB1].check_output('cat %s | wc -l' % file))
        finally:
            # Also of a test that fails, which would wait for it without end.
            ON[DB1].check_output('touch /tmp/stop')
        assert writer.wait(30) == 0


def archive(name=DB2):
    ON[name].check_output('systemctl start mysql-backup-archive.service')


def test_backup_while_somebody_writes():
    sql(DB1, 'DROP TABLE IF EXISTS site.entry')
    sql(DB1, 'CREATE TABLE site.entry (id INT PRIMARY KEY, text VARCHAR(80)) CHARACTER SET utf8mb4')
    for name in SERVERS:
        # As the node exporter's package makes it.
        ON[name].check_output('install -d -m 0755 /var/lib/prometheus/node-exporter')
    with writing('/tmp/acknowledged') as written:
        assert wait_for(lambda: written() > 10)
        good, said = playbook(ROOT / 'playbooks/backup.yml')
        assert good, said
        during = written()
        assert wait_for(lambda: written() > during + 10)
    SEEN['night'], = backups(DB2)
    assert SEEN['night'] in said
    assert backups(DB1) == backups(DB3) == []
    assert 'it is the turn of backup-db2' in ON[DB3].check_output('journalctl --unit mysql-backup --output cat')


def test_only_the_account_of_mysql_reads_it_and_nothing_is_left_behind():
    host = ON[DB2]
    assert host.check_output('stat -c %%U:%%a %s' % STORE) == 'mysql:700'
    assert host.check_output('find %s -type f -not -perm 0600' % STORE) == ''
    assert host.check_output('ls -A /var/lib/mysql-files') == ''
    assert host.check_output('stat -c %U:%G:%a /etc/mysql-backup.json') == 'root:mysql:640'
    grants = sql(DB1, 'SHOW GRANTS FOR backup@localhost').splitlines()
    assert grants == ['GRANT RELOAD, REPLICATION CLIENT ON *.* TO `backup`@`localhost`', 'GRANT BACKUP_ADMIN ON *.* TO `backup`@`localhost`']
    for unit in ('mysql-backup', 'mysql-backup-archive'):
        assert host.run('systemctl is-active %s.timer' % unit).stdout.strip() == 'active'
        level = host.run('systemd-analyze security %s.service | tail -1' % unit).stdout
        assert float(level.split(': ')[1].split()[0]) <= 2, level


def test_its_age_is_a_metric():
    path = '/var/lib/prometheus/node-exporter/mysql_backup.prom'
    assert ON[DB2].check_output('stat -c %%a %s' % path) == '644'
    metrics = dict(line.split() for line in ON[DB2].file(path).content_string.splitlines() if not line.startswith('#'))
    for name in ('mysql_backup_last_success_timestamp_seconds', 'mysql_backup_binlog_archived_timestamp_seconds'):
        assert 0 <= time.time() - float(metrics[name]) < 120
    assert not ON[DB3].file(path).exists


def test_an_accident_after_more_writes():
    sql(DB1, "INSERT INTO site.entry VALUES (-1, 'schön \U0001f600')")
    with writing('/tmp/acknowledged') as written:
        so_far = written()
        assert wait_for(lambda: written() > so_far + 20)
    SEEN['rows'] = written()
    SEEN['checksum'] = sql(DB1, 'CHECKSUM TABLE site.entry')
    SEEN['executed'] = executed(DB1)
    SEEN['moment'] = now()
    sql(DB1, 'DROP TABLE site.entry')
    SEEN['accident'] = sql(DB1, "SELECT GTID_SUBTRACT(@@GLOBAL.gtid_executed, '%s')" % SEEN['executed'])
    sql(DB1, 'CREATE TABLE site.later (id INT PRIMARY KEY)')
    assert wait_for(lambda: sql(DB2, "SHOW TABLES FROM site") == 'later')
    archive()
    assert ON[DB2].check_output('cat %s/binlogs/*.json' % STORE).count('"name"') >= 1
    # Nothing new: nothing is flushed, nothing is copied.
    before = sql(DB2, 'SHOW BINARY LOGS'), ON[DB2].check_output('ls %s/binlogs' % STORE)
    archive()
    assert before == (sql(DB2, 'SHOW BINARY LOGS'), ON[DB2].check_output('ls %s/binlogs' % STORE))


def test_what_cannot_be_restored_is_refused_before_anything_is_touched():
    empty(DB3)
    copy_store(DB2, DB3)
    uuid = sql(DB3, 'SELECT @@server_uuid')
    good, said = restore(server='db9')
    assert not good and 'Say which server is restored: -e server=NAME, one of backup-db1, backup-db2, backup-db3' in said
    good, said = restore(server=DB3)
    assert not good and 'Other servers hold data, or may: backup-db1 (writable), backup-db2 (read-only); nothing was changed' in said
    good, said = restore(server=DB3, separate=True, backup='20200101T000000Z-db1')
    assert not good and "backup: '20200101T000000Z-db1' does not exist here; there are: %s" % SEEN['night'] in said
    assert 'Nothing was changed on backup-db3' in said
    for options, words in (
            (['--until=2020-01-01T00:00:00'], 'is before the end of backup ' + SEEN['night']),
            (['--until=2020-01-01'], "'2020-01-01' is no time"),
            (['--until=2099-01-01T00:00:00'], 'the binary logs are archived up to 20'),
            (['--until=tomorrow'], "'tomorrow' is no time"),
            (['--until-gtid=1-100'], 'is no GTID set'),
            (['--until-gtid=%s:1-999999' % SEEN['accident'].split(':')[0]], 'is in no archived binary log')):
        planned, said = plan(DB3, *options)
        assert planned is None and words in said, said
    assert sql(DB3, 'SELECT @@server_uuid') == uuid


def test_a_damaged_file_is_named():
    for path in ('backups/%s/data.tar.zst' % SEEN['night'], ON[DB3].check_output('cd %s && ls binlogs/*.zst | tail -1' % STORE)):
        ON[DB3].check_output('cd %s && cp %s /tmp/whole && printf x | dd of=%s bs=1 seek=100 conv=notrunc status=none' % (STORE, path, path))
        planned, said = plan(DB3)
        assert planned is None and '%s/%s is damaged' % (STORE, path) in said, said
        ON[DB3].check_output('cd %s && cp /tmp/whole %s' % (STORE, path))
    assert plan(DB3)[0]


def test_a_gap_in_the_binary_logs_is_named():
    missing = None
    for _ in range(2):
        before = executed(DB1)
        sql(DB1, 'INSERT INTO site.later SELECT COUNT(*) FROM site.later')
        missing = missing or sql(DB1, "SELECT GTID_SUBTRACT(@@GLOBAL.gtid_executed, '%s')" % before)
        assert sql(DB2, "SELECT WAIT_FOR_EXECUTED_GTID_SET('%s', 10)" % executed(DB1)) == '0'
        archive()
    copy_store(DB2, DB3)
    lost = ON[DB3].check_output('cd %s/binlogs && ls *.zst | tail -2 | head -1' % STORE)
    ON[DB3].check_output('cd %s/binlogs && mv %s %s.json /tmp' % (STORE, lost, lost))
    planned, said = plan(DB3)
    assert planned is None and 'the binary logs have a gap: %s is in none of them' % missing in said, said
    # What comes before it can be had.
    assert plan(DB3, "--until='%s'" % SEEN['moment'])[0]
    ON[DB3].check_output('cd /tmp && mv %s %s.json %s/binlogs' % (lost, lost, STORE))


def restored(name):
    assert executed(name) == SEEN['executed']
    assert sql(name, 'CHECKSUM TABLE site.entry') == SEEN['checksum']
    assert sql(name, 'SELECT COUNT(*), MAX(id) FROM site.entry WHERE id > 0').split() == [str(SEEN['rows'])] * 2
    assert sql(name, 'SHOW TABLES FROM site') == 'entry'
    assert sql(name, 'SHOW REPLICA STATUS') == ''
    assert not ON[name].file('/var/lib/mysql/restore-in-progress').exists
    assert not ON[name].file('/etc/mysql/mysql.conf.d/zzz-restore.cnf').exists


def test_restore_beside_the_living_to_the_moment_before_the_accident():
    wanted = dict(server=DB3, separate=True, until=SEEN['moment'])
    good, said = playbook(ROOT / 'playbooks/restore.yml', '--check', '-e', json.dumps(wanted))
    assert good, said
    assert sql(DB3, 'SHOW DATABASES LIKE "site"') == ''
    start = time.time()
    good, said = restore(**wanted)
    assert good, said
    print('restored in %.0f s' % (time.time() - start))
    restored(DB3)
    assert sql(DB3, 'SELECT @@GLOBAL.super_read_only') == '1'
    assert 'backup-db3 has %s' % SEEN['executed'] in said
    good, said = restore(**wanted)
    assert not good and 'backup-db3 holds data (site), which is never overwritten; nothing was changed' in said
    # The living were not touched.
    assert sql(DB1, 'SELECT @@GLOBAL.read_only') == '0'
    assert sql(DB2, "SHOW TABLES FROM site") == 'later'


def test_all_servers_are_lost():
    copy_store(DB2, DB1)
    ON[DB1].check_output('systemctl stop mysql && find /var/lib/mysql -mindepth 1 -delete')
    emptying = [subprocess.Popen(['docker', 'exec', name, 'sh', '-c', 'rm -rf %s/*; systemctl stop mysql && find /var/lib/mysql -mindepth 1 -delete'
                                  ' && mysqld --initialize-insecure --user=mysql && systemctl start mysql' % STORE]) for name in (DB2, DB3)]
    assert [process.wait(120) for process in emptying] == [0, 0]
    good, said = restore(server=DB1, before_gtid=SEEN['accident'])
    assert good, said
    restored(DB1)
    assert sql(DB1, 'SELECT @@GLOBAL.read_only') == '0'
    # The stage attaches the others.
    good, said = playbook(SCENARIO / 'converge.yml')
    assert good, said
    sql(DB1, "INSERT INTO site.entry VALUES (0, 'after the restore')")
    for name in (DB2, DB3):
        assert wait_for(lambda name=name: sql(name, 'SELECT COUNT(*) FROM site.entry') == sql(DB1, 'SELECT COUNT(*) FROM site.entry'))


def test_what_was_left_out_stays_out_of_later_restores():
    copy_store(DB1, DB2)
    archive()
    for options in ([], ['--backup=' + SEEN['night']]):
        planned, said = plan(DB2, *options)
        assert planned, said
        assert sql(DB1, "SELECT GTID_SUBSET(@@GLOBAL.gtid_executed, '%s'), GTID_SUBSET('%s', '%s')" % (
            planned['gtid_executed'], SEEN['accident'], planned['gtid_executed'])).split() == ['1', '0']
    # The old time line can still be had, by a time or transaction in it.
    planned, said = plan(DB2, '--until-gtid=' + SEEN['accident'])
    assert planned, said


def test_the_next_backup_is_one_of_what_was_restored():
    ON[DB2].check_output('systemctl start mysql-backup.service')
    assert len(backups(DB2)) == 2
    assert plan(DB2)[0]['logs'] == []


def test_a_backup_waits_while_a_replica_is_seeded():
    """MySQL allows one CLONE at a time."""
    password = json.loads(ON[DB3].check_output('cat /etc/mysql-backup.json'))['password'].replace('\\', '\\\\').replace("'", "\\'")
    address = ON[DB2].check_output('getent ahostsv4 $(hostname)').split()[0]
    before = len(backups(DB2))
    ON[DB3].check_output('rm -rf /var/lib/mysql-files/slow')
    sql(DB3, "SET GLOBAL clone_valid_donor_list = '%s:3306'; SET GLOBAL super_read_only = OFF; SET GLOBAL clone_autotune_concurrency = OFF;"
             ' SET GLOBAL clone_max_concurrency = 1; SET GLOBAL clone_max_data_bandwidth = 5' % address)
    with subprocess.Popen(['docker', 'exec', '-i', DB3, 'mysql'], stdin=subprocess.PIPE, text=True) as seeding:
        seeding.stdin.write("CLONE INSTANCE FROM replication@'%s':3306 IDENTIFIED BY '%s' DATA DIRECTORY = '/var/lib/mysql-files/slow' REQUIRE SSL" % (
            address, password))
        seeding.stdin.close()
        assert wait_for(lambda: sql(DB3, 'SELECT STATE FROM performance_schema.clone_status') == 'In Progress')
        ON[DB2].check_output('systemctl start mysql-backup.service')
        assert seeding.wait(60) == 0
        assert len(backups(DB2)) == before
    ON[DB3].check_output('rm -r /var/lib/mysql-files/slow && mysql -e "SET GLOBAL super_read_only = ON; SET GLOBAL clone_max_data_bandwidth = DEFAULT;'
                          ' SET GLOBAL clone_max_concurrency = DEFAULT; SET GLOBAL clone_autotune_concurrency = DEFAULT"')
    assert 'the next run of the archive goes on, after Too many concurrent clone' in ON[DB2].check_output('journalctl --unit mysql-backup --output cat --lines 9')
    archive()
    assert len(backups(DB2)) == before + 1
    archive()
    assert len(backups(DB2)) == before + 1


def test_a_hole_in_the_archive_makes_a_backup_due():
    before = len(backups(DB2))
    sql(DB1, "INSERT INTO site.entry VALUES (-9, 'purged before it was archived')")
    assert sql(DB2, "SELECT WAIT_FOR_EXECUTED_GTID_SET('%s', 10)" % executed(DB1)) == '0'
    newest = sql(DB2, "FLUSH BINARY LOGS; SHOW BINARY LOGS").splitlines()[-1].split()[0]
    sql(DB2, "PURGE BINARY LOGS TO '%s'" % newest)
    archive()
    assert len(backups(DB2)) == before + 1
    archive()
    assert len(backups(DB2)) == before + 1
    assert plan(DB2)[0]['logs'] == []


def test_a_full_store_harms_nobody():
    before = backups(DB2)
    ON[DB2].check_output('mount -t tmpfs -o size=1m,mode=0700,uid=$(id -u mysql),gid=$(id -g mysql) tmpfs %s' % STORE)
    try:
        assert ON[DB2].run('systemctl start mysql-backup.service').rc != 0
        assert '%s has 0.0 GB free, the backup needs' % STORE in ON[DB2].check_output('journalctl --unit mysql-backup --output cat --lines 20')
    finally:
        ON[DB2].check_output('umount %s' % STORE)
    assert backups(DB2) == before and ON[DB2].check_output('ls -A /var/lib/mysql-files') == ''
    sql(DB1, 'INSERT INTO site.entry VALUES (-2, "while the store was full")')
    assert sql(DB2, "SELECT WAIT_FOR_EXECUTED_GTID_SET('%s', 10)" % executed(DB1)) == '0'


def test_without_a_replica_the_primary_makes_it():
    for name in (DB2, DB3):
        sql(name, 'STOP REPLICA')
    ON[DB1].check_output('systemctl start mysql-backup.service')
    assert backups(DB1)[-1].endswith(DB1)
    for name in (DB2, DB3):
        sql(name, 'START REPLICA')


def test_a_server_that_is_down_is_no_failure_of_its_timer():
    ON[DB3].check_output('systemctl stop mysql && systemctl start mysql-backup-archive.service')
    assert 'nothing is done: MySQL on this host cannot be asked' in ON[DB3].check_output('journalctl --unit mysql-backup-archive --output cat --lines 5')


def test_the_chain_goes_on_after_a_failover():
    """A backup of before, binary logs of before and after: restored to the last transaction."""
    ON[DB3].check_output('systemctl start mysql')
    assert wait_for(lambda: sql(DB1, "SHOW STATUS LIKE 'Rpl_semi_sync_source_clients'").split()[1] == '2')
    sql(DB1, "INSERT INTO site.entry VALUES (-3, 'before the failover')")
    ON[DB1].check_output('systemctl stop mysql')
    good, said = playbook(ROOT / 'playbooks/failover.yml')
    assert good, said
    new = DB2 if sql(DB2, 'SELECT @@read_only') == '0' else DB3
    other = DB3 if new == DB2 else DB2
    sql(new, "INSERT INTO site.entry VALUES (-4, 'after the failover')")
    rows, gtids = sql(new, 'SELECT * FROM site.entry ORDER BY id'), executed(new)
    assert sql(other, "SELECT WAIT_FOR_EXECUTED_GTID_SET('%s', 10)" % gtids) == '0'
    if other != DB2:
        copy_store(DB2, other)
    archive(other)
    ON[DB1].check_output('find /var/lib/mysql -mindepth 1 -delete && mysqld --initialize-insecure --user=mysql && systemctl start mysql')
    # What it has of its own ends before the failover.
    good, said = restore(server=DB1, separate=True)
    assert not good and 'backup-db1 has an archive up to' in said and '%s has one up to' % other in said and 'nothing was changed' in said
    copy_store(other, DB1)
    good, said = restore(server=DB1, separate=True)
    assert good, said
    assert sql(DB1, 'SELECT * FROM site.entry ORDER BY id') == rows and executed(DB1) == gtids
