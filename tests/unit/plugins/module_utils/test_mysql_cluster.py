# Copyright: (c) 2026, The foobar.webstack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import socket
import threading

import pytest

from ansible_collections.foobar.webstack.plugins.module_utils import mysql
from ansible_collections.foobar.webstack.plugins.module_utils import mysql_cluster as cluster

A, B, C = ('%s0000000-0000-11f0-8000-000000000000' % letter for letter in 'abc')
UUID = {'db1': A, 'db2': B, 'db3': C, 'db4': 'd'}
STATIC = 'GRANT RELOAD, PROCESS, SHOW DATABASES, REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO `x`@`%`'
DYNAMIC = 'GRANT CONNECTION_ADMIN,REPLICATION_SLAVE_ADMIN,SYSTEM_VARIABLES_ADMIN ON *.* TO `x`@`%`'
SCHEMA = 'GRANT SELECT ON `performance_schema`.* TO `x`@`%`'


def link(source, **changes):
    return dict({'name': '', 'source_host': 'h' + source, 'source_port': 3306, 'source_uuid': UUID[source], 'source_user': 'repl', 'io_state': 'ON',
                 'sql_state': 'ON', 'io_error': {'errno': 0, 'message': ''}, 'sql_error': {'errno': 0, 'message': ''}, 'delay': 0,
                 'lag_seconds': 0.0}, **changes)


def view(name, source=None, error='', semi_sync=None, channels=None, **changes):
    base = {'name': name, 'host': 'h' + name, 'port': 3306, 'error': error}
    if not error:
        server = {'server_uuid': UUID[name], 'server_id': int(name[-1]), 'version': '9.7.4', 'version_tuple': (9, 7, 4), 'read_only': bool(source),
                  'super_read_only': bool(source), 'enforce_gtid_consistency': True, 'log_bin': True, 'binlog_format': 'ROW', 'log_replica_updates': True,
                  'gtid': {'mode': 'ON'}, 'channels': channels if channels is not None else [link(source)] if source else []}
        base['server'] = dict(server, **changes)
        base['semi_sync'] = dict({'source_enabled': True, 'timeout_ms': 4294967295, 'wait_for_count': 1, 'replica_active': bool(source)}, **semi_sync or {})
    return base


def three(**changes):
    views = {'db1': view('db1'), 'db2': view('db2', 'db1'), 'db3': view('db3', 'db1')}
    views.update(changes)
    return list(views.values())


def problems(views, target='db2', **options):
    return cluster.switchover_problems(views, target, **options)[2]


# -- Options and privileges

def test_options():
    params = {'source_password': 'x', 'source_user': 'r', 'source_ssl': True, 'source_ssl_verify': True, 'source_ssl_ca': '/ca',
              'servers': [{'name': 'db1', 'host': 'a', 'port': 1}, {'name': 'db2', 'host': 'b', 'port': 1}]}
    assert cluster.option_problems(params, {'new_primary': 'db2', 'expected_primary': None}) == []
    assert 'new_primary is db9' in cluster.option_problems(params, {'new_primary': 'db9'})[0]
    params['servers'].append({'name': 'db2', 'host': 'a', 'port': 1})
    assert cluster.option_problems(params, {}) == ['servers has db2 twice', 'servers has a:1 twice']
    assert 'has to name' in cluster.option_problems(dict(params, servers=params['servers'][:1]), {})[0]


@pytest.mark.parametrize('grants, missing', [
    ([STATIC, DYNAMIC, SCHEMA], []),
    (['GRANT ALL PRIVILEGES ON *.* TO `root`@`localhost`'], []),
    ([STATIC, 'GRANT SUPER, SELECT ON *.* TO `x`@`%`'], []),
    ([STATIC, DYNAMIC], ['SELECT on performance_schema.*']),
    ([STATIC.replace('RELOAD, ', ''), DYNAMIC, SCHEMA], ['RELOAD']),
    (['GRANT `dba`@`%` TO `x`@`%`'], list(cluster.PRIVILEGES) + ['SELECT on performance_schema.*']),
])
def test_missing_privileges(grants, missing):
    assert cluster.missing_privileges(grants) == missing


# -- Who is the primary

def test_primary():
    assert cluster.find_primary(three()) == ('db1', False, [])
    assert 'two servers accept writes, db1 and db3' in cluster.find_primary(three(db3=view('db3')))[2][0]


