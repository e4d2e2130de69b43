# Copyright: (c) 2026, The foobar.webstack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mysql_replication_info and mysql_replica against servers that are a few dictionaries behind a driver's cursor."""
from __future__ import annotations

import re

import pytest

from ansible.module_utils.testing import patch_module_args
from ansible_collections.foobar.webstack.plugins.module_utils import mysql, mysql_server
from ansible_collections.foobar.webstack.plugins.modules import mysql_replica, mysql_replication_info

A, B = ('%s0000000-0000-11f0-8000-000000000000' % letter for letter in 'ab')
PASSWORD = 'p\'a"s$ {{x}} %s \\z'


class Exit(Exception):
    pass


def gtids(text):
    return set(text.split(',')) - {''}


def joined(items):
    return ',\n'.join(sorted(items))


class FakeMySQL:
    """Enough of a server; GTID sets are single transactions joined by commas."""

    def __init__(self, uuid, executed='', schemas=()):
        self.name = 'db1' if uuid == A else 'db2'
        self.executed, self.purged, self.schemas = gtids(executed), set(), list(schemas)
        self.variables = {
            'version': '9.7.4', 'server_id': '1' if uuid == A else '2', 'server_uuid': uuid, 'hostname': self.name, 'port': '3306', 'report_host': self.name,
            'read_only': 'OFF', 'super_read_only': 'OFF', 'offline_mode': 'OFF', 'gtid_mode': 'ON', 'enforce_gtid_consistency': 'ON', 'log_bin': 'ON',
            'binlog_format': 'ROW', 'log_replica_updates': 'ON', 'sync_binlog': '1', 'innodb_flush_log_at_trx_commit': '1',
            'datadir': '/nowhere/', 'plugin_dir': '/nowhere/', 'innodb_page_size': '16384',
            'version_compile_os': 'Linux', 'version_compile_machine': 'x86_64',
        }
        self.grants = ['GRANT ALL PRIVILEGES ON *.* TO `root`@`localhost`']
        self.plugins, self.replicas, self.status = {'clone': 'mysql_clone.so'}, [], {}
        self.channel = self.password = self.clone_row = self.source = self.broken = None
        self.clone_fails = self.restarting = False
        self.clone_busy = []
        self.open_transactions = []
        self.boots = 'ON'  # super_read_only in the configuration file
        self.statements = []

    # -- the driver's side

    def cursor(self):
        return self

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *args):
        return False

    def fetchall(self):
        return self.rows

    def execute(self, sql, args):
        self.rows = self.answer(sql, list(args or [])) or []

    # -- statements

    def answer(self, sql, args):
        if re.match(r'SET|CHANGE|START|STOP|RESET|CLONE|INSTALL', sql):
            self.statements.append(sql.split('%s')[0].strip() if sql.startswith('SET') else sql.split(' FOR ')[0].split(' TO ')[0])
            return self.command(sql, args)
        if 'SELECT VERSION()' in sql:
            return [{'v': self.variables['version']}]
        if sql.startswith('SHOW GLOBAL VARIABLES'):
            return [{'Variable_name': name, 'Value': self.variables[name]} for name in args if name in self.variables]
        if sql.startswith('SHOW GLOBAL STATUS'):
            return [{'Variable_name': name, 'Value': value} for name, value in self.status.items()]
        if sql.startswith('SHOW GRANTS'):
            return [{'Grants': grant} for grant in self.grants]
        if sql.startswith('SHOW REPLICAS'):
            return self.replicas
        if sql.startswith('SHOW REPLICA STATUS'):
            return [self.channel_row()] if self.channel else []
        if 'SCHEMATA' in sql and 'COUNT' not in sql:
            return [{'name': name} for name in ['mysql', 'sys', 'information_schema', 'performance_schema'] + self.schemas]
        if 'information_schema.PLUGINS' in sql:
            return [{'plugin': name, 'so_file': library} for name, library in self.plugins.items()]
        if 'AS executed' in sql:
            return [{'executed': joined(self.executed), 'purged': joined(self.purged)}]
        if 'SELECT @@GLOBAL.gtid_executed' in sql:
            return [{'v': joined(self.executed)}]
        if 'SELECT @@GLOBAL.server_uuid' in sql:
            return [{'v': self.variables['server_uuid']}]
        if 'GTID_SUBTRACT' in sql:
            left, right = (gtids(arg.replace('\n', '')) for arg in args)
            return [{'v': joined(left - right)}]
        if 'WAIT_FOR' in sql:
            return [{'v': 0 if gtids(args[0].replace('\n', '')) <= self.executed else 1}]
        if 'User_password' in sql:
            return [{'v': self.password}] if self.channel else []
        if 'SUM(FILE_SIZE)' in sql:
            raise RuntimeError(1227, 'Access denied; you need PROCESS')
        if 'HEARTBEAT' in sql:
            return [{'v': 30.0}]
        if 'SELECT STATE AS state' in sql:
            return [{'state': self.clone_row['STATE'], 'source': 'db1:3306', 'error': self.clone_row['ERROR_MESSAGE']}] if self.clone_row else []
        if 'SELECT STATE' in sql:
            return [self.clone_row] if self.clone_row else []
        if 'COUNT(*)' in sql:
            return [{'v': 0}]
        if 'AS estimate' in sql:
            return [{'bytes': 250, 'estimate': 1000, 'rate': 50}]
        if 'SUM(DATA)' in sql:
            return [{'v': 4711}]
        if 'INNODB_TRX' in sql:
            return self.open_transactions
        if 'replication_applier_status_by_worker' in sql:
            return []
        raise AssertionError(sql)

    def command(self, sql, args):
        if sql.startswith('SET GLOBAL super_read_only'):
            self.variables['super_read_only'] = 'ON' if sql.endswith('ON') else 'OFF'
            if sql.endswith('ON'):
                self.variables['read_only'] = 'ON'
        elif sql.startswith('CHANGE'):
            names = re.findall(r'(\w+) = %s', sql)
            self.channel = dict(self.channel or {}, running=False, **dict(zip(names, args)))
            self.password = str(self.channel['SOURCE_PASSWORD'])
        elif sql.startswith('START REPLICA'):
            self.channel['running'] = True
            if not self.broken:
                self.executed |= self.source.executed
        elif sql.startswith('STOP'):
            self.channel['running'] = False
        elif sql.startswith('RESET REPLICA ALL'):
            self.channel = None
        elif sql.startswith('RESET REPLICA FOR'):
            self.broken, self.channel['received'] = None, set()
        elif sql.startswith('RESET BINARY LOGS'):
            self.executed = set()
        elif sql.startswith('CLONE'):
            if self.clone_fails:
                raise RuntimeError(3862, 'Clone Donor Error: 1 : disk')
            if self.clone_busy:
                raise RuntimeError(*self.clone_busy.pop())
            self.executed, self.schemas = set(self.source.executed), list(self.source.schemas)
            self.plugins = {'auth_socket': 'auth_socket.so'}
            self.clone_row = {'STATE': 'Completed', 'ERROR_NO': 0, 'ERROR_MESSAGE': '', 'BEGIN_TIME': len(self.statements)}
            self.restarting = True
            self.variables['super_read_only'] = self.boots
            raise RuntimeError(2013, 'Lost connection to MySQL server during query')
        elif sql.startswith('INSTALL'):
            if self.variables['super_read_only'] == 'ON':
                raise RuntimeError(1290, 'super_read_only')
            self.plugins['clone'] = 'mysql_clone.so'

    def channel_row(self):
        c = self.channel
        io_error, sql_error = (self.broken or {}).get('io', (0, '')), (self.broken or {}).get('sql', (0, ''))
        return {
            'Channel_Name': '', 'Source_Host': c['SOURCE_HOST'], 'Source_Port': c['SOURCE_PORT'], 'Source_User': c['SOURCE_USER'], 'Source_UUID': A,
            'Replica_IO_Running': 'Yes' if c['running'] and not io_error[0] else 'No',
            'Replica_SQL_Running': 'Yes' if c['running'] and not sql_error[0] else 'No',
            'Auto_Position': 1, 'Source_SSL_Allowed': 'Yes' if c['SOURCE_SSL'] else 'No',
            'Source_SSL_CA_File': c['SOURCE_SSL_CA'], 'Source_SSL_Cert': c['SOURCE_SSL_CERT'],
            'Source_SSL_Key': c['SOURCE_SSL_KEY'], 'Source_SSL_Verify_Server_Cert': 'Yes' if c['SOURCE_SSL_VERIFY_SERVER_CERT'] else 'No',
            'Last_IO_Errno': io_error[0], 'Last_IO_Error': io_error[1], 'Last_SQL_Errno': sql_error[0], 'Last_SQL_Error': sql_error[1],
            'Connect_Retry': c['SOURCE_CONNECT_RETRY'], 'Source_Retry_Count': c['SOURCE_RETRY_COUNT'], 'SQL_Delay': c['SOURCE_DELAY'],
            'Get_Source_public_key': c['GET_SOURCE_PUBLIC_KEY'], 'Retrieved_Gtid_Set': joined(c.get('received', set())), 'Seconds_Behind_Source': 0,
        }


