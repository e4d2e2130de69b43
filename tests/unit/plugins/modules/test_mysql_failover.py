# Copyright: (c) 2026, The foobar.webstack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mysql_failover against servers that are a few attributes each; GTID sets are single transactions joined by commas."""
from __future__ import annotations

import re
import time

import pytest

from ansible_collections.foobar.webstack.plugins.module_utils import mysql, mysql_cluster, mysql_server
from ansible_collections.foobar.webstack.plugins.modules.mysql_failover import Failover, Lost, Refusal, Stop

HOSTS = {'db1': 'h1', 'db2': 'h2', 'db3': 'h3'}
A, B, C = 'a', 'b', 'c'
UUID = {'db1': A, 'db2': B, 'db3': C}
PERSIST, VERIFY, CLIENTS = mysql_cluster.Node.persist, mysql_cluster.Cluster.verify, mysql_cluster.Cluster.await_clients


def gtids(text):
    return {part for part in text.split(',') if part}


class Fake:
    def __init__(self, lab, name, source=None):
        self.lab, self.name, self.source = lab, name, source
        self.read_only = bool(source)
        self.executed, self.received = {'a:1', 'a:2'}, set()
        self.io, self.sql = ('CONNECTING' if source else 'OFF'), bool(source)
        self.timeout_ms, self.wait_no_replica = 4294967295, False
        self.silence, self.heartbeats, self.period = 3.0, 7, 1.0
        self.recovery = 'OFF'
        self.broken = self.slow = False
        self.delay, self.behind, self.version = 0, None, (9, 7, 4)

    def link(self):
        error = {'errno': 1062, 'message': 'Duplicate'} if self.broken else {'errno': 0, 'message': ''}
        return {'name': '', 'source_host': HOSTS[self.source], 'source_port': 3306, 'source_uuid': UUID[self.source], 'source_user': 'repl',
                'io_state': self.io, 'sql_state': 'ON' if self.sql and not self.broken else 'OFF', 'io_error': {'errno': 0, 'message': ''},
                'sql_error': error, 'delay': self.delay, 'received': ','.join(sorted(self.received)), 'queue': ''}

    def statement(self, sql, args):
        self.lab.log.append((self.name, sql))
        if self.lab.dies_on == sql:
            self.lab.dead.add(self.name)
            raise mysql.ServerError('Lost connection', 2013)
        if self.lab.fail_on in (sql, (self.name, sql)):
            raise mysql.ServerError('refused', 1105)
        if sql.startswith('SET GLOBAL read_only = OFF'):
            self.read_only = False
        elif 'wait_no_replica' in sql:
            self.wait_no_replica = bool(args[0])
        elif sql.startswith('STOP REPLICA'):
            self.io = self.io if 'SQL_THREAD' in sql else 'OFF'
            self.sql = self.sql and 'IO_THREAD' in sql
        elif sql.startswith('START REPLICA SQL_THREAD'):
            self.sql = True
        elif sql.startswith('START REPLICA'):
            self.sql = True
            alive = self.source in self.lab.fakes and self.source not in self.lab.dead
            self.io = 'ON' if alive or self.name in self.lab.hears else 'CONNECTING'
            if alive:
                self.received |= self.lab.fakes[self.source].executed
        elif sql.startswith('CHANGE'):
            host = dict(zip(re.findall(r'(\w+) = %s', sql), args))['SOURCE_HOST']
            self.source = next(name for name in HOSTS if HOSTS[name] == host)
            self.received = set()
        elif sql.startswith('RESET REPLICA ALL'):
            self.source = None
        else:
            assert 'rpl_stop_replica_timeout' in sql or 'source_enabled' in sql, sql
        assert sum(not fake.read_only for name, fake in self.lab.fakes.items() if name not in self.lab.dead) < 2


