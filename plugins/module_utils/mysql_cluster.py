# Copyright: (c) 2026, The foobar.webstack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A primary and its replicas as one thing: judgement that needs no server, and the driver that both modules which move the primary share."""
from __future__ import annotations

import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from ansible_collections.foobar.webstack.plugins.module_utils import mysql, mysql_replication, mysql_server

# Switchover, failover and the role keeper hold it while they decide who is the primary.
LOCK = 'webstack_primary'
# A source that waits an hour or longer for an acknowledgement is meant to lose nothing.
LOSSLESS_MS = 3600000
PRIVILEGES = ('SYSTEM_VARIABLES_ADMIN', 'CONNECTION_ADMIN', 'REPLICATION_SLAVE_ADMIN', 'REPLICATION SLAVE', 'REPLICATION CLIENT',
              'PROCESS', 'RELOAD', 'SHOW DATABASES')
# As MySQL numbers a privilege that is missing.
MISSING = 1227
# STOP REPLICA gave up waiting; the thread goes on stopping.
STOP_TIMEOUTS = frozenset((1875, 1876))
# Seconds that one statement may take where nothing else is said.
PATIENCE = 15
# A mysqld that was killed is back within this time if something restarts it.
RESTART_GRACE = 3.0
# Seconds that a failover waits for replicas which are a moment behind: one may be the better choice, and they acknowledge the first write.
GRACE = 2.0
# Seconds between a commit and its arrival from which on a replica was catching up: that takes milliseconds, and the clocks of two hosts differ a little.
CATCHING_UP = 5.0


class Refusal(Exception):
    """Everything that speaks against it; nothing was changed."""

    def __init__(self, problems):
        super().__init__('; '.join('(%s) %s' % item for item in enumerate(problems, 1)) if len(problems) > 1 else problems[0])
        self.problems = problems


class Stop(Exception):
    """It cannot go on; what was changed has to be undone."""


class Lost(Exception):
    """It ended, undone or not; the text says which."""


def argument_spec():
    login = mysql.login_argument_spec()
    spec = {key: login[key] for key in ('login_password', 'ca_cert', 'client_cert', 'client_key', 'check_hostname')}
    spec.update(
        login_user=dict(type='str', default='cluster_admin'),
        connect_timeout=dict(type='int', default=2),
        servers=dict(type='list', elements='dict', required=True, options=dict(
            name=dict(type='str', required=True),
            host=dict(type='str', required=True, aliases=['address']),
            port=dict(type='int', default=3306),
        )),
        source_user=dict(type='str', required=True),
        source_password=dict(type='str', required=True, no_log=True),
        source_ssl=dict(type='bool', default=True),
        source_ssl_ca=dict(type='path'),
        source_ssl_cert=dict(type='path'),
        source_ssl_key=dict(type='path', no_log=False),
        source_ssl_verify=dict(type='bool', default=True),
        get_source_public_key=dict(type='bool', default=False),
        connect_retry=dict(type='int', default=1),
        retry_count=dict(type='int', default=86400),
        heartbeat_period=dict(type='float', default=1.0),
    )
    return spec


# -- Judgement. A view is a dictionary: name, host, port, error ('' when it was asked), and what was read: server, semi_sync.

def option_problems(params, names):
    """names: {option: value} of the options that name a server."""
    problems = mysql_replication.option_problems(params)
    servers = params['servers']
    known = [server['name'] for server in servers]
    for name in sorted({name for name in known if known.count(name) > 1}):
        problems.append('servers has %s twice' % name)
    places = ['%s:%s' % (server['host'], server['port']) for server in servers]
    for place in sorted({place for place in places if places.count(place) > 1}):
        problems.append('servers has %s twice' % place)
    if len(servers) < 2:
        problems.append('servers has to name the primary and all replicas')
    for option, name in sorted(names.items()):
        if name is not None and name not in known:
            problems.append('%s is %s, but the servers are %s' % (option, name, ', '.join(known)))
    return problems


def missing_privileges(grants):
    have = set()
    reads = False
    for grant in grants:
        match = re.match(r'GRANT (.*?) ON (\S+) TO ', grant)
        if not match:
            continue
        names = {name.strip().upper() for name in match.group(1).split(',')}
        if match.group(2) == '*.*':
            have |= names
        if match.group(2).replace('`', '').lower() in ('*.*', 'performance_schema.*') and names & {'SELECT', 'ALL PRIVILEGES'}:
            reads = True
    if 'ALL PRIVILEGES' in have:
        return []
    missing = [name for name in PRIVILEGES if name not in have and not ('SUPER' in have and '_' in name)]
    return missing + ([] if reads else ['SELECT on performance_schema.*'])


