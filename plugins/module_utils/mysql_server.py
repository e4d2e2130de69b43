# Copyright: (c) 2026, The foobar.webstack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads a connected server into plain dictionaries, which mysql_replication.py judges."""
from __future__ import annotations

import os
import re
import time

from ansible_collections.foobar.webstack.plugins.module_utils.mysql import ServerError, version_tuple
from ansible_collections.foobar.webstack.plugins.module_utils.mysql_replication import (
    gtid_only, gtid_uuids, gtid_without,
)

SYSTEM_SCHEMAS = ('information_schema', 'mysql', 'performance_schema', 'sys')
DENIED = frozenset((1044, 1142, 1143, 1227))


def on(value):
    """A switch as SHOW prints it; None where it does not exist."""
    return None if value is None else str(value).upper() in ('ON', 'YES', '1', 'TRUE')


def number(value):
    return None if value is None else int(value)


def sees_schemas(grants):
    """Schemas that an account may not see are left out without a word, and a server that only looks empty must not count as virgin."""
    return any(' ON *.*' in grant and re.search(r'\b(ALL PRIVILEGES|SELECT|SHOW DATABASES)\b', grant.split(' ON *.*')[0]) for grant in grants)


def read_server(db):
    """What can be seen with REPLICATION CLIENT and REPLICATION SLAVE; user_schemas is None for an account that does not see all of them."""
    names = ('version', 'server_id', 'server_uuid', 'hostname', 'port', 'report_host', 'read_only', 'super_read_only', 'offline_mode',
             'gtid_mode', 'enforce_gtid_consistency', 'log_bin', 'binlog_format', 'log_replica_updates', 'sync_binlog',
             'innodb_flush_log_at_trx_commit', 'datadir',
             'innodb_page_size', 'version_compile_os', 'version_compile_machine')
    seen = db.variables(*names)
    gtid = db.row('SELECT @@GLOBAL.gtid_executed AS executed, @@GLOBAL.gtid_purged AS purged')
    executed, purged = (gtid[key].replace('\n', '') for key in ('executed', 'purged'))
    grants = [next(iter(row.values())) for row in db.rows('SHOW GRANTS')]
    schemas = db.rows('SELECT SCHEMA_NAME AS name FROM information_schema.SCHEMATA ORDER BY 1')
    return {
        'version': seen['version'],
        'version_tuple': version_tuple(seen['version']),
        'server_id': int(seen['server_id']),
        'server_uuid': seen['server_uuid'],
        'hostname': seen['hostname'],
        'port': int(seen['port']),
        'report_host': seen['report_host'] or '',
        'read_only': on(seen['read_only']),
        'super_read_only': on(seen['super_read_only']),
        'offline_mode': on(seen['offline_mode']),
        'log_bin': on(seen['log_bin']),
        'binlog_format': seen.get('binlog_format', 'ROW'),
        'log_replica_updates': on(seen['log_replica_updates']),
        'sync_binlog': number(seen.get('sync_binlog')),
        'innodb_flush_log_at_trx_commit': number(seen.get('innodb_flush_log_at_trx_commit')),
        'enforce_gtid_consistency': on(seen['enforce_gtid_consistency']),
        'datadir': seen['datadir'],
        'innodb_page_size': int(seen['innodb_page_size']),
        'platform': '%s %s' % (seen['version_compile_os'], seen['version_compile_machine']),
        'user_schemas': [row['name'] for row in schemas if row['name'].lower() not in SYSTEM_SCHEMAS] if sees_schemas(grants) else None,
        'gtid': {
            'mode': seen['gtid_mode'],
            'executed': executed,
            'purged': purged,
            'own_uuid_only': gtid_uuids(executed) <= {seen['server_uuid'].lower()},
        },
        'channels': read_channels(db, executed),
        'replicas': [
            {'host': row['Host'], 'port': row['Port'], 'server_id': row['Server_Id'], 'server_uuid': row['Replica_UUID']}
            for row in db.rows('SHOW REPLICAS')
        ],
    }