class Connection:
    def __init__(self, fake):
        self.fake, self.connection, self.open = fake, self, True

    def change(self, sql, args=None):
        self.fake.statement(sql, args)

    def value(self, sql, args=None):
        fake = self.fake
        if 'GET_LOCK' in sql:
            return 1
        if 'WAIT_FOR' in sql:
            if fake.sql and not (fake.broken or fake.slow or fake.delay):
                fake.executed |= fake.received
            return 0 if gtids(args[0]) <= fake.executed else 1
        if 'GTID_SUBTRACT(%s, %s)' in sql:
            return ','.join(sorted(gtids(args[0]) - gtids(args[1])))
        if 'GTID_SUBTRACT' in sql:
            return ','.join(sorted(gtids(args[0]) - fake.executed))
        if 'gtid_executed' in sql:
            return ','.join(sorted(fake.executed))
        return 31536000

    def row(self, sql, args=None):
        fake = self.fake
        return {'state': fake.io, 'heartbeats': fake.heartbeats + self.fake.lab.beat(fake), 'errno': 0, 'period': fake.period, 'last_queued': '',
                'silence': fake.silence, 'behind': fake.behind}

    def rows(self, sql, args=None):
        return [{'g': 'GRANT ALL PRIVILEGES ON *.* TO `x`@`%`'}]

    def variables(self, *names):
        if self.fake.name in self.fake.lab.dead:
            raise mysql.ServerError('Lost connection', 2013)
        return {'relay_log_recovery': self.fake.recovery, 'read_only': 'ON' if self.fake.read_only else 'OFF'}

    def patience(self, seconds):
        pass

    def close(self):
        pass


class Lab:
    def __init__(self, monkeypatch, size=3):
        self.fakes = {'db1': Fake(self, 'db1')}
        for name in list(HOSTS)[1:size]:
            self.fakes[name] = Fake(self, name, 'db1')
        self.dead, self.hears = {'db1'}, set()
        self.error = mysql.ServerError('cannot connect: timed out', 2003)
        self.verdicts = ['unreachable']
        self.log, self.beats, self.fail_on, self.dies_on = [], 0, None, None
        monkeypatch.setattr(mysql, 'connect', self.connect)
        monkeypatch.setattr(mysql_server, 'read_server', self.read_server)
        monkeypatch.setattr(mysql_server, 'read_semi_sync', self.read_semi_sync)
        monkeypatch.setattr(mysql_server, 'read_channels', lambda db, executed=None: [db.fake.link()] if db.fake.source else [])
        monkeypatch.setattr(mysql_cluster, 'probe', lambda *args: self.verdicts.pop(0) if len(self.verdicts) > 1 else self.verdicts[0])
        monkeypatch.setattr(mysql_cluster, 'GRACE', 0.1)
        monkeypatch.setattr('%s.RESTART_GRACE' % Failover.__module__, 0.1)
        monkeypatch.setattr(mysql_cluster.Node, 'persist', lambda node, action, seconds=0: PERSIST(node, action, 0.1))
        monkeypatch.setattr(mysql_cluster.Cluster, 'verify', lambda self, *args: VERIFY(self, *args[:2], 0.2))
        monkeypatch.setattr(mysql_cluster.Cluster, 'await_clients', lambda self, node, seconds: CLIENTS(self, node, 0.1))

    def beat(self, fake):
        self.beats += fake.name in self.hears
        return self.beats if fake.name in self.hears else 0

    def connect(self, host=None, **options):
        name = next(name for name in HOSTS if HOSTS[name] == host)
        if name in self.dead:
            raise self.error
        return Connection(self.fakes[name])

    def read_server(self, db):
        fake = db.fake
        return {'server_uuid': UUID[fake.name], 'server_id': fake.name, 'version': '%s.%s.%s' % fake.version, 'version_tuple': fake.version,
                'read_only': fake.read_only,
                'super_read_only': fake.read_only, 'enforce_gtid_consistency': True, 'log_bin': True, 'binlog_format': 'ROW', 'log_replica_updates': True,
                'gtid': {'mode': 'ON', 'purged': ''}, 'channels': [fake.link()] if fake.source else []}

    def read_semi_sync(self, db):
        clients = sum(fake.source == db.fake.name and fake.io == 'ON' for fake in self.fakes.values())
        return {'source_enabled': True, 'timeout_ms': db.fake.timeout_ms, 'wait_for_count': 1, 'replica_active': db.fake.io != 'OFF', 'clients': clients}

    def run(self, check=False, **options):
        params = {'servers': [{'name': name, 'host': HOSTS[name], 'port': 3306} for name in self.fakes], 'new_primary': None, 'primary': None,
                  'allow_data_loss': False, 'fenced': False, 'accept_unfenced': False, 'apply_timeout': 1, 'confirm_probes': 2, 'confirm_interval': 0.01,
                  'login_user': 'x', 'login_password': 'y', 'ca_cert': None, 'client_cert': None, 'client_key': None, 'check_hostname': True,
                  'connect_timeout': 1, 'source_user': 'repl', 'source_password': 'secret', 'source_ssl': True, 'source_ssl_ca': '/ca',
                  'source_ssl_cert': None, 'source_ssl_key': None, 'source_ssl_verify': True, 'get_source_public_key': False, 'connect_retry': 1,
                  'retry_count': 86400, 'heartbeat_period': 1.0}
        params.update(options)
        run = Failover(params, check)
        try:
            run.result['msg'], run.result['failed'] = run.run(), False
        except (Lost, Refusal, Stop, mysql.ServerError) as error:
            run.result['msg'], run.result['failed'] = str(error), True
        assert 'secret' not in str(run.result)
        return run.result

    def writable(self):
        return [name for name, fake in self.fakes.items() if not fake.read_only and name not in self.dead]

    def untouched(self):
        return not self.writable() and all(fake.source == 'db1' and fake.sql and fake.io != 'OFF' for name, fake in self.fakes.items() if name != 'db1')


