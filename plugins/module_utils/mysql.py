# Copyright: (c) 2026, The foobar.webstack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections to MySQL servers: options, TLS, errors in words, statements without their secrets."""
from __future__ import annotations

import re
import ssl
import traceback

try:
    import pymysql
    import pymysql.connections
    import pymysql.cursors
    from pymysql.constants import CLIENT
    PYMYSQL_ERROR = None
    ConnectionBase = pymysql.connections.Connection
except ImportError:
    PYMYSQL_ERROR = traceback.format_exc()
    ConnectionBase = object

DEFAULT_SOCKET = '/run/mysqld/mysqld.sock'

# The connection is gone (client errors), or the server says that it is going.
LOST = frozenset((2006, 2013, 2055, 1053))
# ... or was never there.
UNREACHABLE = LOST | {2002, 2003}


class ServerError(Exception):
    """Something a server, or the way to it, said; the text is for the operator."""

    def __init__(self, text, errno=0):
        super().__init__(text)
        self.errno = errno


class Secret(str):
    """A value that is sent to the server and never shown."""


def login_argument_spec():
    return dict(
        login_user=dict(type='str', default='root'),
        login_password=dict(type='str', no_log=True),
        login_host=dict(type='str', default='localhost'),
        login_port=dict(type='int', default=3306),
        login_unix_socket=dict(type='path'),
        connect_timeout=dict(type='int', default=10),
        ca_cert=dict(type='path', aliases=['ssl_ca']),
        client_cert=dict(type='path', aliases=['ssl_cert']),
        client_key=dict(type='path', aliases=['ssl_key'], no_log=False),
        check_hostname=dict(type='bool', default=True),
    )


def login_target(params):
    """The keyword arguments of connect() for a module's login_* options."""
    socket = params['login_unix_socket']
    if not socket and params['login_host'] == 'localhost':
        socket = DEFAULT_SOCKET
    return dict(
        user=params['login_user'], password=params['login_password'],
        host=params['login_host'], port=params['login_port'], unix_socket=socket,
        ca=params['ca_cert'], cert=params['client_cert'], key=params['client_key'],
        check_hostname=params['check_hostname'], connect_timeout=params['connect_timeout'],
    )


def version_tuple(version):
    """'9.7.4-2' -> (9, 7, 4)"""
    match = re.match(r'(\d+)\.(\d+)\.(\d+)', version)
    if not match:
        raise ServerError("cannot read the server's version '%s'" % version)
    return tuple(int(part) for part in match.groups())


def literal(value):
    """A value as it stands in a statement that is shown; what is sent is quoted by the driver, which knows the server's sql_mode."""
    if isinstance(value, Secret):
        return "'********'"
    if value is None:
        return 'NULL'
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, (int, float)):
        return str(value)
    return "'%s'" % str(value).replace('\\', '\\\\').replace("'", "\\'")


def shown(sql, args=None):
    """The statement with its values and without its secrets."""
    return sql % tuple(literal(value) for value in args) if args else sql


def explain(where, user, errno, message):
    """What went wrong with a connection, and what to look at."""
    if 'CERTIFICATE_VERIFY_FAILED' in message or 'certificate verify failed' in message:
        detail = re.sub(r'^.*certificate verify failed:?\s*', '', message).split(' (_ssl')[0].rstrip(")'\" ")
        return "the certificate of %s is not trusted: %s" % (where, detail or message)
    if errno == 1698 or (errno == 1045 and where.startswith('/')):
        return "%s refuses the account '%s': run as the system user that auth_socket wants (become), or check login_user and login_password (%s)" % (
            where, user, message)
    if errno == 1045:
        return "%s refuses the account '%s': wrong password, no such account for this host, or it demands TLS or a client certificate (%s)" % (
            where, user, message)
    if errno == 1130:
        return "%s has no account for this host (%s)" % (where, message)
    if errno == 3159:
        return "%s accepts TLS only: give the CA certificate" % where
    if errno == 2003 or errno == 2002:
        detail = re.search(r'\((.*)\)\s*$', message)
        return "cannot connect to %s: %s" % (where, detail.group(1) if detail else message)
    if 'cryptography' in message:
        return "%s wants caching_sha2_password, which needs TLS: give the CA certificate (%s)" % (where, message)
    return "%s: %s" % (where, message)


