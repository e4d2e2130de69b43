# Copyright: (c) 2026, The foobar.webstack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations


class ModuleDocFragment:

    DOCUMENTATION = r"""
options:
  login_user:
    description: Account to log in with.
    type: str
    default: root
  login_password:
    description: Password of O(login_user). Not needed where the account uses C(auth_socket).
    type: str
  login_host:
    description:
      - Server to log in to.
      - V(localhost) means the Unix socket O(login_unix_socket), any other value means TCP.
    type: str
    default: localhost
  login_port:
    description: TCP port, used when O(login_host) is not V(localhost).
    type: int
    default: 3306
  login_unix_socket:
    description:
      - Unix socket of the server. When it is given, O(login_host) and O(login_port) are not used.
      - Without it and with O(login_host=localhost), C(/run/mysqld/mysqld.sock) is used.
    type: path
  connect_timeout:
    description: Seconds to wait for the connection.
    type: int
    default: 10
  ca_cert:
    description:
      - CA certificates to verify the server with over TCP.
      - When it is given, the connection uses TLS or fails; it never falls back to clear text.
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
    description: Whether the name in the server's certificate must be O(login_host). Needs O(ca_cert).
    type: bool
    default: true
requirements:
  - PyMySQL >= 1.0 on the host that the module runs on (Debian and Ubuntu, C(python3-pymysql))
notes:
  - Made for MySQL 8.4 and later. MariaDB is refused.
  - Option files such as C(~/.my.cnf) are not read.
"""