@pytest.fixture
def lab(monkeypatch):
    return Lab(monkeypatch)


def test_failover(lab):
    lab.fakes['db3'].received = {'a:3'}
    lab.fakes['db2'].received = {'a:3'}
    result = lab.run()
    assert not result['failed'] and (result['old_primary'], result['new_primary']) == ('db1', 'db2') and lab.writable() == ['db2']
    assert result['acked_loss'] == 'none' and result['fenced'] and result['unavailable_ms'] > 0
    assert lab.fakes['db2'].executed == {'a:1', 'a:2', 'a:3'} and lab.fakes['db2'].source is None and lab.fakes['db3'].source == 'db2'
    # The other replica acknowledges before the first write.
    assert lab.fakes['db2'].wait_no_replica and lab.log.index(('db2', 'SET GLOBAL read_only = OFF')) > [name for name, sql in lab.log].index('db3')
    assert result['received']['db3'] == 'a:3' and result['problems'] == [
        'db1 cannot be asked: when it is back, make it a replica of db2']


def test_the_most_advanced_wins(lab):
    lab.fakes['db3'].received = {'a:3', 'a:4'}
    lab.fakes['db2'].received = {'a:3'}
    assert lab.run()['new_primary'] == 'db3' and lab.fakes['db2'].source == 'db3'


def test_a_chosen_one_fetches_what_it_lacks(lab):
    lab.fakes['db3'].received = {'a:3', 'a:4'}
    result = lab.run(new_primary='db2')
    assert not result['failed'] and result['new_primary'] == 'db2' and {'a:3', 'a:4'} <= lab.fakes['db2'].executed
    assert 'fetches a:3,a:4 from db3' in result['actions'][0]


def slow(fake):
    fake.slow = True


def broken(fake):
    fake.broken = True


def delayed(fake):
    fake.delay = 3600


@pytest.mark.parametrize('ill', [slow, broken, delayed])
@pytest.mark.parametrize('names', [('db2', 'db3'), ('db3', 'db2')])
def test_one_that_is_stuck_holds_nothing_up(lab, ill, names):
    stuck, well = names
    for name in names:
        lab.fakes[name].received = {'a:3'}
    ill(lab.fakes[stuck])
    start = time.monotonic()
    result = lab.run(apply_timeout=60)
    assert not result['failed'] and result['new_primary'] == well and lab.writable() == [well] and 'a:3' in lab.fakes[well].executed
    assert time.monotonic() - start < 5 and result['acked_loss'] == 'none'
    # It follows afterwards, and the first writes do not wait for it.
    opened = lab.log.index((well, 'SET GLOBAL read_only = OFF'))
    assert lab.fakes[stuck].source == well and not any(name == stuck and sql.startswith('CHANGE') for name, sql in lab.log[:opened])
    assert not lab.fakes[well].wait_no_replica and any('%s has to catch up first' % stuck in text for text in result['problems'])
    assert any('Duplicate' in text for text in result['problems']) == (ill is broken)


