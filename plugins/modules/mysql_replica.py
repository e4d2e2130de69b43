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
  - Declares a replication channel (GTID, auto-position) of the server that the module logs in to. What differs is changed, the channel is stopped only for that, and the complete TLS settings are given each time.
  - Looks at both servers first and lists everything that speaks against the pair in one message, before anything is changed.
  - Seeds the server by C(CLONE) where the source's binary logs cannot bring it up to date. Never overwrites data that only this server has, unless told to.
author:
  - The foobar.webstack developers
extends_documentation_fragment:
  - foobar.webstack.mysql
options:
  state:
    description:
      - V(started), the channel is as declared and runs.
      - V(stopped), the channel's threads do not run; its settings stay as they are.
      - V(absent), the channel does not exist.
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
    description: Whether the source's certificate must be valid and carry the name O(source_host). The clone itself verifies the CA alone, MySQL offers no more.
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
    description: Whether to switch C(super_read_only) on while this server is a replica. The runtime value only; the configuration file decides about the next boot.
    type: bool
    default: true
  seed:
    description:
      - V(auto), a virgin server, or one that lacks transactions that the source has purged from its binary logs, is seeded by C(CLONE); any other catches up from the binary logs.
      - A virgin server is cloned even where the binary logs are complete, because they do not tell what was in the data files before them, and two fresh installations
        create the same accounts twice, which stops replication. Only where the source cannot be cloned and has purged nothing, a virgin server starts from its binary logs.
      - V(clone), as V(auto), and a server that is not replicating from this source yet is always cloned. A replica that can catch up is left alone.
      - V(never), a server that needs seeding is refused.
    type: str
    choices: [auto, clone, never]
    default: auto
  allow_data_loss:
    description: Whether data that only this server has may be overwritten. Without it such a server is refused, and its schemas and errant transactions are named.
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
    description: Seconds that seeding may take, including the restart of the server.
    type: int
    default: 86400
attributes:
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
