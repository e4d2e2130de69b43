# Copyright: (c) 2026, The foobar.webstack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The judgement of the role keeper, and its two role changes over servers that are dictionaries."""
from __future__ import annotations

import importlib.machinery
import importlib.util
import pathlib

import pymysql
import pytest

PROGRAM = pathlib.Path(__file__).resolve().parents[3] / 'roles' / 'mysql' / 'files' / 'mysql-role-keeper'
loader = importlib.machinery.SourceFileLoader('mysql_role_keeper', str(PROGRAM))
loader_spec = importlib.util.spec_from_loader(loader.name, loader)
keeper = importlib.util.module_from_spec(loader_spec)
loader.exec_module(keeper)

A, B, C = ('%s0000000-0000-11f0-8000-000000000000' % letter for letter in 'abc')
DEAD = {'error': 'connection refused'}


def me(**changes):
    """The primary after a restart."""
    return dict({'uuid': A, 'read_only': True, 'sources': [], 'executed': A + ':1-9', 'received': '', 'fresh': True, 'recorded': True,
                 'replaced': False, 'followed_by': set(), 'semi_sync': semi_sync()}, **changes)


def peer(uuid=B, follows=A, **changes):
    return dict({'uuid': uuid, 'read_only': True, 'sources': [follows] if follows else [], 'executed': A + ':1-9', 'received': '', 'ahead': '',
                 'lacks': '', 'caught_up': False}, **changes)


def semi_sync(**changes):
    return dict({'enabled': True, 'timeout': 4294967295, 'strict': False, 'clients': 0, 'active': False}, **changes)


def primary(**changes):
    return me(**dict({'read_only': False, 'fresh': False}, **changes))


RESUMES = {
    'all three': (me(), {'b': peer(), 'c': peer(C)}),
    'two of three': (me(), {'b': peer(), 'c': DEAD}),
    'a pair': (me(), {'b': peer()}),
    'not recorded, but followed': (me(recorded=False), {'b': peer(), 'c': DEAD}),
    'the other is detached, one follows': (me(), {'b': peer(follows=None), 'c': peer(C)}),
    "a replica's own transactions": (me(), {'b': peer(ahead=B + ':1-2'), 'c': peer(C)}),
    'a detached server has some of its own': (me(), {'b': peer(follows=None, ahead=B + ':7', lacks=A + ':9'), 'c': peer(C)}),
}


@pytest.mark.parametrize('case', RESUMES.values(), ids=RESUMES)
def test_resumes(case):
    assert keeper.judge(*case)[0] == 'resume'


STAYS = {
    'a replica': (me(sources=[B]), {}, 'replica'),
    'no majority': (me(), {'b': DEAD, 'c': DEAD}, '1 of 3 servers can be asked and 2 are needed: b: connection refused'),
    'half of a pair': (me(), {'b': DEAD}, '1 of 2 servers can be asked and 2 are needed'),
    'half of four': (me(), {'b': peer(), 'c': DEAD, 'd': DEAD}, '2 of 4 servers can be asked and 3 are needed'),
    'replaced': (me(), {'b': peer(follows=None, read_only=False), 'c': peer(C, B)}, 'b is the primary'),
    'replaced, the new one is down': (me(), {'b': DEAD, 'c': peer(C, B)}, 'c does not follow this server'),
    'a channel that never connected': (me(), {'b': peer(), 'c': peer(C, 'unknown')}, 'c does not follow this server'),
    'nobody follows': (me(), {'b': peer(follows=None), 'c': peer(C, None)}, 'nobody follows'),
    'a detached server has all and more': (me(), {'b': peer(follows=None, ahead=B + ':7'), 'c': peer(C)}, 'b has all that this server has and more'),
    'replaced, and the new one is read-only after a boot': (me(replaced=True), {'b': DEAD, 'c': peer(C)}, 'another server was the primary after it'),
    'made read-only by hand': (me(fresh=False), {'b': peer(), 'c': peer(C)}, 'someone made it so'),
    'lost its own transactions': (me(), {'b': peer(ahead=A + ':10,\n' + B + ':1'), 'c': peer(C)}, 'b has transactions that this server lacks (%s:10)' % A),
    "lacks another primary's transactions": (me(), {'b': peer(ahead=C + ':tag:1-3'), 'c': peer(C)}, C + ':tag:1-3'),
}


