#!/usr/bin/python
# Copyright: (c) 2026, The foobar.webstack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: mysql_switchover
short_description: Make a replica the primary, planned and without losing a write
version_added: 1.0.0
description:
  - Makes another server of a MySQL cluster the primary. All replicas follow it afterwards, the old primary too.
  - Looks at all servers first and lists everything that speaks against it in one message, before anything is changed.
  - The new primary catches up while writes go on; then writes pause, O(max_write_pause) at most. What cannot be finished in that time is undone and
    the old primary goes on. Once the new primary accepts writes, nothing is undone any more, and what is left is done or named in RV(problems).
  - A run that was killed leaves nothing worse than a cluster that refuses writes. Running again finishes it, or gives the role back to the old primary
    when that one is O(new_primary).
author:
  - The foobar.webstack developers (@foobar)
extends_documentation_fragment:
  - foobar.webstack.mysql_cluster
options:
  new_primary:
    description: Name, in O(servers), of the server that becomes the primary.
    type: str
    required: true
  expected_primary:
    description: Name of the server that has to be the primary now; anything else is refused.
    type: str
  max_write_pause:
    description: Seconds that writes may be refused or kept waiting; half a second more before it is undone, where the new primary freezes meanwhile.
    type: float
    default: 5.0
  catchup_timeout:
    description: Seconds that the new primary may take to catch up before the pause, while writes go on.
    type: int
    default: 60
  long_transactions:
    description:
      - What happens to statements that hold the pause up because they are in the middle of writing.
      - V(wait), wait for them, and undo everything if they are not done in time.
      - V(kill), the same, and kill them after half of O(max_write_pause).
      - V(abort), refuse before the pause if one has been writing for more than a second.
      - Statements that only read are never waited for. A transaction that is open and does nothing is not waited for either; its commit fails.
    type: str
    choices: [wait, kill, abort]
    default: wait
  skip_unreachable:
    description: Whether to go on when a replica cannot be asked. It follows the old primary when it comes back, run M(foobar.webstack.mysql_replica) on it.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description: Checks all servers and says in RV(actions) what would be done.
  diff_mode:
    support: none
    description: There is nothing to compare.
notes:
  - Client sessions on the old primary that came over TCP are closed after the new one accepts writes, so that connection pools find it at their next attempt.
    Closing them earlier would only make the pools try in vain.
seealso:
  - module: foobar.webstack.mysql_failover
  - module: foobar.webstack.mysql_replica
"""

EXAMPLES = r"""
- name: Make db2 the primary
  foobar.webstack.mysql_switchover:
    servers:
      - {name: db1, host: 192.0.2.11}
      - {name: db2, host: 192.0.2.12}
      - {name: db3, host: 192.0.2.13}
    new_primary: db2
    expected_primary: db1
    login_password: "{{ cluster_admin_password }}"
    ca_cert: /etc/webstack/pki/ca.crt
    client_cert: /etc/webstack/pki/host.crt
    client_key: /etc/webstack/pki/host.key
    source_user: replication
    source_password: "{{ replication_password }}"
    source_ssl_ca: /etc/webstack/pki/ca.crt
"""

RETURN = r"""
old_primary:
  description: Name of the server that was the primary.
  returned: always
  type: str
new_primary:
  description: Name of the primary afterwards; the old one when the switchover was undone.
  returned: always
  type: str
actions:
  description: What was done, or in check mode would be done, in order.
  returned: always
  type: list
  elements: str
write_pause_ms:
  description: Milliseconds from the first moment in which a write could be refused or kept waiting until a server accepted writes again.
  returned: always
  type: float
phases:
  description: What the time was spent on.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: The phase.
      type: str
    ms:
      description: Milliseconds.
      type: float
killed_sessions:
  description: Sessions that were closed on the old primary, those that held up the pause included.
  returned: always
  type: int
rolled_back:
  description: Whether what had been done was undone.
  returned: always
  type: bool
degraded_window_ms:
  description:
    - With lossless semi-synchronous replication, the milliseconds in which the new primary acknowledged writes without a replica.
      With three servers or more it is 0.0, because one of them follows the new primary before it opens.
    - V(null) while no replica acknowledges yet, and where replication is not lossless.
  returned: always
  type: float
