# Copyright: (c) 2026, The foobar.webstack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import copy

import pytest

from ansible_collections.foobar.webstack.plugins.module_utils import mysql_replication as rules
from ansible_collections.foobar.webstack.plugins.module_utils.mysql import Secret, shown

A, B, C = ('%s0000000-0000-11f0-8000-000000000000' % letter for letter in 'abc')


def server(uuid=A, **changes):
    base = {
        'version': '9.7.4', 'version_tuple': (9, 7, 4), 'server_id': {A: 1, B: 2, C: 3}[uuid], 'server_uuid': uuid, 'hostname': 'host-' + uuid[0],
        'port': 3306, 'read_only': False, 'super_read_only': False, 'offline_mode': False, 'log_bin': True, 'binlog_format': 'ROW',
        'log_replica_updates': True, 'enforce_gtid_consistency': True, 'datadir': '/var/lib/mysql/', 'innodb_page_size': 16384,
        'platform': 'Linux x86_64', 'user_schemas': [], 'channels': [], 'replicas': [],
        'gtid': {'mode': 'ON', 'executed': uuid + ':1-3', 'purged': '', 'own_uuid_only': True},
    }
    gtid = changes.pop('gtid', {})
    base = copy.deepcopy(base)
    base.update(changes)
    base['gtid'].update(gtid)
    return base


def channel(**changes):
    base = {
        'name': '', 'source_host': 'db1', 'source_port': 3306, 'source_user': 'repl', 'source_uuid': A, 'io_state': 'ON', 'sql_state': 'ON',
        'auto_position': True, 'ssl': {'enabled': True, 'ca': '/ca.crt', 'cert': '', 'key': '', 'verify': True},
        'io_error': {'errno': 0, 'message': ''}, 'sql_error': {'errno': 0, 'message': ''}, 'connect_retry': 1, 'retry_count': 86400,
        'heartbeat_period': 30.0, 'delay': 0, 'get_source_public_key': False, 'received': '', 'queue': '', 'lag_seconds': 0.0,
    }
    return dict(base, **changes)


def gaps(**changes):
    return dict({'executed': A + ':1-9', 'purged': '', 'errant': '', 'ahead': '', 'missing': '', 'missing_own': '', 'missing_purged': ''}, **changes)


def replica(**changes):
    return server(B, **dict({'user_schemas': ['app'], 'super_read_only': True, 'read_only': True, 'channels': [channel()],
                             'gtid': {'executed': A + ':1-9', 'own_uuid_only': False}}, **changes))


# -- GTID sets

TAGGED = '%s:1-3:backup:5-6,\n%s:7' % (A, B.upper())


def test_gtid_sets_with_tags_and_line_breaks():
    assert rules.gtid_uuids(TAGGED) == {A, B}
    assert rules.gtid_without(TAGGED, A) == B.upper() + ':7'
    assert rules.gtid_only(TAGGED, A) == A + ':1-3:backup:5-6'
    assert rules.gtid_without(TAGGED, B) == A + ':1-3:backup:5-6'
    assert rules.gtid_groups('') == [] and rules.gtid_uuids('') == set() and rules.gtid_without('', A) == ''


# -- one server

@pytest.mark.parametrize('changes, state, role', [
    ({}, 'virgin', 'detached'),
    ({'super_read_only': True}, 'virgin', 'detached'),
    ({'gtid': {'executed': ''}}, 'virgin', 'detached'),
    ({'user_schemas': ['app']}, 'writable', 'primary'),
    ({'user_schemas': ['app'], 'read_only': True}, 'read_only', 'detached'),
    ({'user_schemas': ['app'], 'super_read_only': True, 'replicas': [{'host': 'b'}]}, 'read_only', 'primary'),
    ({'replicas': [{'host': 'b'}]}, 'writable', 'primary'),
    ({'gtid': {'own_uuid_only': False}}, 'writable', 'primary'),
    ({'channels': [channel(source_uuid='')], 'read_only': True}, 'read_only', 'replica'),
    ({'channels': [channel()], 'user_schemas': ['app']}, 'writable', 'replica'),
])
def test_state_and_role(changes, state, role):
    one = server(**changes)
    assert (rules.server_state(one), rules.server_role(one)) == (state, role)


