#!/usr/bin/python
# Copyright: (c) 2026, The foobar.webstack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: mysql_replication_info
short_description: One view of a MySQL server's place in replication
version_added: 1.0.0
description:
  - Says what a MySQL server is in replication, in the same words for every server -
    role, data, GTID sets, channels, followers, semi-synchronous replication, and problems.
  - Reads only. The account needs REPLICATION CLIENT, REPLICATION SLAVE, SHOW DATABASES and SELECT on C(performance_schema).
  - Meant for deciding which host is the primary, for health checks, and before every change of the topology.
author:
  - The foobar.webstack developers (@foobar)
extends_documentation_fragment:
  - foobar.webstack.mysql
options:
  fail_on_unreachable:
    description:
      - Whether a server that cannot be asked is a failure.
      - With V(false) the result is RV(reachable=false), RV(state) is V(unreachable) or V(absent),
        and RV(reason) says why; so a play can look at all servers before it decides.
    type: bool
    default: true
  expected_replicas:
    description:
      - How many servers should follow this one while it is the primary; RV(problems) says when there are fewer.
      - A server remembers nobody who once followed it, so it does not know by itself that one is missing.
    type: int
  peer:
    description:
      - The server that this one follows, or is to follow. With it RV(peer) says what each has that the other lacks.
    type: dict
    suboptions:
      host:
        description: Name or address.
        type: str
        required: true
      port:
        description: TCP port.
        type: int
        default: 3306
      user:
        description: Account on the peer. No privilege is needed beyond logging in.
        type: str
        required: true
      password:
        description: Password of O(peer.user).
        type: str
      ca_cert:
        description: CA certificates to verify the peer with. When given, the connection uses TLS or fails.
        type: path
      client_cert:
        description: Client certificate.
        type: path
      client_key:
        description: Key of O(peer.client_cert).
        type: path
      check_hostname:
        description: Whether the name in the peer's certificate must be O(peer.host). Needs O(peer.ca_cert).
        type: bool
        default: true
attributes:
  check_mode:
    support: full
    description: Reads only; the result is the same.
seealso:
  - module: foobar.webstack.mysql_replica
"""

EXAMPLES = r"""
- name: Look at the server
  foobar.webstack.mysql_replication_info:
  register: mysql_server

- name: Look at every server, also at those that are down or not installed yet
  foobar.webstack.mysql_replication_info:
    fail_on_unreachable: false
  register: mysql_server

- name: Does every other server follow the primary?
  foobar.webstack.mysql_replication_info:
    expected_replicas: "{{ groups['database'] | length - 1 }}"
  register: mysql_server
  failed_when: mysql_server is failed or mysql_server.problems

- name: Which transactions does this server have that its source lacks?
  foobar.webstack.mysql_replication_info:
    peer:
      host: db1.example.org
      user: replication
      password: "{{ replication_password }}"
      ca_cert: /etc/webstack/pki/ca.crt
  register: mysql_server
  failed_when: mysql_server is failed or mysql_server.peer.errant
"""

RETURN = r"""
reachable:
  description: Whether the server answered.
  returned: always
  type: bool
reason:
  description: Why the server could not be asked; empty when it answered.
  returned: always
  type: str
state:
  description:
    - V(virgin), nothing would be lost by overwriting it - no user schema, no transaction of another server, no channel, nobody follows it.
    - V(writable), it has data and accepts writes.
    - V(read_only), it has data and C(read_only) or C(super_read_only) is on.
    - V(unreachable), it could not be asked, so it may hold anything.
    - V(absent), no MySQL server and no data directory is on this host; only where the login is local.
  returned: always
  type: str
role:
  description:
    - V(replica), it has a replication channel, running or not.
    - V(primary), it has no channel, is not virgin, and accepts writes or is followed by others.
    - V(detached), it has no channel and is no primary, such as a virgin server or a former primary that is read-only.
    - Empty when the server could not be asked.
  returned: always
  type: str
version:
  description: The server's version string.
  returned: when reachable
  type: str
  sample: 9.7.4-2
version_tuple:
  description: The version as integers, for comparisons.
  returned: when reachable
  type: list
  elements: int
  sample: [9, 7, 4]
server_id:
  description: C(server_id).
  returned: when reachable
  type: int
server_uuid:
  description: C(server_uuid).
  returned: when reachable
  type: str
