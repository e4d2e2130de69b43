"""A primary and a replica, seen from each other: what an app, a router and an operator rely on."""
import json
import shlex
import time

import pytest

APP_PASSWORD = 'it\'s "$HOME" {{ 100% }} `\\n\\'
PRIMARY = 'mysql-db1'
REPLICA = 'mysql-db2'


@pytest.fixture(scope='module')
def hosts(request):
    import testinfra
    import os
    inventory = os.environ['MOLECULE_INVENTORY_FILE']
    return {name: testinfra.get_host('ansible://%s?ansible_inventory=%s' % (name, inventory)) for name in (PRIMARY, REPLICA)}


@pytest.fixture(scope='module')
def addresses(hosts):
    return {name: host.check_output("ip -4 -o addr show eth0 | awk '{split($4, a, \"/\"); print a[1]}'") for name, host in hosts.items()}


def sql(host, query):
    return host.check_output('mysql --batch --skip-column-names --execute %s', query)


def client(host, address, query, options='--ssl-mode=VERIFY_IDENTITY --ssl-ca=/etc/webstack/pki/ca.crt', user='site', password=APP_PASSWORD):
    return host.run('MYSQL_PWD=%s mysql --protocol=TCP --host=%s --user=%s %s --batch --skip-column-names --execute %s' % (
        shlex.quote(password), address, user, options, shlex.quote(query)))


def role_check(host, name, path, method='GET'):
    """From another host, with the certificate verified: status, body."""
    program = (
        'import sys, http.client, ssl\n'
        'tls = ssl.create_default_context(cafile="/etc/webstack/pki/ca.crt")\n'
        'connection = http.client.HTTPSConnection(sys.argv[1], 8008, context=tls, timeout=3)\n'
        'connection.request(sys.argv[3], sys.argv[2])\n'
        'answer = connection.getresponse()\n'
        'print(answer.status, answer.read().decode())\n')
    status, _, body = host.check_output('python3 -c %s %s %s %s', program, name, path, method).partition(' ')
    return int(status), json.loads(body) if body.strip() else None


def wait_for(probe, seconds=30):
    deadline = time.time() + seconds
    while True:
        value = probe()
        if value or time.time() > deadline:
            return value
        time.sleep(0.5)


def test_a_row_of_the_app_reaches_the_replica(hosts, addresses):
    written = client(hosts[REPLICA], addresses[PRIMARY],
                     "CREATE TABLE IF NOT EXISTS site.entry (id INT AUTO_INCREMENT PRIMARY KEY, text VARCHAR(80));"
                     "INSERT INTO site.entry (text) VALUES ('schön'); SELECT COUNT(*) FROM site.entry")
    assert written.rc == 0, written.stderr
    count = written.stdout.strip()
    read = 'SELECT COUNT(*) FROM site.entry'
    assert wait_for(lambda: client(hosts[PRIMARY], addresses[REPLICA], read).stdout.strip() == count)


def test_the_app_can_log_in_on_its_own_host(hosts):
    assert client(hosts[PRIMARY], '127.0.0.1', 'SELECT 1', '--ssl-mode=REQUIRED').rc == 0


def test_clear_text_and_wrong_passwords_are_refused(hosts, addresses):
    refused = client(hosts[REPLICA], addresses[PRIMARY], 'SELECT 1', '--ssl-mode=DISABLED')
    assert refused.rc != 0 and ('Access denied' in refused.stderr or 'insecure transport' in refused.stderr)
    refused = client(hosts[REPLICA], addresses[PRIMARY], 'SELECT 1', password='wrong')
    assert refused.rc != 0 and 'Access denied' in refused.stderr


def test_the_app_may_not_look_elsewhere(hosts, addresses):
    assert client(hosts[REPLICA], addresses[PRIMARY], 'SELECT COUNT(*) FROM mysql.user').rc != 0
    assert client(hosts[REPLICA], addresses[PRIMARY], 'SET GLOBAL read_only = 1').rc != 0
    assert client(hosts[REPLICA], addresses[PRIMARY], 'CREATE DATABASE other').rc != 0


def test_no_account_is_open(hosts):
    for host in hosts.values():
        assert sql(host, "SELECT user FROM mysql.user WHERE user = '' OR host = '%' OR plugin NOT IN ('auth_socket', 'caching_sha2_password')"
                         " OR (authentication_string = '' AND plugin <> 'auth_socket')") == ''
        assert sql(host, "SELECT user FROM mysql.user WHERE host <> 'localhost' AND ssl_type = ''") == ''
    assert hosts[PRIMARY].run('runuser -u nobody -- mysql --user=root --execute "SELECT 1"').rc != 0