@pytest.mark.parametrize('ill', [slow, broken])
def test_one_that_is_stuck_and_cannot_be_moved(lab, ill):
    ill(lab.fakes['db2'])
    lab.fakes['db2'].received = lab.fakes['db3'].received = {'a:3'}
    lab.fail_on = ('db2', 'STOP REPLICA FOR CHANNEL %s')
    result = lab.run()
    assert not result['failed'] and lab.writable() == ['db3'] and 'db2 does not follow db3: refused' in result['problems']


@pytest.mark.parametrize('ill, word', [
    (slow, 'give it longer (-e apply_timeout=10)'), (broken, 'give it up (-e new_primary=db3 -e allow_data_loss=true)'), (delayed, 'SOURCE_DELAY = 0')])
def test_what_only_one_that_is_stuck_has(lab, ill, word):
    lab.fakes['db2'].received, lab.fakes['db3'].received = {'a:3', 'a:4'}, {'a:3'}
    ill(lab.fakes['db2'])
    result = lab.run(allow_data_loss=True)
    assert result['failed'] and word in result['msg'] and 'a:4' in result['msg'] and 'a:3' not in result['msg'] and lab.untouched()
    lab.fakes['db2'].broken = lab.fakes['db2'].slow = lab.fakes['db2'].delay = 0
    assert lab.run()['new_primary'] == 'db2' and 'a:4' in lab.fakes['db3'].executed | lab.fakes['db3'].received


def test_what_only_a_broken_one_has_can_be_given_up(lab):
    lab.fakes['db2'].received, lab.fakes['db3'].received = {'a:3', 'a:4'}, {'a:3'}
    lab.fakes['db2'].broken = True
    assert lab.run(new_primary='db3')['failed'] and lab.untouched()
    result = lab.run(new_primary='db3', allow_data_loss=True)
    assert not result['failed'] and lab.writable() == ['db3'] and (result['acked_loss'], result['acked_loss_reason']) == ('possible', 'given up was a:4 of db2')
    # Its relay log is all that is left of that.
    assert lab.fakes['db2'].source == 'db1' and lab.fakes['db2'].received == {'a:3', 'a:4'}
    assert any('db2 was left alone, it has transactions that db3 lacks: a:4' in text for text in result['problems'])


def test_what_a_broken_one_had_applied_is_fetched(lab):
    lab.fakes['db2'].executed.add('a:3')
    lab.fakes['db2'].received, lab.fakes['db3'].received = {'a:3', 'a:4'}, {'a:4'}
    lab.fakes['db2'].broken = True
    result = lab.run()
    assert not result['failed'] and lab.writable() == ['db3'] and {'a:3', 'a:4'} <= lab.fakes['db3'].executed and result['acked_loss'] == 'none'


def test_all_are_stuck(lab):
    for name in ('db2', 'db3'):
        lab.fakes[name].received, lab.fakes[name].slow = {'a:3'}, True
    result = lab.run(apply_timeout=0)
    assert result['failed'] and result['msg'].count('-e apply_timeout') == 2 and lab.untouched()
    # The one that was asked for is what matters.
    lab.fakes['db3'].slow = False
    assert lab.run(new_primary='db2', apply_timeout=0)['failed'] and lab.untouched()


def test_replica_that_dies_meanwhile(lab):
    lab.fakes['db2'].received = lab.fakes['db3'].received = {'a:3'}
    lab.fail_on = ('db2', 'START REPLICA SQL_THREAD FOR CHANNEL %s')
    result = lab.run()
    assert not result['failed'] and lab.writable() == ['db3'] and 'refused' in result['problems']