def read_channels(db, executed=None):
    if executed is None:
        executed = db.value('SELECT @@GLOBAL.gtid_executed')
    channels = []
    for row in db.rows('SHOW REPLICA STATUS'):
        if row['Channel_Name'].startswith('group_replication_'):
            continue
        received = (row['Retrieved_Gtid_Set'] or '').replace('\n', '')
        channel = {
            'name': row['Channel_Name'],
            'source_host': row['Source_Host'],
            'source_port': int(row['Source_Port']),
            'source_user': row['Source_User'],
            'source_uuid': row['Source_UUID'] or '',
            'io_state': {'Yes': 'ON', 'No': 'OFF'}.get(row['Replica_IO_Running'], 'CONNECTING'),
            'sql_state': 'ON' if on(row['Replica_SQL_Running']) else 'OFF',
            'auto_position': on(row['Auto_Position']),
            'ssl': {
                # "Ignored" is a server without TLS, which does not use it either.
                'enabled': row['Source_SSL_Allowed'] == 'Yes',
                'ca': row['Source_SSL_CA_File'],
                'cert': row['Source_SSL_Cert'],
                'key': row['Source_SSL_Key'],
                'verify': on(row['Source_SSL_Verify_Server_Cert']),
            },
            'io_error': {'errno': int(row['Last_IO_Errno']), 'message': row['Last_IO_Error']},
            'sql_error': {'errno': int(row['Last_SQL_Errno']), 'message': row['Last_SQL_Error']},
            'connect_retry': int(row['Connect_Retry']),
            'retry_count': int(row['Source_Retry_Count']),
            'heartbeat_period': None,
            'delay': int(row['SQL_Delay']),
            'get_source_public_key': on(row['Get_Source_public_key']),
            'received': received,
            'queue': (db.value('SELECT GTID_SUBTRACT(%s, %s)', (received, executed)) or '').replace('\n', ''),
            'lag_seconds': None,
        }
        _read_performance_schema(db, channel, number(row['Seconds_Behind_Source']))
        channels.append(channel)
    return channels


def _read_performance_schema(db, channel, seconds_behind):
    """What SHOW REPLICA STATUS does not say; a replication account may not read it, and nothing of it matters for a source."""
    running = channel['io_state'] == 'ON' and channel['sql_state'] == 'ON'
    if running:
        channel['lag_seconds'] = float(seconds_behind or 0) if channel['queue'] else 0.0
    try:
        channel['heartbeat_period'] = float(db.value(
            'SELECT HEARTBEAT_INTERVAL FROM performance_schema.replication_connection_configuration WHERE CHANNEL_NAME = %s', (channel['name'],)))
        if channel['sql_error']['errno']:
            worker = db.row(
                'SELECT LAST_ERROR_NUMBER AS errno, LAST_ERROR_MESSAGE AS message FROM performance_schema.replication_applier_status_by_worker'
                ' WHERE CHANNEL_NAME = %s AND LAST_ERROR_NUMBER <> 0 ORDER BY LAST_ERROR_TIMESTAMP LIMIT 1', (channel['name'],))
            channel['sql_error'] = worker or channel['sql_error']
        if running and channel['queue']:
            # Seconds_Behind_Source counts whole seconds and forgets what is only queued: take the oldest transaction that is being applied.
            lag = db.value(
                'SELECT TIMESTAMPDIFF(MICROSECOND, MIN(APPLYING_TRANSACTION_ORIGINAL_COMMIT_TIMESTAMP), NOW(6)) / 1000000'
                ' FROM performance_schema.replication_applier_status_by_worker'
                " WHERE CHANNEL_NAME = %s AND APPLYING_TRANSACTION <> '' AND APPLYING_TRANSACTION_ORIGINAL_COMMIT_TIMESTAMP > '1971-01-01'", (channel['name'],))
            channel['lag_seconds'] = max(channel['lag_seconds'], float(lag or 0))
    except ServerError as error:
        if error.errno not in DENIED:
            raise