def test_interrupted_switchover():
    assert cluster.find_primary(three(db1=view('db1', read_only=True, super_read_only=True))) == ('db1', True, [])
    # One had moved already.
    assert cluster.find_primary(three(db1=view('db1', read_only=True), db3=view('db3', 'db2')))[:2] == ('db1', True)
    # An unreachable server may be the writable one.
    assert 'may be db3' in cluster.find_primary(three(db1=view('db1', read_only=True), db3=view('db3', error='gone')))[2][0]
    # Two without a source, or nobody follows.
    assert 'cannot be told' in cluster.find_primary(three(db1=view('db1', read_only=True), db3=view('db3', read_only=True)))[2][0]
    stranger = link('db1', source_uuid='', source_host='elsewhere')
    assert 'elsewhere:3306' in cluster.find_primary(three(db1=view('db1', read_only=True), db3=view('db3', 'db1', channels=[stranger])))[2][0]


def test_followed_by_uuid_or_address():
    views = three(db1=view('db1', error='gone'), db2=view('db2', 'db1', channels=[link('db1', source_uuid='')]))
    assert cluster.followed(views[1], views) == cluster.followed(views[2], views) == 'db1'
    # Through another name of the same server.
    views = three(db2=view('db2', 'db1', channels=[link('db1', source_host='alias')]))
    assert cluster.followed(views[1], views) == 'db1' and cluster.followed(views[0], views) == ''


# -- A planned switchover

def test_healthy_cluster():
    assert cluster.switchover_problems(three(), 'db2', 'db1') == ('db1', False, [])
    assert problems(three(), 'db1') == []


@pytest.mark.parametrize('changes, words', [
    ({'db2': view('db2', error='timed out')}, ['db2 cannot be asked: timed out']),
    ({'db3': view('db3', error='timed out')}, ['db3 cannot be asked: timed out (skip_unreachable']),
    ({'db2': view('db2', read_only=True)}, ['db2 follows nobody']),
    ({'db2': view('db2', 'db3')}, ['db2 follows db3, not the primary db1']),
    ({'db2': view('db2', 'db1', channels=[link('db1', io_state='OFF')])}, ['db2 does not replicate: receiver OFF, applier ON']),
    ({'db2': view('db2', 'db1', channels=[link('db1', sql_state='OFF', sql_error={'errno': 1062, 'message': 'Duplicate'})])}, ['Duplicate (1062)']),
    ({'db2': view('db2', 'db1', channels=[link('db1', delay=3600)])}, ['3600 s behind on purpose']),
    ({'db2': view('db2', 'db1', channels=[link('db1'), link('db3')])}, ['db2 has 2 channels']),
    ({'db3': view('db3', 'db1', server_id=2)}, ['db2 and db3 have the same server_id 2']),
    ({'db3': view('db3', 'db1', server_uuid=B)}, ['same server_uuid']),
    ({'db2': view('db2', 'db1', version='9.8.0', version_tuple=(9, 8, 0))}, ['db1 is version 9.7.4', 'db3 is version 9.7.4']),
    ({'db2': view('db2', 'db1', log_replica_updates=False)}, ['log_replica_updates=OFF']),
    ({'db1': view('db1', channels=[link('db3')])}, ['db1 accepts writes and follows db3']),
])
def test_refusals(changes, words):
    found = problems(three(**changes))
    assert len(found) == len(words)
    for text, word in zip(found, words):
        assert word in text


def test_everything_is_listed_at_once():
    found = problems(three(db2=view('db2', 'db1', channels=[link('db1', io_state='OFF', delay=5)]), db3=view('db3', error='timed out')), expected_primary='db3')
    assert len(found) == 4


def test_skip_unreachable_is_for_replicas():
    assert problems(three(db3=view('db3', error='timed out')), skip_unreachable=True) == []
    assert problems(three(db2=view('db2', error='timed out')), skip_unreachable=True)


def test_one_that_moved_early_is_accepted():
    assert problems(three(db3=view('db3', 'db2'))) == []
    assert problems(three(db3=view('db3', 'db2')), 'db3') == ['db3 follows db2, not the primary db1']


def test_stopped_target_of_an_interrupted_switchover():
    assert problems(three(db1=view('db1', read_only=True), db2=view('db2', 'db1', channels=[link('db1', io_state='OFF', sql_state='OFF')]))) == []