class Lab:
    def __init__(self, monkeypatch):
        self.source = FakeMySQL(A, ','.join('%s:%s' % (A, n) for n in (1, 2, 3)), ['app'])
        self.source.grants = ['GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO `repl`@`%`', 'GRANT BACKUP_ADMIN ON *.* TO `repl`@`%`']
        self.local = FakeMySQL(B, B + ':1')
        self.local.source = self.source
        self.unreachable = {}
        self.slept = 0
        monkeypatch.setattr(mysql, 'PYMYSQL_ERROR', None)
        monkeypatch.setattr(mysql, 'connect', self.connect)
        monkeypatch.setattr(mysql_server.time, 'sleep', self.sleep)

    def sleep(self, seconds):
        self.slept += 1

    def connect(self, user, host=None, unix_socket=None, **options):
        name = 'local' if unix_socket else 'source'
        if name in self.unreachable:
            raise mysql.ServerError(self.unreachable[name], 2003)
        fake = getattr(self, name)
        if fake.restarting:
            fake.restarting = False
            raise mysql.ServerError('cannot connect to the socket', 2002)
        return mysql.Server(fake, unix_socket or host)

    def attach(self):
        """The state after a good run."""
        self.run()
        self.local.statements.clear()

    def run(self, module=mysql_replica, check=False, **options):
        if module is mysql_replica and options.get('state', 'started') == 'started':
            options = dict({'source_host': 'db1', 'source_user': 'repl', 'source_password': PASSWORD, 'source_ssl_ca': '/ca.crt', 'timeout': 0}, **options)
        result = {}

        def leave(instance, msg=None, **values):
            result.update(values, msg=msg)
            raise Exit

        def fail(instance, msg, **values):
            leave(instance, msg, failed=True, **values)

        with pytest.MonkeyPatch.context() as patch, patch_module_args(dict(options, _ansible_check_mode=check, _ansible_diff=True)):
            patch.setattr('ansible.module_utils.basic.AnsibleModule.exit_json', leave)
            patch.setattr('ansible.module_utils.basic.AnsibleModule.fail_json', fail)
            with pytest.raises(Exit):
                module.main()
        assert PASSWORD not in str(result)
        return result