def lossless(semi_sync):
    """The policy of a server. Whether it is enabled does not count: a switchover that was broken off may have left it off."""
    return semi_sync['source_enabled'] is not None and (semi_sync['timeout_ms'] or 0) >= LOSSLESS_MS


def writable(view):
    server = view['server']
    return not (server['read_only'] or server['super_read_only'])


def reached(views):
    return [view for view in views if not view['error']]


def by_name(views, name):
    return next(view for view in views if view['name'] == name)


def channel(view):
    channels = view['server']['channels']
    return channels[0] if channels else None


def running(a_channel):
    return bool(a_channel and a_channel['io_state'] == 'ON' and a_channel['sql_state'] == 'ON')


def followed(view, views):
    """Name of the server that this one follows, the address of a stranger, or ''."""
    link = channel(view)
    if not link:
        return ''
    for other in reached(views):
        if link['source_uuid'] and other['server']['server_uuid'] == link['source_uuid']:
            return other['name']
    for other in views:
        if (other['host'], other['port']) == (link['source_host'], link['source_port']):
            return other['name']
    return '%s:%s' % (link['source_host'], link['source_port'])


def find_primary(views):
    """(name, interrupted, problems). Interrupted: an earlier switchover ended while nobody was writable."""
    open_ones = [view for view in reached(views) if writable(view)]
    if len(open_ones) > 1:
        return None, False, ['two servers accept writes, %s: find out which one is right before anything else'
                             % ' and '.join(view['name'] for view in open_ones)]
    if open_ones:
        return open_ones[0]['name'], False, []
    lost = [view['name'] for view in views if view['error']]
    if len(lost) == len(views):
        return None, False, []
    if lost:
        return None, False, ['no server that answers accepts writes; the primary may be %s' % ' or '.join(lost)]
    heads = [view for view in views if not channel(view)]
    names = {view['name'] for view in views}
    if len(heads) == 1 and all(followed(view, views) in names for view in views if view is not heads[0]) \
            and any(followed(view, views) == heads[0]['name'] for view in views):
        return heads[0]['name'], True, []
    return None, False, ['no server accepts writes, and it cannot be told which one was the primary: %s'
                         % ', '.join('%s follows %s' % (view['name'], followed(view, views) or 'nobody') for view in views)]


def view_problems(views):
    """What speaks against any change of the primary: identities and settings."""
    problems = []
    seen = {}
    for view in reached(views):
        server = view['server']
        for key in ('server_uuid', 'server_id'):
            other = seen.setdefault((key, server[key]), view['name'])
            if other != view['name']:
                problems.append('%s and %s have the same %s %s' % (other, view['name'], key, server[key]))
        problems += mysql_replication.setting_problems(view['name'], server)
        if len(server['channels']) > 1:
            problems.append('%s has %s channels; only a server with one source can be moved' % (view['name'], len(server['channels'])))
    return problems


def version_problems(views, target):
    """Who could not follow the target."""
    there = target['server']
    return ['%s is version %s and %s is version %s: it could not follow a newer one, upgrade it first'
            % (view['name'], view['server']['version'], target['name'], there['version'])
            for view in reached(views) if view is not target and mysql_replication.series(there) > mysql_replication.series(view['server'])]


