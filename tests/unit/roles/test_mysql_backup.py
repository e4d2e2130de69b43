# Copyright: (c) 2026, The foobar.webstack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""GTID sets, whose turn a backup is, which binary logs a restore needs, and what may be thrown away."""
from __future__ import annotations

import importlib.machinery
import importlib.util
import pathlib

import pytest

PROGRAM = pathlib.Path(__file__).resolve().parents[3] / 'roles' / 'mysql_backup' / 'files' / 'mysql-backup'
loader = importlib.machinery.SourceFileLoader('mysql_backup', str(PROGRAM))
loader_spec = importlib.util.spec_from_loader(loader.name, loader)
backup = importlib.util.module_from_spec(loader_spec)
loader.exec_module(backup)

A, B = ('%s0000000-0000-11f0-8000-000000000000' % letter for letter in 'ab')
G = backup.Gtids


def at(second):
    return '2026-11-21T10:00:%02d.000000Z' % second


# -- GTID sets

@pytest.mark.parametrize('left, right, union, difference, common', [
    (A + ':1-5', A + ':3-9', A + ':1-9', A + ':1-2', A + ':3-5'),
    (A + ':1-5', A + ':6', A + ':1-6', A + ':1-5', ''),
    (A + ':1-5', '', A + ':1-5', A + ':1-5', ''),
    (A + ':1-9', A + ':4', A + ':1-9', A + ':1-3:5-9', A + ':4'),
    (A.upper() + ':1', A + ':1', A + ':1', '', A + ':1'),
    (A + ':1-3,\n' + B + ':1', B + ':1', A + ':1-3,' + B + ':1', A + ':1-3', B + ':1'),
    # A tag makes a source of its own.
    (A + ':1-3:night:1-2', A + ':night:2', A + ':1-3,' + A + ':night:1-2', A + ':1-3,' + A + ':night:1', A + ':night:2'),
])
def test_gtid_sets(left, right, union, difference, common):
    assert str(G(left) | G(right)) == union
    assert str(G(left) - G(right)) == difference
    assert str(G(left) & G(right)) == common
    assert G(str(G(left))) == G(left)


def test_what_is_no_gtid_set_or_no_time_is_refused():
    for text in ('100', 'uuid:1-100', A, A + ':1-100;' + B, A + ':1 OR 1=1', A + ":1' "):
        with pytest.raises(backup.Refused, match='is no GTID set'):
            backup.read_gtids('until_gtid', text)
    assert str(backup.read_gtids('until_gtid', ' %s:1-100, %s:7 ' % (A, B))) == A + ':1-100,' + B + ':7'
    for text in ('yesterday', '2026-11-21'):
        with pytest.raises(backup.Refused, match='is no time'):
            backup.read_time(text)
    assert backup.read_time('2026-11-21 10:00:07') == at(7)
    assert backup.read_time('2026-11-21 11:00:07+01:00') == at(7)
    assert backup.read_time('2026-11-21T10:00:07Z') == at(7)


# -- Whose turn it is

REPLICA, LATE, STOPPED, PRIMARY = ({'lag': lag, 'writable': writable} for lag, writable in ((0, False), (900, False), (None, False), (None, True)))


@pytest.mark.parametrize('states, name', [
    ({'db1': PRIMARY, 'db2': REPLICA, 'db3': REPLICA}, 'db2'),
    ({'db1': REPLICA, 'db2': PRIMARY, 'db3': REPLICA}, 'db1'),
    ({'db1': PRIMARY, 'db2': LATE, 'db3': REPLICA}, 'db3'),
    ({'db1': PRIMARY, 'db2': LATE}, 'db2'),
    ({'db1': PRIMARY, 'db2': STOPPED}, 'db1'),
    ({'db1': PRIMARY}, 'db1'),
    ({'db2': STOPPED}, None),
    ({}, None),
])
def test_elect(states, name):
    assert backup.elect(states) == name


# -- Up to when the archive is complete