@pytest.fixture
def lab(monkeypatch):
    return Lab(monkeypatch)


# -- mysql_replication_info

def info(lab, **options):
    return lab.run(mysql_replication_info, **options)


def test_info_of_a_virgin_server(lab):
    result = info(lab)
    assert (result['state'], result['role'], result['reachable'], result['problems'], result['changed']) == ('virgin', 'detached', True, [], False)
    assert result['version_tuple'] == (9, 7, 4) and result['gtid']['executed'] == B + ':1' and result['gtid']['own_uuid_only']
    assert result['semi_sync'].pop('state') == 'off' and set(result['semi_sync'].values()) == {None}
    assert info(lab, _ansible_check_mode=True)['state'] == 'virgin'


def test_info_documents_what_it_returns(lab):
    import yaml
    documented = yaml.safe_load(mysql_replication_info.RETURN)
    result = info(lab, peer={'host': 'db1', 'user': 'repl', 'password': PASSWORD})
    assert set(documented) == set(result) - {'changed', 'msg'}
    for key in ('binlog', 'gtid', 'semi_sync', 'peer'):
        assert set(documented[key]['contains']) == set(result[key])
    lab.attach()
    channel = info(lab)['channels'][0]
    assert set(documented['channels']['contains']) == set(channel)
    assert set(documented['channels']['contains']['ssl']['contains']) == set(channel['ssl'])