@pytest.mark.parametrize('local, mysqld, data, state', [
    (True, False, False, 'absent'), (True, True, False, 'unreachable'), (True, False, True, 'unreachable'), (False, False, False, 'unreachable'),
])
def test_unreachable_state(local, mysqld, data, state):
    assert rules.unreachable_state(local, mysqld, data) == state


def test_an_account_that_sees_too_little():
    assert 'SHOW DATABASES' in rules.visibility_problem(server(user_schemas=None), 'monitor')
    assert rules.visibility_problem(server(), 'root') == ''


def words(one, *args):
    return ' | '.join(rules.server_problems(one, *args))


def test_healthy_servers_have_no_problems():
    assert words(server(user_schemas=['app'])) == words(replica()) == words(server()) == ''


@pytest.mark.parametrize('one, expected', [
    (server(gtid={'mode': 'OFF'}), 'gtid_mode is OFF'),
    (server(log_replica_updates=False), 'cannot take over'),
    (server(offline_mode=True), 'offline_mode'),
    (server(user_schemas=['app'], read_only=True), 'follows nobody'),
    (replica(read_only=False, super_read_only=False), 'accepts writes'),
    (replica(super_read_only=False), 'privileged accounts can write'),
    (replica(channels=[channel(io_state='CONNECTING', io_error={'errno': 1045, 'message': 'Access denied'})]),
     'not connected to db1:3306: Access denied (1045)'),
    (replica(channels=[channel(io_state='OFF')]), 'receiver of the channel from db1:3306 is stopped'),
    (replica(channels=[channel(io_state='CONNECTING')]), 'is connecting'),
    (replica(channels=[channel(sql_state='OFF', sql_error={'errno': 1062, 'message': 'Duplicate'})]), 'applier of the channel failed: Duplicate (1062)'),
    (replica(channels=[channel(sql_state='OFF', name='dr')]), "applier of channel 'dr' is stopped"),
    (replica(channels=[channel(auto_position=False)]), 'auto-position'),
    (replica(channels=[channel(ssl={'enabled': False})]), 'without TLS'),
])
def test_problems(one, expected):
    assert expected in words(one)


@pytest.mark.parametrize('semi_sync, expected', [
    ({'source_enabled': None}, ''),
    ({'source_enabled': True, 'source_active': False, 'clients': 1, 'wait_for_count': 1, 'timeout_ms': 10}, 'fallen back'),
    ({'source_enabled': True, 'source_active': True, 'clients': 0, 'wait_for_count': 1, 'timeout_ms': 10}, 'writes block up to 10 ms'),
    ({'source_enabled': True, 'source_active': True, 'clients': 1, 'wait_for_count': 1, 'timeout_ms': 10}, ''),
])
def test_semi_sync_problems(semi_sync, expected):
    text = words(server(user_schemas=['app']), semi_sync)
    assert expected in text and bool(text) == bool(expected)


@pytest.mark.parametrize('changes, role, expected', [
    ({}, 'primary', 'active'),
    ({'source_enabled': None}, 'primary', 'off'),
    ({}, 'replica', 'off'),
    ({'source_active': False}, 'primary', 'degraded'),
    ({'clients': 0}, 'primary', 'waiting'),
    ({'clients': 0, 'wait_no_replica': False, 'source_active': False}, 'primary', 'degraded'),
    ({'clients': 0, 'timeout_ms': 1000}, 'primary', 'degraded'),
    ({'wait_for_count': 2}, 'primary', 'waiting'),
])
def test_semi_sync_state(changes, role, expected):
    semi_sync = dict({'source_enabled': True, 'source_active': True, 'clients': 1, 'wait_for_count': 1, 'timeout_ms': 4294967295,
                      'wait_no_replica': True}, **changes)
    one = server(user_schemas=['app']) if role == 'primary' else replica()
    assert rules.semi_sync_state(one, semi_sync) == expected
    assert ('lossless' in words(one, semi_sync)) == (expected == 'waiting')


def test_peer_problems():
    assert 'cannot be asked: refused' in words(replica(), None, {'reachable': False, 'reason': 'refused'})
    peer = dict(gaps(errant=B + ':1', missing_purged=A + ':4'), reachable=True)
    text = words(replica(), None, peer)
    assert B + ':1' in text and A + ':4' in text