problems:
  description: Everything that speaks against it when it was refused; else what is left to do.
  returned: always
  type: list
  elements: str
"""

import math
import signal
import threading
import time

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.foobar.webstack.plugins.module_utils import mysql, mysql_cluster, mysql_server
from ansible_collections.foobar.webstack.plugins.module_utils.mysql_cluster import Lost, Refusal, Stop, ms

# The part of the pause that may go by before writes have come to rest.
FENCE_SHARE = 0.9
# Seconds to wait for a moment in which the new primary is close behind.
SETTLE = 3.0
# Seconds beyond what is left of the pause in which the new primary's answer may still arrive; after that it counts as frozen.
ON_ITS_WAY = 0.5
HOLDERS = (
    'SELECT DISTINCT t.PROCESSLIST_ID AS id, t.PROCESSLIST_USER AS user, t.PROCESSLIST_HOST AS host, t.PROCESSLIST_TIME AS seconds'
    ' FROM performance_schema.metadata_locks m JOIN performance_schema.threads t ON t.THREAD_ID = m.OWNER_THREAD_ID'
    " WHERE m.OBJECT_TYPE IN ('GLOBAL', 'COMMIT') AND m.LOCK_STATUS = 'GRANTED' AND m.LOCK_TYPE = 'INTENTION_EXCLUSIVE'"
    ' AND t.PROCESSLIST_ID IS NOT NULL AND t.PROCESSLIST_ID <> %s AND t.PROCESSLIST_TIME >= %s')
WRITERS = (
    'SELECT p.PROCESSLIST_ID AS id, p.PROCESSLIST_USER AS user, p.PROCESSLIST_HOST AS host, TIMESTAMPDIFF(SECOND, t.trx_started, NOW()) AS seconds'
    ' FROM information_schema.INNODB_TRX t JOIN performance_schema.threads p ON p.PROCESSLIST_ID = t.trx_mysql_thread_id'
    " WHERE t.trx_rows_modified > 0 AND t.trx_started < NOW() - INTERVAL 1 SECOND AND p.TYPE = 'FOREGROUND'")
# Sessions over a socket are the host's own (agents, administrators).
CLIENTS = (
    "SELECT PROCESSLIST_ID AS id FROM performance_schema.threads WHERE TYPE = 'FOREGROUND' AND PROCESSLIST_ID IS NOT NULL"
    " AND CONNECTION_TYPE IN ('SSL/TLS', 'TCP/IP') AND PROCESSLIST_COMMAND NOT LIKE 'Binlog Dump%%' AND PROCESSLIST_USER NOT IN (%s, %s)")
NO_SUCH_SESSION = 1094


class Switchover(mysql_cluster.Cluster):
    """One run. Before the new primary is open each change puts its own undoing on a list; after that it only goes forward."""

    def __init__(self, params, check_mode=False):
        super().__init__(params, check_mode)
        self.undoing = []
        self.early = []
        self.old = self.target = self.unfinished = None
        self.interrupted = False
        self.forward_only = False
        self.pause_started = None
        self.result.update(write_pause_ms=0.0, killed_sessions=0, rolled_back=False, degraded_window_ms=None)

    def run(self):
        self.check_options()
        with self.phase('preflight'):
            self.connect(spare=True)
            self.lock()
            self.read()
            self.judge()
        if self.old is self.target and self.complete():
            return '%s is the primary already' % self.target
        if self.check_mode:
            self.plan()
            return '%s can become the primary' % self.target
        if self.old is not self.target:
            try:
                self.prepare()
                self.settle()
                self.pause()
            except (Stop, mysql.ServerError) as error:
                self.undo(error)
        elif self.interrupted:
            self.open(self.target)
            self.act('%s accepts writes again, after a switchover that was broken off' % self.target)
        self.forward_only = True
        self.forward()
        return '%s is the primary' % self.target

    def check_options(self):
        p = self.params
        problems = mysql_cluster.option_problems(p, {'new_primary': p['new_primary'], 'expected_primary': p['expected_primary']})
        if p['max_write_pause'] <= 0:
            problems.append('max_write_pause has to be more than 0')
        if problems:
            raise Refusal(problems)
        self.target = self.node(p['new_primary'])

    def judge(self):
        p = self.params
        primary, self.interrupted, problems = mysql_cluster.switchover_problems(
            self.views, p['new_primary'], p['expected_primary'], p['skip_unreachable'])
        self.result['old_primary'] = self.result['new_primary'] = primary
        self.old = self.node(primary) if primary else None
        if self.old and self.target in self.reached():
            link = mysql_cluster.channel(self.view(primary))
            # The channel of a new primary goes last, so while it is there the server behind it may not follow yet.
            behind = mysql_cluster.followed(self.view(primary), self.views) if link and self.old is self.target else ''
            self.unfinished = next((node for node in self.reached() if node.name == behind), None)
            for node in self.reached():
                if node is not self.old:
                    problems += self.judge_gtids(node)
            if p['long_transactions'] == 'abort' and self.old is not self.target:
                problems += self.long_transactions()
        if problems:
            raise Refusal(problems)

    def judge_gtids(self, node):
        link = mysql_cluster.channel(self.view(node.name))
        if not link and node is not self.unfinished:
            return []
        gaps = mysql_server.gtid_gaps(node.db, self.old.db, self.view(self.old.name)['server']['server_uuid'], link['received'] if link else '')
        lacks = ''
        if node is not self.target and self.old is not self.target:
            purged = self.view(self.target.name)['server']['gtid']['purged']
            lacks = (node.db.value('SELECT GTID_SUBTRACT(GTID_SUBTRACT(%s, %s), @@GLOBAL.gtid_executed)',
                                   (purged, link['received'] if link else '')) or '').replace('\n', '')
        return mysql_cluster.gtid_problems(node.name, self.old.name, gaps, lacks)

    def long_transactions(self):
        rows = {row['id']: row for row in self.old.db.rows(HOLDERS, (self.old.db.session(), 2)) + self.old.db.rows(WRITERS)}
        return ['%s has been writing for more than a second: %s' % (self.old, mysql_cluster.sessions_text([row])) for row in rows.values()]

    def strays(self):
        """Servers that do not follow the target yet. One without a channel is somebody else's business, unless it was or is the primary."""
        found = []
        for node in self.reached():
            link = mysql_cluster.channel(self.view(node.name))
            if node is self.target or not (link or node in (self.old, self.unfinished)):
                continue
            if mysql_cluster.followed(self.view(node.name), self.views) != self.target.name or (self.interrupted and link['io_state'] == 'OFF'):
                found.append(node)
        return found

    def complete(self):
        """Whether the primary has nothing left of a run that was broken off."""
        return not self.interrupted and not mysql_cluster.channel(self.view(self.target.name)) and not self.strays()

    def plan(self):
        if self.old is not self.target:
            self.act('%s stops accepting writes, %s applies everything and accepts them' % (self.old, self.target))
        elif self.interrupted:
            self.act('%s accepts writes again' % self.target)
        for node in self.strays():
            self.act('%s follows %s' % (node, self.target))

    # -- before the new primary is open

    def prepare(self):
        with self.phase('catch up'):
            if self.interrupted:
                link = mysql_cluster.channel(self.view(self.target.name))
                self.target.db.change('START REPLICA FOR CHANNEL %s', (link['name'],))
            self.catch_up()
        # One that logs in as somebody else could not be put back: that account's password is not known here.
        early = self.early = [name for name in mysql_cluster.early_follower(self.views, self.old.name, self.target.name)
                              if mysql_cluster.channel(self.view(name))['source_user'] == self.params['source_user']]
        # A replica that alone acknowledges is left alone: what it has already is acknowledged by the next heartbeat only, and commits hang until then.
        node = self.node(early[0]) if early else None if self.semi_sync(self.target)['replica_active'] else self.target
        if node:
            with self.phase('try the account'):
                # While one can still go back: a wrong password would leave all servers but one without a source.
                self.undoing.append((node, 'replicates as before', lambda db: self.restart(node)))
                self.try_account(node)
                if not early:
                    # The next start uses what is stored.
                    self.undoing.pop()
        if not early:
            return
        with self.phase('move an acknowledging replica'):
            # An applier that waits for acknowledgements would hang; its clients are counted all the same.
            self.undoing.append((self.target, 'semi-synchronous source as before', lambda db: self.semi_sync_source(self.target, True)))
            self.semi_sync_source(self.target, False)
            for name in early:
                node = self.node(name)
                if name != early[0]:
                    self.undoing.append((node, 'replicates as before', lambda db, node=node: self.restart(node)))
                self.drain(node)
                self.undoing.append((node, 'follows %s again' % self.old, lambda db, node=node: self.restore(node)))
                self.follow(node, self.target)
                self.act('%s follows %s' % (name, self.target))
            wrong = self.verify(self.target, early, 5)
            if wrong:
                raise Stop('; '.join(wrong))

    def restart(self, node):
        name = mysql_cluster.channel(self.view(node.name))['name']
        # Both: an applier that was started with UNTIL would stop there, later. It first, as in drain().
        node.db.change('STOP REPLICA SQL_THREAD FOR CHANNEL %s', (name,))
        node.db.change('STOP REPLICA IO_THREAD FOR CHANNEL %s', (name,))
        node.db.change('START REPLICA FOR CHANNEL %s', (name,))

    def drain(self, node):
        """Its relay log may hold the only copy of an acknowledged write until it is applied."""
        link = mysql_cluster.channel(self.view(node.name))
        # The applier first: one that has half of a transaction when the receiver stops waits a minute for the other half.
        node.db.change('STOP REPLICA SQL_THREAD FOR CHANNEL %s', (link['name'],))
        node.db.change('STOP REPLICA IO_THREAD FOR CHANNEL %s', (link['name'],))
        link = mysql_server.read_channels(node.db)[0]
        if not link['queue']:
            return
        node.db.change('START REPLICA SQL_THREAD UNTIL SQL_AFTER_GTIDS = %s FOR CHANNEL %s', (link['received'], link['name']))
        if node.db.value('SELECT WAIT_FOR_EXECUTED_GTID_SET(%s, 10)', (link['received'],)) != 0:
            raise Stop('%s did not apply what it had received' % node)

    def catch_up(self):
        """While writes go on, until what is left is little."""
        deadline = time.monotonic() + self.params['catchup_timeout']
        while True:
            goal = self.old.db.value('SELECT @@GLOBAL.gtid_executed')
            start = time.monotonic()
            while self.target.db.value('SELECT WAIT_FOR_EXECUTED_GTID_SET(%s, 1)', (goal,)) != 0:
                link = mysql_server.read_channels(self.target.db)[0]
                failure = mysql_cluster.mysql_replication.channel_failure(link)
                if failure:
                    raise Stop('%s does not replicate: %s' % (self.target, failure))
                if time.monotonic() > deadline:
                    raise Stop('%s did not catch up within %s s, it is %s s behind' % (self.target, self.params['catchup_timeout'], link['lag_seconds']))
            if time.monotonic() - start < min(0.2, self.params['max_write_pause'] / 4):
                return
            if time.monotonic() > deadline:
                raise Stop('%s does not keep up with the writes of %s' % (self.target, self.old))

    def settle(self):
        """A replica that is a moment behind makes the pause longer by that moment: wait a little for a good one, twice in a row."""
        good, deadline = 0, time.monotonic() + SETTLE
        while good < 2 and time.monotonic() < deadline:
            goal = self.old.db.value('SELECT @@GLOBAL.gtid_executed')
            start = time.monotonic()
            if self.target.db.value('SELECT WAIT_FOR_EXECUTED_GTID_SET(%s, 1)', (goal,)) != 0:
                # It fell behind while the other replica moved.
                self.catch_up()
            good = good + 1 if time.monotonic() - start < 0.01 else 0
            time.sleep(0.01)

    def left(self):
        left = self.pause_started + self.params['max_write_pause'] - time.monotonic()
        if left <= 0.005:
            raise Stop('the pause took longer than max_write_pause, %s s' % self.params['max_write_pause'])
        return left

    def hurry(self):
        """The new primary, whose next answer may take no longer than what is left: the undoing must not wait for one that froze."""
        self.target.db.patience(self.left() + ON_ITS_WAY)
        return self.target.db

    def pause(self):
        target, old = self.target, self.old
        link = mysql_cluster.channel(self.view(target.name))
        lossless = mysql_cluster.lossless(self.semi_sync(target))
        self.pause_started = time.monotonic()
        self.undoing.append((old, 'accepts writes again', lambda db: db.change('SET GLOBAL read_only = OFF')))
        with self.phase('stop writes'):
            self.fence()
        with self.phase('apply the last writes'):
            goal = old.db.value('SELECT @@GLOBAL.gtid_executed')
            if self.hurry().value('SELECT WAIT_FOR_EXECUTED_GTID_SET(%s, %s)', (goal, self.left())) != 0:
                raise Stop('%s did not apply the last writes in time' % target)
        with self.phase('open'):
            self.undoing.append((target, 'replicates again', lambda db: db.change('START REPLICA FOR CHANNEL %s', (link['name'],))))
            self.hurry().change('STOP REPLICA FOR CHANNEL %s', (link['name'],))
            self.strict = False
            if lossless:
                self.hurry()
                self.strict = self.acknowledged(target)
                self.hurry()
                self.semi_sync_source(target, True)
                if self.strict:
                    self.undoing.append((target, 'as a replica', lambda db: self.wait_no_replica(target, False)))
                self.hurry()
                self.wait_no_replica(target, self.strict)
            self.left()
            # It may carry this out though its answer is late, and then nothing is undone: haste would win nothing.
            target.db.patience(self.params['max_write_pause'] + 1)
            # A signal must not come between the opening and the knowledge of it.
            self.forward_only = True
            try:
                self.open(target)
            except Stop:
                self.forward_only = False
                raise
            except mysql.ServerError as error:
                raise Lost('%s was told to accept writes and does not answer any more (%s). %s stays read-only, because two servers could accept writes else. '
                           'When %s answers, run again; when it does not, stop it for good and make another server the primary (mysql_failover)'
                           % (target, error, old, target)) from error
        self.opened = time.monotonic()
        self.result.update(write_pause_ms=ms(self.pause_started), new_primary=target.name)
        target.db.patience(mysql_cluster.PATIENCE)
        self.act('%s stopped accepting writes, %s applied everything and accepts them' % (old, target))

    def fence(self):
        """Waits for statements that write, ignores readers, and ends in time."""
        p, old = self.params, self.old
        budget = p['max_write_pause'] * FENCE_SHARE
        # The server gives up by itself if this process is killed.
        old.db.change('SET SESSION lock_wait_timeout = %s', (max(1, math.ceil(budget)),))
        old.db.patience(p['max_write_pause'] + 2)
        done = threading.Event()
        held = []

        def watch():
            try:
                if p['long_transactions'] == 'kill' and not done.wait(budget / 2):
                    self.kill(old.aux, [row['id'] for row in old.aux.rows(HOLDERS, (old.db.session(), 0))])
                if not done.wait(max(0, self.pause_started + budget - time.monotonic())):
                    held.extend(old.aux.rows(HOLDERS, (old.db.session(), 1)))
                    old.aux.change('KILL QUERY %s', (old.db.session(),))
            except mysql.ServerError:
                pass  # lock_wait_timeout ends it

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            # super_read_only shows as ON while it still waits, and role checks would cut the sessions that it waits for; read_only does not.
            old.db.change('SET GLOBAL read_only = ON')
            old.db.change('SET GLOBAL super_read_only = ON')
        except mysql.ServerError as error:
            if error.errno not in (1205, 1317):
                raise
            watcher.join(1)
            raise Stop('writes on %s did not come to rest within %s s%s' % (
                old, budget, ': ' + mysql_cluster.sessions_text(held) if held else '')) from error
        finally:
            done.set()
            watcher.join()
            old.db.patience(mysql_cluster.PATIENCE)

    def kill(self, db, sessions):
        for session in sessions:
            try:
                db.change('KILL %s', (session,))
                self.result['killed_sessions'] += 1
            except mysql.ServerError as error:
                if error.errno in mysql.UNREACHABLE:
                    raise
                if error.errno != NO_SUCH_SESSION:
                    self.result['problems'].append('session %s on %s could not be closed: %s' % (session, self.old, error))

    def undo(self, reason):
        """In parallel by server, so that the old primary waits for nobody; what cannot be undone is said."""
        self.forward_only = True
        self.target.db.patience(mysql_cluster.PATIENCE)
        by_node = {}
        for node, text, action in reversed(self.undoing):
            by_node.setdefault(node.name, []).append((node, text, action))

        def revert(steps):
            for node, text, action in steps:
                try:
                    node.persist(action)
                except mysql.ServerError as error:
                    raise mysql.ServerError('%s: not done, "%s": %s' % (node, text, error), error.errno)
                if text == 'accepts writes again':
                    self.result['write_pause_ms'] = ms(self.pause_started)

        with self.phase('undo'):
            found = self.parallel({name: lambda steps=steps: revert(steps) for name, steps in by_node.items()})
        failed = [str(error) for error in found.values() if error]
        self.result.update(rolled_back=bool(by_node) and not failed, changed=bool(failed), actions=[], problems=failed)
        if failed:
            raise Lost('the switchover to %s failed: %s. It could not be undone: %s. Run again when that is repaired'
                       % (self.target, reason, '; '.join(failed)))
        raise Lost('%s was not made the primary: %s. %s' % (
            self.target, reason, 'Everything is as before, %s accepts writes' % self.old if self.undoing else 'Nothing was changed'))

    # -- after the new primary is open

    def forward(self):
        self.opened = getattr(self, 'opened', time.monotonic())
        self.strict = getattr(self, 'strict', False)
        target = self.target
        strays = [node for node in self.strays() if node.name not in self.early]
        with self.phase('repoint'):
            found = self.parallel({node.name: lambda node=node: self.repoint(node) for node in strays})
            for node in strays:
                if not found[node.name]:
                    self.act('%s follows %s' % (node, target))
            problems = ['%s' % error for error in found.values() if error]
            link = mysql_cluster.channel(self.view(target.name))
            if link and not problems:
                problems += self.attempt(lambda: self.forget(target, link['name']))
        with self.phase('verify'):
            if mysql_cluster.lossless(self.semi_sync(target)):
                self.restore_semi_sync()
            problems += self.verify(target, [node.name for node in self.reached() if node is not target])
        self.result['problems'] += problems

    @staticmethod
    def attempt(action):
        try:
            action()
            return []
        except mysql.ServerError as error:
            return [str(error)]

    def repoint(self, node):
        if node in (self.old, self.unfinished):
            self.kill(node.aux, [row['id'] for row in node.aux.rows(CLIENTS, (self.params['login_user'], self.params['source_user']))])
        self.follow(node, self.target)

    @staticmethod
    def forget(node, name):
        node.db.change('STOP REPLICA FOR CHANNEL %s', (name,))
        node.db.change('RESET REPLICA ALL FOR CHANNEL %s', (name,))

    def restore_semi_sync(self):
        if self.strict:
            self.result['degraded_window_ms'] = 0.0
            return
        try:
            self.semi_sync_source(self.target, True)
            if self.await_clients(self.target, 10):
                self.result['degraded_window_ms'] = ms(self.opened)
            else:
                self.result['problems'].append('%s acknowledges writes without a replica: none is connected as a semi-synchronous one yet' % self.target)
        except mysql.ServerError as error:
            self.result['problems'].append(str(error))