class Archiving(backup.Server):
    """A replica with nothing to copy, which comes to have what the primary has or not."""

    def __init__(self, directory, late, primary):
        super().__init__({'name': 'db2', 'directory': str(directory)})
        self.late, self.primary, self.statements = late, primary, []

    def sql(self, statement, args=None, connection=None):
        self.statements.append((statement.split('(')[0], args))
        if connection == 'gone':
            raise backup.pymysql.err.OperationalError(2013, 'lost')
        if 'UTC_TIMESTAMP' in statement:
            assert connection == self.primary
            return [{'now': int(backup.seconds(at(50)) * 1e6), 'gtids': A + ':1-40'}]
        if 'WAIT_FOR' in statement:
            return [{'late': self.late}]
        return [{'gtids': A + ':1-30', 'base': '/var/lib/mysql/binlog', 'Log_name': 'binlog.000002'}]

    @staticmethod
    def previous(path):
        return G(A + ':1-30')


@pytest.mark.parametrize('late, primary, before, until', [
    # Idle or not: the archive has what the primary had when it was asked.
    (0, 'db1', at(20), at(50)),
    # It lags: the last transaction that it has applied and archived, and never less than was certain before.
    (1, 'db1', at(20), at(40)),
    (1, 'db1', at(45), at(45)),
    (0, None, at(45), at(45)),
    (0, 'gone', at(20), at(40)),
])
def test_archived_until(tmp_path, late, primary, before, until):
    (tmp_path / 'backups' / 'night').mkdir(parents=True)
    (tmp_path / 'binlogs').mkdir()
    backup.write(tmp_path / 'backups/night/manifest.json', backup.json.dumps(BACKUP))
    for one in (log(2), log(3), dict(log(4), server='db3')):
        backup.write(tmp_path / 'binlogs' / (one['name'] + '.zst.json'), backup.json.dumps(dict({'server': 'db2'}, **one)))
    backup.write(tmp_path / 'binlogs/db2.state', backup.json.dumps({'time': before, 'gtid_executed': A + ':1-30', 'done': []}))
    server = Archiving(tmp_path, late, primary)
    server.archive()
    assert server.store.archived_until() == until
    waited = [args for statement, args in server.statements if 'WAIT_FOR' in statement]
    assert waited == ([(A + ':1-40', backup.CATCH_UP)] if primary == 'db1' else [])


def test_nothing_is_certain_before_the_first_transaction():
    assert backup.complete_until('', '', []) == ''


# -- What mysqlbinlog prints

PRINTED = """\
# at 4
#261121 18:57:12 server id 1  end_log_pos 127 CRC32 0x79be0cc0 \tStart: binlog v 4
# at 127
#261121 18:57:12 server id 1  end_log_pos 158 CRC32 0x46e004fc \tPrevious-GTIDs
# %s:1-5,
# %s:1
# at 158
#261121 18:57:14 server id 1  end_log_pos 181 CRC32 0xa0ca2088 \tGTID\tlast_committed=0\toriginal_committed_timestamp=1795255200000001\timmediate
# original_commit_timestamp=1795255200000001 (2026-11-21 10:00:00.000001 UTC)
SET @@SESSION.GTID_NEXT= '%s:6'/*!*/;
INSERT INTO lies VALUES ("
SET @@SESSION.GTID_NEXT= '%s:66'/*!*/;
")
#261121 18:57:14 server id 1  end_log_pos 181 CRC32 0xa0ca2088 \tGTID\tlast_committed=0\toriginal_committed_timestamp=1795255201000000\timmediate
SET @@SESSION.GTID_NEXT= '%s:night:1'/*!*/;
SET @@SESSION.GTID_NEXT= 'AUTOMATIC' /* added by mysqlbinlog */ /*!*/;
""" % (A, B, A, A, A)


def test_read_a_log():
    lines = PRINTED.splitlines(keepends=True)
    assert list(backup.read_transactions(lines)) == [(A + ':6', '2026-11-21T10:00:00.000001Z'), (A + ':night:1', at(1))]
    assert backup.read_previous(lines) == G(A + ':1-5,' + B + ':1')
    assert not backup.read_previous([line.replace(A + ':1-5,', '[empty]').replace('# %s:1\n' % B, '') for line in lines])
    with pytest.raises(backup.Refused):
        backup.read_previous(['# at 4\n'])


