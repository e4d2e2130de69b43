# Copyright: (c) 2026, The foobar.webstack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest

from ansible_collections.foobar.webstack.plugins.module_utils import mysql

AWKWARD = 'p\'a"s$ {{x}} %s %d\\z'


@pytest.mark.parametrize('text, expected', [
    ('9.7.4-2', (9, 7, 4)), ('8.4.9', (8, 4, 9)), ('26.10.0-log', (26, 10, 0)), ('8.0.37-0ubuntu0.24.04.1', (8, 0, 37)),
])
def test_version_tuple(text, expected):
    assert mysql.version_tuple(text) == expected


def test_versions_compare_as_numbers():
    assert mysql.version_tuple('26.10.0') > mysql.version_tuple('26.7.2') > mysql.version_tuple('9.7.4')


def test_version_that_is_none():
    with pytest.raises(mysql.ServerError):
        mysql.version_tuple('unknown')


@pytest.mark.parametrize('value, expected', [
    (None, 'NULL'), (True, '1'), (7, '7'), (7.5, '7.5'), ('a', "'a'"), ("it's", "'it\\'s'"), ('back\\slash', "'back\\\\slash'"),
    (mysql.Secret(AWKWARD), "'********'"),
])
def test_literal(value, expected):
    assert mysql.literal(value) == expected


def test_shown_hides_secrets_and_takes_percent_signs():
    text = mysql.shown('CHANGE X TO A = %s, B = %s', ('100%s', mysql.Secret(AWKWARD)))
    assert text == "CHANGE X TO A = '100%s', B = '********'"
    assert mysql.shown("SHOW VARIABLES LIKE 'a%'") == "SHOW VARIABLES LIKE 'a%'"


def test_the_driver_quotes_a_secret_like_any_text():
    converters = pytest.importorskip('pymysql.converters')
    assert converters.escape_item(mysql.Secret(AWKWARD), 'utf8mb4') == converters.escape_item(AWKWARD, 'utf8mb4')


PARAMS = dict(login_user='root', login_password=None, login_host='localhost', login_port=3306, login_unix_socket=None,
              connect_timeout=10, ca_cert=None, client_cert=None, client_key=None, check_hostname=True)


@pytest.mark.parametrize('changes, socket', [
    ({}, mysql.DEFAULT_SOCKET), ({'login_unix_socket': '/tmp/s'}, '/tmp/s'), ({'login_host': 'db1'}, None),
    ({'login_host': '127.0.0.1'}, None), ({'login_host': 'db1', 'login_unix_socket': '/tmp/s'}, '/tmp/s'),
])
def test_login_target(changes, socket):
    assert mysql.login_target(dict(PARAMS, **changes))['unix_socket'] == socket


@pytest.mark.parametrize('errno, message, words', [
    (1045, "Access denied for user 'r'@'h'", 'refuses the account'),
    (1130, "Host 'h' is not allowed", 'no account for this host'),
    (3159, 'Connections using insecure transport', 'TLS only'),
    (2003, "Can't connect to MySQL server on 'db1' ([Errno 111] Connection refused)", 'cannot connect to db1:3306: [Errno 111] Connection refused'),
    (2003, "Can't connect to MySQL server on 'db1' ([SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: Hostname mismatch, "
           "certificate is not valid for 'db1'. (_ssl.c:1032))", 'is not trusted: Hostname mismatch'),
    (0, "'cryptography' package is required for sha256_password or caching_sha2_password auth methods", 'needs TLS'),
    (1040, 'Too many connections', 'db1:3306: Too many connections'),
])
def test_explain(errno, message, words):
    assert words in mysql.explain('db1:3306', 'repl', errno, message)


def test_explain_socket():
    assert 'become' in mysql.explain('/run/mysqld/mysqld.sock', 'root', 1698, "Access denied for user 'root'@'localhost'")


def test_tls_context(tmp_path):
    import ssl
    context = mysql.tls_context()
    assert context.verify_mode == ssl.CERT_NONE and not context.check_hostname
    with pytest.raises(OSError):
        mysql.tls_context(ca=str(tmp_path / 'none.crt'))


class Cursor:
    def __init__(self, answers, log):
        self.answers, self.log = answers, log

    def __enter__(self):
        return self

    def __exit__(self, *args):
        return False

    def execute(self, sql, args):
        self.log.append((sql, args))
        self.rows = self.answers(sql)

    def fetchall(self):
        return self.rows


class Connection:
    def __init__(self, answers):
        self.answers, self.log, self.closed = answers, [], False

    def cursor(self):
        return Cursor(self.answers, self.log)

    def close(self):
        self.closed = True


def test_server_remembers_changes_only():
    connection = Connection(lambda sql: [{'a': 1}])
    server = mysql.Server(connection, 'db1')
    assert server.value('SELECT %s AS a', (1,)) == 1
    server.change('SET GLOBAL x = %s', (mysql.Secret('geheim'),))
    assert server.queries == ["SET GLOBAL x = '********'"]
    assert connection.log[-1][1] == ('geheim',)


def test_server_error_names_server_and_statement_without_the_secret():
    def broken(sql):
        raise RuntimeError(1064, 'syntax')
    with pytest.raises(mysql.ServerError) as error:
        mysql.Server(Connection(broken), 'db1').change('CLONE %s', (mysql.Secret('geheim'),))
    assert error.value.errno == 1064
    assert 'db1: syntax' in str(error.value) and 'geheim' not in str(error.value)


@pytest.mark.parametrize('version', ['11.8.6-MariaDB-log', '8.0.45', '5.7.44'])
def test_other_servers_are_refused(version):
    connection = Connection(lambda sql: [{'v': version}])
    with pytest.raises(mysql.ServerError, match='8.4 or later'):
        mysql.Server(connection, 'db1').check_flavor()
    assert connection.closed


def test_tls_is_not_negotiated_away():
    pytest.importorskip('pymysql')
    connection = object.__new__(mysql._TlsConnection)
    connection.server_capabilities = 0
    connection._sock = connection._rfile = None
    with pytest.raises(OSError, match='does not offer'):
        connection._request_authentication()