def test_info_of_a_clone(lab):
    assert info(lab)['clone'] is None
    lab.local.clone_row = {'STATE': 'In Progress', 'ERROR_MESSAGE': ''}
    result = info(lab)
    assert result['clone'] == {'state': 'In Progress', 'source': 'db1:3306', 'percent': 25, 'bytes': 250, 'estimated_bytes': 1000,
                               'bytes_per_second': 50, 'error': ''}
    assert result['problems'] == []
    lab.local.clone_row.update(STATE='Failed', ERROR_MESSAGE='No space left on device')
    assert info(lab)['problems'] == ['the last clone from db1:3306 failed: No space left on device']


def test_info_names_long_transactions(lab):
    lab.local.open_transactions = [{'id': 7, 'user': 'site', 'host': 'app1', 'seconds': 90, 'rows_modified': 3}]
    result = info(lab)
    assert result['long_transactions'] == lab.local.open_transactions
    assert result['problems'] == ['a transaction of site has been open for 90 s (KILL 7 ends it)']


@pytest.mark.parametrize('free, count', [(4, 1), (6, 0)])
def test_info_names_a_full_disk(lab, monkeypatch, free, count):
    monkeypatch.setattr(mysql_server, 'read_disk', lambda datadir: {'size_bytes': 100 * 2 ** 20, 'free_bytes': free * 2 ** 20})
    problems = info(lab, login_unix_socket='/run/mysqld/mysqld.sock')['problems']
    assert len(problems) == count and all('4 MiB are free' in problem for problem in problems)


def test_info_names_a_replica_that_stays_behind(lab):
    lab.attach()
    lab.local.channel['SOURCE_DELAY'] = 3600
    assert any('3600 s behind on purpose' in problem for problem in info(lab)['problems'])


def test_info_of_semi_sync(lab):
    lab.local.schemas = ['app']
    lab.local.variables.update(rpl_semi_sync_source_enabled='ON', rpl_semi_sync_source_timeout='10000', rpl_semi_sync_source_wait_for_replica_count='1',
                               rpl_semi_sync_source_wait_point='AFTER_SYNC', rpl_semi_sync_source_wait_no_replica='ON')
    lab.local.status = {'Rpl_semi_sync_source_status': 'OFF',
                        'Rpl_semi_sync_source_clients': '0', 'Rpl_semi_sync_source_yes_tx': '7', 'Rpl_semi_sync_source_no_tx': '1'}
    result = info(lab)
    assert result['semi_sync']['source_enabled'] and result['semi_sync']['source_active'] is False and result['semi_sync']['yes_tx'] == 7
    assert result['semi_sync']['replica_enabled'] is None and result['semi_sync']['timeout_ms'] == 10000
    assert 'fallen back' in result['problems'][0] and result['semi_sync']['state'] == 'degraded'


def test_info_of_the_binary_log(lab):
    assert info(lab)['binlog'] == {'enabled': True, 'format': 'ROW', 'sync': 1}
    lab.local.variables.update(log_bin='OFF', sync_binlog='0')
    assert info(lab)['binlog'] == {'enabled': False, 'format': 'ROW', 'sync': 0}