def read_semi_sync(db):
    names = ('enabled', 'timeout', 'wait_for_replica_count', 'wait_point', 'wait_no_replica')
    seen = db.variables(*(['rpl_semi_sync_source_%s' % name for name in names] + ['rpl_semi_sync_replica_enabled']))
    status = {name.lower(): value for name, value in db.status('Rpl_semi_sync_%').items()}
    return {
        'source_enabled': on(seen.get('rpl_semi_sync_source_enabled')),
        'source_active': on(status.get('rpl_semi_sync_source_status')),
        'clients': number(status.get('rpl_semi_sync_source_clients')),
        'timeout_ms': number(seen.get('rpl_semi_sync_source_timeout')),
        'wait_for_count': number(seen.get('rpl_semi_sync_source_wait_for_replica_count')),
        'wait_point': seen.get('rpl_semi_sync_source_wait_point'),
        'wait_no_replica': on(seen.get('rpl_semi_sync_source_wait_no_replica')),
        'yes_tx': number(status.get('rpl_semi_sync_source_yes_tx')),
        'no_tx': number(status.get('rpl_semi_sync_source_no_tx')),
        'replica_enabled': on(seen.get('rpl_semi_sync_replica_enabled')),
        'replica_active': on(status.get('rpl_semi_sync_replica_status')),
    }


def read_clone(db):
    """What CLONE compares between donor and recipient, and the size of data and redo log where the account may see it."""
    plugins = db.rows("SELECT PLUGIN_NAME AS plugin, PLUGIN_LIBRARY AS so_file FROM information_schema.PLUGINS WHERE PLUGIN_STATUS = 'ACTIVE'")
    grants = ' '.join(next(iter(row.values())) for row in db.rows('SHOW GRANTS'))
    try:
        size = number(db.value('SELECT SUM(FILE_SIZE) + @@GLOBAL.innodb_redo_log_capacity FROM information_schema.INNODB_TABLESPACES'))
    except ServerError as error:
        if error.errno not in DENIED:
            raise
        size = None
    active = any(row['plugin'] == 'clone' for row in plugins)
    return {
        'plugin': active,
        'half_cloned': active and half_cloned(db),
        'plugins': {row['plugin']: row['so_file'] for row in plugins if row['so_file']},
        'backup_admin': 'BACKUP_ADMIN' in grants or 'ALL PRIVILEGES' in grants,
        'bytes': size,
    }


def read_clone_progress(db):
    """How far the clone to this server is, or how the last one ended; None without one, or for an account that may not look."""
    try:
        status = db.row('SELECT STATE AS state, ERROR_MESSAGE AS error, SOURCE AS source FROM performance_schema.clone_status')
        # The copying stages; estimates grow while the donor goes on writing.
        copied = db.row(
            "SELECT CAST(SUM(DATA) AS UNSIGNED) AS bytes, CAST(SUM(GREATEST(ESTIMATE, DATA)) AS UNSIGNED) AS estimate,"
            ' CAST(SUM(DATA) / GREATEST(TIMESTAMPDIFF(MICROSECOND, MIN(BEGIN_TIME), COALESCE(MAX(END_TIME), NOW(6))) / 1000000, 0.001) AS UNSIGNED) AS rate'
            " FROM performance_schema.clone_progress WHERE STAGE LIKE '%% COPY' AND BEGIN_TIME IS NOT NULL") if status else None
    except ServerError as error:
        if error.errno not in DENIED:
            raise
        return None
    if not status:
        return None
    total, done = number(copied['estimate']) or 0, number(copied['bytes']) or 0
    return {
        'state': status['state'],
        'source': status['source'],
        'percent': int(100 * done / total) if total else 0,
        'bytes': done,
        'estimated_bytes': total,
        'bytes_per_second': number(copied['rate']) or 0,
        'error': status['error'],
    }


