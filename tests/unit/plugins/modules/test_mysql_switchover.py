# Copyright: (c) 2026, The foobar.webstack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mysql_switchover against three servers that are a few attributes each; every statement fails once, in three ways."""
from __future__ import annotations

import re

import pytest

from ansible_collections.foobar.webstack.plugins.module_utils import mysql, mysql_cluster, mysql_server
from ansible_collections.foobar.webstack.plugins.modules import mysql_switchover
from ansible_collections.foobar.webstack.plugins.modules.mysql_switchover import Lost, Refusal, Switchover

HOSTS = {'db1': 'h1', 'db2': 'h2', 'db3': 'h3'}
PERSIST, VERIFY, CLIENTS = mysql_cluster.Node.persist, mysql_cluster.Cluster.verify, mysql_cluster.Cluster.await_clients
GRANTS = ['GRANT ALL PRIVILEGES ON *.* TO `x`@`%`']


class Fake:
    """One server."""

    def __init__(self, lab, name, source=None):
        self.lab, self.name, self.source = lab, name, source
        self.uuid = 'uuid-' + name
        self.read_only = bool(source)
        self.executed = set(range(9))
        self.io = self.sql = bool(source)
        self.user = 'repl'
        self.semi, self.wait_no_replica = True, not source
        self.errant, self.locked, self.clients, self.patience = '', False, [71, 72], None

    def link(self):
        if not self.source:
            return None
        return {'name': '', 'source_host': HOSTS[self.source], 'source_port': 3306, 'source_uuid': 'uuid-' + self.source, 'source_user': self.user,
                'io_state': 'ON' if self.io else 'OFF', 'sql_state': 'ON' if self.sql else 'OFF', 'io_error': {'errno': 0, 'message': ''},
                'sql_error': {'errno': 0, 'message': ''}, 'delay': 0, 'received': '', 'lag_seconds': 0, 'queue': '', 'auto_position': True,
                'get_source_public_key': False, 'connect_retry': 1, 'retry_count': 86400, 'heartbeat_period': 1.0,
                'ssl': {'enabled': True, 'ca': '/ca', 'cert': '', 'key': '', 'verify': True}}

    def change(self, sql, args):
        if sql.startswith('SET GLOBAL read_only = OFF'):
            self.read_only = False
        elif sql in ('SET GLOBAL read_only = ON', 'SET GLOBAL super_read_only = ON'):
            self.read_only = True
        elif 'source_enabled' in sql:
            self.semi = bool(args[0])
        elif 'wait_no_replica' in sql:
            self.wait_no_replica = bool(args[0])
        elif sql.startswith('STOP REPLICA'):
            self.io = self.io and 'SQL_THREAD' in sql
            self.sql = self.sql and 'IO_THREAD' in sql
        elif sql.startswith('START REPLICA'):
            self.io = bool(self.source)
            self.sql = self.sql or ('IO_THREAD' not in sql and bool(self.source))
        elif sql.startswith('CHANGE'):
            assert not self.io and not self.sql
            values = dict(zip(re.findall(r'(\w+) = %s', sql), args))
            self.source = next(name for name, host in HOSTS.items() if host == values['SOURCE_HOST'])
            assert values['SOURCE_PASSWORD'] == 'secret' and values['SOURCE_SSL_CA'] == '/ca'
        elif sql.startswith('RESET REPLICA ALL'):
            self.source = None
        elif sql.startswith('KILL %'):
            self.clients.remove(args[0])
        else:
            assert sql.startswith('SET SESSION')
        # An applier that waits for acknowledgements of its own hangs.
        assert not (self.sql and self.semi and self.wait_no_replica)


class Connection:
    """What mysql.Server offers."""

    def __init__(self, fake):
        self.fake, self.connection, self.open = fake, self, True

    def change(self, sql, args=None):
        self.fake.lab.statement(self, sql, args)

    def value(self, sql, args=None):
        self.fake.lab.reachable(self)
        if 'GET_LOCK' in sql:
            return 0 if self.fake.locked else 1
        if 'WAIT_FOR' in sql:
            return 0
        return ''

    def row(self, sql, args=None):
        return {'id': 5, 'user': 'keeper', 'host': 'h2:1', 'seconds': 3}

    def rows(self, sql, args=None):
        self.fake.lab.reachable(self)
        if 'SHOW GRANTS' in sql:
            return [{'g': grant} for grant in GRANTS]
        return [{'id': number} for number in self.fake.clients] if 'Binlog Dump' in sql else []

    def variables(self, *names):
        self.fake.lab.reachable(self)
        return {'read_only': 'ON' if self.fake.read_only else 'OFF'}

    def session(self):
        return 1

    def patience(self, seconds):
        self.fake.patience = seconds

    def close(self):
        pass