report_host:
  description: The name under which the server tells its source about itself; empty when not set.
  returned: when reachable
  type: str
read_only:
  description: C(read_only).
  returned: when reachable
  type: bool
super_read_only:
  description: C(super_read_only).
  returned: when reachable
  type: bool
offline_mode:
  description: C(offline_mode).
  returned: when reachable
  type: bool
user_schemas:
  description: Schemas that are not MySQL's own.
  returned: when reachable
  type: list
  elements: str
binlog:
  description: The binary log, which replicas and point-in-time restores live on.
  returned: when reachable
  type: dict
  contains:
    enabled:
      description: Whether there is one.
      type: bool
    format:
      description: V(ROW), V(STATEMENT) or V(MIXED).
      type: str
    sync:
      description: C(sync_binlog), after how many commits it is forced to disk; with V(1) none is lost in a crash, with V(0) the operating system decides.
      type: int
gtid:
  description: Transactions of this server.
  returned: when reachable
  type: dict
  contains:
    mode:
      description: C(gtid_mode).
      type: str
    executed:
      description: GTID set that was executed.
      type: str
    purged:
      description: The part of RV(gtid.executed) that is no longer in the binary logs.
      type: str
    own_uuid_only:
      description: Whether no executed transaction comes from another server.
      type: bool
channels:
  description: Replication channels of this server, without those of Group Replication.
  returned: when reachable
  type: list
  elements: dict
  contains:
    name:
      description: Name; the default channel's is empty.
      type: str
    source_host:
      description: Source.
      type: str
    source_port:
      description: TCP port.
      type: int
    source_user:
      description: Account on the source.
      type: str
    source_uuid:
      description: The source's C(server_uuid); empty before the first connection.
      type: str
    io_state:
      description: V(ON), V(CONNECTING) or V(OFF).
      type: str
    sql_state:
      description: V(ON) or V(OFF).
      type: str
    auto_position:
      description: Whether the source is asked by GTID.
      type: bool
    ssl:
      description: TLS of the channel.
      type: dict
      contains:
        enabled:
          description: Whether the channel uses TLS.
          type: bool
        ca:
          description: CA file.
          type: str
        cert:
          description: Client certificate.
          type: str
        key:
          description: Client key.
          type: str
        verify:
          description: Whether the source's name in its certificate is verified.
          type: bool
    io_error:
      description: Last error of the receiver; C(errno) is 0 when there is none.
      type: dict
    sql_error:
      description: Last error of the applier, the worker's where a worker failed; C(errno) is 0 when there is none.
      type: dict
    connect_retry:
      description: Seconds between two connection attempts.
      type: int
    retry_count:
      description: Connection attempts before the receiver gives up.
      type: int
    heartbeat_period:
      description: Seconds between two heartbeats of the source.
      type: float
    delay:
      description: Seconds that the replica stays behind on purpose.
      type: int
    get_source_public_key:
      description: Whether the source is asked for its RSA key.
      type: bool
    received:
      description: GTID set that was received.
      type: str
    queue:
      description: GTID set that was received and is not applied yet; empty when all is applied.
      type: str
    lag_seconds:
      description:
        - How far the data is behind the source; V(0) when all that was received is applied.
        - Null when not known, because the receiver or the applier is not running.
      type: float
replicas:
  description: Servers that follow this one now.
  returned: when reachable
  type: list
  elements: dict
  contains:
    host:
      description: The C(report_host) of the replica.
      type: str
    port:
      description: Its port.
      type: int
    server_id:
      description: Its C(server_id).
      type: int
    server_uuid:
      description: Its C(server_uuid).
      type: str
semi_sync:
  description: Semi-synchronous replication; values are null where the plugin is not loaded.
  returned: when reachable
  type: dict
  contains:
    state:
      description:
        - What a commit on a primary gets. V(active), a replica has it; V(degraded), nobody else may have it;
          V(waiting), it hangs until a replica is connected, because the policy is lossless.
        - V(off) without semi-synchronous replication and on servers that are no primary.
      type: str
    source_enabled:
      description: Whether this server as a source waits for acknowledgements.
      type: bool
    source_active:
      description:
        - Whether it does so now; V(false) after it fell back to asynchronous.
        - With RV(semi_sync.clients) V(0) an active source only waits for its timeout.
      type: bool
    clients:
      description: Semi-synchronous replicas connected.
      type: int
    timeout_ms:
      description: Milliseconds that a commit waits before the source falls back.
      type: int
    wait_for_count:
      description: Acknowledgements that a commit needs.
      type: int
    wait_point:
      description: V(AFTER_SYNC) or V(AFTER_COMMIT).
      type: str
    wait_no_replica:
      description: Whether commits wait when fewer replicas than needed are connected.
      type: bool
    yes_tx:
      description: Commits that were acknowledged.
      type: int
    no_tx:
      description: Commits that were not.
      type: int
    replica_enabled:
      description: Whether this server as a replica acknowledges.
      type: bool
    replica_active:
      description: Whether it does so now.
      type: bool