def test_gtid_problems():
    assert cluster.gtid_problems('db2', 'db1', {'errant': '', 'missing_own': '', 'missing_purged': ''}) == []
    assert len(cluster.gtid_problems('db2', 'db1', {'errant': 'b:1', 'missing_own': 'b:2', 'missing_purged': 'a:1'}, 'a:2')) == 4


def test_who_moves_early():
    assert cluster.early_follower(three(), 'db1', 'db2') == ['db3']
    # One is there already, the old primary keeps too few, replication is not lossless, or there is no third.
    assert cluster.early_follower(three(db3=view('db3', 'db2')), 'db1', 'db2') == []
    two = {'wait_for_count': 2}
    assert cluster.early_follower(three(db2=view('db2', 'db1', semi_sync=two)), 'db1', 'db2') == []
    assert cluster.early_follower(three(db2=view('db2', 'db1', semi_sync={'timeout_ms': 1000})), 'db1', 'db2') == []
    assert cluster.early_follower(three(db2=view('db2', 'db1', semi_sync={'replica_active': False})), 'db1', 'db2') == []
    assert cluster.early_follower(three()[:2], 'db1', 'db2') == []
    assert cluster.early_follower(three(db3=view('db3', error='x')), 'db1', 'db2') == []
    # It could not apply in time what it has received.
    for late in ({'delay': 60}, {'lag_seconds': 30.0}):
        views = three()
        views[2]['server']['channels'][0].update(late)
        assert cluster.early_follower(views, 'db1', 'db2') == []


# -- A death

def test_derive_primary():
    dead = view('db1', error='gone')
    assert cluster.derive_primary(three(db1=dead)) == ('db1', [])
    # One had been moved already.
    assert cluster.derive_primary(three(db1=dead, db3=view('db3', 'db2'))) == ('db1', [])
    two_dead = three(db1=dead, db3=view('db3', 'db4'), db4=view('db4', error='gone'))
    assert 'different servers, db1 and db4' in cluster.derive_primary(two_dead)[1][0]
    assert 'follows another one' in cluster.derive_primary([view('db2'), view('db3')])[1][0]
    assert 'does not name' in cluster.derive_primary([view('db2', 'db1')])[1][0]


@pytest.mark.parametrize('error, alive', [
    (mysql.ServerError('Too many connections', 1040), True),
    (mysql.ServerError('Access denied', 1045), True),
    (mysql.ServerError('the certificate of x is not trusted: expired', 0), True),
    (mysql.ServerError('cannot connect: timed out', 2003), False),
    (mysql.ServerError('Lost connection', 2013), False),
])
def test_any_answer_is_a_sign_of_life(error, alive):
    assert bool(cluster.alive_text('db1', error)) == alive


def receiver(state='ON', heartbeats=5, errno=0, period=1.0, silence=0.5, last_queued='x'):
    return {'state': state, 'heartbeats': heartbeats, 'errno': errno, 'period': period, 'silence': silence, 'last_queued': last_queued}


@pytest.mark.parametrize('before, now, verdict', [
    (receiver(), receiver(heartbeats=6), 'alive'),
    (receiver(), receiver(last_queued='y'), 'alive'),
    (receiver('CONNECTING'), receiver(), 'alive'),
    (receiver(), receiver(), 'wait'),
    (receiver(), receiver(silence=2.6), 'dead'),
    (receiver(), receiver(period=5.0), 'force'),
    (receiver(), receiver(period=5.0, silence=13), 'dead'),
    (receiver(), receiver(period=0), 'force'),
    (receiver(), receiver('CONNECTING'), 'dead'),
    (receiver(), receiver('OFF', errno=2003), 'dead'),
    (receiver('OFF'), receiver('OFF'), 'none'),
    (None, None, 'none'),
])
def test_receiver_verdict(before, now, verdict):
    assert cluster.receiver_verdict(before, now) == verdict


def replica(name='db2', **changes):
    return dict({'name': name, 'lossless': True, 'wait_for_count': 1, 'semi_sync': True, 'recovery': False, 'contact': True,
                 'head': True, 'behind': None}, **changes)