@pytest.mark.parametrize('case', STAYS.values(), ids=STAYS)
def test_stays_read_only(case):
    action, reason = keeper.judge(*case[:2])
    assert action == 'none' and case[2] in reason


@pytest.mark.parametrize('self_state, peers, expected', [
    (me(), {'b': DEAD, 'c': DEAD}, 'resume'),
    (me(), {'b': DEAD}, 'resume'),
    (me(), {'b': peer(follows=None)}, 'resume'),
    (me(), {'b': peer(follows=None, ahead=B + ':7', lacks=A + ':9')}, 'none'),
    (me(replaced=True), {'b': DEAD}, 'none'),
    (me(recorded=False), {'b': DEAD}, 'none'),
    (me(fresh=False), {'b': DEAD}, 'none'),
    (me(), {'b': DEAD, 'c': peer(C, B)}, 'none'),
    (me(), {'b': peer(follows=None, read_only=False), 'c': DEAD}, 'none'),
])
def test_without_majority(self_state, peers, expected):
    assert keeper.judge(self_state, peers, True)[0] == expected


@pytest.mark.parametrize('ahead, number', [
    ('', 0),
    # Committed since this server was looked at.
    (A + ':10-20', 0),
    (B + ':1-3', 3),
    (B + ':1-3:7,\n' + C + ':tag:5:other:6-7,' + A + ':10', 7),
    ('12345678-1234-1234-1234-123456789012:5', 1),
])
def test_errant(ahead, number):
    assert keeper.errant(primary(), {'b': peer(ahead=ahead), 'c': DEAD}) == {'b': number}


NEW = peer(follows=None, read_only=False)


@pytest.mark.parametrize('self_state, peers, expected', [
    (primary(), {'b': peer(), 'c': peer(C)}, ('none', 'primary')),
    (primary(), {'b': DEAD, 'c': DEAD}, ('none', 'primary')),
    (primary(), {'b': NEW, 'c': peer(C, B)}, ('fence', 'b is writable and followed by c')),
    (primary(), {'b': NEW, 'c': peer(C, A)}, ('none', 'TWO PRIMARIES: this server (followed by c) and b')),
    (primary(), {'b': NEW, 'c': DEAD}, ('none', 'TWO PRIMARIES')),
    (primary(), {'b': NEW, 'c': peer(C, 'unknown')}, ('none', 'TWO PRIMARIES')),
    # Of a pair nobody is left to follow the new primary.
    (primary(followed_by={B}), {'b': NEW}, ('fence', 'b followed this server and is writable now')),
    (primary(), {'b': NEW}, ('none', 'TWO PRIMARIES')),
    (primary(followed_by={B}), {'b': NEW, 'c': DEAD}, ('none', 'TWO PRIMARIES')),
    (primary(sources=[B]), {}, ('none', 'follows another server and accepts writes')),
])
def test_writable(self_state, peers, expected):
    action, reason = keeper.judge(self_state, peers)
    assert action == expected[0] and expected[1] in reason


@pytest.mark.parametrize('state, changes, caught_up, values, note', [
    (primary, {'enabled': False}, True, [], ''),
    (primary, {}, False, [], 'degraded'),
    (primary, {'clients': 1}, False, [], 'degraded'),
    (primary, {'clients': 1}, True, ['ON'], ''),
    (primary, {'clients': 1, 'active': True}, False, ['ON'], ''),
    (primary, {'clients': 1, 'active': True, 'strict': True}, True, [], ''),
    (primary, {'active': True, 'strict': True}, False, [], 'commits wait'),
    # available
    (primary, {'timeout': 1000, 'clients': 1}, True, ['ON', 'OFF'], ''),
    (primary, {'timeout': 1000, 'clients': 1, 'active': True}, True, [], ''),
    (primary, {'timeout': 1000}, False, [], 'degraded'),
    # A replica's applier must not wait, whoever left it like that.
    (lambda **x: me(sources=[B], **x), {'strict': True, 'active': True}, False, ['OFF'], ''),
    (lambda **x: me(sources=[B], **x), {}, False, [], ''),
    (me, {'strict': True}, False, [], ''),
    # A new primary that still has its former channel.
    (lambda **x: primary(sources=[B], **x), {'strict': True, 'active': True, 'clients': 1}, False, [], ''),
])
def test_semi_sync(state, changes, caught_up, values, note):
    wanted, said = keeper.judge_semi_sync(state(semi_sync=semi_sync(**changes)), caught_up)
    assert wanted == values and note in said and bool(said) == bool(note)