def test_info_judges_what_semi_sync_stands_on(lab):
    lab.local.schemas = ['app']
    lab.local.variables.update(rpl_semi_sync_source_enabled='ON', rpl_semi_sync_source_wait_for_replica_count='1', rpl_semi_sync_source_wait_point='AFTER_SYNC')
    lab.local.status = {'Rpl_semi_sync_source_status': 'ON', 'Rpl_semi_sync_source_clients': '1'}
    assert info(lab)['problems'] == []
    lab.local.variables.update(rpl_semi_sync_source_wait_point='AFTER_COMMIT', sync_binlog='0', innodb_flush_log_at_trx_commit='2')
    problems = info(lab)['problems']
    assert len(problems) == 3 and all(any('SET GLOBAL ' + cure in problem for problem in problems) for cure in (
        'rpl_semi_sync_source_wait_point=AFTER_SYNC', 'sync_binlog=1', 'innodb_flush_log_at_trx_commit=1'))
    # Without it they are the owner's choice.
    lab.local.variables['rpl_semi_sync_source_enabled'] = 'OFF'
    assert info(lab)['problems'] == []


def test_info_misses_replicas_that_are_expected(lab):
    lab.local.schemas = ['app']
    lab.local.replicas = [{'Host': '192.0.2.12', 'Port': 3306, 'Server_Id': 3, 'Replica_UUID': A}]
    assert info(lab)['problems'] == info(lab, expected_replicas=1)['problems'] == []
    assert info(lab, expected_replicas=2)['problems'] == ['1 of 2 replicas follow this server (192.0.2.12): the others are down, cut off or stopped']
    lab.local.replicas = []
    assert '(none)' in info(lab, expected_replicas=2)['problems'][0]
    # It is the primary that is followed.
    lab.local.schemas = []
    lab.attach()
    assert info(lab, expected_replicas=2)['problems'] == []


def test_info_peer_names_what_cannot_be_saved(lab):
    lab.attach()
    lab.local.executed |= {B + ':8', B + ':9'}
    lab.local.purged = {B + ':1', B + ':8'}
    peer = info(lab, peer={'host': 'db1', 'user': 'repl'})['peer']
    assert gtids(peer['errant']) == {B + ':8', B + ':9'} and peer['errant_purged'] == B + ':8'


def test_info_peer_names_errant_transactions(lab):
    lab.attach()
    lab.local.executed.add(B + ':9')
    lab.source.executed.add(A + ':4')
    result = info(lab, peer={'host': 'db1', 'user': 'repl'})
    assert result['peer']['errant'] == B + ':9' and result['peer']['missing'] == A + ':4'
    assert any(B + ':9' in problem for problem in result['problems'])
    assert lab.slept


def test_info_peer_forgives_what_is_in_flight(lab):
    lab.attach()
    lab.local.executed.add(A + ':4')
    peer = info(lab, peer={'host': 'db1', 'user': 'repl'})['peer']
    assert (peer['errant'], peer['ahead']) == ('', A + ':4')


def test_info_peer_looks_twice(lab, monkeypatch):
    lab.attach()
    lab.local.executed.add(B + ':9')
    monkeypatch.setattr(mysql_server.time, 'sleep', lambda seconds: lab.source.executed.add(B + ':9'))
    assert info(lab, peer={'host': 'db1', 'user': 'repl'})['peer']['errant'] == ''


def test_info_peer_unreachable(lab):
    lab.unreachable['source'] = 'cannot connect to db1:3306: timed out'
    result = info(lab, peer={'host': 'db1', 'user': 'repl'})
    assert not result['peer']['reachable'] and 'timed out' in result['problems'][0] and result['reachable']


