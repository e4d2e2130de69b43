# Copyright: (c) 2026, The foobar.webstack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judgement about MySQL servers and pairs of them. Pure: dictionaries from mysql_server.py in, words and decisions out; no connection."""
from __future__ import annotations

from ansible_collections.foobar.webstack.plugins.module_utils.mysql import Secret

# Receiver errors that waiting does not cure: refused account, refused host, TLS demanded, RSA key needed.
HOPELESS = frozenset((1044, 1045, 1130, 2061, 3159))


# -- GTID sets as text. Arithmetic is the server's job; these only look at whose transactions they are.

def gtid_groups(gtids):
    """'a:1-3:tag:5, b:1' -> [('a', 'a:1-3:tag:5'), ('b', 'b:1')]; a tag stands behind its UUID, so the first field is always the UUID."""
    groups = [group.strip() for group in gtids.replace('\n', '').split(',')]
    return [(group.split(':', 1)[0].lower(), group) for group in groups if group]


def gtid_uuids(gtids):
    return {uuid for uuid, group in gtid_groups(gtids)}


def gtid_without(gtids, uuid):
    return ','.join(group for owner, group in gtid_groups(gtids) if owner != uuid.lower())


def gtid_only(gtids, uuid):
    return ','.join(group for owner, group in gtid_groups(gtids) if owner == uuid.lower())


# -- One server

def is_virgin(server):
    """Nothing would be lost by overwriting it; its own GTIDs are then the installation's."""
    return not (server['user_schemas'] or server['channels'] or server['replicas']) and server['gtid']['own_uuid_only']


def server_state(server):
    if is_virgin(server):
        return 'virgin'
    return 'read_only' if server['read_only'] or server['super_read_only'] else 'writable'


def server_role(server):
    if server['channels']:
        return 'replica'
    if server['replicas'] or server_state(server) == 'writable':
        return 'primary'
    return 'detached'


def visibility_problem(server, user):
    """Without all schemas in sight a server with data would look virgin."""
    if server['user_schemas'] is None:
        return "the account '%s' does not see all schemas, so whether this server holds data cannot be told: GRANT SHOW DATABASES ON *.* to it" % user
    return ''


def unreachable_state(local, mysqld, data):
    """A host without mysqld and without a data directory has no server; anything else that does not answer may hold data."""
    return 'absent' if local and not mysqld and not data else 'unreachable'


# What is a problem: seconds behind the source, and the free part of the data directory's disk.
LAG = 30
DISK_SHARE = 0.05

# Milliseconds that a commit waits for a replica, from which the policy is lossless.
LOSSLESS = 3600000


def semi_sync_state(server, semi_sync):
    """What a commit on this server gets: off, active (a replica has it), degraded (nobody else has it), waiting (it hangs until a replica comes)."""
    if not semi_sync['source_enabled'] or server_role(server) != 'primary':
        return 'off'
    if (semi_sync['clients'] or 0) >= (semi_sync['wait_for_count'] or 1):
        return 'active' if semi_sync['source_active'] else 'degraded'
    if semi_sync['source_active'] and (semi_sync['timeout_ms'] or 0) >= LOSSLESS and semi_sync['wait_no_replica']:
        return 'waiting'
    return 'degraded'


def channel_name(channel):
    return "channel '%s'" % channel['name'] if channel['name'] else 'the channel'


