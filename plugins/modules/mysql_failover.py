#!/usr/bin/python
# Copyright: (c) 2026, The foobar.webstack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: mysql_failover
short_description: Make a replica the primary when the primary is dead
version_added: 1.0.0
description:
  - Refuses while the primary answers, and while a replica still hears from it, because a network problem on the way from here is no death.
  - Makes the first replica the primary that has applied everything that any of them received, and lets the others follow it.
    One whose applier failed, is delayed or is slow holds nothing up that another one has.
  - Says whether a write that was acknowledged can have been lost. Anything but V(none) needs O(allow_data_loss).
  - A refusal leaves the replicas as they were.
author:
  - The foobar.webstack developers (@foobar)
extends_documentation_fragment:
  - foobar.webstack.mysql_cluster
options:
  new_primary:
    description:
      - Name of the server that becomes the primary. By default the first that has applied everything that was received.
      - Among equals one that is not delayed, that all others can follow by their version, and that has no transactions of its own is preferred;
        then the order of O(servers) counts.
    type: str
  primary:
    description:
      - Name of the dead primary. By default the server that the replicas follow.
      - Where it is named, its login is given one second at most, whatever O(connect_timeout) gives the others.
    type: str
  allow_data_loss:
    description:
      - Whether to go on when RV(acked_loss) is not V(none).
      - Together with O(new_primary) also whether to give up what only a replica has whose applier failed.
    type: bool
    default: false
  fenced:
    description:
      - Your word that the old primary is stopped and does not come back by itself.
      - With it no time is spent on waiting for a mysqld that something restarts, and a replica whose receiver was stopped by hand is no obstacle.
    type: bool
    default: false
  accept_unfenced:
    description:
      - Whether to go on when nothing keeps the old primary from acknowledging writes, should it be alive behind a broken network.
      - Not needed with lossless semi-synchronous replication while enough replicas answer. All of them leave the old primary, which then can complete no write.
    type: bool
    default: false
  apply_timeout:
    description: Seconds that a replica may take to apply what only it received.
    type: int
    default: 60
  confirm_probes:
    description: How often the primary is tried before it counts as dead.
    type: int
    default: 3
  confirm_interval:
    description: Seconds between two attempts, and the least that each waits for an answer.
    type: float
    default: 0.5
attributes:
  check_mode:
    support: full
    description: Confirms the death and judges the loss, and says in RV(actions) what would be done.
  diff_mode:
    support: none
    description: There is nothing to compare.
notes:
  - Any answer of the primary is a sign of life, "too many connections" and "access denied" too.
    A server that accepts a connection and never speaks is frozen, and dead.
  - A refused connection means that only mysqld is dead. It gets three seconds to come back, unless O(fenced) is true, because a supervisor restarts it.
  - RV(acked_loss=none) relies on all servers having the same semi-synchronous settings, and on the old primary not having been
    told to go on without a replica (C(rpl_semi_sync_source_wait_no_replica=OFF)) while no replica was connected.
  - RV(acked_loss=unknown) is also said when the most advanced replica was still catching up, because a primary that had gone on without a replica
    may have acknowledged more than that one received.
  - A replica that was still applying follows the new primary after it was opened and is not waited for,
    C(rpl_semi_sync_source_wait_no_replica) stays OFF when there is no other.
  - What the old primary did not send to anyone before it died was not acknowledged under lossless replication, but it may be in its data.
    M(foobar.webstack.mysql_replica) finds such transactions when it returns.
seealso:
  - module: foobar.webstack.mysql_switchover
  - module: foobar.webstack.mysql_replica
"""

EXAMPLES = r"""
- name: The primary is dead, let a replica take over
  foobar.webstack.mysql_failover:
    servers:
      - {name: db1, host: 192.0.2.11}
      - {name: db2, host: 192.0.2.12}
      - {name: db3, host: 192.0.2.13}
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
  description: Name of the dead primary.
  returned: always
  type: str