@pytest.mark.parametrize('mysqld, state', [('/usr/sbin/mysqld', 'unreachable'), (None, 'absent')])
def test_info_unreachable(lab, monkeypatch, mysqld, state):
    lab.unreachable['local'] = 'cannot connect to /run/mysqld/mysqld.sock: no such file'
    monkeypatch.setattr(mysql_replication_info.shutil, 'which', lambda name: mysqld)
    monkeypatch.setattr(mysql_replication_info.os.path, 'exists', lambda path: False)
    result = info(lab, fail_on_unreachable=False)
    assert (result['reachable'], result['state'], result['role']) == (False, state, '') and 'no such file' in result['reason']
    failed = info(lab)
    assert failed['failed'] and failed['state'] == state
    # Another host's server is never called absent.
    lab.unreachable['source'] = 'cannot connect to db9:3306'
    assert info(lab, fail_on_unreachable=False, login_host='db9')['state'] == 'unreachable'


def test_info_without_the_driver(lab, monkeypatch):
    monkeypatch.setattr(mysql, 'PYMYSQL_ERROR', 'ImportError')
    monkeypatch.setattr(mysql_replication_info.shutil, 'which', lambda name: '/usr/sbin/mysqld')
    result = info(lab, fail_on_unreachable=False)
    assert result['state'] == 'unreachable' and 'PyMySQL' in result['reason']


def test_info_never_calls_a_server_virgin_that_it_cannot_see(lab):
    lab.local.grants = ['GRANT REPLICATION CLIENT ON *.* TO `x`@`%`', 'GRANT SELECT ON `performance_schema`.* TO `x`@`%`']
    assert 'SHOW DATABASES' in info(lab)['msg']
    lab.local.grants = ['GRANT SHOW DATABASES, REPLICATION CLIENT ON *.* TO `x`@`%`']
    assert info(lab)['state'] == 'virgin'


# -- mysql_replica

def test_virgin_pair(lab):
    lab.local.variables['super_read_only'] = 'ON'
    del lab.local.plugins['clone']
    result = lab.run()
    assert result['changed'] and result['actions'] == ['clone all data from db1:3306', 'point the channel to db1:3306', 'start the channel']
    assert result['seed'] == {'method': 'clone', 'reason': 'this server is virgin', 'bytes': 4711, 'seconds': result['seed']['seconds']}
    assert lab.local.password == PASSWORD and lab.local.schemas == ['app'] and lab.local.variables['super_read_only'] == 'ON'
    assert result['channel']['io_state'] == 'ON' and 'source_host: db1' in result['diff']['after'] and result['diff']['before'] == ''
    # Before the clone, and again after it: the list of plugins came from the source.
    assert lab.local.statements.count("INSTALL PLUGIN clone SONAME 'mysql_clone.so'") == 2
    assert any('REQUIRE SSL' in query and '********' in query for query in result['queries'])


def test_server_that_boots_writable_is_fenced_before_the_channel_starts(lab):
    lab.local.boots = 'OFF'
    assert lab.run()['actions'] == ['clone all data from db1:3306', 'switch super_read_only on', 'point the channel to db1:3306', 'start the channel']


def test_second_run_changes_nothing(lab):
    lab.attach()
    result = lab.run()
    assert (result['changed'], result['actions'], result['queries'], lab.local.statements) == (False, [], [], [])
    assert result['seed']['method'] == 'none' and result['diff']['before'] == result['diff']['after']


def test_check_mode_only_says(lab):
    result = lab.run(check=True)
    assert result['changed'] and result['actions'][0] == 'clone all data from db1:3306' and 'switch super_read_only on' in result['actions']
    assert lab.local.statements == [] and result['queries'] == [] and result['channel'] is None and 'source_host: db1' in result['diff']['after']


def test_changed_option(lab):
    lab.attach()
    result = lab.run(connect_retry=5)
    assert result['actions'] == ['change connect_retry of the channel', 'start the channel']
    assert lab.local.statements == ['STOP REPLICA', 'CHANGE REPLICATION SOURCE', 'START REPLICA']
    assert 'connect_retry: 5' in result['diff']['after']


def test_changed_password(lab):
    lab.attach()
    assert lab.run(source_password='new')['actions'][0] == 'change source_password of the channel'
    assert lab.local.password == 'new'