def test_newer_one_would_leave_the_others_behind(lab):
    lab.fakes['db2'].version = (9, 8, 0)
    lab.fakes['db2'].received = lab.fakes['db3'].received = {'a:3'}
    assert 'db3 applies' in lab.run(check=True)['actions'][0]
    assert lab.run()['new_primary'] == 'db3' and lab.fakes['db2'].source == 'db3'


def test_newer_one_that_has_more(lab):
    lab.fakes['db2'].version = (9, 8, 0)
    lab.fakes['db2'].received = {'a:3'}
    result = lab.run()
    assert result['new_primary'] == 'db2' and lab.fakes['db3'].source == 'db1'
    assert any('db3 was left alone: db3 is version 9.7.4' in text for text in result['problems'])


def test_a_clean_one_is_preferred(lab):
    lab.fakes['db2'].executed.add('b:1')
    result = lab.run()
    assert result['new_primary'] == 'db3' and lab.fakes['db2'].source == 'db1' and any('db2 was left alone' in text for text in result['problems'])


def test_transactions_of_its_own_are_named(lab):
    lab.fakes['db2'].executed.add('b:1')
    lab.fakes['db2'].received = {'a:3'}
    result = lab.run()
    assert result['new_primary'] == 'db2' and any('db2 had transactions that no other one has' in text and ': b:1;' in text for text in result['problems'])


def test_its_own_from_when_it_was_the_primary_are_clean(lab):
    for name in ('db2', 'db3'):
        lab.fakes[name].executed.add('b:1')
    assert lab.run()['new_primary'] == 'db2' and lab.fakes['db3'].source == 'db2'


def test_one_that_was_still_catching_up(lab):
    for name in ('db2', 'db3'):
        lab.fakes[name].behind = 300.0
    result = lab.run()
    assert result['failed'] and '(db2, db3) was still catching up' in result['msg'] and '-e allow_data_loss=true' in result['msg'] and lab.log == []
    # What the other one received in time is what counts, unless that one has more.
    lab.fakes['db3'].behind = 0.01
    lab.fakes['db2'].received = {'a:3'}
    assert lab.run()['acked_loss'] == 'unknown'
    lab.fakes['db2'].received = set()
    assert lab.run()['acked_loss'] == 'none'


def test_errant_replica_is_left_alone(lab):
    lab.fakes['db3'].executed.add('c:1')
    result = lab.run()
    assert result['new_primary'] == 'db2' and 'c:1' not in lab.fakes['db2'].executed
    assert lab.fakes['db3'].source == 'db1' and any('c:1' in text for text in result['problems'])


def test_two_servers_go_on_degraded(monkeypatch):
    lab = Lab(monkeypatch, 2)
    result = lab.run()
    assert not result['failed'] and lab.writable() == ['db2'] and not lab.fakes['db2'].wait_no_replica
    assert any('without a replica' in text for text in result['problems'])


def test_check_mode(lab):
    result = lab.run(check=True)
    assert result['changed'] and 'db2 applies' in result['actions'][0] and lab.log == [] and lab.untouched()


def alive(lab):
    lab.dead.clear()


@pytest.mark.parametrize('prepare, word', [
    (alive, 'db1 answers; while it lives'),
    (lambda lab: setattr(lab, 'error', mysql.ServerError('Too many connections', 1040)), 'Too many connections'),
    (lambda lab: setattr(lab, 'error', mysql.ServerError('the certificate of h1 is not trusted', 0)), 'not trusted'),
    (lambda lab: setattr(lab, 'verdicts', ['refused', 'refused', 'answers']), 'answers again'),
    (lambda lab: (lab.hears.add('db3'), setattr(lab.fakes['db3'], 'io', 'ON')), 'db3 hears from db1'),
    (lambda lab: lab.dead.add('db3'), 'db3 cannot be asked and may be the only one'),
    (lambda lab: setattr(lab.fakes['db2'], 'timeout_ms', 1000), 'was not lossless'),
    (lambda lab: setattr(lab.fakes['db2'], 'silence', None), 'restarted after its last contact'),
])
def test_refusals_touch_nothing(lab, prepare, word):
    prepare(lab)
    result = lab.run()
    assert result['failed'] and word in result['msg'] and lab.log == [] and not result['changed'] and result['new_primary'] is None