new_primary:
  description: Name of the new primary; null when there is none.
  returned: always
  type: str
acked_loss:
  description:
    - V(none), every write that a client was told of is on the new primary.
    - V(possible), the last ones may be missing.
    - V(unknown), it cannot be told.
  returned: when it was judged, else null
  type: str
acked_loss_reason:
  description: Why.
  returned: when it was judged, else null
  type: str
fenced:
  description: Whether the old primary can no longer acknowledge a write.
  returned: when it was judged, else null
  type: bool
fenced_reason:
  description: Why.
  returned: when it was judged, else null
  type: str
actions:
  description: What was done, or in check mode would be done, in order.
  returned: always
  type: list
  elements: str
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
unavailable_ms:
  description: Milliseconds from the start of the module until the new primary accepted writes; null when none does.
  returned: always
  type: float
received:
  description: Per server, the transactions that it had received from the old primary.
  returned: always
  type: dict
executed:
  description: Per server, the transactions that it had executed before the new primary was opened.
  returned: always
  type: dict
problems:
  description: Everything that speaks against it when it was refused; else what is left to do.
  returned: always
  type: list
  elements: str
"""

import signal
import time

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.foobar.webstack.plugins.module_utils import mysql, mysql_cluster, mysql_replication, mysql_server
from ansible_collections.foobar.webstack.plugins.module_utils.mysql_cluster import RESTART_GRACE, Lost, Refusal, Stop, ms

RECEIVER = (
    'SELECT s.SERVICE_STATE AS state, s.COUNT_RECEIVED_HEARTBEATS AS heartbeats, s.LAST_ERROR_NUMBER AS errno, c.HEARTBEAT_INTERVAL AS period,'
    ' CAST(s.LAST_QUEUED_TRANSACTION_END_QUEUE_TIMESTAMP AS CHAR) AS last_queued,'
    " IF(GREATEST(s.LAST_HEARTBEAT_TIMESTAMP, s.LAST_QUEUED_TRANSACTION_END_QUEUE_TIMESTAMP) < '1971-01-01', NULL, TIMESTAMPDIFF(MICROSECOND,"
    ' GREATEST(s.LAST_HEARTBEAT_TIMESTAMP, s.LAST_QUEUED_TRANSACTION_END_QUEUE_TIMESTAMP), NOW(6)) / 1000000) AS silence,'
    # Of the last thing heard: a heartbeat is sent only by a source that has nothing left to send. The commit is that on the source itself,
    # the original one may be of an earlier primary; the time that the transaction itself took to arrive is left out.
    ' IF(s.LAST_HEARTBEAT_TIMESTAMP > s.LAST_QUEUED_TRANSACTION_END_QUEUE_TIMESTAMP'
    " OR LEAST(s.LAST_QUEUED_TRANSACTION_END_QUEUE_TIMESTAMP, s.LAST_QUEUED_TRANSACTION_IMMEDIATE_COMMIT_TIMESTAMP) < '1971-01-01', NULL,"
    ' TIMESTAMPDIFF(MICROSECOND, s.LAST_QUEUED_TRANSACTION_IMMEDIATE_COMMIT_TIMESTAMP, s.LAST_QUEUED_TRANSACTION_START_QUEUE_TIMESTAMP) / 1000000) AS behind'
    ' FROM performance_schema.replication_connection_status s JOIN performance_schema.replication_connection_configuration c USING (CHANNEL_NAME)'
    ' WHERE s.CHANNEL_NAME = %s')


def joined(*sets):
    return ','.join(gtids for gtids in sets if gtids)


class Failover(mysql_cluster.Cluster):
    """One run: nothing is changed before the death is confirmed and the loss is judged; the receivers are put back when it then cannot go on."""

    def __init__(self, params, check_mode=False):
        super().__init__(params, check_mode)
        self.old = self.chosen = self.resumed = None
        self.replicas = []
        self.stopped = []
        self.moved = []
        self.behind = []
        self.stop_timeouts = {}
        self.result.update(acked_loss=None, acked_loss_reason=None, fenced=None, fenced_reason=None, unavailable_ms=None, received={}, executed={})

    def run(self):
        p = self.params
        problems = mysql_cluster.option_problems(p, {'new_primary': p['new_primary'], 'primary': p['primary']})
        if p['new_primary'] and p['new_primary'] == p['primary']:
            problems.append('new_primary and primary are both %s' % p['primary'])
        if problems:
            raise Refusal(problems)
        if p['primary']:
            # The replicas are asked as well whether it lives, and every second of this is one without writes.
            self.node(p['primary']).timeout = min(1, p['connect_timeout'])
        with self.phase('look'):
            self.connect()
            self.read()
            finished = self.judge()
        if finished:
            return finished
        with self.phase('confirm'):
            self.confirm()
        with self.phase('lock'):
            self.lock()
        self.judge_loss()
        if self.check_mode:
            self.plan()
            return '%s is dead, a replica can become the primary' % self.old
        try:
            with self.phase('stop receivers'):
                self.stop_receivers()
            with self.phase('apply'):
                self.choose()
                self.fetch()
            self.still_dead()
            with self.phase('open'):
                self.promote()
        except (Stop, mysql.ServerError) as error:
            self.put_back()
            raise Stop('no server was promoted: %s. The replicas follow %s as before' % (error, self.old)) from error
        self.finish()
        return '%s is the primary' % self.chosen

    # -- judgement

    def judge(self):
        """The dead one and its replicas; a text when there is nothing to do."""
        p = self.params
        if not self.reached():
            raise Refusal(['%s cannot be asked: %s' % (view['name'], view['error']) for view in self.views])
        name, problems = (p['primary'], []) if p['primary'] else mysql_cluster.derive_primary(self.views)
        if problems:
            raise Refusal(problems)
        self.old = self.node(name)
        self.result['old_primary'] = name
        if self.old.db and not self.old.error:
            raise Refusal(['%s answers%s; while it lives, use mysql_switchover (playbooks/switchover.yml -e new_primary=NAME)' % (
                name, '' if mysql_cluster.writable(self.view(name)) else ' and is read-only, its role keeper decides whether it is the primary')])
        alive = mysql_cluster.alive_text(name, self.old.error)
        if alive:
            raise Refusal([alive])
        follows = {node: mysql_cluster.followed(self.view(node.name), self.views) for node in self.reached()}
        self.direct = [node for node in follows if follows[node] == name]
        # An earlier failover may have moved one already.
        mine = [node for node in follows if follows[node] in [name] + [other.name for other in self.direct]]
        others = [node for node in self.reached() if mysql_cluster.writable(self.view(node.name))]
        if len(others) > 1:
            raise Refusal(['two servers accept writes: %s' % ' and '.join(str(node) for node in others)])
        if others and others[0] not in mine:
            if p['new_primary'] in (None, others[0].name):
                self.result['new_primary'] = others[0].name
                return '%s is the primary already, %s is not' % (others[0], name)
            raise Refusal(['%s accepts writes and is the primary: use mysql_switchover' % others[0]])
        # An earlier failover opened it and was broken off.
        self.resumed = others[0] if others else None
        self.replicas = mine
        problems = mysql_cluster.view_problems(self.views)
        if not mine:
            problems.append('no server that answers follows %s' % name)
        wanted = self.node(p['new_primary']) if p['new_primary'] else self.resumed
        if wanted and wanted not in mine:
            problems.append('%s %s' % (wanted, 'does not follow %s' % name if wanted in self.reached() else
                                       'cannot be asked: %s' % self.view(wanted.name)['error']))
        elif wanted:
            if self.resumed and wanted is not self.resumed:
                problems.append('%s accepts writes already' % self.resumed)
            problems += mysql_cluster.version_problems([self.view(node.name) for node in mine], self.view(wanted.name))
        if problems:
            raise Refusal(problems)
        return ''

    def receiver(self, node):
        row = node.db.row(RECEIVER, (mysql_cluster.channel(self.view(node.name))['name'],))
        return row and dict(row, period=float(row['period']), **{key: None if row[key] is None else float(row[key]) for key in ('silence', 'behind')})

    def confirm(self):
        """From here and from the replicas."""
        p = self.params
        if self.resumed:
            return
        before = {node.name: self.receiver(node) for node in self.direct}
        refused_until = None
        # The login was the first attempt.
        count = 1
        while True:
            start = time.monotonic()
            verdict = mysql_cluster.probe(self.old.host, self.old.port, max(p['confirm_interval'], 0.2))
            count += 1
            if verdict == 'answers':
                raise Refusal(['%s answers again' % self.old])
            if verdict == 'refused' and refused_until is None and not p['fenced']:
                refused_until = self.started + RESTART_GRACE
            verdicts = {node.name: self.verdict(node, before) for node in self.direct}
            pending = 'wait' in verdicts.values()
            if count >= p['confirm_probes'] and time.monotonic() >= (refused_until or 0) and not pending:
                break
            time.sleep(max(0.05, start + p['confirm_interval'] - time.monotonic()))
        for node in self.direct:
            if verdicts[node.name] == 'force':
                verdicts[node.name] = self.force(node)
        if not p['fenced'] and 'dead' not in verdicts.values():
            raise Refusal(['the receiver of %s was stopped by hand, so no replica can confirm that %s is dead: START REPLICA there, '
                           'or stop %s for good and say so (-e fenced=true)' % (', '.join(verdicts), self.old, self.old)])

    def verdict(self, node, before):
        now = self.receiver(node)
        verdict = mysql_cluster.receiver_verdict(before[node.name], now)
        if verdict == 'alive':
            raise Refusal(['%s hears from %s: the network between here and %s is broken, not the server' % (node, self.old, self.old)])
        return verdict

    def force(self, node):
        """A new connection tells at once what rare heartbeats tell late."""
        name = mysql_cluster.channel(self.view(node.name))['name']
        node.db.change('STOP REPLICA IO_THREAD FOR CHANNEL %s', (name,))
        node.db.change('START REPLICA IO_THREAD FOR CHANNEL %s', (name,))
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            if self.receiver(node)['state'] == 'ON':
                raise Refusal(['%s connects to %s: the network between here and %s is broken, not the server' % (node, self.old, self.old)])
            time.sleep(0.1)
        return 'dead'

    def judge_loss(self):
        p = self.params
        replicas = []
        self.rows = self.survey()
        # One that was moved already heard of the writes from another replica.
        heads = [node for node in self.direct if self.rows[node]['full']] or self.direct
        for node in self.replicas:
            view = self.view(node.name)
            seen = self.receiver(node)
            replicas.append({
                'name': node.name,
                'lossless': mysql_cluster.lossless(view['semi_sync']),
                'wait_for_count': view['semi_sync']['wait_for_count'] or 1,
                'semi_sync': bool(view['semi_sync']['replica_active']),
                'recovery': mysql_server.on(node.db.variables('relay_log_recovery')['relay_log_recovery']),
                'contact': seen['silence'] is not None,
                'head': node in heads,
                'behind': seen['behind'],
            })
        unreachable = [node.name for node in self.nodes if node not in self.replicas and node is not self.old]
        loss, why = mysql_cluster.loss_verdict(replicas, unreachable)
        fenced, how = mysql_cluster.fence_verdict(p['fenced'], replicas, unreachable)
        self.result.update(acked_loss=loss, acked_loss_reason=why, fenced=fenced, fenced_reason=how)
        problems = []
        if loss != 'none' and not p['allow_data_loss'] and not self.resumed:
            problems.append('acknowledged writes: loss %s, because %s; allow_data_loss goes on (-e allow_data_loss=true)' % (loss, why))
        if not fenced and not p['accept_unfenced'] and not self.resumed:
            problems.append('%s is not fenced: %s; stop it for good and say so (-e fenced=true), or make sure that nobody reaches it (-e accept_unfenced=true)'
                            % (self.old, how))
        if problems:
            raise Refusal(problems)

    def plan(self):
        name = self.params['new_primary'] or (self.resumed.name if self.resumed else min(self.rows.values(), key=mysql_cluster.rank)['name'])
        self.act('%s applies what it received and accepts writes' % name)
        for node in self.replicas:
            if node.name != name:
                self.act('%s follows %s' % (node, name))

    # -- changes

    def stop_receivers(self):
        """The dead source may have sent half of a transaction, and an applier waits a minute for the other half: STOP must not wait that long."""
        def stop(node):
            self.stop_timeouts[node.name] = node.db.value('SELECT @@GLOBAL.rpl_stop_replica_timeout')
            node.db.change('SET GLOBAL rpl_stop_replica_timeout = 2')
            node.db.change('STOP REPLICA IO_THREAD FOR CHANNEL %s', (mysql_cluster.channel(self.view(node.name))['name'],))

        self.stopped = list(self.replicas)
        found = self.parallel({node.name: lambda node=node: stop(node) for node in self.replicas})
        for error in found.values():
            # One that is connecting to a frozen host takes a little longer and stores nothing any more.
            if isinstance(error, mysql.ServerError) and error.errno not in mysql_cluster.STOP_TIMEOUTS:
                raise error

    def restore_timeouts(self):
        for name, seconds in self.stop_timeouts.items():
            try:
                self.node(name).db.change('SET GLOBAL rpl_stop_replica_timeout = %s', (seconds,))
            except mysql.ServerError as error:
                self.result['problems'].append(str(error))
        self.stop_timeouts = {}

    def put_back(self):
        # A second signal must not break it off.
        self.forward = True
        self.restore_timeouts()
        for node in self.stopped:
            try:
                if node is self.chosen:
                    node.persist(lambda db, node=node: self.wait_no_replica(node, False), 3)
                if node in self.moved:
                    self.follow(node, self.old)
                node.persist(lambda db, node=node: db.change('START REPLICA FOR CHANNEL %s', (mysql_cluster.channel(self.view(node.name))['name'],)), 3)
            except mysql.ServerError as error:
                self.result['problems'].append(str(error))

    @staticmethod
    def executed(node):
        return (node.db.value('SELECT @@GLOBAL.gtid_executed') or '').replace('\n', '')

    @staticmethod
    def subtract(node, left, right):
        return mysql_server.gtid_subtract(node.db, left, right)

    def common(self, gtids, node):
        """Without the ones that this server made itself, behind the primary's back."""
        return mysql_replication.gtid_without(gtids, self.view(node.name)['server']['server_uuid'])

    def survey(self):
        """Per replica what it has and what it needs; none of it but executed changes once the receivers are stopped."""
        rows = {}
        for node in self.replicas:
            executed = self.executed(node)
            link = next(iter(mysql_server.read_channels(node.db, executed)), None) or mysql_cluster.channel(self.view(node.name))
            rows[node] = {'name': node.name, 'executed': executed, 'received': link['received'], 'held': joined(executed, link['received']),
                          'delay': link['delay'], 'failed': self.failure(node, link), 'applied': False}
        for node, row in rows.items():
            others = [other for other in rows if other is not node]
            row['wanted'] = joined(*(self.common(rows[other]['held'], other) for other in others))
            if node is self.resumed:
                # A replica has what it writes now before it has executed that itself.
                row['wanted'] = self.common(row['wanted'], node)
            row['full'] = not self.subtract(node, row['wanted'], row['held'])
            alone = self.subtract(node, row['executed'], joined(*(rows[other]['held'] for other in others))) if others else ''
            row['errant'] = mysql_replication.gtid_only(alone, self.view(node.name)['server']['server_uuid'])
            row['strands'] = self.stranded(node)
        return rows

    def stranded(self, node):
        """{name: why} of the replicas that could not follow this one."""
        views = [self.view(other.name) for other in self.replicas]
        return {view['name']: problems[0] for view in views
                for problems in [mysql_cluster.version_problems([view], self.view(node.name))] if problems}

    @staticmethod
    def failure(node, link):
        error = link['sql_error']
        if error['errno'] and link['sql_state'] == 'OFF':
            return '%s cannot apply what it received: %s (%s)' % (node, error['message'], error['errno'])
        return ''

    def choose(self):
        """Applied first: what only a relay log holds is lost by the next change of its channel."""
        p = self.params
        self.rows = self.survey()
        self.result['received'] = {node.name: row['received'] for node, row in self.rows.items()}
        forced = p['new_primary'] or (self.resumed.name if self.resumed else None)
        start = time.monotonic()
        started = self.parallel({node.name: lambda node=node: node.db.change(
            'START REPLICA SQL_THREAD FOR CHANNEL %s', (mysql_cluster.channel(self.view(node.name))['name'],)) for node in self.replicas})
        while True:
            found = self.parallel({node.name: lambda node=node: self.progress(node) for node in self.replicas})
            for node, row in self.rows.items():
                error = started[node.name] or (found[node.name] if isinstance(found[node.name], mysql.ServerError) else None)
                row.update({'failed': str(error), 'applied': False} if error else found[node.name])
            self.compare()
            waited = time.monotonic() - start
            name = mysql_cluster.elect(list(self.rows.values()), waited < mysql_cluster.GRACE, forced)
            if name:
                break
            if waited > p['apply_timeout'] or all(row['applied'] or row['failed'] for row in self.rows.values()):
                name = self.give_up(forced)
                break
        self.chosen = self.node(name)
        self.behind = [node for node in self.replicas if not self.rows[node]['applied']]
        self.result['executed'] = {node.name: row['executed'] for node, row in self.rows.items()}
        self.result['problems'] += [row['failed'] for row in self.rows.values() if row['failed']]
        if self.rows[self.chosen]['errant'] and not self.resumed:
            self.result['problems'].append('%s had transactions that no other one has, and the others get them now: %s; look at what they hold '
                                           '(mysqlbinlog --include-gtids)' % (self.chosen, self.rows[self.chosen]['errant']))

    def progress(self, node):
        """A look at an applier that waits a moment for its end."""
        applied = node.db.value('SELECT WAIT_FOR_EXECUTED_GTID_SET(%s, 0.1)', (self.rows[node]['received'],)) == 0
        executed = self.executed(node)
        links = [] if applied else mysql_server.read_channels(node.db, executed)
        return {'applied': applied, 'executed': executed, 'failed': self.failure(node, links[0]) if links else ''}

    def compare(self):
        """What each one that has applied its own still lacks, and what of that nobody can send it."""
        for node, row in self.rows.items():
            row['missing'] = self.subtract(node, row['wanted'], row['executed']) if row['applied'] else ''
            row['nowhere'] = self.subtract(node, row['missing'], joined(*(
                other['executed'] for other in self.rows.values() if other is not row))) if row['missing'] else ''

    def give_up(self, forced):
        """No replica got all of it: the name of one that may be promoted all the same, or Stop with what to do."""
        p = self.params
        ready = [row for row in self.rows.values() if row['applied'] and row['name'] == (forced or row['name'])]
        if not ready:
            raise Stop('; '.join(self.advice(node, self.subtract(node, row['received'], row['executed']))
                                 for node, row in self.rows.items() if not row['applied'] and row['name'] == (forced or row['name'])))
        best = min(ready, key=mysql_cluster.rank)
        # Of what nobody has applied, who has what.
        holders = {node: self.part_of(node, best['nowhere'], self.node(best['name'])) for node, row in self.rows.items() if not row['applied']}
        holders = {node: gtids for node, gtids in holders.items() if gtids}
        if holders and not (p['allow_data_loss'] and p['new_primary'] and all(self.rows[node]['failed'] for node in holders)):
            raise Stop('; '.join(self.advice(node, gtids, best['name']) for node, gtids in holders.items()))
        if holders:
            self.result.update(acked_loss='possible', acked_loss_reason='given up was %s' % ' and '.join(
                '%s of %s' % (gtids, node) for node, gtids in holders.items()))
        return best['name']

    def part_of(self, node, gtids, where):
        """What of the transactions another one holds."""
        return self.subtract(where, gtids, self.subtract(where, gtids, self.rows[node]['held']))

    def advice(self, node, gtids, other=''):
        row, seconds = self.rows[node], self.params['apply_timeout']
        if row['failed']:
            return '%s; not applied is %s: repair that%s' % (row['failed'], gtids, other and (
                ', or give it up (-e new_primary=%s -e allow_data_loss=true)' % other))
        if row['delay']:
            return ('%s stays %s s behind on purpose and has not applied %s: take the delay away there (STOP REPLICA SQL_THREAD; '
                    'CHANGE REPLICATION SOURCE TO SOURCE_DELAY = 0; START REPLICA SQL_THREAD)' % (node, row['delay'], gtids))
        return '%s did not apply %s within %s s: give it longer (-e apply_timeout=%s)' % (node, gtids, seconds, 10 * max(1, seconds))

    def fetch(self):
        """A chosen one that another is ahead of takes the rest from there."""
        for other in self.replicas:
            lacking = other is not self.chosen and self.common(self.subtract(self.chosen, self.rows[other]['executed'], self.executed(self.chosen)), other)
            if not lacking:
                continue
            self.act('%s fetches %s from %s' % (self.chosen, lacking, other))
            self.follow(self.chosen, other)
            self.moved.append(self.chosen)
            try:
                if self.chosen.db.value('SELECT WAIT_FOR_EXECUTED_GTID_SET(%s, 10)', (lacking,)) != 0:
                    raise Stop('%s did not get %s from %s' % (self.chosen, lacking, other))
            except (Stop, mysql.ServerError):
                self.follow(self.chosen, self.old)
                raise

    def still_dead(self):
        if not self.resumed and mysql_cluster.probe(self.old.host, self.old.port, 0.3) == 'answers':
            raise Stop('%s answers again' % self.old)

    def promote(self):
        name = mysql_cluster.channel(self.view(self.chosen.name))['name']
        chosen = self.chosen
        try:
            chosen.db.change('STOP REPLICA FOR CHANNEL %s', (name,))
        except mysql.ServerError as error:
            # Half a transaction is left and will be rolled back; all that was complete is applied.
            if error.errno not in mysql_cluster.STOP_TIMEOUTS:
                raise
        self.followers = []
        for node in self.replicas:
            lacking = node is not chosen and self.subtract(chosen, self.rows[node]['held'], self.executed(chosen))
            if lacking:
                self.result['problems'].append('%s was left alone, it has transactions that %s lacks: %s; save them and seed it again'
                                               % (node, chosen, lacking))
            elif node.name in self.rows[chosen]['strands']:
                self.result['problems'].append('%s was left alone: %s' % (node, self.rows[chosen]['strands'][node.name]))
            elif node is not chosen:
                self.followers.append(node)
        # One that is still applying would have to fetch it all again before it could acknowledge the first write.
        prompt = [node for node in self.followers if node not in self.behind]
        lossless = mysql_cluster.lossless(self.semi_sync(chosen))
        if self.semi_sync(chosen)['source_enabled'] is not None and not self.resumed:
            self.wait_no_replica(chosen, False)
            if lossless:
                self.semi_sync_source(chosen, True)
        self.moved += prompt
        # Before it opens, so that its first write is acknowledged by a replica.
        found = self.parallel({node.name: lambda node=node: self.follow(node, chosen) for node in prompt})
        self.late = [node for node in self.followers if node in self.behind or found[node.name]]
        self.strict = bool(lossless and prompt and self.await_clients(chosen, 1.5))
        self.forward = True
        if not self.resumed:
            try:
                self.open(chosen)
            except mysql.ServerError as error:
                self.restore_timeouts()
                raise Lost('%s was told to accept writes and does not answer any more (%s). The other replicas stay away from %s, because two servers '
                           'could accept writes else. When %s answers, run again; when it does not, stop it for good and run again with another new_primary'
                           % (chosen, error, self.old, chosen)) from error
        # From here on nothing is put back.
        self.stopped = []
        self.result.update(new_primary=chosen.name, unavailable_ms=ms(self.started))
        self.act('%s applied what it had received and accepts writes' % chosen)
        for node in self.followers:
            if node not in self.late:
                self.act('%s follows %s' % (node, chosen))

    @staticmethod
    def again(action, seconds=75):
        deadline = time.monotonic() + seconds
        while True:
            try:
                return action()
            except mysql.ServerError as error:
                if error.errno not in mysql_cluster.STOP_TIMEOUTS or time.monotonic() > deadline:
                    raise

    def move(self, nodes):
        for node in nodes:
            try:
                self.again(lambda node=node: self.follow(node, self.chosen))
                self.act('%s follows %s' % (node, self.chosen))
            except mysql.ServerError as error:
                self.followers.remove(node)
                self.result['problems'].append('%s does not follow %s: %s' % (node, self.chosen, error))

    def finish(self):
        chosen = self.chosen
        with self.phase('verify'):
            self.move([node for node in self.late if node not in self.behind])
            try:
                name = mysql_cluster.channel(self.view(chosen.name))['name']
                self.again(lambda: chosen.db.change('STOP REPLICA FOR CHANNEL %s', (name,)))
                chosen.db.change('RESET REPLICA ALL FOR CHANNEL %s', (name,))
                if mysql_cluster.lossless(self.semi_sync(chosen)) and not self.strict:
                    catching_up = [node.name for node in self.followers if node in self.behind]
                    self.strict = len(catching_up) < len(self.followers) and self.await_clients(chosen, 5)
                    if not self.strict:
                        why = '%s has to catch up first' % ' and '.join(catching_up) if catching_up else 'none is connected as a semi-synchronous one yet'
                        self.result['problems'].append('%s acknowledges writes without a replica: %s' % (chosen, why))
            except mysql.ServerError as error:
                self.result['problems'].append(str(error))
            self.move([node for node in self.late if node in self.behind])
            self.result['problems'] += self.verify(chosen, [node.name for node in self.followers])
        self.restore_timeouts()
        for view in self.views:
            if view['error']:
                self.result['problems'].append('%s cannot be asked: when it is back, make it a replica of %s' % (view['name'], chosen))


def main():
    spec = mysql_cluster.argument_spec()
    spec.update(
        new_primary=dict(type='str'),
        primary=dict(type='str'),
        allow_data_loss=dict(type='bool', default=False),
        fenced=dict(type='bool', default=False),
        accept_unfenced=dict(type='bool', default=False),
        apply_timeout=dict(type='int', default=60),
        confirm_probes=dict(type='int', default=3),
        confirm_interval=dict(type='float', default=0.5),
    )
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    if mysql.PYMYSQL_ERROR:
        module.fail_json(msg=missing_required_lib('PyMySQL'), exception=mysql.PYMYSQL_ERROR)
    run = Failover(module.params, module.check_mode)

    def interrupted(number, frame):
        if not getattr(run, 'forward', False):
            raise Stop('stopped by signal %s' % number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, interrupted)
    try:
        message = run.run()
    except Refusal as error:
        run.result['problems'] = error.problems
        module.fail_json(msg='no failover, nothing was changed: %s' % error, **run.result)
    except (Lost, Stop, mysql.ServerError) as error:
        module.fail_json(msg=str(error), **run.result)
    finally:
        run.close()
    module.exit_json(msg=message, **run.result)


if __name__ == '__main__':
    main()
