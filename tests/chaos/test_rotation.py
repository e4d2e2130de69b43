"""Every secret is changed while visitors read and write: docs/security.md, "Changing secrets"."""
import base64
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


@pytest.fixture
def second_key():
    """The DNS server knows another one, too."""
    name, secret = "webstack2", base64.b64encode(uuid.uuid4().bytes * 2).decode()
    configuration = docker("exec", "internet", "cat", "/etc/bind/named.conf").stdout

    def configure(text):
        subprocess.run(["docker", "exec", "-i", "internet", "sh", "-c", "cat > /etc/bind/named.conf && systemctl reload named"], input=text, text=True, check=True)

    known = configuration.replace("grant webstack zonesub ANY;", f"grant webstack zonesub ANY; grant {name} zonesub ANY;")
    configure(f'{known}key "{name}" {{ algorithm hmac-sha256; secret "{secret}"; }};\n')
    yield name, secret
    configure(configuration)


def test_keys_of_the_app_and_of_the_dns_server(second_key):
    key = uuid.uuid4().hex * 2
    found = "dig +short @198.18.0.53 foobar.com A"
    with Visitors(20) as visitors:
        (CREDENTIALS / "app_secret_key").write_text(key)
        play("stage4", "--tags", "app")
        # A record that is missing is one that only a key which the server takes can bring back.
        update = "server 198.18.0.53\nzone foobar.com\nupdate delete foobar.com A\nsend\n"
        subprocess.run(["docker", "exec", "-i", "client", "nsupdate", "-y", "hmac-sha256:{}:{}".format(*second_key)], input=update, text=True, check=True)
        assert lab.on("client").check_output(found) == ""
        play("stage4", "--tags", "dns", *(option for name, value in zip(("name", "secret"), second_key) for option in ("-e", f"dns_record_key_{name}={value}")))
        time.sleep(5)
    report("keys of the app and of the DNS server changed", **figures(visitors.numbers))
    visitors.nobody_failed()
    assert lab.on("client").check_output(found) == lab.VIP
    for name in lab.HOSTS["app"]:
        assert key in docker("exec", name, "cat", "/etc/app/environment").stdout
        processes = docker("exec", name, "sh", "-c", "cat $(systemctl show --property=MainPID --value app | sed 's|.*|/proc/&/environ|')").stdout
        assert key in processes