class Lab:
    def __init__(self, monkeypatch, size=3):
        self.fakes = {'db1': Fake(self, 'db1')}
        for name in list(HOSTS)[1:size]:
            self.fakes[name] = Fake(self, name, 'db1')
        self.count = 0
        self.fail_at, self.how = None, None
        self.dead = set()
        self.log = []
        monkeypatch.setattr(mysql, 'connect', self.connect)
        monkeypatch.setattr(mysql_server, 'read_server', self.read_server)
        monkeypatch.setattr(mysql_server, 'read_semi_sync', self.read_semi_sync)
        monkeypatch.setattr(mysql_server, 'read_channels', self.read_channels)
        monkeypatch.setattr(mysql_server, 'gtid_gaps', lambda db, *others: {'errant': db.fake.errant, 'missing_own': '', 'missing_purged': ''})
        monkeypatch.setattr(mysql_switchover, 'SETTLE', 0)
        # Dead servers stay dead: no need to wait for them.
        monkeypatch.setattr(mysql_cluster.Node, 'persist', lambda node, action: PERSIST(node, action, 0.2))
        monkeypatch.setattr(mysql_cluster.Cluster, 'verify', lambda self, *args: VERIFY(self, *args[:2], 0.2))
        monkeypatch.setattr(mysql_cluster.Cluster, 'await_clients', lambda self, node, seconds: CLIENTS(self, node, 0.1))

    def connect(self, host=None, **options):
        name = next(name for name in HOSTS if HOSTS[name] == host)
        if name in self.dead:
            raise mysql.ServerError('cannot connect to %s' % host, 2003)
        return Connection(self.fakes[name])

    def reachable(self, connection):
        if connection.fake.name in self.dead or not connection.open:
            raise mysql.ServerError('lost', 2013)

    def statement(self, connection, sql, args):
        self.reachable(connection)
        self.count += 1
        self.log.append((connection.fake.name, sql))
        hit = self.count == self.fail_at
        if hit and self.how == 'refused':
            raise mysql.ServerError('refused', 1105)
        if hit and self.how == 'dies':
            self.dead.add(connection.fake.name)
            raise mysql.ServerError('lost', 2013)
        if hit and self.how == 'lost before':
            connection.open = False
            raise mysql.ServerError('lost', 2013)
        connection.fake.change(sql, args)
        assert len(self.writable()) < 2, 'two servers accept writes'
        if hit:
            connection.open = False
            raise mysql.ServerError('lost', 2013)

    def writable(self):
        return [name for name, fake in self.fakes.items() if not fake.read_only]

    def read_server(self, db):
        fake = db.fake
        return {'server_uuid': fake.uuid, 'server_id': fake.name, 'version': '9.7.4', 'version_tuple': (9, 7, 4), 'read_only': fake.read_only,
                'super_read_only': fake.read_only, 'enforce_gtid_consistency': True, 'log_bin': True, 'binlog_format': 'ROW', 'log_replica_updates': True,
                'gtid': {'mode': 'ON', 'purged': ''}, 'channels': self.read_channels(db)}

    def read_channels(self, db, executed=None):
        self.reachable(db)
        return [db.fake.link()] if db.fake.source else []

    def read_semi_sync(self, db):
        self.reachable(db)
        clients = sum(fake.source == db.fake.name and fake.io for fake in self.fakes.values())
        return {'source_enabled': db.fake.semi, 'timeout_ms': 4294967295, 'wait_for_count': 1, 'replica_active': db.fake.io, 'clients': clients}

    def run(self, check=False, **options):
        params = {'servers': [{'name': name, 'host': HOSTS[name], 'port': 3306} for name in self.fakes], 'new_primary': 'db2', 'expected_primary': None,
                  'max_write_pause': 5.0, 'catchup_timeout': 5, 'long_transactions': 'wait', 'skip_unreachable': False, 'login_user': 'x',
                  'login_password': 'y', 'ca_cert': None, 'client_cert': None, 'client_key': None, 'check_hostname': True, 'connect_timeout': 1,
                  'source_user': 'repl', 'source_password': 'secret', 'source_ssl': True, 'source_ssl_ca': '/ca', 'source_ssl_cert': None,
                  'source_ssl_key': None, 'source_ssl_verify': True, 'get_source_public_key': False, 'connect_retry': 1, 'retry_count': 86400,
                  'heartbeat_period': 1.0}
        params.update(options)
        run = Switchover(params, check)
        try:
            run.result['msg'], run.result['failed'] = run.run(), False
        except (Refusal, Lost, mysql.ServerError) as error:
            run.result['msg'], run.result['failed'] = str(error), True
        assert 'secret' not in str(run.result)
        return run.result

    def topology(self):
        return {name: (fake.read_only, fake.source, fake.io, fake.sql) for name, fake in self.fakes.items()}