# -- pairs

OPTIONS = {'source': 'db1:3306', 'allow_chain': False}


def pair(local, source, **options):
    return rules.pair_problems(local, source, dict(OPTIONS, **options))


def test_good_pair():
    assert pair(server(B), server(A)) == []
    assert pair(server(B, version_tuple=(9, 7, 0)), server(A, version_tuple=(9, 7, 5))) == []
    assert pair(server(B, version_tuple=(9, 7, 0)), server(A, version_tuple=(8, 4, 9))) == []


def test_every_violation_in_one_list():
    local = server(B, server_id=1, binlog_format='MIXED', log_replica_updates=False, gtid={'mode': 'OFF'}, version='8.4.9', version_tuple=(8, 4, 9))
    source = server(A, binlog_format='STATEMENT', log_bin=False, channels=[channel(source_host='db3', source_uuid=C)])
    text = ' | '.join(pair(local, source))
    for part in ('same server_id 1', 'this server runs with binlog_format=MIXED', 'db1:3306 runs with binlog_format=STATEMENT',
                 'this server runs with log_replica_updates=OFF',
                 'gtid_mode=OFF', 'no binary log', 'must not be older', 'itself a replica of db3'):
        assert part in text


def test_source_is_this_server():
    assert pair(server(A), server(A)) == ['db1:3306 is this server itself: name another source_host']


def test_copied_auto_cnf():
    problems = pair(server(A, hostname='other'), server(A))
    assert len(problems) == 1 and 'auto.cnf' in problems[0]


def test_chains_and_circles():
    follower = {'host': 'db3', 'server_uuid': C}
    assert 'replicas of its own: db3' in pair(server(B, replicas=[follower]), server(A))[0]
    assert pair(server(B, replicas=[follower]), server(A, channels=[channel(source_uuid=C)]), allow_chain=True) == []
    assert 'circle' in pair(server(B, replicas=[{'host': 'db1', 'server_uuid': A}]), server(A), allow_chain=True)[0]


def test_server_id_zero():
    assert any('server_id 0' in problem for problem in pair(server(B, server_id=0), server(A)))


def test_option_problems():
    options = {'source_user': 'repl', 'source_password': 'x', 'source_ssl': True, 'source_ssl_ca': '/ca.crt', 'source_ssl_verify': True}
    assert rules.option_problems(options) == []
    assert '33 characters' in rules.option_problems(dict(options, source_password='p' * 33))[0]
    assert rules.option_problems(dict(options, source_user='u' * 33))
    assert 'source_ssl_ca' in rules.option_problems(dict(options, source_ssl_ca=None))[0]
    assert rules.option_problems(dict(options, source_ssl_ca=None, source_ssl_verify=False)) == []


# -- seeding

CLONE = {'plugin': True, 'plugins': {'clone': 'mysql_clone.so'}, 'backup_admin': True, 'bytes': None, 'libraries': {'mysql_clone.so'}}


def obstacles(local=None, source=None, here=None, there=None, host='db1'):
    return ' | '.join(rules.clone_obstacles(local or server(B), source or server(A), here or CLONE, there or CLONE, host))


def test_clone_obstacles():
    assert obstacles() == ''
    assert obstacles(here=dict(CLONE, plugin=False, plugins={})) == ''
    assert 'plugin-load-add' in obstacles(there=dict(CLONE, plugin=False))
    assert 'BACKUP_ADMIN' in obstacles(there=dict(CLONE, backup_admin=False))
    assert 'different series' in obstacles(source=server(A, version_tuple=(8, 4, 9)))
    assert obstacles(source=server(A, version_tuple=(9, 7, 9))) == ''
    assert 'platforms differ' in obstacles(source=server(A, platform='Linux aarch64'))
    assert 'innodb_page_size' in obstacles(source=server(A, innodb_page_size=4096))
    assert 'IPv6' in obstacles(host='fd00::1')


def test_plugins_of_the_source_must_be_loadable_here():
    there = dict(CLONE, plugins={'clone': 'mysql_clone.so', 'keyring': 'keyring.so'})
    assert 'keyring (keyring.so)' in obstacles(there=there)
    assert obstacles(here=dict(CLONE, libraries={'mysql_clone.so', 'keyring.so'}), there=there) == ''
    assert obstacles(here=dict(CLONE, libraries=None), there=there) == ''