def test_rare_heartbeats_are_forced(lab):
    """The receiver says ON and is not heard of for a moment: a new connection tells."""
    lab.fakes['db2'].io = lab.fakes['db3'].io = 'ON'
    for fake in lab.fakes.values():
        fake.period, fake.silence = 5.0, 3.0
    lab.hears.clear()
    assert not lab.run()['failed']


def test_loss_has_to_be_allowed(lab):
    lab.dead.add('db3')
    result = lab.run(allow_data_loss=True, accept_unfenced=True)
    assert not result['failed'] and result['acked_loss'] == 'unknown' and not result['fenced'] and lab.writable() == ['db2']


def test_unfenced_has_to_be_accepted(lab):
    lab.dead.add('db3')
    assert 'is not fenced' in lab.run(allow_data_loss=True)['msg'] and lab.log == []
    assert lab.run(allow_data_loss=True, fenced=True)['fenced_reason'] == 'the caller has stopped it'


def test_stopped_receivers_tell_nothing(lab):
    lab.fakes['db2'].io = lab.fakes['db3'].io = 'OFF'
    assert 'stopped by hand' in lab.run()['msg'] and lab.log == []
    assert lab.run(fenced=True, allow_data_loss=True)['new_primary'] == 'db2'


def test_applier_that_fails(lab):
    """On the only one that has it: stop, and everything is put back."""
    lab.fakes['db2'].received = lab.fakes['db3'].received = {'a:3'}
    lab.fakes['db2'].broken = lab.fakes['db3'].broken = True
    result = lab.run()
    assert result['failed'] and 'Duplicate' in result['msg'] and lab.untouched() and result['new_primary'] is None
    # Another one that applied it makes it harmless.
    lab.fakes['db3'].broken = False
    result = lab.run(new_primary='db3')
    assert not result['failed'] and lab.writable() == ['db3'] and any('Duplicate' in text for text in result['problems'])


@pytest.mark.parametrize('statement', ['STOP REPLICA IO_THREAD FOR CHANNEL %s', 'STOP REPLICA FOR CHANNEL %s', 'SET GLOBAL read_only = OFF'])
def test_what_fails_before_the_opening_opens_nothing(lab, statement):
    lab.fail_on = statement
    result = lab.run()
    assert result['failed'] and lab.untouched() and result['new_primary'] is None and not lab.fakes['db2'].wait_no_replica
    lab.fail_on = None
    assert not lab.run()['failed'] and lab.writable() == ['db2'] and lab.fakes['db3'].source == 'db2'


def test_one_that_may_have_opened_keeps_its_followers(lab):
    """Back at the old primary they would acknowledge what it commits, and two servers would."""
    lab.dies_on = 'SET GLOBAL read_only = OFF'
    result = lab.run()
    assert result['failed'] and 'does not answer any more' in result['msg'] and lab.fakes['db3'].source == 'db2'


def test_one_that_fetched_from_another_follows_the_old_one_again(lab):
    lab.fakes['db3'].received = {'a:3'}
    lab.fail_on = 'SET GLOBAL read_only = OFF'
    assert lab.run(new_primary='db2')['failed'] and lab.untouched()


def test_run_that_was_killed_before_the_opening(lab):
    lab.fakes['db3'].source, lab.fakes['db3'].io = 'db2', 'ON'
    result = lab.run()
    assert not result['failed'] and lab.writable() == ['db2'] and lab.fakes['db3'].source == 'db2'


def test_second_run(lab):
    lab.run()
    lab.log.clear()
    result = lab.run(primary='db1')
    assert not result['failed'] and not result['changed'] and result['new_primary'] == 'db2' and lab.log == []
    # Without a name it is about the new one, which lives.
    assert 'db2 answers' in lab.run()['msg']


def test_run_that_was_killed_after_the_opening(lab):
    lab.fakes['db2'].read_only = False
    lab.fakes['db2'].io, lab.fakes['db2'].sql = 'OFF', False
    result = lab.run()
    assert not result['failed'] and lab.writable() == ['db2'] and lab.fakes['db2'].source is None and lab.fakes['db3'].source == 'db2'