def test_stopped_channel_is_started_only(lab):
    lab.attach()
    lab.local.channel['running'] = False
    assert lab.run()['actions'] == ['start the channel'] and lab.local.statements == ['START REPLICA']


def test_opened_replica_is_fenced(lab):
    lab.attach()
    lab.local.variables.update(read_only='OFF', super_read_only='OFF')
    assert lab.run()['actions'] == ['switch super_read_only on']
    assert lab.local.variables['super_read_only'] == 'ON'
    lab.local.variables['super_read_only'] = 'OFF'
    assert not lab.run(read_only=False)['changed']


def test_stop_and_remove(lab):
    lab.attach()
    assert lab.run(state='stopped')['actions'] == ['stop the channel']
    assert not lab.run(state='stopped')['changed']
    assert lab.run(state='absent', check=True)['actions'] == ['remove the channel from db1:3306'] and lab.local.channel
    assert lab.run(state='absent')['channel'] is None
    assert not lab.run(state='absent')['changed']


def refused(lab, *parts, **options):
    result = lab.run(**options)
    assert result['failed'] and not result['changed'] and lab.local.statements == []
    assert 'nothing was changed' in result['msg']
    for part in parts:
        assert part in result['msg']
    return result


def test_refusals(lab):
    lab.attach()
    lab.local.executed.add(B + ':9')
    result = refused(lab, B + ':9', 'allow_data_loss')
    assert result['errant'] == B + ':9' and result['channel']['source_host'] == 'db1'
    lab.local.variables['server_id'] = '1'
    lab.source.variables['binlog_format'] = 'MIXED'
    assert len(refused(lab, '(1)', '(2)', '(3)', 'same server_id')['problems']) == 3


def test_errant_goes_when_it_may(lab):
    lab.attach()
    lab.local.executed.add(B + ':9')
    result = lab.run(allow_data_loss=True)
    assert result['seed']['method'] == 'clone' and B + ':9' not in lab.local.executed and lab.local.channel['running']


def test_writable_server_with_data(lab):
    lab.local.schemas, lab.local.executed = ['app'], set(lab.source.executed)
    refused(lab, 'it may be the primary')


def test_source_unreachable_and_wrong_password(lab):
    lab.unreachable['source'] = "db1:3306 refuses the account 'repl': wrong password"
    lab.local.variables['gtid_mode'] = 'OFF'
    refused(lab, 'wrong password', 'gtid_mode=OFF')


def test_password_too_long(lab):
    refused(lab, '40 characters', source_password='x' * 40)


def test_purged_source_seeds_a_stale_replica(lab):
    lab.attach()
    lab.source.executed.add(A + ':4')
    lab.source.purged = set(lab.source.executed)
    lab.local.channel['running'] = False
    result = lab.run(seed='never')
    assert result['failed'] and 'seed=never' in result['msg']
    assert lab.run()['seed']['method'] == 'clone' and A + ':4' in lab.local.executed


def test_delayed_replica_with_all_in_its_relay_log_is_not_cloned(lab):
    lab.attach()
    lab.source.executed.add(A + ':4')
    lab.source.purged = set(lab.source.executed)
    lab.local.channel['received'] = {A + ':4'}
    assert lab.run(wait='connected')['seed']['method'] == 'none'
    # ... and changing the channel would drop that relay log.
    lab.local.channel['running'] = False
    result = lab.run(wait='connected', connect_retry=9)
    assert result['failed'] and 'only its relay log holds' in result['msg'] and lab.local.statements == []


def test_a_clone_does_not_drop_what_only_the_relay_log_holds(lab):
    lab.attach()
    lab.local.channel['received'] = {A + ':4', B + ':9'}
    refused(lab, 'only the relay log of this server holds ' + B + ':9', seed='always')
    # What the source has, too, is not lost.
    lab.source.executed.add(B + ':9')
    assert lab.run(seed='always')['seed']['method'] == 'clone'