def switchover_problems(views, new_primary, expected_primary=None, skip_unreachable=False):
    """(primary, interrupted, problems) of a planned switchover; GTIDs are judged where the servers can calculate, see gtid_problems."""
    primary, interrupted, problems = find_primary(views)
    target = by_name(views, new_primary)
    for view in views:
        if view['error'] and (view is target or not skip_unreachable):
            problems.append('%s cannot be asked: %s' % (view['name'], view['error'])
                            + ('' if view is target or not primary else ' (skip_unreachable leaves it behind)'))
    problems += view_problems(views)
    if expected_primary and primary and primary != expected_primary:
        problems.append('the primary is %s, not %s' % (primary, expected_primary))
    if not primary or target['error']:
        return primary, interrupted, problems
    old = by_name(views, primary)
    if primary != new_primary:
        problems += version_problems(views, target)
        if channel(old):
            problems.append('%s accepts writes and follows %s: remove that channel first' % (primary, followed(old, views)))
    for view in reached(views):
        if view is old:
            continue
        follows, link = followed(view, views), channel(view)
        if not link and primary != new_primary:
            problems.append('%s follows nobody: make it a replica of %s first (mysql_replica)' % (view['name'], primary))
        elif link and follows != primary and (view is target or follows != new_primary) and not (
                # What a broken-off run moved is moved back.
                primary == new_primary and follows in [other['name'] for other in views]):
            problems.append('%s follows %s, not the primary %s' % (view['name'], follows, primary))
    link = channel(target)
    if link and primary != new_primary:
        failure = mysql_replication.channel_failure(link)
        if failure:
            problems.append('%s does not replicate: %s' % (new_primary, failure))
        elif not running(link) and not interrupted:
            problems.append('%s does not replicate: receiver %s, applier %s' % (new_primary, link['io_state'], link['sql_state']))
        if link['delay']:
            problems.append('%s stays %s s behind on purpose: set its delay to 0 first' % (new_primary, link['delay']))
    return primary, interrupted, problems


def gtid_problems(name, source, gaps, lacks_purged=''):
    problems = []
    if gaps['errant']:
        problems.append('%s has transactions that %s lacks: %s; save them and seed it again' % (name, source, gaps['errant']))
    if gaps['missing_purged']:
        problems.append('%s lacks transactions that %s has purged: %s; seed it again' % (name, source, gaps['missing_purged']))
    if gaps['missing_own']:
        problems.append('%s %s; seed it again' % (name, mysql_replication.lost_text(gaps['missing_own'])))
    if lacks_purged:
        problems.append('%s could not follow the new primary, which has purged %s' % (name, lacks_purged))
    return problems


def early_follower(views, primary, new_primary, skip_unreachable=False):
    """Replicas that follow the target before it opens, so that its first commit is acknowledged at once; the old primary keeps enough of its own."""
    target = by_name(views, new_primary)
    if not lossless(target['semi_sync']) or not target['semi_sync']['replica_active']:
        return []
    need = target['semi_sync']['wait_for_count'] or 1
    others = [view for view in reached(views) if view['name'] not in (primary, new_primary)]
    there = [view['name'] for view in others if followed(view, views) == new_primary]
    # One that is far behind could not apply in time what it alone may have.
    ready = [view['name'] for view in others if view['name'] not in there and running(channel(view)) and view['semi_sync']['replica_active']
             and not channel(view)['delay'] and (channel(view)['lag_seconds'] or 0) < 5]
    move = ready[:max(0, need - len(there))]
    return move if 1 + len(ready) - len(move) >= need else []


def sessions_text(rows):
    return ', '.join('%s@%s (session %s, %s s)' % (row['user'], (row['host'] or '').rsplit(':', 1)[0], row['id'], row['seconds']) for row in rows)


# -- Judgement of a death

def derive_primary(views):
    """(name, problems): the server that the replicas follow. A replica that others follow is left from a move that was broken off."""
    names = sorted({followed(view, views) for view in reached(views)} - {''} - {view['name'] for view in reached(views) if channel(view)})
    known = {view['name'] for view in views}
    strangers = [name for name in names if name not in known]
    if strangers:
        return None, ['replicas follow %s, which servers does not name' % ', '.join(strangers)]
    if not names:
        return None, ['no server that answers follows another one, so none is known to have the data of a primary']
    if len(names) > 1:
        return None, ['the replicas follow different servers, %s: name the dead one (-e primary=NAME)' % ' and '.join(names)]
    return names[0], []


def probe(host, port, timeout):
    """answers, refused, silent (the kernel accepts and mysqld does not speak) or unreachable."""
    try:
        with socket.create_connection((host, port), timeout) as connection:
            connection.settimeout(timeout)
            try:
                return 'answers' if connection.recv(5) else 'refused'
            except socket.timeout:
                return 'silent'
    except ConnectionError:
        return 'refused'
    except OSError:
        return 'unreachable'


def alive_text(name, error):
    """Why a server that gave an error is alive all the same, or ''."""
    errno = getattr(error, 'errno', 0)
    if errno in mysql.UNREACHABLE or not errno and 'not trusted' not in str(error):
        return ''
    return '%s answers: %s' % (name, error)