def decide(local, seed='auto', chan=None, gap=None, blocked=(), loss=False, source=None, half=False):
    return rules.decide_seed(seed, local, source or server(A, user_schemas=['app']), chan, gap or gaps(), list(blocked), loss, half)


def test_virgin_is_cloned_whatever_its_own_installation_did():
    method, reason, problems = decide(server(B), gap=gaps(errant=B + ':1-3', missing=A + ':1-9'))
    assert (method, problems) == ('clone', []) and 'virgin' in reason


def test_virgin_and_no_clone():
    method, reason, problems = decide(server(B), blocked=['no plugin'])
    assert 'no plugin' in problems[0] and 'seed=never starts from them' in problems[0]
    assert 'seed=never starts' not in decide(server(B), blocked=['no plugin'], source=server(A, gtid={'purged': A + ':1'}))[2][0]


def test_virgin_on_the_operators_word():
    assert decide(server(B), seed='never')[0] == 'binlog'
    assert decide(server(B), seed='never', source=server(A, gtid={'purged': A + ':1'}))[2]


def test_running_replica_is_left_alone():
    for seed in ('auto', 'clone', 'never'):
        assert decide(replica(), seed=seed, chan=channel())[::2] == ('none', [])
    assert decide(replica(), seed='always', chan=channel())[::2] == ('clone', [])


def test_former_replica_attaches_by_binlog():
    local = replica(channels=[])
    assert decide(local)[::2] == ('binlog', [])
    assert decide(local, seed='clone')[::2] == ('clone', [])


def test_purged_means_clone():
    gap = gaps(missing_purged=A + ':4-6')
    method, reason, problems = decide(replica(), chan=channel(), gap=gap)
    assert (method, problems) == ('clone', []) and A + ':4-6' in reason
    assert 'seed=never forbids' in decide(replica(), 'never', channel(), gap)[2][0]
    assert 'cannot be cloned: x' in decide(replica(), chan=channel(), gap=gap, blocked=['x'])[2][0]


def test_what_replication_never_sends_back_needs_a_seed():
    gap = gaps(missing_own=B + ':7-9')
    method, reason, problems = decide(replica(), chan=channel(), gap=gap)
    assert B + ':7-9' in problems[0] and 'rejoin.yml' in problems[0]
    assert decide(replica(), chan=channel(), gap=gap, loss=True)[::2] == ('clone', [])
    # Nothing is left to be saved.
    assert decide(server(B), gap=gap)[::2] == ('clone', [])
    assert decide(replica(), chan=channel(), gap=gap, half=True)[::2] == ('clone', [])
    assert B + ':7-9' in rules.peer_problems(dict(gap, reachable=True))[0]


def test_errant_is_refused_and_named():
    gap = gaps(errant=B + ':1-2')
    problems = decide(replica(user_schemas=['app', 'rogue']), chan=channel(), gap=gap)[2]
    assert B + ':1-2' in problems[0] and 'rogue' in problems[0] and 'schemas: rogue' in problems[0]
    assert decide(replica(), chan=channel(), gap=gap, loss=True)[::2] == ('clone', [])
    # Only seeding takes errant transactions away.
    assert decide(replica(), 'never', channel(), gap, loss=True)[2]


def test_writable_with_data_is_refused():
    local = replica(channels=[], read_only=False, super_read_only=False)
    assert 'it may be the primary' in decide(local)[2][0]
    assert decide(local, loss=True)[::2] == ('binlog', [])
    # A replica of this very source that someone opened is fenced, not refused.
    assert decide(replica(read_only=False, super_read_only=False), chan=channel())[2] == []


def test_data_without_transactions_is_refused():
    local = server(B, user_schemas=['shop'], super_read_only=True, gtid={'executed': ''})
    assert 'shop' in decide(local)[2][0]
    assert decide(local, loss=True)[::2] == ('clone', [])


def test_clone_would_drop_a_schema_that_the_source_lacks():
    local, gap = replica(user_schemas=['app', 'scratch']), gaps(missing_purged=A + ':4')
    assert 'scratch' in decide(local, chan=channel(), gap=gap)[2][0]
    # Not known where the account does not see the source's schemas.
    assert decide(local, chan=channel(), gap=gap, source=server(A, user_schemas=None))[2] == []


