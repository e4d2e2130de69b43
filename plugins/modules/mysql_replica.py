#!/usr/bin/python
# Copyright: (c) 2026, The foobar.webstack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: mysql_replica
short_description: Make a MySQL server a replica, and keep it one
version_added: 1.0.0
description:
  - Declares a replication channel (GTID, auto-position) of the server that the module logs in to. What differs is changed,
    the channel is stopped only for that, and the complete TLS settings are given each time.
  - Looks at both servers first and lists everything that speaks against the pair in one message, before anything is changed.
  - Seeds the server by C(CLONE) where the source's binary logs cannot bring it up to date. Never overwrites data that only this server has, unless told to.
author:
  - The foobar.webstack developers (@foobar)
extends_documentation_fragment:
  - foobar.webstack.mysql
options:
  state:
    description:
      - V(started), the channel is as declared and runs.
      - V(stopped), the channel's threads do not run; its settings stay as they are.
      - V(absent), the channel does not exist; C(super_read_only) stays as it is.
    type: str
    choices: [started, stopped, absent]
    default: started
  channel:
    description: Name of the channel. The default channel has the empty name.
    type: str
    default: ''
  source_host:
    description: Name or IPv4 address of the source, as this host reaches it and as the source's certificate says. Required for O(state=started).
    type: str
  source_port:
    description: TCP port of the source.
    type: int
    default: 3306
  source_user:
    description:
      - Account on the source, with the privileges REPLICATION SLAVE, REPLICATION CLIENT, and BACKUP_ADMIN for seeding. Required for O(state=started).
      - With SHOW DATABASES a schema that only this server has stops a clone too, even if no transaction tells of it;
        with PROCESS the disk space is compared before a clone.
      - The channel, the clone and the module's own checks of the source log in with it.
    type: str
  source_password:
    description:
      - Password of O(source_user), 32 characters at most, which is MySQL's limit for a channel. Required for O(state=started).
      - It is compared with the one that the server has stored, where O(login_user) may read C(mysql.slave_master_info).
    type: str
  source_ssl:
    description: Whether to talk to the source over TLS only.
    type: bool
    default: true
  source_ssl_ca:
    description: CA certificates to verify the source with. C(mysqld) and the module must both be able to read the file.
    type: path
  source_ssl_cert:
    description: Client certificate.
    type: path
  source_ssl_key:
    description: Key of O(source_ssl_cert).
    type: path
  source_ssl_verify:
    description:
      - Whether the source's certificate must be valid and carry the name O(source_host). Needs O(source_ssl_ca).
      - The clone itself verifies the CA alone, MySQL offers no more.
    type: bool
    default: true
  get_source_public_key:
    description: Whether to ask the source for its RSA key; needed for C(caching_sha2_password) without TLS only.
    type: bool
    default: false
  connect_retry:
    description: Seconds between two attempts to connect to the source.
    type: int
    default: 1
  retry_count:
    description: Attempts before the receiver gives up. MySQL's own default of 10 would give up after seconds.
    type: int
    default: 86400
  heartbeat_period:
    description: Seconds between two heartbeats of the source. Left as it is when not given.
    type: float
  delay:
    description: Seconds to stay behind the source on purpose.
    type: int
    default: 0
  read_only:
    description:
      - Whether to switch C(super_read_only) on while this server is a replica.
      - The runtime value only; the configuration file decides about the next boot.
    type: bool
    default: true
  seed:
    description:
      - V(auto), a virgin server, and one that lacks transactions that the source has purged from its binary logs, is seeded by C(CLONE);
        any other catches up from the binary logs.
      - A virgin server is cloned even where the source has purged nothing, because binary logs do not tell what the data files held before them,
        and two fresh installations create the same accounts twice, which stops replication.
      - V(clone), as V(auto), and a server that does not follow this source yet is always cloned. A replica that can catch up is left alone.
      - V(always), the server is cloned whatever it has, as when its data differ from the source's. Running it again clones again.
      - V(never), a virgin server starts from the binary logs where the source has purged nothing, on your word that they are complete since its installation;
        any other server that needs seeding is refused.
    type: str
    choices: [auto, clone, always, never]
    default: auto
  allow_data_loss:
    description:
      - Whether data that only this server has may be overwritten.
      - Without it such a server is refused, and its schemas and errant transactions are named; so is what only its relay log holds.
      - Also for a server that lacks transactions which it wrote itself, as with an older copy of its disk.
        Replication never sends them back, so it is seeded again.
    type: bool
    default: false
  allow_chain:
    description: Whether the source may be a replica itself, and this server may have replicas of its own.
    type: bool
    default: false
  wait:
    description:
      - V(caught_up), wait until everything that the source had executed when the channel ran is applied here.
      - V(connected), wait until the receiver is connected and the applier runs.
      - V(none), do not wait.
      - With a O(delay), V(caught_up) is the same as V(connected).
    type: str
    choices: [caught_up, connected, none]
    default: caught_up
  timeout:
    description: Seconds for O(wait), and for applying what only the relay log has before the channel is changed.
    type: int
    default: 300
  clone_timeout:
    description:
      - Seconds that seeding may take, including the restart of the server, and the end of another clone that the source is busy with
        (a backup, or another replica's seeding; MySQL allows one at a time).
      - With V(0) a server that has to be cloned is left as it is, and RV(seed) says why.
    type: int
    default: 86400
attributes:
  action:
    support: full
    description: The controller shows how far a clone is.
  check_mode:
    support: full
    description: Checks the pair and says in RV(actions) what would be done.
  diff_mode:
    support: full
    description: The channel before and after, without the password.
seealso:
  - module: foobar.webstack.mysql_replication_info
"""

EXAMPLES = r"""
- name: Follow db1
  foobar.webstack.mysql_replica:
    source_host: db1.example.org
    source_user: replication
    source_password: "{{ replication_password }}"
    source_ssl_ca: /etc/webstack/pki/ca.crt

- name: Take an old primary back, its own transactions are saved and may go
  foobar.webstack.mysql_replica:
    source_host: db2.example.org
    source_user: replication
    source_password: "{{ replication_password }}"
    source_ssl_ca: /etc/webstack/pki/ca.crt
    allow_data_loss: true

- name: Pause replication
  foobar.webstack.mysql_replica:
    state: stopped

- name: Follow nobody
  foobar.webstack.mysql_replica:
    state: absent
"""

RETURN = r"""
actions:
  description: What was done, or in check mode would be done, in order.
  returned: always
  type: list
  elements: str
  sample: [clone all data from db1.example.org:3306, point the channel to db1.example.org:3306, start the channel]
queries:
  description: Statements that changed something, without secrets; in check mode empty.
  returned: always
  type: list
  elements: str
seed:
  description: Whether and how the server was seeded.
  returned: for O(state=started)
  type: dict
  contains:
    method:
      description: V(clone), V(binlog) for a channel that starts from the source's binary logs, or V(none) when nothing was needed.
      type: str
    reason:
      description: Why this way.
      type: str
    bytes:
      description: Bytes that were copied; null without a clone.
      type: int
    seconds:
      description: Time that it took, with the restart; null without a clone.
      type: float
errant:
  description: Transactions that this server had and the source lacks. Not empty only with O(allow_data_loss=true), or on a virgin server.
  returned: for O(state=started)
  type: str
channel:
  description: The channel afterwards, as in RV(foobar.webstack.mysql_replication_info#module:channels); null when there is none.
  returned: always
  type: dict
problems:
  description: Everything that speaks against the pair.
  returned: when it was refused
  type: list
  elements: str
"""

import os
import time

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.foobar.webstack.plugins.module_utils import mysql, mysql_replication, mysql_server

RESTART_FAILED = 3707
# A server takes part in one clone at a time; of its source the receiver says so in the text of another error.
CLONE_BUSY = 3634
CLONE_DONOR_ERROR = 3862
CLONE_AGAIN = 5
RELAY_LOG_UNREADABLE = (1594, 13121)
LOCK_TIMEOUT = 1205


class Replica:
    """One run: the local server, the source, and what was done so far."""

    def __init__(self, module):
        self.module = module
        self.params = module.params
        self.name = module.params['channel']
        self.source_name = '%s:%s' % (module.params['source_host'], module.params['source_port'])
        self.result = {'changed': False, 'actions': [], 'queries': [], 'channel': None}
        self.db = None
        self.source_db = None

    # -- helpers

    def fail(self, text, **extra):
        self.collect_queries()
        self.module.fail_json(msg=text, **dict(self.result, **extra))

    def collect_queries(self):
        if self.db:
            self.result['queries'] += self.db.queries
            self.db.queries = []

    def connect(self, read_timeout=60):
        return mysql.connect(read_timeout=read_timeout, **mysql.login_target(self.params))

    def connect_source(self):
        p = self.params
        return mysql.connect(
            user=p['source_user'], password=p['source_password'], host=p['source_host'], port=p['source_port'], tls=p['source_ssl'],
            ca=p['source_ssl_ca'] if p['source_ssl'] and p['source_ssl_verify'] else None,
            cert=p['source_ssl_cert'] if p['source_ssl'] else None, key=p['source_ssl_key'] if p['source_ssl'] else None,
            connect_timeout=p['connect_timeout'])

    def act(self, text):
        """Says what is done; whether to do it."""
        self.result['changed'] = True
        self.result['actions'].append(text)
        return not self.module.check_mode

    def find(self, channels):
        return next((channel for channel in channels if channel['name'] == self.name), None)

    def channel(self):
        return self.find(mysql_server.read_channels(self.db))

    def stored_password(self):
        """None where this account may not read it."""
        try:
            return self.db.value('SELECT User_password FROM mysql.slave_master_info WHERE Channel_name = %s', (self.name,)) or ''
        except mysql.ServerError as error:
            if error.errno not in mysql_server.DENIED:
                raise
            self.module.warn('%s may not read mysql.slave_master_info: the password of the channel was not compared' % self.params['login_user'])
            return None

    # -- states

    def run(self):
        self.db = self.connect()
        before = self.result['channel'] = self.channel()
        if self.params['state'] == 'started':
            self.started()
        elif self.params['state'] == 'stopped':
            self.stopped(before)
        else:
            self.absent(before)
        after = None if self.params['state'] == 'absent' else before
        planned = self.planned if self.params['state'] == 'started' else None
        if not self.module.check_mode:
            after, planned = self.channel(), None
        self.result['channel'] = after
        if self.module._diff:
            self.result['diff'] = {'before': mysql_replication.diff_view(before), 'after': mysql_replication.diff_view(after, planned)}
        self.collect_queries()
        self.module.exit_json(**self.result)

    def stopped(self, channel):
        if channel and (channel['io_state'] != 'OFF' or channel['sql_state'] != 'OFF') and self.act('stop the channel'):
            self.db.change('STOP REPLICA FOR CHANNEL %s', (self.name,))

    def absent(self, channel):
        self.stopped(channel)
        if channel and self.act('remove the channel from %s:%s' % (channel['source_host'], channel['source_port'])):
            self.db.change('RESET REPLICA ALL FOR CHANNEL %s', (self.name,))

    def started(self):
        p = self.params
        self.planned = mysql_replication.wanted_channel(p)
        local = mysql_server.read_server(self.db)
        blind = mysql_replication.visibility_problem(local, p['login_user'])
        if blind:
            self.fail(blind)
        channel = self.find(local['channels'])
        method, local, gaps = self.judge(local, channel)
        reset = method == 'binlog' and gaps['errant'] and mysql_replication.is_virgin(local)
        if method == 'clone' and not p['clone_timeout'] and not self.module.check_mode:
            self.module.exit_json(**self.result)
        if method == 'clone' and self.act('clone all data from %s' % self.source_name):
            self.clone()
            channel = self.channel()
            if channel:
                self.fail('the copied channel could not be removed')
            local = mysql_server.read_server(self.db)
        elif method == 'clone':
            channel = None
        elif reset and self.act("forget the installation's own transactions: %s" % gaps['errant']):
            self.db.change('RESET BINARY LOGS AND GTIDS')
        if p['read_only'] and not local['super_read_only'] and self.act('switch super_read_only on'):
            self.fence()
        self.apply(channel, gaps)
        if not self.module.check_mode and p['wait'] != 'none':
            self.wait()

    # -- judgement: nothing is changed

    def judge(self, local, channel):
        p = self.params
        options = {'source': self.source_name, 'allow_chain': p['allow_chain']}
        problems = mysql_replication.option_problems(p)
        if problems:
            self.refuse(problems)
        try:
            self.source_db = self.connect_source()
            source = mysql_server.read_server(self.source_db)
            source_clone = mysql_server.read_clone(self.source_db)
        except mysql.ServerError as error:
            # The source cannot be asked: say what can be said about this server.
            self.refuse(['the source: %s' % error] + mysql_replication.setting_problems('this server', local))
        problems = mysql_replication.pair_problems(local, source, options)
        if local['server_uuid'] == source['server_uuid']:
            self.refuse(problems)

        received = channel['received'] if mysql_replication.follows(channel, source) else ''
        gaps = mysql_server.gtid_gaps(self.db, self.source_db, source['server_uuid'], received)
        source['gtid'].update(executed=gaps['executed'], purged=gaps['purged'])
        local_clone = dict(mysql_server.read_clone(self.db), libraries=self.libraries())
        obstacles = mysql_replication.clone_obstacles(local, source, local_clone, source_clone, p['source_host'])
        method, reason, unsafe = mysql_replication.decide_seed(
            p['seed'], local, source, channel, gaps, obstacles, p['allow_data_loss'], local_clone['half_cloned'])
        problems += unsafe
        if method == 'clone':
            # A clone drops all channels. The source's own transactions come again with it.
            queued = ','.join(each['queue'] for each in local['channels'] if each['queue'])
            left = mysql_replication.gtid_without(mysql_server.gtid_subtract(self.db, queued, gaps['executed']), source['server_uuid'])
            if left and not p['allow_data_loss']:
                problems.append('only the relay log of this server holds %s, and a clone drops it. '
                                'Let the applier apply them (START REPLICA SQL_THREAD), or set allow_data_loss' % left)
            problems += mysql_replication.space_problems(source_clone['bytes'], self.room(local, local_clone))
        self.result['errant'] = gaps['errant']
        self.result['seed'] = {'method': method, 'reason': reason, 'bytes': None, 'seconds': None}
        if problems:
            self.refuse(problems)
        return method, local, gaps

    def refuse(self, problems):
        self.fail('cannot make this server a replica of %s, nothing was changed: %s' % (
            self.source_name, '; '.join('(%s) %s' % item for item in enumerate(problems, 1)) if len(problems) > 1 else problems[0]), problems=problems)

    def libraries(self):
        """Plugin libraries of this server; None where they are not this host's."""
        try:
            return set(os.listdir(self.db.variables('plugin_dir')['plugin_dir']))
        except OSError:
            return None

    def room(self, local, local_clone):
        """Bytes that a clone can use, the old data's place included; None where the data directory is not this host's."""
        try:
            stat = os.statvfs(local['datadir'])
        except OSError:
            return None
        return stat.f_bavail * stat.f_frsize + (local_clone['bytes'] or 0)

    # -- changes

    def fence(self):
        # Bounded: it waits for open transactions.
        self.db.change('SET SESSION lock_wait_timeout = %s', (max(1, min(30, self.params['timeout'])),))
        try:
            self.db.change('SET GLOBAL super_read_only = ON')
        except mysql.ServerError as error:
            if error.errno != LOCK_TIMEOUT:
                raise
            self.fail('super_read_only could not be switched on, an open transaction holds it up: look at SHOW PROCESSLIST, then run again')

    def apply(self, channel, gaps):
        differs = mysql_replication.channel_diff(self.planned, channel)
        if channel and not differs and self.stored_password() not in (None, self.params['source_password']):
            differs = ['source_password']
        running = channel and channel['io_state'] != 'OFF' and channel['sql_state'] == 'ON'
        if differs:
            what = 'change %s of the channel' % ', '.join(differs) if channel else 'point the channel to %s' % self.source_name
            if channel and not self.module.check_mode:
                self.use_relay_log(channel, gaps)
            if self.act(what):
                if channel:
                    self.db.change('STOP REPLICA FOR CHANNEL %s', (self.name,))
                self.db.change(*mysql_replication.change_statement(self.planned, self.params['source_password'], self.name))
            running = False
        elif channel and channel['sql_error']['errno'] in RELAY_LOG_UNREADABLE:
            self.refetch_relay_log(channel, gaps)
        if not running and self.act('start the channel'):
            self.db.change('START REPLICA FOR CHANNEL %s', (self.name,))

    def use_relay_log(self, channel, gaps):
        """Changing the channel drops the relay log: what the source cannot send again must be applied first."""
        left = self.relay_only(channel, gaps)
        if not left:
            return
        stopped = False
        if channel['sql_state'] == 'ON' and not channel['delay']:
            if channel['io_state'] != 'OFF':
                self.db.change('STOP REPLICA IO_THREAD FOR CHANNEL %s', (self.name,))
                stopped = True
            deadline = time.monotonic() + self.params['timeout']
            while left and channel['sql_state'] == 'ON' and time.monotonic() < deadline:
                self.db.value('SELECT WAIT_FOR_EXECUTED_GTID_SET(%s, 1)', (left,))
                channel = self.channel()
                left = self.relay_only(channel, gaps)
        if left and not self.params['allow_data_loss']:
            if stopped:
                self.db.change('START REPLICA IO_THREAD FOR CHANNEL %s', (self.name,))
            self.fail('the channel was not changed: only its relay log holds %s, and changing it would drop them. '
                      'Let the applier apply them (START REPLICA SQL_THREAD), or set allow_data_loss' % left)

    def refetch_relay_log(self, channel, gaps):
        left = self.relay_only(channel, gaps)
        if left and not self.params['allow_data_loss']:
            self.fail('the relay log cannot be read, and only it holds %s. If %s just has not committed them yet, run again; '
                      'else save what mysqlbinlog can read of it, then set allow_data_loss' % (left, self.source_name))
        if self.act('drop the unreadable relay log, the source sends it again'):
            self.db.change('STOP REPLICA FOR CHANNEL %s', (self.name,))
            # Without ALL it keeps how to connect.
            self.db.change('RESET REPLICA FOR CHANNEL %s', (self.name,))

    def relay_only(self, channel, gaps):
        return mysql_server.gtid_subtract(self.db, channel['queue'], mysql_server.gtid_subtract(self.db, gaps['executed'], gaps['purged']))

    # -- seeding

    def clone(self):
        p = self.params
        start = time.monotonic()
        before = mysql_server.read_server(self.db)
        for channel in before['channels']:
            self.db.change('STOP REPLICA FOR CHANNEL %s', (channel['name'],))
        try:
            self.load_clone_plugin()
            earlier = self.clone_status(self.db)
            settings = [('clone_valid_donor_list', '%s:%s' % (p['source_host'], p['source_port']))]
            if p['source_ssl']:
                settings += [('clone_ssl_ca', (p['source_ssl_ca'] if p['source_ssl_verify'] else '') or ''),
                             ('clone_ssl_cert', p['source_ssl_cert'] or ''), ('clone_ssl_key', p['source_ssl_key'] or '')]
            for name, value in settings:
                self.db.change('SET GLOBAL %s = %%s' % name, (value,))
            if before['super_read_only']:
                # read_only stays on: only administrators could write now.
                self.db.change('SET GLOBAL super_read_only = OFF')
            self.collect_queries()
            # A connection of its own: it is silent until all is copied.
            self.db.close()
            self.db = self.connect(read_timeout=p['clone_timeout'])
            lost = self.run_clone(start + p['clone_timeout'])
        except mysql.ServerError as error:
            self.clone_failed(error, before)
        status = self.await_clone(start + p['clone_timeout'], earlier, lost)
        if status['STATE'] != 'Completed':
            self.clone_failed(mysql.ServerError('%s (%s)' % (status['ERROR_MESSAGE'], status['ERROR_NO'])), before)
        # The source's own channels came with the data.
        for channel in mysql_server.read_channels(self.db):
            self.db.change('STOP REPLICA FOR CHANNEL %s', (channel['name'],))
            self.db.change('RESET REPLICA ALL FOR CHANNEL %s', (channel['name'],))
        # The clone may have taken longer than an idle connection lives.
        self.source_db.close()
        self.source_db = self.connect_source()
        self.result['seed'].update(bytes=int(self.db.value('SELECT COALESCE(SUM(DATA), 0) FROM performance_schema.clone_progress')),
                                   seconds=round(time.monotonic() - start, 1))

    def run_clone(self, deadline):
        p = self.params
        # A clone that succeeds is in the slow query log as it was sent, password and all (seen with 9.7.4; other statements show <secret>).
        self.db.change('SET SESSION long_query_time = 31536000')
        sql = 'CLONE INSTANCE FROM %s@%s:%s IDENTIFIED BY %s ' + ('REQUIRE SSL' if p['source_ssl'] else 'REQUIRE NO SSL')
        while True:
            self.db.patience(max(1, deadline - time.monotonic()))
            try:
                self.db.change(sql, (p['source_user'], p['source_host'], p['source_port'], mysql.Secret(p['source_password'])))
                return ''
            except mysql.ServerError as error:
                # The data is in place and the server restarts, or could not restart itself.
                if error.errno in mysql.LOST or error.errno == RESTART_FAILED:
                    return str(error)
                busy = error.errno == CLONE_BUSY or error.errno == CLONE_DONOR_ERROR and ' %d ' % CLONE_BUSY in str(error)
                if not busy or time.monotonic() + CLONE_AGAIN > deadline:
                    raise
            finally:
                self.collect_queries()
            time.sleep(CLONE_AGAIN)

    def load_clone_plugin(self):
        """Also after the clone: the list of plugins comes with the data, and the source may load its own by its configuration."""
        if mysql_server.read_clone(self.db)['plugin']:
            return
        fenced = mysql_server.on(self.db.variables('super_read_only')['super_read_only'])
        if fenced:
            self.db.change('SET GLOBAL super_read_only = OFF')
        try:
            self.db.change("INSTALL PLUGIN clone SONAME 'mysql_clone.so'")
        finally:
            if fenced:
                self.db.change('SET GLOBAL super_read_only = ON')

    @staticmethod
    def clone_status(db):
        return db.row('SELECT STATE, ERROR_NO, ERROR_MESSAGE, BEGIN_TIME FROM performance_schema.clone_status')

    def await_clone(self, deadline, earlier, lost):
        """Connected again, and the status of this clone."""
        reason = lost
        self.db.close()
        while True:
            try:
                self.db = self.connect()
                self.load_clone_plugin()
                status = self.clone_status(self.db)
                if status and status['STATE'] in ('Completed', 'Failed') and status['BEGIN_TIME'] != (earlier or {}).get('BEGIN_TIME'):
                    return status
                reason = 'clone_status says %s' % (status['STATE'] if status else 'nothing')
                self.db.close()
            except mysql.ServerError as error:
                reason = str(error)
                if error.errno in (1045, 1698):
                    self.fail("the clone brought the source's accounts, and this login is not one of them: %s" % error)
                if error.errno not in mysql.UNREACHABLE:
                    self.fail('the data was cloned, and then: %s' % error)
            if time.monotonic() > deadline:
                self.fail('the clone from %s did not end within %s s: %s.%s Look at the server and its error log, then run again'
                          % (self.source_name, self.params['clone_timeout'], reason, ' ' + lost if lost and lost != reason else ''))
            time.sleep(0.5)

    def clone_failed(self, error, before):
        """One error that also says what this server is now."""
        state = 'its state could not be read'
        try:
            self.db.close()
            self.db = self.connect()
            if before['super_read_only']:
                self.db.change('SET GLOBAL super_read_only = ON')
            now = mysql_server.read_server(self.db)
            lost = sorted(set(before['user_schemas']) - set(now['user_schemas']))
            if mysql_replication.is_virgin(before):
                state = 'it is empty, as before'
            elif mysql_server.read_clone(self.db)['half_cloned']:
                state = 'its old data is gone%s, do not use it as it is' % (' (%s)' % ', '.join(lost) if lost else '')
            else:
                state = 'its data is as before'
            if now['channels']:
                state += ', its channels are stopped'
        except mysql.ServerError as again:
            state = 'it cannot be asked: %s' % again
        self.fail('the clone from %s failed: %s. This server: %s. Remove the cause and run again' % (self.source_name, error, state))

    # -- waiting

    def wait(self):
        p = self.params
        deadline = time.monotonic() + p['timeout']
        failed = ''
        while True:
            channel = self.channel()
            failure = mysql_replication.channel_failure(channel)
            # Twice: right after the start an older error can still be shown.
            if failure and failure == failed:
                self.fail('the channel from %s: %s' % (self.source_name, failure), channel=channel)
            failed = failure
            if not failure and channel['io_state'] == 'ON' and channel['sql_state'] == 'ON':
                break
            if time.monotonic() > deadline:
                state = channel['io_error']['message'] or 'receiver %s, applier %s' % (channel['io_state'], channel['sql_state'])
                self.fail('the channel from %s did not connect within %s s: %s' % (self.source_name, p['timeout'], state), channel=channel)
            time.sleep(0.2)
        if p['wait'] == 'caught_up' and not p['delay']:
            self.wait_caught_up(deadline)

    def wait_caught_up(self, deadline):
        goal = self.source_db.value('SELECT @@GLOBAL.gtid_executed')
        # Short waits, so that an applier that fails meanwhile is noticed.
        while self.db.value('SELECT WAIT_FOR_EXECUTED_GTID_SET(%s, 1)', (goal,)) != 0:
            channel = self.channel()
            failure = mysql_replication.channel_failure(channel)
            if failure:
                self.fail('the channel from %s: %s' % (self.source_name, failure), channel=channel)
            if time.monotonic() > deadline:
                self.fail('this server did not catch up with %s within %s s, it goes on in the background; lag %s s, queue %s%s'
                          % (self.source_name, self.params['timeout'], channel['lag_seconds'], channel['queue'] or 'empty',
                             '' if channel['queue'] else '. Where that stays so, %s: seed it again (seed=always)' % mysql_replication.SKIPPED), channel=channel)


def main():
    spec = mysql.login_argument_spec()
    spec.update(
        state=dict(type='str', choices=['started', 'stopped', 'absent'], default='started'),
        channel=dict(type='str', default=''),
        source_host=dict(type='str'),
        source_port=dict(type='int', default=3306),
        source_user=dict(type='str'),
        source_password=dict(type='str', no_log=True),
        source_ssl=dict(type='bool', default=True),
        source_ssl_ca=dict(type='path'),
        source_ssl_cert=dict(type='path'),
        source_ssl_key=dict(type='path', no_log=False),
        source_ssl_verify=dict(type='bool', default=True),
        get_source_public_key=dict(type='bool', default=False),
        connect_retry=dict(type='int', default=1),
        retry_count=dict(type='int', default=86400),
        heartbeat_period=dict(type='float'),
        delay=dict(type='int', default=0),
        read_only=dict(type='bool', default=True),
        seed=dict(type='str', choices=['auto', 'clone', 'always', 'never'], default='auto'),
        allow_data_loss=dict(type='bool', default=False),
        allow_chain=dict(type='bool', default=False),
        wait=dict(type='str', choices=['caught_up', 'connected', 'none'], default='caught_up'),
        timeout=dict(type='int', default=300),
        clone_timeout=dict(type='int', default=86400),
    )
    module = AnsibleModule(
        argument_spec=spec,
        supports_check_mode=True,
        required_if=[('state', 'started', ('source_host', 'source_user', 'source_password'))],
    )
    if mysql.PYMYSQL_ERROR:
        module.fail_json(msg=missing_required_lib('PyMySQL'), exception=mysql.PYMYSQL_ERROR)
    replica = Replica(module)
    try:
        replica.run()
    except mysql.ServerError as error:
        replica.fail(str(error))


if __name__ == '__main__':
    main()