def test_the_replica_refuses_writes_also_of_root(hosts):
    refused = hosts[REPLICA].run("mysql --execute 'CREATE DATABASE other'")
    assert refused.rc != 0 and 'super-read-only' in refused.stderr


def test_safe_settings(hosts):
    for host in hosts.values():
        assert sql(host, 'SELECT @@binlog_format, @@gtid_mode, @@sync_binlog, @@innodb_flush_log_at_trx_commit, @@local_infile,'
                         ' @@require_secure_transport, @@skip_name_resolve, @@innodb_buffer_pool_size'
                   ).split() == ['ROW', 'ON', '1', '1', '0', '1', '1', str(128 * 1024 * 1024)]
    assert len({sql(host, 'SELECT @@server_id') for host in hosts.values()}) == 2


def test_no_statement_shows_a_password_in_the_slow_query_log(hosts):
    """The replica was cloned, then it got its channel."""
    log = hosts[REPLICA].file('/var/log/mysql/slow.log').content_string
    assert 'SOURCE_PASSWORD = <secret>' in log
    assert 'l$i{{' not in log


def test_listens_only_where_it_should(hosts, addresses):
    for name, host in hosts.items():
        listening = set(host.check_output("ss -Hltn | awk '$4 !~ /^127.0.0.11:/ {print $4}'").split())
        assert listening == {'%s:%s' % (address, port) for address in ('127.0.0.1', addresses[name]) for port in (3306, 8008)}


def test_commits_wait_for_the_replica(hosts):
    before = int(sql(hosts[PRIMARY], "SELECT variable_value FROM performance_schema.global_status WHERE variable_name = 'Rpl_semi_sync_source_yes_tx'"))
    sql(hosts[PRIMARY], 'CREATE TABLE IF NOT EXISTS site.semi_sync (id INT PRIMARY KEY); REPLACE INTO site.semi_sync VALUES (1)')
    after = int(sql(hosts[PRIMARY], "SELECT variable_value FROM performance_schema.global_status WHERE variable_name = 'Rpl_semi_sync_source_yes_tx'"))
    assert after > before


def test_role_check_from_the_neighbour(hosts, addresses):
    asked = hosts[REPLICA], addresses[PRIMARY]
    assert role_check(*asked, '/primary')[0] == 200
    assert role_check(*asked, '/primary', 'OPTIONS')[0] == 200
    assert role_check(*asked, '/primary', 'HEAD') == (200, None)
    assert role_check(*asked, '/replica?max_lag=10')[0] == 503
    assert role_check(*asked, '/replica?max_lag=soon')[0] == 400
    assert role_check(*asked, '/')[0] == 404
    asked = hosts[PRIMARY], addresses[REPLICA]
    status, body = role_check(*asked, '/primary')
    assert (status, body['reason']) == (503, 'read-only')
    status, body = role_check(*asked, '/replica?max_lag=10')
    assert (status, body['role'], body['lag']) == (200, 'replica', 0)


def test_role_check_says_no_while_replication_stands_still(hosts, addresses):
    asked = hosts[PRIMARY], addresses[REPLICA], '/replica?max_lag=10'
    sql(hosts[REPLICA], 'STOP REPLICA IO_THREAD')
    try:
        assert role_check(*asked)[0] == 503
    finally:
        sql(hosts[REPLICA], 'START REPLICA IO_THREAD')
    assert wait_for(lambda: role_check(*asked)[0] == 200)


def test_role_check_answers_while_mysql_hangs(hosts, addresses):
    asked = hosts[PRIMARY], addresses[REPLICA], '/replica?max_lag=10'
    hosts[REPLICA].check_output('systemctl kill --signal=STOP mysql.service')
    try:
        start = time.time()
        status, body = role_check(*asked)
        assert status == 503 and 'did not answer' in body['reason']
        assert time.time() - start < 3
    finally:
        hosts[REPLICA].check_output('systemctl kill --signal=CONT mysql.service')
    assert wait_for(lambda: role_check(*asked)[0] == 200)