def receiver_verdict(before, now, limit=2.5):
    """What a replica's receiver says of its source: alive, dead, wait (not yet clear), force (its heartbeats are too rare to wait for) or none."""
    if now is None:
        return 'none'
    if now['state'] == 'OFF':
        return 'dead' if now['errno'] else 'none'
    if now['state'] != 'ON':
        return 'dead'
    if before and (now['heartbeats'] > before['heartbeats'] or now['last_queued'] != before['last_queued'] or before['state'] != 'ON'):
        return 'alive'
    if now['silence'] is not None and now['silence'] > max(2.0, limit * now['period']):
        return 'dead'
    return 'wait' if 0 < now['period'] <= 1.5 else 'force'


def loss_verdict(replicas, unreachable):
    """(acked_loss, reason). replicas: [{name, lossless, wait_for_count, semi_sync, recovery, contact, head, behind}]: head, it received most; behind, seconds
    that the last thing it heard, when that was a transaction, had been committed before, else None. unreachable: other servers that cannot be asked."""
    if not all(replica['lossless'] for replica in replicas):
        return 'possible', ('replication was not lossless semi-synchronous (%s): a write may have been acknowledged by the primary alone'
                            % ', '.join(replica['name'] for replica in replicas if not replica['lossless']))
    need = min(replica['wait_for_count'] for replica in replicas)
    if len(unreachable) >= need:
        return 'unknown', '%s cannot be asked and may be the only one that holds an acknowledged write' % ' and '.join(unreachable)
    thrown = [replica['name'] for replica in replicas if replica['recovery'] and not replica['contact']]
    if thrown:
        return 'possible', '%s restarted after its last contact, and relay_log_recovery threw away what it had received' % ', '.join(thrown)
    restarted = [replica['name'] for replica in replicas if not replica['contact']]
    if restarted:
        return 'unknown', '%s restarted after its last contact; whether its relay log was complete on disk cannot be told' % ', '.join(restarted)
    asynchronous = [replica['name'] for replica in replicas if not replica['semi_sync']]
    if len(asynchronous) == len(replicas):
        return 'unknown', '%s was not a semi-synchronous replica at the end, or its receiver was stopped' % ', '.join(asynchronous)
    behind = [replica['behind'] or 0 for replica in replicas if replica['head']]
    if behind and min(behind) > CATCHING_UP:
        return 'unknown', ('the most advanced (%s) was still catching up, what came last had been committed %d s before: '
                           'if the primary had gone on without a replica, later writes are missing'
                           % (', '.join(replica['name'] for replica in replicas if replica['head']), min(behind)))
    return 'none', 'replication was lossless semi-synchronous and every replica that may have acknowledged was asked: %s' % ', '.join(
        replica['name'] for replica in replicas)


def fence_verdict(fenced, replicas, unreachable):
    """(fenced, reason): whether the old primary can still acknowledge a write."""
    if fenced:
        return True, 'the caller has stopped it'
    if all(replica['lossless'] for replica in replicas) and len(unreachable) < min(replica['wait_for_count'] for replica in replicas):
        return True, 'all its replicas leave it, and without their acknowledgement it can complete no write'
    return False, 'nothing keeps it from acknowledging writes if it is alive behind a broken network'


def rank(row):
    """The least becomes the primary, with equals the first: what it lacks counts most, then whether it applies in time, whom it would leave behind,
    and transactions that only it has."""
    return not row['full'], bool(row['failed'] or row['delay']), bool(row['strands']), bool(row['errant'])


def elect(rows, patient, forced=None):
    """Name of the replica to promote now, None when there is none yet. rows: [{name, full, applied, failed, delay, strands, errant, missing, nowhere}]:
    full, it received all that any did; applied, what it received; missing, what it then lacks; nowhere, what of that nobody could send it."""
    waiting = [row for row in rows if not (row['applied'] or row['failed'])]
    own = [row for row in rows if row['applied'] and row['name'] == (forced or row['name'])]
    complete = [row for row in own if not row['missing']]
    if complete:
        return None if patient and any(not row['delay'] for row in waiting) else min(complete, key=rank)['name']
    if not forced and any(row['full'] for row in waiting):
        return None
    able = [row for row in own if not row['nowhere']]
    return min(able, key=rank)['name'] if able else None


# -- The servers