def main():
    spec = mysql_cluster.argument_spec()
    spec.update(
        new_primary=dict(type='str', required=True),
        expected_primary=dict(type='str'),
        max_write_pause=dict(type='float', default=5.0),
        catchup_timeout=dict(type='int', default=60),
        long_transactions=dict(type='str', choices=['wait', 'kill', 'abort'], default='wait'),
        skip_unreachable=dict(type='bool', default=False),
    )
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    if mysql.PYMYSQL_ERROR:
        module.fail_json(msg=missing_required_lib('PyMySQL'), exception=mysql.PYMYSQL_ERROR)
    run = Switchover(module.params, module.check_mode)

    def interrupted(number, frame):
        # Being stopped half way is a failure like any other: undone before the point of no return, finished after it.
        if not run.forward_only:
            raise Stop('stopped by signal %s' % number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, interrupted)
    try:
        message = run.run()
    except Refusal as error:
        run.result['problems'] = error.problems
        module.fail_json(msg='cannot switch over to %s, nothing was changed: %s' % (module.params['new_primary'], error), **run.result)
    except (Lost, Stop, mysql.ServerError) as error:
        module.fail_json(msg=str(error), **run.result)
    finally:
        run.close()
    module.exit_json(msg=message, **run.result)


if __name__ == '__main__':
    main()