def test_role_check_is_sandboxed_and_restarts_without_a_gap(hosts, addresses):
    level = hosts[PRIMARY].run('systemd-analyze security mysql-role-check.service | tail -1').stdout
    assert float(level.split(': ')[1].split()[0]) <= 2, level
    hosts[PRIMARY].check_output('systemctl restart mysql-role-check.service')
    assert role_check(hosts[REPLICA], addresses[PRIMARY], '/primary')[0] == 200
    user, host = sql(hosts[PRIMARY], "SELECT user, host FROM performance_schema.threads JOIN mysql.user ON user = processlist_user"
                                     " WHERE user = 'role_check'").split()
    assert (user, host) == ('role_check', 'localhost')
    assert sql(hosts[PRIMARY], "SHOW GRANTS FOR role_check@localhost") == 'GRANT REPLICATION CLIENT ON *.* TO `role_check`@`localhost`'


def test_a_renewed_certificate_is_taken_up(hosts):
    uptime = "SELECT variable_value FROM performance_schema.global_status WHERE variable_name = 'Ssl_finished_accepts'"
    host = hosts[PRIMARY]
    assert int(sql(host, uptime)) > 0
    host.check_output('cat /etc/webstack/pki/host.crt > /root/crt && cat /root/crt > /etc/webstack/pki/host.crt')
    assert wait_for(lambda: int(sql(host, uptime)) == 0), 'reloading TLS starts its counters again'


def test_a_restarted_replica_is_read_only_and_follows(hosts, addresses):
    hosts[REPLICA].check_output('systemctl restart mysql.service')
    assert sql(hosts[REPLICA], 'SELECT @@read_only, @@super_read_only').split() == ['1', '1']
    assert wait_for(lambda: role_check(hosts[PRIMARY], addresses[REPLICA], '/replica?max_lag=10')[0] == 200)


def test_nothing_to_complain_about_in_the_error_log(hosts):
    log = hosts[PRIMARY].check_output("sed -n '/ready for connections/,$p' /var/log/mysql/error.log")
    # MY-013129 is how 9.7 tells of the clear-text connection that a test above made.
    assert [line for line in log.splitlines() if '[ERROR]' in line and 'MY-013129' not in line] == []
    # MY-013360 is how it greets an account that is not there yet, as if it had an old plugin.
    assert [line for line in log.splitlines() if 'deprecated' in line and 'MY-013360' not in line] == []


# -- The role keeper; what follows restarts servers.

def writable(host):
    return host.run("mysql --batch --skip-column-names --execute 'SELECT @@GLOBAL.read_only'").stdout.strip() == '0'


def keeper_says(host, text):
    return wait_for(lambda: text in host.check_output('journalctl --unit mysql-role-keeper --output cat --lines 3'))


def test_role_keeper_is_sandboxed_and_its_password_is_not_for_others(hosts):
    host = hosts[PRIMARY]
    level = host.run('systemd-analyze security mysql-role-keeper.service | tail -1').stdout
    assert float(level.split(': ')[1].split()[0]) <= 2, level
    file = host.file('/etc/mysql-role-keeper.json')
    assert (file.user, file.group, file.mode) == ('root', 'mysql-role-keeper', 0o640)


def test_durability_of_a_pair(hosts):
    assert sql(hosts[PRIMARY], 'SELECT @@rpl_semi_sync_source_timeout, @@rpl_semi_sync_source_wait_no_replica').split() == ['1000', '0']
    # Also without a write: the keeper ends the asynchronous phase.
    assert wait_for(lambda: sql(hosts[PRIMARY], "SHOW STATUS LIKE 'Rpl_semi_sync_source_status'").split()[-1:] == ['ON'])


def test_the_cluster_admin_needs_a_client_certificate(hosts, addresses):
    options = '--ssl-mode=VERIFY_IDENTITY --ssl-ca=/etc/webstack/pki/ca.crt'
    certificate = ' --ssl-cert=/etc/webstack/pki/host.crt --ssl-key=/etc/webstack/pki/host.key'
    query = 'SHOW REPLICA STATUS; SET GLOBAL super_read_only = @@GLOBAL.super_read_only'
    for source in hosts.values():
        for address in addresses.values():
            refused = client(source, address, query, options, 'cluster_admin', 'for the tests')
            assert refused.rc != 0 and 'Access denied' in refused.stderr
            done = client(source, address, query, options + certificate, 'cluster_admin', 'for the tests')
            assert done.rc == 0, done.stderr
    assert client(hosts[REPLICA], addresses[PRIMARY], 'SELECT * FROM site.entry', options + certificate, 'cluster_admin', 'for the tests').rc != 0


