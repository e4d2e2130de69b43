"""Every secret is changed while visitors read and write: docs/security.md, "Changing secrets"."""
import subprocess
import time
import uuid

import lab
import pytest

from chaos import CREDENTIALS, docker, play, primary, report, whole
from visitors import Visitors, figures

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("cluster")]
PASSWORDS = ("app_database_password", "replication_password", "cluster_admin_password", "monitoring_password")
LOGIN = ("import os, pymysql, ssl, sys; e = os.environ; pymysql.connect(host=e['DB_WRITER_HOST'], port=int(e['DB_WRITER_PORT']), user=e['DB_USER'],"
         " password=sys.stdin.read(), database=e['DB_NAME'], ssl=ssl.create_default_context(cafile=e['DB_SSL_CA']))")


def accepted(password):
    """Whether MySQL takes it, asked as the app does."""
    return subprocess.run(["docker", "exec", "-i", lab.HOSTS["app"][0], "bash", "-c", 'set -a; . /etc/app/environment; exec python3 -c "$0"', LOGIN],
                          input=password, text=True, capture_output=True, check=False).returncode == 0


def everybody_reports():
    """Each host's samples arrive, and they are new."""
    found = {row["metric"]["host"] for row in lab.ask_monitoring("time() - timestamp(node_load1) < 30")}
    return found == set(lab.EVERY_HOST)


def reconnected():
    """The channels of replication, which only look at passwords and certificates when they connect."""
    for name in lab.HOSTS["database"]:
        if name != primary():
            lab.sql(name, "STOP REPLICA IO_THREAD; START REPLICA IO_THREAD")
    return lab.wait_for(whole, seconds=60)


def test_passwords():
    old = {name: (CREDENTIALS / name).read_text().strip() for name in PASSWORDS}
    new = {name: uuid.uuid4().hex for name in PASSWORDS}
    tags = "database,monitoring,app"
    with Visitors(20) as visitors:
        for name, password in new.items():
            (CREDENTIALS / name).write_text(password)
        play("stage4", "--tags", tags, "-e", "mysql_primary_keep_old_passwords=true")
        assert accepted(old["app_database_password"]) and accepted(new["app_database_password"])
        play("stage4", "--tags", tags)
        time.sleep(5)
    report("passwords changed", **figures(visitors.numbers))
    visitors.nobody_failed()
    assert not accepted(old["app_database_password"]) and accepted(new["app_database_password"])
    assert reconnected()
    assert lab.wait_for(everybody_reports, seconds=60)
    play("switchover", "-e", f"new_primary={next(name for name in lab.HOSTS['database'] if name != primary())}")


def test_internal_ca(tmp_path):
    """One CA takes the place of another: first all trust both, then certificates change, then nobody trusts the old one."""
    key, certificate, also = (CREDENTIALS / f"internal_ca.{name}" for name in ("key", "crt", "also.crt"))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "3650", "-subj", "/CN=foobar.com internal CA 2",
         "-addext", "basicConstraints=critical,CA:TRUE,pathlen:0", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
         "-keyout", str(tmp_path / "new.key"), "-out", str(tmp_path / "new.crt")], check=True, capture_output=True)
    new, old = (tmp_path / "new.crt").read_text(), certificate.read_text()
    with Visitors(20) as visitors:
        also.write_text(new)
        play("stage4", "--tags", "internal_ca")
        also.write_text(old)
        key.write_bytes((tmp_path / "new.key").read_bytes())
        certificate.write_text(new)
        play("stage4", "--tags", "internal_ca")
        also.unlink()
        play("stage4", "--tags", "internal_ca")
        time.sleep(5)
    report("internal CA changed", **figures(visitors.numbers))
    visitors.nobody_failed()
    for name in lab.EVERY_HOST:
        assert docker("exec", name, "cat", "/etc/webstack/pki/ca.crt").stdout.strip() == new.strip()
        docker("exec", name, "openssl", "verify", "-CAfile", "/etc/webstack/pki/ca.crt", "/etc/webstack/pki/host.crt")
    assert reconnected()
    assert lab.wait_for(everybody_reports, seconds=60)
    assert lab.write()
    play("status", "-e", f"status_directory={tmp_path}")