def server_problems(server, semi_sync=None, peer=None, expected_replicas=None):
    """What an operator should act on."""
    problems = []
    state, role = server_state(server), server_role(server)
    if server['gtid']['mode'] != 'ON':
        problems.append('gtid_mode is %s: set gtid_mode=ON and enforce_gtid_consistency=ON' % server['gtid']['mode'])
    if not server['log_bin'] or not server['log_replica_updates']:
        problems.append('log_bin or log_replica_updates is off: this server cannot take over')
    if server['offline_mode']:
        problems.append('offline_mode is on: clients are refused (SET GLOBAL offline_mode=OFF)')
    if role == 'replica' and state == 'writable':
        problems.append('it is a replica and accepts writes: SET GLOBAL super_read_only=ON')
    elif role == 'replica' and not server['super_read_only']:
        problems.append('it is a replica and privileged accounts can write: SET GLOBAL super_read_only=ON')
    elif role == 'detached' and state == 'read_only':
        problems.append('it holds data, is read-only and follows nobody: a primary whose role keeper waits for the others, or a former one that has to rejoin')
    for channel in server['channels']:
        problems += channel_problems(channel)
    if role == 'primary' and semi_sync and semi_sync['source_enabled']:
        if semi_sync_state(server, semi_sync) == 'waiting':
            problems.append('commits wait: no replica is connected and the policy is lossless. Bring a replica back, '
                            'or go on without one until it is back: SET GLOBAL rpl_semi_sync_source_wait_no_replica=OFF')
        elif not semi_sync['source_active']:
            problems.append('semi-synchronous replication is enabled and has fallen back to asynchronous: an acknowledged write may exist on this server alone')
        elif (semi_sync['clients'] or 0) < (semi_sync['wait_for_count'] or 1):
            problems.append('semi-synchronous replication waits for %s replica(s) and %s is connected: writes block up to %s ms'
                            % (semi_sync['wait_for_count'], semi_sync['clients'], semi_sync['timeout_ms']))
        problems += durability_problems(server, semi_sync)
    if role == 'primary' and len(server['replicas']) < (expected_replicas or 0):
        problems.append('%s of %s replicas follow this server (%s): the others are down, cut off or stopped' % (
            len(server['replicas']), expected_replicas, ', '.join(row['host'] or row['server_uuid'] for row in server['replicas']) or 'none'))
    clone = server.get('clone')
    if clone and clone['state'] == 'Failed':
        problems.append('the last clone from %s failed: %s' % (clone['source'], clone['error']))
    disk = server.get('disk')
    if disk and disk['free_bytes'] < DISK_SHARE * disk['size_bytes']:
        problems.append('the disk of %s is nearly full, %d MiB are free: MySQL waits when nothing is left; make room, it goes on by itself'
                        % (server['datadir'], disk['free_bytes'] // 2 ** 20))
    for row in server.get('long_transactions') or []:
        problems.append('a transaction of %s has been open for %s s (KILL %s ends it)' % (row['user'], row['seconds'], row['id']))
    if peer:
        problems += peer_problems(peer)
    return problems


def durability_problems(server, semi_sync):
    """What takes from semi-synchronous replication that an acknowledged write is on two servers, whatever crashes."""
    problems = []
    if semi_sync.get('wait_point') not in (None, 'AFTER_SYNC'):
        problems.append('rpl_semi_sync_source_wait_point is %s: others read a write before a replica has it, and a failover takes it back. '
                        'SET GLOBAL rpl_semi_sync_source_wait_point=AFTER_SYNC, and in the configuration' % semi_sync['wait_point'])
    for name in ('sync_binlog', 'innodb_flush_log_at_trx_commit'):
        if server.get(name) not in (None, 1):
            problems.append('%s is %s: after a crash of its host this server may lack what its replicas have, and what it acknowledged. '
                            'SET GLOBAL %s=1, and in the configuration' % (name, server[name], name))
    return problems


def channel_problems(channel):
    problems = []
    name = channel_name(channel)
    source = '%s:%s' % (channel['source_host'], channel['source_port'])
    if channel['io_error']['errno']:
        problems.append('%s is not connected to %s: %s (%s)' % (name, source, channel['io_error']['message'], channel['io_error']['errno']))
    elif channel['io_state'] != 'ON':
        problems.append('the receiver of %s from %s is %s' % (name, source, 'connecting' if channel['io_state'] == 'CONNECTING' else 'stopped'))
    if channel['sql_error']['errno']:
        problems.append('the applier of %s failed: %s (%s)' % (name, channel['sql_error']['message'], channel['sql_error']['errno']))
    elif channel['sql_state'] != 'ON':
        problems.append('the applier of %s is stopped' % name)
    if channel['delay']:
        problems.append('%s stays %s s behind on purpose (SOURCE_DELAY): its server is not for reading and not the first to take over'
                        % (name, channel['delay']))
    elif (channel['lag_seconds'] or 0) > LAG:
        problems.append('%s is %d s behind: %s' % (name, channel['lag_seconds'], channel['queue']))
    if not channel['auto_position']:
        problems.append('%s does not use GTID auto-position' % name)
    if not channel['ssl']['enabled']:
        problems.append('%s talks to %s without TLS' % (name, source))
    return problems


def peer_problems(peer):
    if not peer['reachable']:
        return ['the peer cannot be asked: %s' % peer['reason']]
    problems = []
    if peer['errant']:
        problems.append('this server has transactions that its source lacks: %s; save them and seed it again, or it will diverge' % peer['errant'])
    if peer['missing_purged']:
        problems.append("the source has purged transactions that this server lacks: %s; seed it again" % peer['missing_purged'])
    if peer['missing_own']:
        problems.append('this server %s. Restart it, and where that stays so seed it again' % lost_text(peer['missing_own']))
    return problems


# -- A pair

def series(server):
    return tuple(server['version_tuple'][:2])


def pair_problems(local, source, options):
    """Everything that speaks against local as a replica of source, apart from data: settings, identities, versions, topology."""
    if local['server_uuid'] == source['server_uuid']:
        if (local['hostname'], local['port']) == (source['hostname'], source['port']):
            return ['%s is this server itself: name another source_host' % options['source']]
        return ['this server and %s have the same server_uuid %s: stop mysqld here, remove auto.cnf from %s, start it again'
                % (options['source'], local['server_uuid'], local['datadir'])]
    problems = []
    if local['server_id'] == source['server_id']:
        problems.append('this server and %s have the same server_id %s: give each its own' % (options['source'], local['server_id']))
    for name, server in (('this server', local), (options['source'], source)):
        problems += setting_problems(name, server)
    if series(source) > series(local):
        problems.append('%s is version %s and this server %s: a replica must not be older than its source, upgrade this server first'
                        % (options['source'], source['version'], local['version']))
    if source['channels'] and not options['allow_chain']:
        problems.append('%s is itself a replica of %s: name the primary as source_host, or set allow_chain'
                        % (options['source'], ', '.join(channel['source_host'] for channel in source['channels'])))
    if any(row['server_uuid'] == source['server_uuid'] for row in local['replicas']):
        problems.append('%s follows this server: a circle' % options['source'])
    elif local['replicas'] and not options['allow_chain']:
        problems.append('this server has replicas of its own: %s; let them follow another server first, or set allow_chain'
                        % ', '.join('%s (%s)' % (row['host'] or 'unnamed', row['server_uuid']) for row in local['replicas']))
    return problems


def setting_problems(name, server):
    problems = []
    if not server['server_id']:
        problems.append('%s has server_id 0: give it a number of its own' % name)
    if server['gtid']['mode'] != 'ON' or not server['enforce_gtid_consistency']:
        problems.append('%s runs with gtid_mode=%s, enforce_gtid_consistency=%s: set both to ON'
                        % (name, server['gtid']['mode'], 'ON' if server['enforce_gtid_consistency'] else 'OFF'))
    if not server['log_bin']:
        problems.append('%s has no binary log: remove skip_log_bin' % name)
    if server['binlog_format'] != 'ROW':
        problems.append('%s runs with binlog_format=%s: set it to ROW' % (name, server['binlog_format']))
    if not server['log_replica_updates']:
        problems.append('%s runs with log_replica_updates=OFF: set it to ON' % name)
    return problems


def option_problems(options):
    """What MySQL would refuse later, in the middle of the work."""
    problems = []
    if len(options['source_password']) > 32:
        problems.append('source_password has %s characters; MySQL takes 32 at most for a channel' % len(options['source_password']))
    if len(options['source_user']) > 32:
        problems.append('source_user has %s characters; MySQL takes 32 at most' % len(options['source_user']))
    if options['source_ssl'] and options['source_ssl_verify'] and not options['source_ssl_ca']:
        problems.append('source_ssl_verify needs source_ssl_ca: name the CA file, or set source_ssl_verify=false')
    return problems


def follows(channel, source):
    return bool(channel and channel['source_uuid'] == source['server_uuid'])


def own_data(local, source, gaps):
    """(schemas, errant transactions) that overwriting or attaching this server would lose or let diverge."""
    if is_virgin(local):
        return [], ''
    if gaps['errant']:
        return [name for name in local['user_schemas'] if name not in (source['user_schemas'] or ())], gaps['errant']
    if not local['gtid']['executed']:
        return local['user_schemas'], ''
    return [], ''


def clone_obstacles(local, source, local_clone, source_clone, source_host):
    """Why the source cannot be cloned."""
    problems = []
    if not source_clone['plugin']:
        problems.append('the clone plugin is not loaded on the source (plugin-load-add=mysql_clone.so)')
    if not source_clone['backup_admin']:
        problems.append("the source's account lacks BACKUP_ADMIN")
    if series(local) != series(source):
        problems.append('the versions %s and %s are of different series' % (local['version'], source['version']))
    if local['platform'] != source['platform']:
        problems.append('the platforms differ: %s here, %s there' % (local['platform'], source['platform']))
    if local['innodb_page_size'] != source['innodb_page_size']:
        problems.append('innodb_page_size differs: %s here, %s there' % (local['innodb_page_size'], source['innodb_page_size']))
    if ':' in source_host:
        problems.append('CLONE takes no IPv6 address')
    # A plugin of the source need not be active here, only loadable; the files are known where the server is on this host.
    lacking = sorted(set(source_clone['plugins'].items()) - set(local_clone['plugins'].items()))
    lacking = [item for item in lacking if local_clone['libraries'] is not None and item[1] not in local_clone['libraries']]
    if lacking:
        problems.append('plugins of the source are not installed here: %s' % ', '.join('%s (%s)' % item for item in lacking))
    return problems


def decide_seed(seed, local, source, channel, gaps, obstacles, allow_data_loss, half_cloned=False):
    """(method, reason, problems): clone, binlog or none; problems when neither is safe or possible."""
    schemas, errant = own_data(local, source, gaps)
    if is_virgin(local):
        need = 'this server is virgin'
    elif half_cloned:
        need = 'an earlier clone to this server failed after it had removed the data'
    elif gaps['missing_purged']:
        need = 'the source has purged transactions that this server lacks: %s' % gaps['missing_purged']
    elif errant:
        need = 'this server has transactions that the source lacks: %s' % errant
    elif gaps['missing_own']:
        need = 'this server ' + lost_text(gaps['missing_own'])
    elif schemas:
        need = 'this server holds schemas that came by no transaction: %s' % ', '.join(schemas)
    elif seed == 'always':
        need = 'seed=always'
    elif seed == 'clone' and not follows(channel, source):
        need = 'seed=clone and this server does not follow the source yet'
    else:
        need = ''

    problems = []
    if schemas or errant:
        if not allow_data_loss:
            problems.append(loss_text(schemas, errant))
    elif gaps['missing_own'] and not (is_virgin(local) or half_cloned or seed == 'always' or allow_data_loss):
        # Commits that wait for an acknowledgement look the same until a restart.
        problems.append('this server %s. Restart it, so that it says all that it has; what is then still missing needs a new seed: '
                        'seed=always, or playbooks/rejoin.yml with mysql_replica_seed=always' % lost_text(gaps['missing_own']))
    elif server_state(local) == 'writable' and not follows(channel, source) and not allow_data_loss:
        problems.append('this server accepts writes and holds data (%s): it may be the primary. '
                        'If it is not, SET GLOBAL super_read_only=ON there first, or set allow_data_loss'
                        % ', '.join(local['user_schemas'] or ['transactions of other servers']))
    if not need:
        return ('none' if channel else 'binlog'), "the source's binary logs bring this server up to date", problems

    # Data that the source does not have and that no transaction brought here goes without a trace in a clone.
    seen = source['user_schemas']
    unknown = [] if seen is None else sorted(set(local['user_schemas']) - set(seen) - set(schemas))
    if unknown and not allow_data_loss:
        problems.append('%s; but a clone would drop schemas that the source does not have: %s. Save them, or set allow_data_loss' % (need, ', '.join(unknown)))
    if local['replicas']:
        problems.append('%s; but it has replicas, and a clone would break them: let them follow another server first' % need)
    if seed != 'never' and not obstacles:
        return 'clone', need, problems
    complete = is_virgin(local) and not source['gtid']['purged']
    if seed == 'never' and complete:
        return 'binlog', 'this server is virgin, the source has purged nothing, and seed=never', problems
    if seed == 'never':
        problems.append('%s; it must be seeded, and seed=never forbids it' % need)
    else:
        problems.append('%s; it must be seeded, and the source cannot be cloned: %s%s' % (
            need, '; '.join(obstacles), '. If its binary logs hold everything since its installation, seed=never starts from them' if complete else ''))
    return 'none', need, problems


def loss_text(schemas, errant):
    parts = []
    if errant:
        parts.append('transactions that the source lacks: %s' % errant)
    if schemas:
        parts.append('schemas: %s' % ', '.join(schemas))
    return 'this server holds data of its own, %s. Nothing is overwritten without allow_data_loss; save it first' % '; and '.join(parts)


SKIPPED = "replication skips what carries the server's own server_id"


def lost_text(missing_own):
    return 'lacks transactions that it wrote itself, as with an older copy of its disk: %s; %s' % (missing_own, SKIPPED)


def space_problems(need_bytes, have_bytes):
    """A clone that runs out of space has removed the old data already."""
    if need_bytes is None or have_bytes is None or need_bytes <= have_bytes:
        return []
    return ['the source holds %s MiB and there is room for %s MiB here' % (need_bytes >> 20, have_bytes >> 20)]


# -- The channel

def wanted_channel(params):
    wanted = {
        'source_host': params['source_host'],
        'source_port': params['source_port'],
        'source_user': params['source_user'],
        'auto_position': True,
        'ssl': params['source_ssl'],
        'ssl_ca': params['source_ssl_ca'] or '',
        'ssl_cert': params['source_ssl_cert'] or '',
        'ssl_key': params['source_ssl_key'] or '',
        'ssl_verify': params['source_ssl'] and params['source_ssl_verify'],
        'get_source_public_key': params['get_source_public_key'],
        'connect_retry': params['connect_retry'],
        'retry_count': params['retry_count'],
        'delay': params['delay'],
    }
    if params['heartbeat_period'] is not None:
        wanted['heartbeat_period'] = params['heartbeat_period']
    return wanted


def present_channel(channel):
    """A channel as read, in the words of wanted_channel()."""
    if channel is None:
        return {}
    flat = {key: channel[key] for key in ('source_host', 'source_port', 'source_user', 'auto_position', 'get_source_public_key',
                                          'connect_retry', 'retry_count', 'delay', 'heartbeat_period')}
    flat.update(ssl=channel['ssl']['enabled'], ssl_ca=channel['ssl']['ca'], ssl_cert=channel['ssl']['cert'],
                ssl_key=channel['ssl']['key'], ssl_verify=channel['ssl']['verify'])
    return flat


def channel_diff(wanted, channel):
    """Names of the settings that differ."""
    present = present_channel(channel)
    return [key for key, value in wanted.items() if present.get(key) != value]


def change_statement(wanted, password, name):
    """All settings each time: a channel never keeps half of an older TLS block."""
    options = [
        ('SOURCE_HOST', wanted['source_host']),
        ('SOURCE_PORT', wanted['source_port']),
        ('SOURCE_USER', wanted['source_user']),
        ('SOURCE_PASSWORD', Secret(password)),
        ('SOURCE_AUTO_POSITION', 1),
        ('SOURCE_SSL', int(wanted['ssl'])),
        ('SOURCE_SSL_CA', wanted['ssl_ca']),
        ('SOURCE_SSL_CERT', wanted['ssl_cert']),
        ('SOURCE_SSL_KEY', wanted['ssl_key']),
        ('SOURCE_SSL_VERIFY_SERVER_CERT', int(wanted['ssl_verify'])),
        ('GET_SOURCE_PUBLIC_KEY', int(wanted['get_source_public_key'])),
        ('SOURCE_CONNECT_RETRY', wanted['connect_retry']),
        ('SOURCE_RETRY_COUNT', wanted['retry_count']),
        ('SOURCE_DELAY', wanted['delay']),
    ]
    if 'heartbeat_period' in wanted:
        options.append(('SOURCE_HEARTBEAT_PERIOD', wanted['heartbeat_period']))
    sql = 'CHANGE REPLICATION SOURCE TO %s FOR CHANNEL %%s' % ', '.join('%s = %%s' % key for key, value in options)
    return sql, [value for key, value in options] + [name]


def diff_view(channel, wanted=None):
    """One side of --diff."""
    if channel is None and wanted is None:
        return ''
    flat = dict(present_channel(channel), **(wanted or {}))
    return ''.join('%s: %s\n' % (key, flat[key]) for key in sorted(flat))


def channel_failure(channel):
    """Why waiting for this channel is pointless, or ''."""
    if channel is None:
        return 'the channel does not exist'
    io_error, sql_error = channel['io_error'], channel['sql_error']
    if io_error['errno'] and (channel['io_state'] == 'OFF' or io_error['errno'] in HOPELESS):
        return 'the receiver failed: %s (%s)' % (io_error['message'], io_error['errno'])
    if sql_error['errno'] and channel['sql_state'] == 'OFF':
        return 'the applier failed: %s (%s)' % (sql_error['message'], sql_error['errno'])
    return ''