def test_a_killed_primary_takes_its_role_back(hosts):
    hosts[PRIMARY].check_output('systemctl kill --signal=KILL mysql.service')
    assert wait_for(lambda: writable(hosts[PRIMARY]))
    assert keeper_says(hosts[PRIMARY], 'primary')


def test_all_servers_killed_at_once(hosts):
    for host in hosts.values():
        host.check_output('systemctl kill --signal=KILL mysql.service')
    assert wait_for(lambda: writable(hosts[PRIMARY]))
    assert not writable(hosts[REPLICA])


def test_half_of_a_pair_is_no_majority(hosts):
    hosts[REPLICA].check_output('systemctl stop mysql.service')
    try:
        hosts[PRIMARY].check_output('systemctl kill --signal=KILL mysql.service')
        assert keeper_says(hosts[PRIMARY], 'read-only: 1 of 2 servers can be asked')
        assert not writable(hosts[PRIMARY])
    finally:
        hosts[REPLICA].check_output('systemctl start mysql.service')
    assert wait_for(lambda: writable(hosts[PRIMARY]))


def test_read_only_by_hand_stays_so_until_mysqld_starts_again(hosts):
    host = hosts[PRIMARY]
    sql(host, 'SET GLOBAL super_read_only = ON')
    host.check_output('systemctl restart mysql-role-keeper.service')
    assert keeper_says(host, 'someone made it so')
    assert not writable(host)
    host.check_output('systemctl kill --signal=KILL mysql.service')
    assert wait_for(lambda: writable(host))


def test_the_lock_of_a_switchover_keeps_the_role_from_changing(hosts):
    host = hosts[PRIMARY]
    holder = hosts[REPLICA].check_output("mysql --execute \"SELECT GET_LOCK('webstack_primary', 0); DO SLEEP(60)\" > /dev/null 2>&1 < /dev/null & echo $!")
    try:
        host.check_output('systemctl kill --signal=KILL mysql.service')
        assert keeper_says(host, 'the lock is held on %s by root@localhost' % REPLICA)
        assert not writable(host)
    finally:
        hosts[REPLICA].check_output('kill %s', holder)
    assert wait_for(lambda: writable(host))


FOLLOW = (
    'import json, sys, pymysql\n'
    'password = json.load(open("/etc/mysql-role-keeper.json"))["password"]\n'
    'server = pymysql.connect(unix_socket="/run/mysqld/mysqld.sock", user="root").cursor()\n'
    'server.execute("SET GLOBAL super_read_only = ON")\n'
    'server.execute("CHANGE REPLICATION SOURCE TO SOURCE_HOST=%s, SOURCE_USER=\'replication\', SOURCE_PASSWORD=%s, SOURCE_AUTO_POSITION=1,'
    ' SOURCE_SSL=1, SOURCE_SSL_CA=\'/etc/webstack/pki/ca.crt\', SOURCE_SSL_VERIFY_SERVER_CERT=1, SOURCE_CONNECT_RETRY=1,'
    ' SOURCE_RETRY_COUNT=86400", (sys.argv[1], password))\n'
    'server.execute("START REPLICA")\n')


def test_a_frozen_primary_that_was_replaced_fences_itself(hosts, addresses):
    old, new = hosts[PRIMARY], hosts[REPLICA]
    assert wait_for(lambda: sql(old, 'SHOW REPLICAS'))
    time.sleep(3)  # the keeper has seen who follows
    old.check_output('systemctl kill --signal=STOP mysql.service')
    try:
        sql(new, 'STOP REPLICA; SET GLOBAL read_only = OFF; RESET REPLICA ALL')
    finally:
        old.check_output('systemctl kill --signal=CONT mysql.service')
    assert keeper_says(old, 'read-only, %s is the primary' % REPLICA)
    assert sql(old, 'SELECT @@super_read_only, @@offline_mode').split() == ['1', '0']
    assert writable(new)
    # A reboot does not bring it back either.
    old.check_output('systemctl restart mysql.service')
    assert keeper_says(old, 'read-only, %s is the primary' % REPLICA)
    assert not writable(old)
    # Nothing was written: the pair can be put back.
    new.check_output('python3 -c %s %s', FOLLOW, addresses[PRIMARY])
    assert keeper_says(old, 'another server was the primary after it')
    assert not writable(old) and not writable(new)
    sql(old, 'SET GLOBAL read_only = OFF')
    # What it remembered is forgotten.
    time.sleep(3)
    old.check_output('systemctl kill --signal=KILL mysql.service')
    assert wait_for(lambda: writable(old)), 'followed again, and started since it was writable'
    assert not writable(new)