def test_clone_never_breaks_followers():
    local = replica(replicas=[{'host': 'db3', 'server_uuid': C}])
    assert 'it has replicas' in decide(local, chan=channel(), gap=gaps(missing_purged=A + ':4'), loss=True)[2][0]


def test_half_cloned_is_seeded_again():
    assert decide(replica(), chan=channel(), half=True)[::2] == ('clone', [])


def test_space():
    assert rules.space_problems(None, 5) == rules.space_problems(5, None) == rules.space_problems(5, 5) == []
    assert '2 MiB' in rules.space_problems(2 << 20, 1 << 20)[0]


# -- the channel

PARAMS = dict(source_host='db1', source_port=3306, source_user='repl', source_ssl=True, source_ssl_ca='/ca.crt', source_ssl_cert=None,
              source_ssl_key=None, source_ssl_verify=True, get_source_public_key=False, connect_retry=1, retry_count=86400, delay=0, heartbeat_period=None)


def differs(present=None, **changes):
    return rules.channel_diff(rules.wanted_channel(dict(PARAMS, **changes)), channel(**(present or {})))


def test_channel_diff():
    assert differs() == []
    assert differs(connect_retry=5, delay=7) == ['connect_retry', 'delay']
    assert differs(heartbeat_period=30.0) == [] and differs(heartbeat_period=5.5) == ['heartbeat_period']
    assert differs({'auto_position': False}) == ['auto_position']
    assert differs(source_ssl_ca='/other') == ['ssl_ca']
    assert differs({'ssl': {'enabled': False, 'ca': '', 'cert': '', 'key': '', 'verify': False}}) == ['ssl', 'ssl_ca', 'ssl_verify']


def test_no_verification_without_tls():
    assert rules.wanted_channel(dict(PARAMS, source_ssl=False))['ssl_verify'] is False


def test_new_channel_differs_in_everything():
    wanted = rules.wanted_channel(PARAMS)
    assert rules.channel_diff(wanted, None) == list(wanted)


def test_change_statement_has_the_whole_tls_block_and_no_secret_in_sight():
    password = 'p\'a"s$%s\\'
    sql, args = rules.change_statement(rules.wanted_channel(dict(PARAMS, heartbeat_period=2.5)), password, 'dr')
    for option in ('SOURCE_SSL', 'SOURCE_SSL_CA', 'SOURCE_SSL_CERT', 'SOURCE_SSL_KEY', 'SOURCE_SSL_VERIFY_SERVER_CERT', 'GET_SOURCE_PUBLIC_KEY',
                   'SOURCE_AUTO_POSITION', 'SOURCE_HEARTBEAT_PERIOD'):
        assert '%s = %%s' % option in sql
    assert sql.endswith('FOR CHANNEL %s') and args[-1] == 'dr' and sql.count('%s') == len(args)
    secret = [value for value in args if isinstance(value, Secret)]
    assert secret == [password]
    assert password not in shown(sql, args)


def test_diff_view_has_no_password():
    assert rules.diff_view(None) == ''
    before, after = rules.diff_view(channel()), rules.diff_view(channel(), rules.wanted_channel(dict(PARAMS, delay=9)))
    assert 'delay: 0' in before and 'delay: 9' in after and 'password' not in before + after
    assert 'source_host: db1' in rules.diff_view(None, rules.wanted_channel(PARAMS))


@pytest.mark.parametrize('one, expected', [
    (None, 'does not exist'), (channel(), ''), (channel(io_state='CONNECTING'), ''),
    (channel(io_state='CONNECTING', io_error={'errno': 2003, 'message': 'refused'}), ''),
    (channel(io_state='CONNECTING', io_error={'errno': 1045, 'message': 'denied'}), 'receiver failed: denied (1045)'),
    (channel(io_state='OFF', io_error={'errno': 13114, 'message': 'fatal'}), 'receiver failed'),
    (channel(sql_state='OFF', sql_error={'errno': 1062, 'message': 'dup'}), 'applier failed: dup (1062)'),
])
def test_channel_failure(one, expected):
    text = rules.channel_failure(one)
    assert expected in text and bool(text) == bool(expected)