def read_long_transactions(db, seconds=60):
    """Open transactions older than that; None for an account that may not look (PROCESS)."""
    try:
        return [dict(row, seconds=int(row['seconds']), rows_modified=int(row['rows_modified'])) for row in db.rows(
            'SELECT p.PROCESSLIST_ID AS id, p.PROCESSLIST_USER AS user, p.PROCESSLIST_HOST AS host,'
            ' TIMESTAMPDIFF(SECOND, t.trx_started, NOW()) AS seconds, t.trx_rows_modified AS rows_modified'
            ' FROM information_schema.INNODB_TRX t JOIN performance_schema.threads p ON p.PROCESSLIST_ID = t.trx_mysql_thread_id'
            " WHERE p.TYPE = 'FOREGROUND' AND t.trx_started < NOW() - INTERVAL %s SECOND ORDER BY t.trx_started", (seconds,))]
    except ServerError as error:
        if error.errno not in DENIED:
            raise
        return None


def read_disk(datadir):
    """Of the data directory's file system; None where it is not this host's."""
    try:
        stat = os.statvfs(datadir)
    except OSError:
        return None
    return {'size_bytes': stat.f_blocks * stat.f_frsize, 'free_bytes': stat.f_bavail * stat.f_frsize}


def half_cloned(db):
    """Whether the last clone to this server failed after it had removed the old data: gtid_executed still speaks of that data.

    One that its busy source turned away removes nothing, but the traces of the one before it; without a schema nothing is lost by another clone.
    """
    try:
        return bool(db.value(
            "SELECT COUNT(*) FROM performance_schema.clone_status s LEFT JOIN performance_schema.clone_progress p ON p.ID = s.ID AND p.STAGE = 'DROP DATA'"
            " WHERE s.STATE = 'Failed' AND (p.STATE = 'Completed' OR s.ERROR_MESSAGE LIKE '%%Too many concurrent clone%%'"
            " AND NOT EXISTS (SELECT 1 FROM information_schema.SCHEMATA"
            " WHERE SCHEMA_NAME NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema')))"))
    except ServerError as error:
        if error.errno not in DENIED:
            raise
        return False


def gtid_gaps(db, peer, peer_uuid, received='', pause=0.5):
    """What db and peer each lack, judged by db's own functions (tagged GTIDs included); received is what the relay log of the same source holds.

    A semi-synchronous source has not executed what it waits for, and another server's transactions may be on their way through the peer:
    so the peer's own GTIDs never count as errant while it answers, and the others only after a second look at the peer.
    """
    here, there = _gtid(db), _gtid(peer)
    extra = gtid_subtract(db, here['executed'], there['executed'])
    errant = gtid_without(extra, peer_uuid)
    if errant:
        time.sleep(pause)
        there = _gtid(peer)
        extra = gtid_subtract(db, extra, there['executed'])
        errant = gtid_without(extra, peer_uuid)
    purged = gtid_subtract(db, gtid_subtract(db, there['purged'], here['executed']), received)
    if purged:
        # The peer may have purged what was still on its way at the first look.
        here = _gtid(db)
        purged = gtid_subtract(db, purged, here['executed'])
    missing = gtid_subtract(db, there['executed'], here['executed'])
    return {
        'executed': there['executed'],
        'purged': there['purged'],
        'errant': errant,
        'ahead': gtid_only(extra, peer_uuid),
        'missing': missing,
        'missing_own': gtid_only(missing, db.value('SELECT @@GLOBAL.server_uuid')),
        'missing_purged': purged,
    }


def _gtid(db):
    row = db.row('SELECT @@GLOBAL.gtid_executed AS executed, @@GLOBAL.gtid_purged AS purged')
    return {key: value.replace('\n', '') for key, value in row.items()}


def gtid_subtract(db, left, right):
    return (db.value('SELECT GTID_SUBTRACT(%s, %s)', (left, right)) or '').replace('\n', '')