@pytest.mark.parametrize('replicas, unreachable, loss', [
    ([replica(), replica('db3')], [], 'none'),
    ([replica()], [], 'none'),
    ([replica(lossless=False), replica('db3')], [], 'possible'),
    ([replica()], ['db3'], 'unknown'),
    # With two acknowledgements for each write one of two holders is enough.
    ([replica(wait_for_count=2)], ['db3'], 'none'),
    ([replica(recovery=True)], [], 'none'),
    ([replica(recovery=True, contact=False)], [], 'possible'),
    ([replica(contact=False)], [], 'unknown'),
    ([replica(semi_sync=False)], [], 'unknown'),
    ([replica(semi_sync=False), replica('db3')], [], 'none'),
    # What came last had been committed long before; a moment is a matter of clocks, and so is the future.
    ([replica(behind=60.0)], [], 'unknown'),
    ([replica(behind=2.0)], [], 'none'),
    ([replica(behind=-60.0)], [], 'none'),
    # Another one that has as much received it in time, or had nothing left to receive.
    ([replica(behind=60.0), replica('db3', behind=0.01)], [], 'none'),
    ([replica(behind=60.0), replica('db3')], [], 'none'),
    ([replica(behind=60.0), replica('db3', head=False)], [], 'unknown'),
    ([replica(), replica('db3', head=False, behind=60.0)], [], 'none'),
])
def test_loss_verdict(replicas, unreachable, loss):
    verdict, reason = cluster.loss_verdict(replicas, unreachable)
    assert verdict == loss and reason


def test_fence_verdict():
    assert cluster.fence_verdict(True, [replica(lossless=False)], ['db3'])[0]
    assert cluster.fence_verdict(False, [replica(), replica('db3')], [])[0]
    assert not cluster.fence_verdict(False, [replica(lossless=False)], [])[0]
    # The old primary may still reach the one that we do not.
    assert not cluster.fence_verdict(False, [replica()], ['db3'])[0]


def row(name='db2', **changes):
    return dict({'name': name, 'full': True, 'applied': True, 'failed': '', 'delay': 0, 'strands': {}, 'errant': '', 'missing': '', 'nowhere': ''}, **changes)


@pytest.mark.parametrize('rows, name', [
    ([row(), row('db3')], 'db2'),
    ([row(strands={'db3': 'older'}), row('db3')], 'db3'),
    ([row(errant='b:1'), row('db3')], 'db3'),
    ([row(errant='b:1'), row('db3', strands={'db2': 'older'})], 'db2'),
    ([row(delay=60), row('db3', errant='c:1')], 'db3'),
    # Stuck.
    ([row(applied=False), row('db3')], 'db3'),
    ([row(applied=False, failed='Duplicate'), row('db3')], 'db3'),
    # Not there yet.
    ([row(applied=False), row('db3', full=False, missing='a:3', nowhere='a:3')], None),
    ([row(applied=False), row('db3', full=False, missing='a:3')], None),
    ([row(applied=False, failed='Duplicate'), row('db3', full=False, missing='a:3', nowhere='a:3')], None),
    ([row(applied=False), row('db3', applied=False)], None),
    # Each has something that the other lacks.
    ([row(full=False, missing='c:1'), row('db3', full=False, missing='b:1')], 'db2'),
])
def test_elect(rows, name):
    assert cluster.elect(rows, False) == name


def test_elect_waits_a_moment():
    for late in (row(applied=False), row(applied=False, full=False)):
        assert cluster.elect([late, row('db3')], True) is None
    for stuck in (row(applied=False, failed='Duplicate'), row(applied=False, delay=60)):
        assert cluster.elect([stuck, row('db3')], True) == 'db3'


def test_elect_the_one_that_was_asked_for():
    assert cluster.elect([row(), row('db3')], False, 'db3') == 'db3'
    assert cluster.elect([row(), row('db3', applied=False)], False, 'db3') is None
    # It fetches what it lacks as soon as another one can send it.
    assert cluster.elect([row(applied=False), row('db3', full=False, missing='a:3')], False, 'db3') == 'db3'
    assert cluster.elect([row(applied=False), row('db3', full=False, missing='a:3', nowhere='a:3')], False, 'db3') is None


def test_probe():
    server = socket.create_server(('127.0.0.1', 0))
    port = server.getsockname()[1]
    assert cluster.probe('127.0.0.1', port, 0.1) == 'silent'

    def greet():
        for number in range(2):
            connection = server.accept()[0]
            connection.sendall(b'hello')
            connection.close()

    thread = threading.Thread(target=greet)
    thread.start()
    assert cluster.probe('127.0.0.1', port, 2) == 'answers'
    thread.join()
    server.close()
    assert cluster.probe('127.0.0.1', port, 1) == 'refused'