clone:
  description:
    - How far the C(CLONE) to this server is, or how the last one since it started ended; null when there was none.
    - While one runs, ask again to see it go on.
  returned: when reachable
  type: dict
  contains:
    state:
      description: V(Not Started), V(In Progress), V(Completed) or V(Failed).
      type: str
    source:
      description: The donor, as address and port.
      type: str
    percent:
      description: Part of the estimated bytes that is copied.
      type: int
    bytes:
      description: Bytes copied.
      type: int
    estimated_bytes:
      description: Bytes to copy, as far as the server knows.
      type: int
    bytes_per_second:
      description: Mean rate.
      type: int
    error:
      description: Why it failed; empty when it did not.
      type: str
disk:
  description: File system of the data directory; null when the login is not over a local socket.
  returned: when reachable
  type: dict
  contains:
    size_bytes:
      description: Size.
      type: int
    free_bytes:
      description: What MySQL can still use.
      type: int
long_transactions:
  description: Transactions that have been open for more than a minute; null for an account without PROCESS.
  returned: when reachable
  type: list
  elements: dict
  contains:
    id:
      description: Connection, for C(KILL).
      type: int
    user:
      description: Account.
      type: str
    host:
      description: Where it is connected from.
      type: str
    seconds:
      description: Age.
      type: int
    rows_modified:
      description: Rows that it has written and not committed.
      type: int
peer:
  description: What this server and the peer have that the other lacks.
  returned: when O(peer) is given
  type: dict
  contains:
    reachable:
      description: Whether the peer answered.
      type: bool
    reason:
      description: Why it could not be asked.
      type: str
    server_uuid:
      description: The peer's C(server_uuid).
      type: str
    executed:
      description: GTID set that the peer executed.
      type: str
    errant:
      description:
        - Transactions that only this server has, after two reads; empty is good.
        - The live peer's own transactions are not counted, they are in flight while a semi-synchronous commit waits.
      type: str
    errant_purged:
      description: The part of RV(peer.errant) that is not in this server's binary logs (any more), so that it cannot be saved from there.
      type: str
    ahead:
      description: Transactions of the peer itself that this server has and the peer has not executed yet.
      type: str
    missing:
      description: Transactions that only the peer has.
      type: str
    missing_own:
      description:
        - The part of RV(peer.missing) that this server wrote itself.
          Replication skips what carries its own C(server_id), so not empty means that it must be seeded.
        - So it is after an older copy of a former primary's disk was put back; and, until a restart, while commits wait for an acknowledgement.
      type: str
    relay_only:
      description:
        - Transactions that this server's relay logs hold, and neither its data nor the peer; the live peer's own are not counted.
        - They are gone when a channel is changed or the server is cloned.
      type: str
    missing_purged:
      description: The part of RV(peer.missing) that is no longer in the peer's binary logs; not empty means that this server must be seeded.
      type: str
problems:
  description: What an operator should act on, in words; empty is good.
  returned: always
  type: list
  elements: str