class _TlsConnection(ConnectionBase):
    """Some releases of PyMySQL go on in clear text when the server does not offer TLS, and send the password."""

    def _request_authentication(self):
        if not self.server_capabilities & CLIENT.SSL:
            raise OSError('TLS was asked for and the server does not offer it')
        return super()._request_authentication()


def tls_context(ca=None, cert=None, key=None, check_hostname=True):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = bool(ca and check_hostname)
    context.verify_mode = ssl.CERT_REQUIRED if ca else ssl.CERT_NONE
    if ca:
        context.load_verify_locations(cafile=ca)
    if cert:
        context.load_cert_chain(cert, key)
    return context


def connect(user, password=None, host=None, port=3306, unix_socket=None, ca=None, cert=None, key=None,
            check_hostname=True, tls=None, connect_timeout=10, read_timeout=60):
    """A Server. TLS is used where a CA or certificate is given, or tls is true; it is never negotiated away."""
    where = unix_socket or '%s:%s' % (host, port)
    # A server that is frozen accepts the connection and never greets.
    options = dict(user=user, connect_timeout=connect_timeout, read_timeout=connect_timeout, write_timeout=connect_timeout,
                   charset='utf8mb4', autocommit=True, cursorclass=pymysql.cursors.DictCursor)
    if password:
        # PyMySQL would encode text as latin1.
        options['password'] = password.encode('utf-8')
    factory = pymysql.connect
    try:
        if unix_socket:
            options['unix_socket'] = unix_socket
        else:
            options.update(host=host, port=port)
            if ca or cert or tls:
                try:
                    options['ssl'] = tls_context(ca, cert, key, check_hostname)
                except (OSError, ValueError) as error:
                    raise ServerError("cannot use the TLS files for %s (%s): %s" % (where, ', '.join(f for f in (ca, cert, key) if f), error))
                factory = _TlsConnection
        connection = factory(**options)
    except ServerError:
        raise
    except Exception as error:  # the driver raises its own, OSError, RuntimeError, ValueError
        errno, message = _parts(error)
        raise ServerError(explain(where, user, errno, message), errno) from error
    server = Server(connection, where)
    server.check_flavor()
    server.patience(read_timeout)
    return server


def _parts(error):
    args = getattr(error, 'args', ())
    if len(args) > 1 and isinstance(args[0], int):
        return args[0], str(args[1])
    return 0, str(error)


class Server:
    """A connected server. Statements that change something are remembered without their secrets."""

    def __init__(self, connection, where=''):
        self.connection = connection
        self.where = where
        self.queries = []

    def check_flavor(self):
        version = self.value('SELECT VERSION()')
        if 'mariadb' in version.lower() or version_tuple(version) < (8, 4):
            self.close()
            raise ServerError("%s is version %s; MySQL 8.4 or later is needed" % (self.where, version))

    def _execute(self, sql, args):
        try:
            with self.connection.cursor() as cursor:
                cursor.execute(sql, args)
                return list(cursor.fetchall() or ())
        except Exception as error:
            errno, message = _parts(error)
            raise ServerError("%s: %s (%s)" % (self.where, message, shown(sql, args)), errno) from error

    def rows(self, sql, args=None):
        return self._execute(sql, args)

    def row(self, sql, args=None):
        rows = self._execute(sql, args)
        return rows[0] if rows else None

    def value(self, sql, args=None):
        row = self.row(sql, args)
        return next(iter(row.values())) if row else None

    def variables(self, *names):
        """Global variables that exist; SHOW cuts long values, so GTID sets are read with SELECT instead."""
        rows = self._execute('SHOW GLOBAL VARIABLES WHERE Variable_name IN (%s)' % ', '.join(['%s'] * len(names)), names)
        return {row['Variable_name']: row['Value'] for row in rows}

    def status(self, pattern):
        return {row['Variable_name']: row['Value'] for row in self._execute('SHOW GLOBAL STATUS LIKE %s', (pattern,))}

    def change(self, sql, args=None):
        self.queries.append(shown(sql, args))
        return self._execute(sql, args)

    def session(self):
        """This connection's id, as KILL takes it."""
        return self.connection.thread_id()

    def patience(self, seconds):
        """How long an answer may take from now on; the driver has no public way to change it."""
        self.connection._read_timeout = self.connection._write_timeout = seconds

    def close(self):
        try:
            self.connection.close()
        except Exception:  # closing what is already gone is fine
            pass