BEFORE = {'db1': (False, None, False, False), 'db2': (True, 'db1', True, True), 'db3': (True, 'db1', True, True)}
AFTER = {'db1': (True, 'db2', True, True), 'db2': (False, None, False, False), 'db3': (True, 'db2', True, True)}


@pytest.fixture
def lab(monkeypatch):
    return Lab(monkeypatch)


def test_switchover(lab):
    result = lab.run()
    assert not result['failed'] and result['changed'] and result['problems'] == [] and lab.topology() == AFTER
    assert (result['old_primary'], result['new_primary'], result['killed_sessions']) == ('db1', 'db2', 2)
    # db3 followed before the opening: no write was acknowledged without a replica.
    assert result['degraded_window_ms'] == 0.0 and lab.fakes['db2'].wait_no_replica and not lab.fakes['db1'].wait_no_replica
    order = [item for item in lab.log if 'SET GLOBAL' in item[1] and 'read_only' in item[1] or item[1].startswith('CHANGE')]
    assert [name for name, sql in order] == ['db3', 'db1', 'db1', 'db2', 'db1']
    assert {phase['name'] for phase in result['phases']} >= {'preflight', 'stop writes', 'open', 'verify'}


def test_two_servers(monkeypatch):
    lab = Lab(monkeypatch, 2)
    result = lab.run()
    assert not result['failed'] and result['problems'] == [] and lab.topology() == {name: AFTER[name] for name in ('db1', 'db2')}
    assert result['degraded_window_ms'] is not None and lab.fakes['db2'].wait_no_replica
    # It opened without waiting for a replica that was not there.
    statements = [sql for name, sql in lab.log if name == 'db2']
    assert statements.index('SET GLOBAL read_only = OFF') < len(statements) - 1


def test_check_mode_and_second_run(lab):
    result = lab.run(check=True)
    assert result['changed'] and len(result['actions']) == 3 and lab.log == [] and lab.topology() == BEFORE
    lab.run()
    lab.log.clear()
    again = lab.run()
    assert not again['failed'] and not again['changed'] and lab.log == [] and 'already' in again['msg']


@pytest.mark.parametrize('prepare, word', [
    (lambda lab: setattr(lab.fakes['db2'], 'errant', 'x:1'), 'x:1'),
    (lambda lab: setattr(lab.fakes['db3'], 'errant', 'x:1'), 'x:1'),
    (lambda lab: setattr(lab.fakes['db2'], 'locked', True), 'keeper@h2 (session 5'),
    (lambda lab: setattr(lab.fakes['db2'], 'io', False), 'receiver OFF'),
    (lambda lab: lab.dead.add('db3'), 'db3 cannot be asked'),
])
def test_refusals_touch_nothing(lab, prepare, word):
    prepare(lab)
    before = lab.topology()
    result = lab.run()
    assert result['failed'] and word in result['msg'] and not result['changed'] and lab.log == [] and lab.topology() == before
    assert not result['rolled_back']


def test_missing_privilege(lab, monkeypatch):
    monkeypatch.setattr('%s.GRANTS' % __name__, ['GRANT PROCESS ON *.* TO `x`@`%`'])
    assert 'lacks SYSTEM_VARIABLES_ADMIN' in lab.run()['msg'] and lab.log == []