"""

import os
import shutil

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.foobar.webstack.plugins.module_utils import mysql, mysql_replication, mysql_server

PUBLIC = ('version', 'version_tuple', 'server_id', 'server_uuid', 'report_host', 'read_only', 'super_read_only', 'offline_mode',
          'user_schemas', 'gtid', 'channels', 'replicas')


def peer_target(peer):
    return dict(user=peer['user'], password=peer['password'], host=peer['host'], port=peer['port'],
                ca=peer['ca_cert'], cert=peer['client_cert'], key=peer['client_key'], check_hostname=peer['check_hostname'])


def look(db, user, local):
    """The result for a server that answers."""
    server = mysql_server.read_server(db)
    blind = mysql_replication.visibility_problem(server, user)
    if blind:
        raise mysql.ServerError(blind)
    semi_sync = mysql_server.read_semi_sync(db)
    semi_sync['state'] = mysql_replication.semi_sync_state(server, semi_sync)
    result = {key: server[key] for key in PUBLIC}
    result.update(
        reachable=True,
        reason='',
        state=mysql_replication.server_state(server),
        role=mysql_replication.server_role(server),
        binlog={'enabled': server['log_bin'], 'format': server['binlog_format'], 'sync': server['sync_binlog']},
        semi_sync=semi_sync,
        clone=mysql_server.read_clone_progress(db),
        disk=mysql_server.read_disk(server['datadir']) if local else None,
        long_transactions=mysql_server.read_long_transactions(db),
    )
    return result, server


def look_at_peer(db, server, target):
    try:
        peer = mysql.connect(**target)
    except mysql.ServerError as error:
        names = ('server_uuid', 'executed', 'errant', 'errant_purged', 'ahead', 'missing', 'missing_own', 'missing_purged', 'relay_only')
        return dict(dict.fromkeys(names, ''), reachable=False, reason=str(error))
    try:
        uuid = peer.value('SELECT @@GLOBAL.server_uuid')
        received = ','.join(channel['received'] for channel in server['channels'] if channel['source_uuid'] == uuid)
        gaps = mysql_server.gtid_gaps(db, peer, uuid, received)
        kept = mysql_server.gtid_subtract(db, gaps['errant'], server['gtid']['purged'])
        gaps['errant_purged'] = mysql_server.gtid_subtract(db, gaps['errant'], kept)
        waiting = ','.join(channel['received'] for channel in server['channels'] if channel['received'])
        queued = mysql_server.gtid_subtract(db, waiting, server['gtid']['executed'])
        # As with errant ones, what the live peer itself has not committed yet is only on its way.
        gaps['relay_only'] = mysql_replication.gtid_without(mysql_server.gtid_subtract(db, queued, gaps['executed']), uuid)
    finally:
        peer.close()
    gaps.pop('purged')
    return dict(gaps, reachable=True, reason='', server_uuid=uuid)


def unreachable(target, reason):
    mysqld = shutil.which('mysqld') or os.path.exists('/usr/sbin/mysqld')
    state = mysql_replication.unreachable_state(bool(target['unix_socket']), mysqld, os.path.exists('/var/lib/mysql/ibdata1'))
    return {'reachable': False, 'reason': reason, 'state': state, 'role': '', 'problems': [reason]}


def main():
    spec = mysql.login_argument_spec()
    spec.update(
        fail_on_unreachable=dict(type='bool', default=True),
        expected_replicas=dict(type='int'),
        peer=dict(type='dict', options=dict(
            host=dict(type='str', required=True),
            port=dict(type='int', default=3306),
            user=dict(type='str', required=True),
            password=dict(type='str', no_log=True),
            ca_cert=dict(type='path'),
            client_cert=dict(type='path'),
            client_key=dict(type='path', no_log=False),
            check_hostname=dict(type='bool', default=True),
        )),
    )
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    target = mysql.login_target(module.params)

    if mysql.PYMYSQL_ERROR:
        result = unreachable(target, missing_required_lib('PyMySQL'))
        if module.params['fail_on_unreachable']:
            module.fail_json(msg=result['reason'], exception=mysql.PYMYSQL_ERROR, **result)
        module.exit_json(changed=False, **result)

    try:
        db = mysql.connect(**target)
    except mysql.ServerError as error:
        result = unreachable(target, str(error))
        if module.params['fail_on_unreachable']:
            module.fail_json(msg=result['reason'], **result)
        module.exit_json(changed=False, **result)

    try:
        result, server = look(db, module.params['login_user'], bool(target['unix_socket']))
        peer = module.params['peer']
        if peer:
            result['peer'] = look_at_peer(db, server, peer_target(peer))
        result['problems'] = mysql_replication.server_problems(
            dict(server, **result), result['semi_sync'], result.get('peer'), module.params['expected_replicas'])
    except mysql.ServerError as error:
        # A server that goes away in the middle is as unreachable as one that never answered.
        if error.errno in mysql.LOST and not module.params['fail_on_unreachable']:
            module.exit_json(changed=False, **unreachable(target, str(error)))
        module.fail_json(msg=str(error))
    finally:
        db.close()
    module.exit_json(changed=False, **result)


if __name__ == '__main__':
    main()
