"""What stage 2 adds: two servers behind a load balancer, and a replicated database."""

import lab

testinfra_hosts = ["client"]


def primary():
    writable = [name for name in lab.HOSTS["database"] if lab.sql(name, "SELECT @@read_only") == "0"]
    assert len(writable) == 1
    return writable[0]


def test_round_robin_over_the_web_servers():
    seen = [lab.site().hops["Web server"] for _ in range(6)]
    assert set(seen) == set(lab.HOSTS["web"])
    assert all(a != b for a, b in zip(seen, seen[1:])) or len(lab.HOSTS["loadbalancers"]) > 1


def test_every_app_server_works():
    assert lab.wait_for(lambda: {lab.site("/healthz").headers["x-app-host"] for _ in range(4 * len(lab.HOSTS["app"]))} == set(lab.HOSTS["app"]))


def test_one_primary_and_the_others_refuse_writes():
    for name in set(lab.HOSTS["database"]) - {primary()}:
        assert lab.sql(name, "SELECT @@read_only, @@super_read_only") == "1\t1"


def test_a_row_written_through_the_site_is_on_every_replica():
    entry, answer = lab.write()
    assert answer.json["server"] == primary()
    for name in lab.HOSTS["database"]:
        assert lab.sql(name, f"SELECT WAIT_FOR_EXECUTED_GTID_SET('{answer.json['gtid']}', 5)") == "0"
        assert lab.sql(name, f"SELECT COUNT(*) FROM site.entries WHERE id = '{entry}'") == "1", name


def test_reads_go_to_replicas():
    assert lab.wait_for(lambda: {lab.site("/api/entries").json["server"] for _ in range(8)} <= set(lab.HOSTS["database"]) - {primary()})


def test_replication_is_encrypted_and_verified():
    for name in set(lab.HOSTS["database"]) - {primary()}:
        row = lab.sql(name, "SELECT SSL_ALLOWED, SSL_VERIFY_SERVER_CERTIFICATE, AUTO_POSITION FROM performance_schema.replication_connection_configuration")
        assert row == "YES\tYES\t1"


def test_mysql_refuses_connections_in_clear():
    refused = lab.on(lab.HOSTS["database"][1]).run(
        "mysql --host=%s --user=nobody --ssl-mode=DISABLED --connect-timeout=5 --execute 'SELECT 1'", lab.ADDRESS[lab.HOSTS["database"][0]]
    )
    assert refused.rc != 0