# -- The way from a backup to the wanted point: each second a transaction, log n holds A:10n+1 to A:10n+10 of the seconds with the same numbers

BACKUP = {'id': 'night', 'gtid_executed': A + ':1-10', 'started': at(5), 'time': at(10)}


def log(number, server='db2', **changes):
    first = number * 10 + 1
    return dict({'name': '%s-%d' % (server, number), 'previous': '%s:1-%d' % (A, first - 1), 'gtids': '%s:%d-%d' % (A, first, first + 9),
                 'first': at(first), 'last': at(first + 9), 'closed': at(first + 10)}, **changes)


def transactions(asked):
    for (first, last), in G(asked['gtids']).ranges.values():
        for number in range(first, last + 1):
            yield '%s:%d' % (A, number), at(number)


def walk(logs, skip='', archived_until=at(59), **want):
    want = {name: G(value) if 'gtid' in name else value for name, value in want.items()}
    used, have = backup.walk(BACKUP, logs, want, G(skip), transactions, archived_until)
    return [item['name'] for item in used], str(have)


LOGS = [log(1), log(2), log(3)]


@pytest.mark.parametrize('want, names, have', [
    ({}, ['db2-1', 'db2-2', 'db2-3'], A + ':1-40'),
    ({'until': at(40)}, ['db2-1', 'db2-2', 'db2-3'], A + ':1-40'),
    ({'until': at(50)}, ['db2-1', 'db2-2', 'db2-3'], A + ':1-40'),
    ({'until': at(25)}, ['db2-1', 'db2-2'], A + ':1-25'),
    ({'until': '2026-11-21T10:00:25.500000Z'}, ['db2-1', 'db2-2'], A + ':1-25'),
    ({'until_gtid': A + ':25'}, ['db2-1', 'db2-2'], A + ':1-25'),
    ({'until_gtid': A + ':1-30'}, ['db2-1', 'db2-2'], A + ':1-30'),
    ({'until_gtid': A + ':1-10'}, [], A + ':1-10'),
    ({'before_gtid': A + ':25'}, ['db2-1', 'db2-2'], A + ':1-24'),
    ({'before_gtid': A + ':31'}, ['db2-1', 'db2-2', 'db2-3'], A + ':1-30'),
])
def test_walk(want, names, have):
    assert walk(LOGS, **want) == (names, have)
    # In whatever order they are found.
    assert walk(LOGS[::-1], **want) == (names, have)


def test_walk_over_logs_of_two_servers():
    """db3 made the backups from the middle of the second log on; what both have is taken once."""
    other = log(2, 'db3', previous=A + ':1-15', gtids=A + ':16-45', first=at(16), last=at(45))
    assert walk([log(1), other]) == (['db2-1', 'db3-2'], A + ':1-45')
    assert walk([log(1), log(2), other], until=at(33)) == (['db2-1', 'db2-2', 'db3-2'], A + ':1-33')


def test_a_gap_is_named():
    with pytest.raises(backup.Refused, match='gap: %s:21-30 is in none of them, and db2-3 follows only after it.*at %s' % (A, at(20))):
        walk([log(1), log(3)])
    with pytest.raises(backup.Refused, match='gap'):
        walk([log(1), log(3)], until=at(35))
    with pytest.raises(backup.Refused, match='ends with the backup itself'):
        walk([log(2)])
    # Before the gap nothing is missing.
    assert walk([log(1), log(3)], until=at(20)) == (['db2-1'], A + ':1-20')


def test_what_is_not_archived_is_refused():
    with pytest.raises(backup.Refused, match='archived up to %s' % at(41)):
        walk(LOGS, archived_until=at(41), until=at(42))
    with pytest.raises(backup.Refused, match='no time at all'):
        walk([], archived_until='', until=at(42))
    with pytest.raises(backup.Refused, match='until_gtid: %s:41-50 is in no' % A):
        walk(LOGS, until_gtid=A + ':1-50')
    with pytest.raises(backup.Refused, match='before_gtid: %s:50 is in no' % A):
        walk(LOGS, before_gtid=A + ':50')