class Node:
    def __init__(self, server, params):
        self.name, self.host, self.port = server['name'], server['host'], server['port']
        self.params = params
        self.timeout = params['connect_timeout']
        self.db = self.aux = self.error = None

    def __str__(self):
        return self.name

    def login(self):
        p = self.params
        # The driver waits for the greeting as long as for any answer: a frozen server must not take more than the timeout.
        db = mysql.connect(user=p['login_user'], password=p['login_password'], host=self.host, port=self.port, tls=True, ca=p['ca_cert'],
                           cert=p['client_cert'], key=p['client_key'], check_hostname=p['check_hostname'],
                           connect_timeout=self.timeout, read_timeout=self.timeout)
        db.patience(PATIENCE)
        return db

    def connect(self, spare=False):
        try:
            self.db = self.login()
            # To end what the first one waits for.
            self.aux = self.login() if spare else None
        except mysql.ServerError as error:
            self.error = error

    def persist(self, action, seconds=10):
        """An undo: tried again over new connections for a while."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return action(self.db)
            except mysql.ServerError as error:
                # The driver closes a connection whose answer took too long, and then gives no number.
                if (error.errno not in mysql.UNREACHABLE and self.db.connection.open) or time.monotonic() > deadline:
                    raise
            try:
                self.db.close()
                self.db = self.login()
            except mysql.ServerError:
                time.sleep(0.3)

    def close(self):
        for db in (self.db, self.aux):
            if db:
                db.close()


class Cluster:
    """What switchover and failover share."""

    def __init__(self, params, check_mode=False):
        self.params = params
        self.check_mode = check_mode
        self.started = time.monotonic()
        self.nodes = [Node(server, params) for server in params['servers']]
        self.views = []
        self.result = {'changed': False, 'actions': [], 'phases': [], 'problems': [], 'old_primary': None, 'new_primary': None}

    # -- helpers

    def node(self, name):
        return next(node for node in self.nodes if node.name == name)

    def view(self, name):
        return by_name(self.views, name)

    def reached(self):
        return [node for node in self.nodes if node.db and not node.error]

    def act(self, text):
        self.result['changed'] = True
        self.result['actions'].append(text)

    @contextmanager
    def phase(self, name):
        start = time.monotonic()
        try:
            yield
        finally:
            self.result['phases'].append({'name': name, 'ms': ms(start)})

    @staticmethod
    def parallel(work):
        """{key: callable} at once; {key: result or ServerError}."""
        def run(item):
            try:
                return item()
            except mysql.ServerError as error:
                return error
        if not work:
            return {}
        with ThreadPoolExecutor(len(work)) as pool:
            return dict(zip(work, pool.map(run, work.values())))

    # -- looking

    def connect(self, spare=False):
        self.parallel({node.name: lambda node=node: node.connect(spare) for node in self.nodes})

    def lock(self):
        """On every server that answers; who has it is named."""
        def take(node):
            if node.db.value('SELECT GET_LOCK(%s, 0)', (LOCK,)) == 1:
                return ''
            holder = node.db.row(
                'SELECT PROCESSLIST_ID AS id, PROCESSLIST_USER AS user, PROCESSLIST_HOST AS host, PROCESSLIST_TIME AS seconds'
                ' FROM performance_schema.threads WHERE PROCESSLIST_ID = IS_USED_LOCK(%s)', (LOCK,))
            return 'another change of the primary is under way on %s%s' % (node.name, ': ' + sessions_text([holder]) if holder else '')
        taken = self.parallel({node.name: lambda node=node: take(node) for node in self.reached()})
        problems = [str(text) for text in taken.values() if text]
        if problems:
            raise Refusal(problems)

    def read(self):
        found = self.parallel({node.name: lambda node=node: self.read_node(node) for node in self.reached()})
        self.views = []
        for node in self.nodes:
            view = {'name': node.name, 'host': node.host, 'port': node.port, 'error': str(node.error) if node.error else ''}
            seen = found.get(node.name)
            if isinstance(seen, mysql.ServerError):
                node.error = seen
                view['error'] = str(seen)
            elif seen:
                view.update(seen)
            self.views.append(view)

    @staticmethod
    def read_node(node):
        missing = missing_privileges([next(iter(row.values())) for row in node.db.rows('SHOW GRANTS')])
        if missing:
            raise mysql.ServerError("the account '%s' lacks %s" % (node.params['login_user'], ', '.join(missing)), MISSING)
        return {'server': mysql_server.read_server(node.db), 'semi_sync': mysql_server.read_semi_sync(node.db)}

    # -- changes

    def follow(self, node, source):
        """The complete channel each time; an applier must not wait for acknowledgements of its own."""
        link = channel(self.view(node.name))
        wanted = mysql_replication.wanted_channel(dict(
            self.params, source_host=source.host, source_port=source.port, delay=link['delay'] if link else 0))
        name = link['name'] if link else ''
        node.db.change('STOP REPLICA FOR CHANNEL %s', (name,))
        self.wait_no_replica(node, False)
        if lossless(self.semi_sync(node)):
            self.semi_sync_source(node, True)
        node.db.change(*mysql_replication.change_statement(wanted, self.params['source_password'], name))
        node.db.change('START REPLICA FOR CHANNEL %s', (name,))

    def restore(self, node):
        """The channel as it was read; only its password is not to be read, see try_account."""
        link = channel(self.view(node.name))
        node.db.change('STOP REPLICA FOR CHANNEL %s', (link['name'],))
        node.db.change(*mysql_replication.change_statement(mysql_replication.present_channel(link), self.params['source_password'], link['name']))
        node.db.change('START REPLICA FOR CHANNEL %s', (link['name'],))

    def try_account(self, node, seconds=5):
        """The receiver connects to its present source with the account that the channels are to have; nothing of it is stored."""
        name = channel(self.view(node.name))['name']
        node.db.change('STOP REPLICA IO_THREAD FOR CHANNEL %s', (name,))
        node.db.change('START REPLICA IO_THREAD USER = %s PASSWORD = %s FOR CHANNEL %s',
                       (self.params['source_user'], mysql.Secret(self.params['source_password']), name))
        deadline = time.monotonic() + seconds
        while True:
            link = mysql_server.read_channels(node.db)[0]
            if link['io_state'] == 'ON':
                return
            if link['io_error']['errno'] in mysql_replication.HOPELESS or time.monotonic() > deadline:
                raise Stop("%s cannot log in to its source as '%s': %s" % (node, self.params['source_user'], link['io_error']['message'] or 'no answer'))
            time.sleep(0.02)

    def semi_sync(self, node):
        return self.view(node.name)['semi_sync']

    def wait_no_replica(self, node, on):
        if self.semi_sync(node)['source_enabled'] is not None:
            node.db.change('SET GLOBAL rpl_semi_sync_source_wait_no_replica = %s', (int(on),))

    @staticmethod
    def semi_sync_source(node, on):
        node.db.change('SET GLOBAL rpl_semi_sync_source_enabled = %s', (int(on),))

    def acknowledged(self, node):
        """Whether enough semi-synchronous replicas are connected."""
        seen = mysql_server.read_semi_sync(node.db)
        return (seen['clients'] or 0) >= (seen['wait_for_count'] or 1)

    def await_clients(self, node, seconds):
        """Strict from here on, if that many replicas acknowledge in time."""
        deadline = time.monotonic() + seconds
        while not self.acknowledged(node):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        self.wait_no_replica(node, True)
        return True

    def open(self, node):
        """True once it accepts writes; Stop when it does not; ServerError when that cannot be found out."""
        try:
            # Off for super_read_only too.
            node.db.change('SET GLOBAL read_only = OFF')
        except mysql.ServerError as error:
            if error.errno not in mysql.UNREACHABLE:
                raise Stop(str(error)) from error
            # It may have been carried out.
            if node.persist(lambda db: mysql_server.on(db.variables('read_only')['read_only'])):
                raise Stop(str(error)) from error

    def verify(self, primary, names, seconds=15):
        """Waits until they all follow; what is wrong with those that do not."""
        def wait(node):
            deadline = time.monotonic() + seconds
            uuid = self.view(primary.name)['server']['server_uuid']
            while True:
                link = next(iter(mysql_server.read_channels(node.db)), None)
                if running(link) and link['source_uuid'] == uuid:
                    return ''
                failure = mysql_replication.channel_failure(link)
                if time.monotonic() > deadline or (failure and time.monotonic() > deadline - seconds + 3):
                    return '%s does not follow %s: %s' % (node.name, primary.name, failure or link['io_error']['message'] or 'it did not connect in time')
                time.sleep(0.1)
        found = self.parallel({name: lambda node=self.node(name): wait(node) for name in names})
        return [str(text) for text in found.values() if text]

    def close(self):
        for node in self.nodes:
            node.close()


def ms(start):
    return round((time.monotonic() - start) * 1000, 1)