def test_seed_never_starts_a_virgin_server_from_the_binary_logs(lab):
    result = lab.run(seed='never')
    assert result['seed']['method'] == 'binlog' and lab.local.statements[0] == 'RESET BINARY LOGS AND GTIDS'
    assert result['actions'][0].startswith("forget the installation's own transactions")
    assert lab.local.executed == lab.source.executed


def test_without_time_to_clone_it_says_that_it_must(lab):
    result = lab.run(clone_timeout=0)
    assert (result['seed']['method'], result['seed']['reason'], result['changed']) == ('clone', 'this server is virgin', False) and not lab.local.statements
    assert 'point the channel to db1:3306' in lab.run(clone_timeout=0, seed='never')['actions']


def test_failed_clone_says_what_is_left(lab):
    lab.local.clone_fails = True
    lab.local.variables['super_read_only'] = 'ON'
    result = lab.run()
    assert result['failed'] and 'Clone Donor Error' in result['msg'] and 'it is empty, as before' in result['msg']
    assert lab.local.variables['super_read_only'] == 'ON' and lab.local.channel is None


def test_a_clone_waits_for_the_end_of_another_one(lab):
    busy = [(3634, 'Too many concurrent clone operations. Maximum allowed - 1.'),
            (3862, 'Clone Donor Error: 3634 : Too many concurrent clone operations. Maximum allowed - 1..')]
    lab.local.clone_busy = list(busy)
    result = lab.run()
    assert not result.get('failed') and result['seed']['method'] == 'clone' and lab.local.executed == lab.source.executed


def test_a_clone_does_not_wait_for_another_one_beyond_its_time(lab):
    lab.local.clone_busy = [(3634, 'Too many concurrent clone operations. Maximum allowed - 1.')] * 2
    result = lab.run(clone_timeout=1)
    assert result['failed'] and 'Too many concurrent clone' in result['msg'] and len(lab.local.clone_busy) == 1


def test_receiver_or_applier_that_fails_is_reported_at_once(lab):
    lab.attach()
    lab.local.channel['running'] = False
    lab.local.broken = {'sql': (1062, 'Duplicate entry')}
    result = lab.run(timeout=60)
    assert result['failed'] and 'Duplicate entry (1062)' in result['msg'] and result['channel']['sql_error']['errno'] == 1062
    lab.local.broken = {'io': (13114, 'fatal')}
    assert 'fatal (13114)' in lab.run(timeout=60)['msg']


def test_unreadable_relay_log_is_fetched_again(lab):
    lab.attach()
    lab.source.executed.add(A + ':4')
    lab.local.channel['received'] = gtids(A + ':4')
    lab.local.broken = {'sql': (13121, 'Relay log read failure')}
    result = lab.run(check=True)
    assert result['actions'] == ['drop the unreadable relay log, the source sends it again', 'start the channel'] and not lab.local.statements
    result = lab.run()
    assert not result.get('failed') and lab.local.statements == ['STOP REPLICA', 'RESET REPLICA', 'START REPLICA'] and A + ':4' in lab.local.executed


def test_unreadable_relay_log_that_alone_has_a_transaction_is_kept(lab):
    lab.attach()
    lab.local.channel['received'] = gtids(A + ':4')
    lab.local.broken = {'sql': (13121, 'Relay log read failure')}
    result = lab.run()
    assert result['failed'] and 'only it holds ' + A + ':4' in result['msg'] and not lab.local.statements
    assert not lab.run(allow_data_loss=True).get('failed')


def test_catching_up_takes_too_long(lab):
    lab.attach()
    lab.source.executed.add(A + ':4')
    result = lab.run()
    assert result['failed'] and 'did not catch up' in result['msg'] and 'goes on in the background' in result['msg']
    assert not lab.run(wait='none').get('failed')


def test_login_that_cannot_read_the_password(lab, monkeypatch):
    lab.attach()
    answer = lab.local.answer

    def denied(sql, args):
        if 'User_password' in sql:
            raise RuntimeError(1142, 'SELECT command denied')
        return answer(sql, args)
    monkeypatch.setattr(lab.local, 'answer', denied)
    assert not lab.run(source_password='other')['changed']