# -- The loop, over servers that answer from a script

class Server(keeper.Server):
    """state is what the server is; a statement is remembered or, in refuse, refused."""

    def __init__(self, state, pid=42):
        super().__init__()
        self.state, self.pid = state, pid
        self.connection = object()
        self.holder = None
        self.done, self.refuse = [], {}

    def close(self):
        self.connection = None

    def rows(self, sql, args=None):
        self.connection = self.connection or object()
        for start, error in self.refuse.items():
            if sql.startswith(start):
                raise pymysql.err.OperationalError(error, 'refused')
        if self.state.get('error'):
            raise pymysql.err.OperationalError(self.state.get('errno', 2003), self.state['error'])
        if 'server_uuid' in sql:
            return [{key: self.state[key] for key in ('uuid', 'read_only', 'executed')}]
        if sql == 'SHOW REPLICA STATUS':
            return [{'Source_UUID': uuid, 'Retrieved_Gtid_Set': ''} for uuid in self.state['sources']]
        if sql.startswith('SHOW GLOBAL VARIABLES'):
            return [{'Variable_name': 'rpl_semi_sync_source_' + name, 'Value': value}
                    for name, value in (('enabled', 'ON'), ('timeout', '4294967295'), ('wait_no_replica', 'ON'))]
        if sql.startswith('SHOW GLOBAL STATUS'):
            return [{'Variable_name': 'Rpl_semi_sync_source_status', 'Value': 'ON'}]
        if 'GTID_SUBTRACT' in sql:
            return [{'difference': self.state.get('ahead', '')}]
        if 'GET_LOCK' in sql:
            return [{'got': int(not self.holder)}]
        if 'IS_USED_LOCK' in sql:
            return [self.holder]
        if 'COMMAND IN' in sql:
            return [{'id': 7}]
        if 'Binlog Dump' in sql:
            return [{'id': 9}] if args[0] else []
        self.done.append(sql % args if args else sql)
        if sql == 'SET GLOBAL read_only = OFF':
            self.state['read_only'] = False
        if sql == 'SET GLOBAL super_read_only = ON':
            self.state['read_only'] = True
        return []


@pytest.fixture
def make(tmp_path):
    for name in ('run', 'lib'):
        (tmp_path / name).mkdir()

    def make(self_state, pid=42, **peers):
        one = keeper.Keeper(Server(self_state, pid), {name: Server(state) for name, state in peers.items()}, False, tmp_path / 'run', tmp_path / 'lib')
        one.run = tmp_path / 'run'
        return one
    return make


CHANGES = ('SET GLOBAL', 'KILL')


def changes(one):
    return [sql for sql in one.server.done if sql.startswith(CHANGES)]


def test_takes_the_role_back_under_the_lock(make, capsys):
    one = make(me(), b=peer(), c=peer(C))
    assert one.tick() == keeper.TICK_AT_START
    assert changes(one) == ['SET GLOBAL rpl_semi_sync_source_wait_no_replica = ON', 'SET GLOBAL read_only = OFF']
    assert all(server.done[-1] == 'DO RELEASE_ALL_LOCKS()' for server in [one.server, *one.peers.values()])
    assert "takes the primary's role back: 3 of 3" in capsys.readouterr().err
    # Made read-only by hand: it stays so, for this keeper and for one that starts later, until mysqld does.
    one.server.state['read_only'] = True
    for again in (one, make(one.server.state, b=peer(), c=peer(C))):
        again.server.done.clear()
        assert again.tick() == keeper.TICK and changes(again) == []
    later = make(one.server.state, 43, b=peer(), c=peer(C))
    later.tick()
    assert changes(later)


def test_the_lock_keeps_it_from_resuming(make, capsys):
    one = make(me(), b=peer(), c=peer(C))
    one.peers['c'].holder = {'user': 'cluster_admin', 'host': '198.51.100.43:4711'}
    one.tick()
    assert changes(one) == [] and 'held on c by cluster_admin@198.51.100.43:4711' in capsys.readouterr().err
    assert 'DO RELEASE_ALL_LOCKS()' in one.peers['b'].done