# -- After a restore to second 24 the site went on as B; what A did after that shall not come back

RESTORE = {'time': at(45), 'gtid_executed': A + ':1-24', 'discarded': A + ':25-40'}
AFTER = {'name': 'db1-1', 'previous': A + ':1-24', 'gtids': B + ':1-5', 'first': at(46), 'last': at(50), 'closed': at(51)}


def test_a_time_line_that_a_restore_has_ended_stays_away():
    skip = str(backup.ended([RESTORE], {}))
    assert walk(LOGS + [AFTER], skip=skip) == (['db2-1', 'db2-2', 'db1-1'], A + ':1-24,' + B + ':1-5')
    assert backup.ended([RESTORE], {'until': at(47)}) == G(A + ':25-40')
    assert backup.ended([RESTORE], {'until_gtid': G(B + ':2')}) == G(A + ':25-40')


def test_and_can_be_had_when_it_is_asked_for():
    assert not backup.ended([RESTORE], {'until': at(44)})
    assert not backup.ended([RESTORE], {'until_gtid': G(A + ':30')})
    assert not backup.ended([RESTORE], {'before_gtid': G(A + ':31')})


# -- Which backup

BACKUPS = [dict(BACKUP), dict(BACKUP, id='noon', gtid_executed=A + ':1-20', time=at(20))]


@pytest.mark.parametrize('wanted, want, name', [
    ('latest', {}, 'noon'),
    ('night', {}, 'night'),
    ('latest', {'until': at(20)}, 'noon'),
    ('latest', {'until': at(19)}, 'night'),
    ('latest', {'until_gtid': G(A + ':1-20')}, 'noon'),
    ('latest', {'until_gtid': G(A + ':15')}, 'night'),
    ('latest', {'before_gtid': G(A + ':21')}, 'noon'),
    ('latest', {'before_gtid': G(A + ':20')}, 'night'),
])
def test_choose(wanted, want, name):
    assert backup.choose(BACKUPS, wanted, want)['id'] == name


@pytest.mark.parametrize('wanted, want, text', [
    ('evening', {}, "'evening' does not exist here; there are: night, noon"),
    ('noon', {'until': at(19)}, 'until: .*10:00:19.* is before the end of backup noon'),
    ('latest', {'until': at(9)}, 'no backup is old enough'),
    ('noon', {'until_gtid': G(A + ':15')}, 'backup noon goes further already'),
    ('latest', {'before_gtid': G(A + ':3')}, 'no backup is old enough: before_gtid: backup night has %s:3 already' % A),
])
def test_choose_refuses(wanted, want, text):
    with pytest.raises(backup.Refused, match=text):
        backup.choose(BACKUPS, wanted, want)
    with pytest.raises(backup.Refused, match='there are: none|there is no backup here'):
        backup.choose([], wanted, want)


# -- What is thrown away

def test_a_backup_is_kept_while_a_restore_within_the_time_starts_from_it():
    backups = [dict(BACKUP, id=str(second), time=at(second)) for second in (10, 20, 30)]
    assert [item['id'] for item in backup.expired(backups, at(25))] == ['10']
    assert [item['id'] for item in backup.expired(backups, at(30))] == ['10', '20']
    assert not backup.expired(backups, at(19))
    # Nothing new for months: the last one stays.
    assert [item['id'] for item in backup.expired(backups, at(59))] == ['10', '20']
    assert not backup.expired([], at(59))


def test_logs_go_with_the_backups_that_need_them():
    assert backup.needless(log(0), BACKUP)
    assert not backup.needless(log(1), BACKUP)
    assert backup.needless(log(9, closed='2026-11-20T10:00:04.000000Z'), BACKUP)
    assert not backup.needless(log(9, closed='2026-11-20T10:00:06.000000Z'), BACKUP)


@pytest.mark.parametrize('made_by, here, fine', [
    ('9.7.4-2', '9.7.4-2', True),
    ('9.7.4', '9.7.12', True),
    ('8.4.9', '9.7.4', True),
    ('9.7.12', '9.7.4-2', False),
    ('26.10.0', '9.7.4', False),
])
def test_versions(made_by, here, fine):
    assert bool(backup.version_problem(made_by, here)) != fine