class Clock:
    """Time that passes only where a test says so."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        for module in (mysql_switchover, mysql_cluster):
            monkeypatch.setattr(module, 'time', self)

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.mark.parametrize('statement', ['WAIT_FOR', 'STOP REPLICA FOR', 'source_enabled', 'wait_no_replica'])
def test_a_target_that_freezes_after_a_slow_fence_does_not_make_the_pause_longer(lab, monkeypatch, statement):
    clock, paused, gave_up = Clock(monkeypatch), [], []
    value, change = Connection.value, Connection.change

    def freeze(connection, sql):
        if connection.fake.name == 'db2' and paused and statement in sql and not gave_up:
            clock.now += connection.fake.patience
            gave_up.append(clock.now)
            lab.dead.add('db2')

    def slow(connection, sql, args=None):
        if sql == 'SET GLOBAL read_only = ON':
            paused.append(clock.now)
        freeze(connection, sql)
        change(connection, sql, args)
        if sql == 'SET GLOBAL super_read_only = ON':
            clock.now += 4

    def asked(connection, sql, args=None):
        freeze(connection, sql)
        return value(connection, sql, args)

    monkeypatch.setattr(Connection, 'change', slow)
    monkeypatch.setattr(Connection, 'value', asked)
    result = lab.run()
    assert result['failed'] and lab.writable() == ['db1'] and result['new_primary'] == 'db1'
    assert 4 < gave_up[0] - paused[0] <= 5 + mysql_switchover.ON_ITS_WAY


def test_unreachable_replica_is_left_behind(lab):
    lab.dead.add('db3')
    result = lab.run(skip_unreachable=True)
    assert not result['failed'] and lab.fakes['db2'].read_only is False and lab.fakes['db3'].source == 'db1'


def statements(monkeypatch):
    lab = Lab(monkeypatch)
    lab.run()
    return lab.count


@pytest.mark.parametrize('how', ['refused', 'lost before', 'lost after'])
def test_every_statement_fails_once(monkeypatch, how):
    """Undone, or finished; nothing in between, and never two that accept writes (asserted at each statement)."""
    total = statements(monkeypatch)
    undone = done = 0
    for number in range(1, total + 1):
        lab = Lab(monkeypatch)
        lab.fail_at, lab.how = number, how
        result = lab.run()
        where = '%s of %s: %s %s' % (number, total, lab.log[number - 1], result['msg'])
        if result['failed']:
            undone += 1
            assert lab.topology() == BEFORE and not result['changed'], where
            assert result['new_primary'] == 'db1' and result['rolled_back'] == ('Everything is as before' in result['msg']), where
            assert lab.fakes['db2'].semi and not lab.fakes['db2'].wait_no_replica, where
            # And the next run succeeds.
            assert not lab.run()['failed'] and lab.topology() == AFTER, where
        else:
            done += 1
            assert lab.writable() == ['db2'], where
            assert result['problems'] or lab.topology() == AFTER, where
            # A second run finishes what is left.
            if not lab.run()['problems']:
                assert lab.topology()['db1'] == AFTER['db1'], where
    assert undone > 5 and done > 2


def test_a_server_dies_at_every_statement(monkeypatch):
    total = statements(monkeypatch)
    for number in range(1, total + 1):
        lab = Lab(monkeypatch)
        lab.fail_at, lab.how = number, 'dies'
        result = lab.run()
        where = '%s of %s: %s %s' % (number, total, lab.log[number - 1], result['msg'])
        gone = lab.dead.copy().pop()
        if gone == 'db2' and 'does not answer any more' in result['msg']:
            # It may have opened: better no server than two.
            assert lab.writable() == [], where
        else:
            assert len(lab.writable()) == 1 or gone == 'db1', where
        if result['failed']:
            assert result['rolled_back'] == (not result['problems'] and 'Everything' in result['msg']), where


def test_run_that_was_killed_while_nobody_was_writable(lab):
    lab.fakes['db1'].read_only = True
    lab.fakes['db3'].source = 'db2'
    lab.fakes['db2'].io = lab.fakes['db2'].sql = False
    assert not lab.run()['failed'] and lab.topology() == AFTER


def test_role_goes_back_after_a_run_that_was_killed(lab):
    lab.fakes['db1'].read_only = True
    lab.fakes['db3'].source = 'db2'
    lab.fakes['db2'].io = lab.fakes['db2'].sql = False
    result = lab.run(new_primary='db1')
    assert not result['failed'] and lab.topology() == BEFORE and 'db1 accepts writes again' in result['actions'][0]


def test_semi_sync_that_was_left_off_is_on_again(lab):
    lab.fakes['db2'].semi = False
    lab.fakes['db3'].source = 'db2'
    assert not lab.run()['failed'] and lab.topology() == AFTER
    assert lab.fakes['db2'].semi and lab.fakes['db2'].wait_no_replica
    lab.fakes['db1'].semi = False
    assert not lab.run(new_primary='db3')['failed'] and all(fake.semi for fake in lab.fakes.values())


def test_run_that_was_killed_after_the_opening(lab):
    lab.fakes['db1'].read_only = True
    lab.fakes['db3'].source = 'db2'
    lab.fakes['db2'].io = lab.fakes['db2'].sql = lab.fakes['db2'].read_only = False
    result = lab.run()
    assert not result['failed'] and result['changed'] and lab.topology() == AFTER
