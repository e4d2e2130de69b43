# Copyright: (c) 2026, The foobar.webstack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations


class ModuleDocFragment:

    DOCUMENTATION = r"""
options:
  servers:
    description:
      - All servers of the cluster, the primary and every replica. One that is left out would be lost on the way.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name by which the other options and the results call it.
        type: str
        required: true
      host:
        description: Name or address, as this host and the other servers reach it and as its certificate says.
        type: str
        required: true
        aliases: [address]
      port:
        description: TCP port.
        type: int
        default: 3306
  login_user:
    description:
      - Account to log in with on all servers, over TLS.
      - It needs SYSTEM_VARIABLES_ADMIN, CONNECTION_ADMIN, REPLICATION_SLAVE_ADMIN, REPLICATION SLAVE, REPLICATION CLIENT, PROCESS, RELOAD
        and SHOW DATABASES on C(*.*), and SELECT on C(performance_schema.*).
    type: str
    default: cluster_admin
  login_password:
    description: Password of O(login_user).
    type: str
  connect_timeout:
    description: Seconds to wait for a connection and its first answer.
    type: int
    default: 2
  ca_cert:
    description: CA certificates to verify the servers with. Without it the connection is encrypted and not verified.
    type: path
    aliases: [ssl_ca]
  client_cert:
    description: Client certificate.
    type: path
    aliases: [ssl_cert]
  client_key:
    description: Key of O(client_cert).
    type: path
    aliases: [ssl_key]
  check_hostname:
    description: Whether the name in a server's certificate must be its host. Needs O(ca_cert).
    type: bool
    default: true
  source_user:
    description: Account with which the replicas follow the new primary; it is there on all servers.
    type: str
    required: true
  source_password:
    description: Password of O(source_user), 32 characters at most, which is MySQL's limit for a channel.
    type: str
    required: true
  source_ssl:
    description: Whether the replicas talk to the new primary over TLS only.
    type: bool
    default: true
  source_ssl_ca:
    description: CA certificates, on each database host, that the replicas verify the new primary with.
    type: path
  source_ssl_cert:
    description: Client certificate of the replicas.
    type: path
  source_ssl_key:
    description: Key of O(source_ssl_cert).
    type: path
  source_ssl_verify:
    description: Whether the new primary's certificate must be valid and carry its host. Needs O(source_ssl_ca).
    type: bool
    default: true
  get_source_public_key:
    description: Whether the replicas ask the new primary for its RSA key; needed for C(caching_sha2_password) without TLS only.
    type: bool
    default: false
  connect_retry:
    description: Seconds between two attempts of a replica to connect.
    type: int
    default: 1
  retry_count:
    description: Attempts before a receiver gives up.
    type: int
    default: 86400
  heartbeat_period:
    description: Seconds between two heartbeats. A silent primary is told from an idle one by them, so a failover is as quick as this is short.
    type: float
    default: 1.0
requirements:
  - PyMySQL >= 1.0 on the host that the module runs on (Debian and Ubuntu, C(python3-pymysql))
notes:
  - Made for MySQL 8.4 and later with GTID. MariaDB is refused.
  - Run it on one host that reaches all servers. It takes the lock C(webstack_primary) on each, so that two changes of the primary never meet.
  - Lossless semi-synchronous replication is what a server says of itself by C(rpl_semi_sync_source_timeout) of an hour or more.
    C(rpl_semi_sync_source_wait_no_replica) must be OFF on replicas and in the configuration files, because an applier waits for acknowledgements too;
    these modules switch it on at the new primary as soon as a replica acknowledges.
"""