# -- Files

def test_no_command_of_a_pipe_may_fail(tmp_path):
    backup.pipe(('echo', 'x'), ('cat',))
    with pytest.raises(backup.Refused, match='false|a command failed'):
        backup.pipe(('false',), ('cat',))
    with pytest.raises(backup.Refused, match='ls: .*nowhere'):
        backup.pipe(('ls', str(tmp_path / 'nowhere')), ('cat',), ('cat',))
    assert next(backup.output_of(('yes',), ('cat',))) == 'y\n'
    with pytest.raises(backup.Refused, match='nowhere'):
        list(backup.output_of(('true',), ('ls', str(tmp_path / 'nowhere'))))


def store(directory):
    """A backup and a log as files."""
    (directory / 'backups' / 'night').mkdir(parents=True)
    (directory / 'binlogs').mkdir()
    (directory / 'backups' / 'night' / 'data.tar.zst').write_text('data')
    (directory / 'binlogs' / 'db2-1').write_text('log')
    backup.write(directory / 'binlogs' / 'db2-1.zst.json', backup.json.dumps(dict(log(1), sha256=backup.checksum(directory / 'binlogs' / 'db2-1'), bytes=3)))
    backup.write(directory / 'backups' / 'night' / 'manifest.json', backup.json.dumps(dict(
        BACKUP, file='data.tar.zst', version='9.7.4', bytes=4, sha256=backup.checksum(directory / 'backups' / 'night' / 'data.tar.zst'))))
    return backup.Restore({'directory': str(directory)})


@pytest.fixture(name='restore')
def fixture_restore(tmp_path, monkeypatch):
    monkeypatch.setattr(backup, 'DATA', tmp_path / 'data')
    (tmp_path / 'data').mkdir()
    monkeypatch.setattr(backup, 'run', lambda *command: 'mysqld  Ver 9.7.4 for Linux')
    return store(tmp_path / 'store')


def test_plan(restore, tmp_path):
    plan = restore.plan('latest', False)
    assert (plan['logs'], plan['gtid_executed'], plan['apply'], plan['left_out']) == (['db2-1'], A + ':1-20', A + ':11-20', '')
    assert restore.plan('latest', False, until_gtid=A + ':1-10')['left_out'] == A + ':11-20'
    assert (tmp_path / 'store/backups/night/manifest.json').stat().st_mode & 0o777 == 0o600


def test_all_that_is_in_the_way_is_said_at_once(restore, tmp_path, monkeypatch):
    (tmp_path / 'store/backups/night/data.tar.zst').write_text('dat_')
    (tmp_path / 'store/binlogs/db2-1').unlink()
    monkeypatch.setattr(backup, 'run', lambda *command: 'mysqld  Ver 8.4.2 for Linux')
    monkeypatch.setattr(backup.shutil, 'disk_usage', lambda path: backup.shutil._ntuple_diskusage(9, 9, 0))
    with pytest.raises(backup.Refused) as refusal:
        restore.plan('latest', False)
    text = str(refusal.value)
    assert all(part in text for part in ('data.tar.zst is damaged', 'db2-1 is missing', 'install 9.7.4 or later', 'has 0.0 GB free')), text


def test_one_point_is_asked_for(restore):
    with pytest.raises(backup.Refused, match='until, until_gtid: give one'):
        restore.plan('latest', False, until='2026-11-21 10:00:00', until_gtid=A + ':1-10')


def test_data_is_never_overwritten(restore, tmp_path):
    (tmp_path / 'data' / 'site').mkdir()
    with pytest.raises(backup.Refused, match=r'holds data \(site\), which is never overwritten'):
        restore.unpack({'backup': {'id': 'night', 'file': 'data.tar.zst'}})
    assert (tmp_path / 'data' / 'site').is_dir()


# -- What a run does, and what stays due

