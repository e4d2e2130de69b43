"""One host alone: what is deployed, in every form, while visitors ask."""

import hashlib
import itertools
import json
import re
import subprocess
import tarfile
import textwrap
import zipfile

from conftest import SITE
from helpers import ask, current, deploy

testinfra_hosts = ["app-trixie"]
SERVER = """
import http.server, os, socket
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"any command will do")
    def address_string(self):
        return "socket"
server = http.server.HTTPServer("", Handler, bind_and_activate=False)
server.socket = socket.socket(fileno=3)
server.serve_forever()
"""
NASTY = {
    "QUOTES": "a\"b'c`d",
    "DOLLAR": "$HOME ${PATH} $$ $(id)",
    "PERCENT": "%n %% %H",
    "BRACES": "{{ not_a_template }} {% raw %}",
    "SPACES": "  both ends  \t",
    "BACKSLASH": "\\n \\\\ C:\\dir\\",
    "LINES": "one\ntwo\\\nthree\n",
    "HASH": "#not ;a comment",
    "UNICODE": "pässwörd 🔑",
    "EMPTY": "",
}


def test_archive_with_requirements_and_nasty_environment(host, site, tmp_path):
    """While it is deployed, every request is answered, first by the old release, then by the new one."""
    # A wheel in the release: what requirements.txt asks for needs no network here.
    with zipfile.ZipFile(site / "wheeled-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("wheeled.py", "NAME = 'from the wheel'\n")
        wheel.writestr("wheeled-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: wheeled\nVersion: 1.0\n")
        wheel.writestr("wheeled-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("wheeled-1.0.dist-info/RECORD", "wheeled.py,,\nwheeled-1.0.dist-info/METADATA,,\nwheeled-1.0.dist-info/WHEEL,,\nwheeled-1.0.dist-info/RECORD,,\n")
    (site / "requirements.txt").write_text("./wheeled-1.0-py3-none-any.whl\n")
    with tarfile.open(tmp_path / "site.tar.gz", "w:gz") as archive:
        archive.add(site, "site-1.0")
    digest = hashlib.sha256((tmp_path / "site.tar.gz").read_bytes()).hexdigest()
    old = current(host)

    ask(host)
    host.run("rm -f /tmp/client-stop; (runuser -u nobody -g www-data -- python3 /tmp/client.py /healthz 5000 0.05 > /tmp/client.log 2>&1) >/dev/null 2>&1 &")
    result = deploy(
        host.backend.get_hostname(),
        tmp_path,
        app_source={"type": "archive", "path": str(tmp_path / "site.tar.gz"), "checksum": "sha256:" + digest},
        app_version="1.0",
        app_environment=NASTY,
        app_migrate_command="echo \"$APP_VERSION $LINES\" > /srv/app/shared/migrated; id -un >> /srv/app/shared/migrated",
    )
    host.run("touch /tmp/client-stop; while pgrep --full 'client[.]py' >/dev/null; do sleep 0.05; done; rm /tmp/client-stop")
    assert result.returncode == 0, result.stdout
    seen = [json.loads(line) for line in host.file("/tmp/client.log").content_string.splitlines()]
    assert len(seen) > 50 and [answer for answer in seen if answer[0] != 200] == []
    assert [version for version, _answers in itertools.groupby(answer[1] for answer in seen)] == [old, "1.0"]

    found = json.loads(ask(host, "/environment")[0][2])
    assert {name: found[name] for name in NASTY} == NASTY
    assert found["APP_VERSION"] == "1.0" and found["APP_HOST"] == host.backend.get_hostname()
    assert found["wheel"] == "from the wheel" and found["user"] != 0 and found["writable"] == ["/srv/app/shared"]
    assert "secret" not in result.stdout and "pässwörd" not in result.stdout
    assert host.file("/srv/app/shared/migrated").content_string == f"1.0 {NASTY['LINES']}\napp\n"


def test_broken_release_is_rolled_back(host, site, tmp_path):
    before = current(host)
    (site / "wsgi.py").write_text("raise RuntimeError('this release is broken')\n")
    result = deploy(host.backend.get_hostname(), tmp_path, app_source={"type": "directory", "path": str(site)}, app_version="2.0", app_environment=NASTY)
    assert result.returncode != 0
    assert f"Release 2.0 does not work, so {before} is back." in result.stdout
    assert "this release is broken" in result.stdout
    assert current(host) == before and ask(host)[0][:2] == [200, before]

    # The same version with another content is another mistake.
    (site / "wsgi.py").write_text(SITE)
    result = deploy(host.backend.get_hostname(), tmp_path, app_source={"type": "directory", "path": str(site)}, app_version="2.0", app_environment=NASTY)
    assert result.returncode != 0 and "Release 2.0 was deployed with another content" in re.sub(r"\s+", " ", result.stdout)
    assert current(host) == before and ask(host)[0][:2] == [200, before]


def test_failed_migration_switches_nothing(host, site, tmp_path):
    before, environment = current(host), host.file("/etc/app/environment").content
    result = deploy(host.backend.get_hostname(), tmp_path, app_source={"type": "directory", "path": str(site)}, app_version="2.1",
                    app_environment=NASTY | {"NEW": "1"}, app_migrate_command="echo no table of that name; exit 3")
    assert result.returncode != 0
    assert "The migration failed, so nothing was switched: no table of that name" in re.sub(r"\s+", " ", result.stdout)
    assert current(host) == before and ask(host)[0][:2] == [200, before]
    assert host.file("/etc/app/environment").content == environment
    assert host.check_output("find /etc/app /etc/systemd/system -name '*~'") == ""


def test_stand_in_is_gone(host):
    assert host.check_output("ls /run/app") == "app.sock"
    assert not host.service("app-next.service").is_running


def test_what_a_killed_run_left_is_repaired(host, site, tmp_path):
    """The release is current and stands in, and the service was not restarted."""
    old = current(host)
    result = deploy(host.backend.get_hostname(), tmp_path, app_source={"type": "directory", "path": str(site)}, app_version="4.0", app_environment=NASTY)
    assert result.returncode == 0 and ask(host)[0][:2] == [200, "4.0"]
    host.check_output(f"ln -sfn releases/{old} /srv/app/current; systemctl restart app.service; sleep 0.1; ln -sfn releases/4.0 /srv/app/current;"
                      " systemctl start app-next.service; cd /run/app; ln app.sock service.sock; ln -sf next.sock .lead; mv -T .lead app.sock")
    result = deploy(host.backend.get_hostname(), tmp_path, app_source={"type": "directory", "path": str(site)}, app_version="4.0", app_environment=NASTY)
    assert result.returncode == 0, result.stdout
    assert ask(host)[0][:2] == [200, "4.0"] and host.check_output("ls /run/app") == "app.sock"


def test_any_command_from_git_and_old_releases_go(host, tmp_path):
    before = current(host)
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "server.py").write_text(textwrap.dedent(SERVER))
    for arguments in (["init", "--quiet"], ["add", "."], ["-c", "user.name=x", "-c", "user.email=x@example.com", "commit", "--quiet", "-m", "x"], ["tag", "v3"]):
        subprocess.run(["git", "-C", str(repository), *arguments], check=True)
    result = deploy(
        host.backend.get_hostname(),
        tmp_path,
        app_source={"type": "git", "url": str(repository), "revision": "v3"},
        app_packages=[],
        app_command="python3 server.py",
        app_migrate_command="",
        app_health_version=False,
        app_keep_releases=2,
        app_service_options={"MemoryMax": "200M"},
    )
    assert result.returncode == 0, result.stdout
    assert ask(host)[0][::2] == [200, "any command will do"]
    assert host.check_output("systemctl show --value --property=MemoryMax app.service") == str(200 * 2**20)
    assert set(host.file("/srv/app/releases").listdir()) == {before, current(host)}
    assert host.check_output("readlink /srv/app/previous /srv/app/next").split() == [f"releases/{before}", f"releases/{current(host)}"]


def test_bad_input_changes_nothing(host, site, tmp_path):
    before = host.check_output("find /srv/app /etc/app /etc/systemd/system/app.* -printf '%p %l %T@\\n' | sort")
    with tarfile.open(tmp_path / "site.tar", "w") as archive:
        archive.add(site, "site")
    result = deploy(
        host.backend.get_hostname(),
        tmp_path,
        app_source={"type": "archive", "path": str(tmp_path / "site.tar"), "checksum": "sha256:00"},
        app_version="../1",
        app_user="root",
        app_environment={"A B": "x", "APP_VERSION": "x", "BELL": "\x07"},
    )
    assert result.returncode != 0
    message = re.sub(r"\s+", " ", result.stdout)
    for problem in ("app_source.checksum says sha256:00", 'app_version is "../1"', 'app_user is "root"', '"A B" is no name', "APP_VERSION comes with", "BELL of"):
        assert problem in message, message
    assert host.check_output("find /srv/app /etc/app /etc/systemd/system/app.* -printf '%p %l %T@\\n' | sort") == before