def test_a_lost_lock_counts_as_a_lost_peer(make):
    one = make(me(), b=peer(), c=dict(DEAD))
    lock = keeper.Keeper.lock

    def lock_and_lose(server):
        got = lock(server)
        server.connection = None if server is one.peers['b'] else server.connection
        return got
    one.lock = lock_and_lose
    one.tick()
    assert changes(one) == []


def test_looks_again_before_it_changes_anything(make):
    one = make(me(), b=peer(), c=peer(C))
    lock = keeper.Keeper.lock

    def lock_late(server):
        one.peers['b'].state.update(read_only=False, sources=[])
        return lock(server)
    one.lock = lock_late
    one.tick()
    assert changes(one) == []


def test_a_replaced_primary_fences_itself(make, capsys):
    one = make(primary(), b=dict(NEW), c=peer(C, B))
    one.tick()
    assert changes(one) == ['SET GLOBAL offline_mode = ON', 'KILL 7', 'SET GLOBAL rpl_semi_sync_source_wait_no_replica = OFF',
                            'SET GLOBAL super_read_only = ON', 'SET GLOBAL offline_mode = OFF']
    assert 'becomes read-only: nobody follows this server' in capsys.readouterr().err
    one.server.done.clear()
    one.tick()
    assert changes(one) == []


def test_clients_stay_out_until_it_is_read_only(make):
    one = make(primary(), b=dict(NEW), c=peer(C, B))
    one.server.refuse['SET GLOBAL super_read_only'] = keeper.LOCK_TIMEOUT
    one.tick()
    assert changes(one)[0] == 'SET GLOBAL offline_mode = ON' and 'SET GLOBAL offline_mode = OFF' not in changes(one)
    one.server.refuse.clear()
    one.tick()
    assert changes(one)[-1] == 'SET GLOBAL offline_mode = OFF'


def test_a_session_that_can_be_heard_is_not_released(make):
    one = make(primary(), b=dict(NEW), c=peer(C, B))
    one.server.refuse['KILL'] = 1095
    one.tick()
    assert changes(one) == ['SET GLOBAL offline_mode = ON']


def test_remembers_that_it_was_replaced(make):
    one = make(me(), b=dict(NEW), c=peer(C))
    one.tick()
    # The new primary does not answer, and one of the replicas was never moved: also after a boot of this host.
    again = make(me(), b=dict(DEAD), c=peer(C))
    again.tick()
    assert changes(again) == []
    # It was taken back and made the primary again.
    for state in (me(sources=[B]), me()):
        last = make(state, b=dict(DEAD), c=peer(C))
        last.tick()
    assert 'SET GLOBAL read_only = OFF' in changes(last)


def test_a_pair_remembers_who_followed(make):
    one = make(primary(), b=peer())
    one.tick()
    one.peers['b'].state.update(read_only=False, sources=[])
    one.tick()
    assert changes(one)[0] == 'SET GLOBAL offline_mode = ON'


def test_the_connection_of_a_dead_replica_is_ended_once(make, monkeypatch):
    one = make(primary(), b=dict(DEAD, errno=1045), c=dict(DEAD))
    for server in one.peers.values():
        server.address = '198.51.100.43'
    now = [100.0]
    monkeypatch.setattr(keeper.time, 'monotonic', lambda: now[0])
    for second in range(30):
        now[0] += 1
        one.tick()
        assert changes(one) == ['KILL 9'] * (second > keeper.DEAD_AFTER)


def test_speaks_once(make, capsys):
    one = make(me(), b=dict(DEAD), c=dict(DEAD))
    for number in range(3):
        one.tick()
    assert capsys.readouterr().err.count('\n') == 1


def test_no_server_and_no_account_are_said_in_words(make, capsys):
    one = make(me(), b=peer())
    one.server.refuse['SELECT'] = 1698
    assert one.tick() == keeper.TICK_WITHOUT_ACCOUNT
    assert 'role mysql_primary makes it' in capsys.readouterr().err
    one.server.refuse['SELECT'] = 2013
    assert one.tick() == keeper.TICK_AT_START
    assert 'MySQL: refused' in capsys.readouterr().err


def test_gtids_of_each_owner():
    assert keeper.owners('%s:1-3:tag:5,\n%s:1' % (A.upper(), B)) == {A: A.upper() + ':1-3:tag:5', B: B + ':1'}
    assert keeper.owners('') == {}