class FakeServer(backup.Server):
    """Whose turn it is, and how a backup ends, is given; what is done is noted."""

    def __init__(self, directory, turn=True, errors=()):
        super().__init__({'name': 'db2', 'directory': str(directory), 'keep_days': 7})
        self.turn, self.errors, self.did = turn, list(errors), []

    def my_turn(self):
        return self.turn

    def clear(self):
        pass

    def archive(self):
        self.did.append('archive')

    def backup(self):
        if self.errors:
            raise self.errors.pop(0)
        self.did.append('backup')
        started = backup.timestamp(backup.time.time())
        name = started.replace(':', '')
        (self.store.backups_dir / name).mkdir()
        backup.write(self.store.backups_dir / name / 'manifest.json', backup.json.dumps(dict(
            BACKUP, id=name, started=started, time=started, packed_bytes=1, seconds=1)))

    def work(self, command):
        self.did = []
        try:
            super().work(command)
        except (backup.Refused, backup.pymysql.Error) as error:
            self.did.append(type(error).__name__)
        return self.did


BUSY = backup.pymysql.OperationalError(3634, 'Too many concurrent clone operations')
LOST = backup.pymysql.OperationalError(2013, 'Lost connection')


def test_the_first_run_makes_a_backup(tmp_path):
    server = FakeServer(tmp_path)
    assert server.work('archive') == ['backup'] and server.work('archive') == ['archive']
    assert server.work('backup') == ['backup'] and server.work('archive') == ['archive']


@pytest.mark.parametrize('errors', [[BUSY], [BUSY] * 50, [LOST] * 5])
def test_what_passes_leaves_the_backup_due(tmp_path, errors):
    FakeServer(tmp_path).work('backup')
    server = FakeServer(tmp_path, errors=errors)
    assert server.work('backup') == ['OperationalError']
    for again in errors[1:]:
        assert server.work('archive') == ['archive', 'OperationalError']
    assert server.work('archive') == ['archive', 'backup'] and server.work('archive') == ['archive']


@pytest.mark.parametrize('errors, failure', [
    ([backup.Refused('full')], 'Refused'), ([backup.pymysql.OperationalError(1142, 'denied')], 'OperationalError'), ([LOST] * 6, 'Refused'),
])
def test_what_does_not_pass_waits_for_the_next_night(tmp_path, errors, failure):
    FakeServer(tmp_path).work('backup')
    server = FakeServer(tmp_path, errors=errors)
    seen = [server.work('backup')] + [server.work('archive') for again in errors[1:]]
    assert seen[-1][-1] == failure
    assert server.work('archive') == ['archive']


@pytest.mark.parametrize('turn, later', [(False, ['archive']), (None, ['archive', 'backup'])])
def test_a_backup_that_nobody_can_decide_on_is_due(tmp_path, turn, later):
    FakeServer(tmp_path).work('backup')
    server = FakeServer(tmp_path, turn=turn)
    assert server.work('backup') == [] and server.work('archive') == []
    server.turn = True
    assert server.work('archive') == later


def test_a_backup_that_was_killed_is_due(tmp_path):
    FakeServer(tmp_path).work('backup')
    server = FakeServer(tmp_path, errors=[SystemExit()])
    with pytest.raises(SystemExit):
        server.work('backup')
    assert FakeServer(tmp_path).work('archive') == ['archive', 'backup']


def test_a_first_backup_that_mysql_does_not_survive_is_said(tmp_path):
    server = FakeServer(tmp_path, errors=[LOST] * 6)
    assert [server.work('archive') for again in range(7)] == [['OperationalError']] * 5 + [['Refused'], ['backup']]


def test_what_has_expired_goes_also_when_nothing_else_can_be_done(tmp_path):
    server = FakeServer(tmp_path, errors=[backup.Refused('full')])
    for day in ('2020-01-01', '2020-01-02'):
        (tmp_path / 'backups' / day).mkdir(parents=True)
        backup.write(tmp_path / 'backups' / day / 'manifest.json', backup.json.dumps(dict(
            BACKUP, id=day, started=day, time=day, packed_bytes=1, seconds=1)))
    assert server.work('backup') == ['Refused']
    assert [path.name for path in (tmp_path / 'backups').iterdir()] == ['2020-01-02']
