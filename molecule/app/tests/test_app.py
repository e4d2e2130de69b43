"""The app as its neighbours see it: over the socket, while it is deployed, restarted, broken and rolled back."""

import hashlib
import itertools
import json
import os
import pathlib
import re
import subprocess
import tarfile
import textwrap
import zipfile

import pytest

SCENARIO = pathlib.Path(__file__).resolve().parents[1]
# One request for each line of output: the status, the version and the body, or what went wrong.
CLIENT = """
import http.client, json, os, socket, sys, time
path, count, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
class Connection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect("/run/app/app.sock")
while count > 0 and not os.path.exists("/tmp/client-stop"):
    try:
        connection = Connection("localhost")
        connection.request("GET", path)
        answer = connection.getresponse()
        print(json.dumps([answer.status, answer.headers.get("X-App-Version"), answer.read().decode()]), flush=True)
    except Exception as problem:
        print(json.dumps([0, None, repr(problem)]), flush=True)
    connection.close()
    time.sleep(pause)
    count -= 1
"""
SITE = """
import json, os
def application(environ, start):
    if environ["PATH_INFO"] == "/environment":
        try:
            import wheeled
            found = wheeled.NAME
        except ImportError:
            found = None
        body = dict(os.environ, wheel=found, user=os.getuid(), writable=[path for path in (".", "/srv/app/shared", "/etc/app") if os.access(path, os.W_OK)])
    else:
        body = {"version": os.environ["APP_VERSION"]}
    start("200 OK", [("Content-Type", "application/json"), ("X-App-Version", os.environ["APP_VERSION"])])
    return [json.dumps(body).encode()]
"""
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


def ask(host, path="/healthz", group="", count=1, pause=0.0):
    """As a member of the socket's group, or of another one."""
    host.run("test -e /tmp/client.py || cat > /tmp/client.py <<'END'\n" + CLIENT + "\nEND")
    group = group or host.check_output("stat --format=%G /run/app/app.sock")
    done = host.run("runuser -u nobody -g %s -- python3 /tmp/client.py %s %s %s", group, path, str(count), str(pause))
    return [json.loads(line) for line in done.stdout.splitlines()]


def deploy(target, tmp_path, **variables):
    """Run the role with other variables; strings are data, not templates."""

    def quoted(value):
        if isinstance(value, str):
            return ("!unsafe " if "{" in value else "") + json.dumps(value, ensure_ascii=False)
        if isinstance(value, dict):
            return "{" + ", ".join(f"{json.dumps(name)}: {quoted(item)}" for name, item in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ", ".join(quoted(item) for item in value) + "]"
        return json.dumps(value)

    (tmp_path / "vars.yml").write_text("".join(f"{name}: {quoted(value)}\n" for name, value in variables.items()))
    environment = dict(
        os.environ,
        ANSIBLE_COLLECTIONS_PATH=str(SCENARIO.parents[1] / ".collections"),
        ANSIBLE_PIPELINING="True",
        ANSIBLE_CALLBACK_RESULT_FORMAT="yaml",
        ANSIBLE_PYTHON_INTERPRETER="/usr/bin/python3",
        ANSIBLE_FORCE_COLOR="0",
        ANSIBLE_NOCOLOR="1",
        COLUMNS="200",
    )
    return subprocess.run(
        ["ansible-playbook", "-i", os.environ["MOLECULE_INVENTORY_FILE"], "-l", target, "-e", f"@{tmp_path / 'vars.yml'}", str(SCENARIO / "deploy.yml")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        check=False,
    )


def only(host, distribution):
    if host.system_info.codename != distribution:
        pytest.skip(f"once is enough, on {distribution}")


def current(host):
    return host.run("readlink /srv/app/current").stdout.strip().rpartition("/")[2]


@pytest.fixture(name="site")
def fixture_site(tmp_path):
    site = tmp_path / "site"
    (site / "static").mkdir(parents=True)
    (site / "static" / "a.css").write_text("a { color: red }\n" * 50)
    (site / "wsgi.py").write_text(SITE)
    return site


def test_demo_answers(host):
    ((status, version, body),) = ask(host)
    assert status == 200 and version == current(host) == json.loads(body)["version"] and re.fullmatch("[0-9a-f]{12}", version)
    assert json.loads(body)["host"] == host.check_output("hostname")
    assert ask(host, "/readyz")[0][0] == 503
    status, _version, page = ask(host, "/")[0]
    assert status == 503 and "App server" in page
    assert ("No database is configured" if host.system_info.codename == "trixie" else "cannot be reached") in page
    style = re.search(r"/static/style\.[0-9a-f]{10}\.css", page).group()
    assert host.file(f"/srv/app/current{style}").exists and host.file(f"/srv/app/current{style}.gz").exists


def test_only_the_proxy_gets_in(host):
    assert host.check_output("stat --format=%G:%a /run/app/app.sock") == ("www-data:660" if host.system_info.codename == "trixie" else "haproxy:660")
    assert "PermissionError" in ask(host, group="nogroup")[0][2]
    assert host.run("runuser -u app -- cat /etc/app/environment").rc != 0
    assert host.run("runuser -u app -- touch /srv/app/current/x").rc != 0
    assert host.run("runuser -u app -- touch /srv/app/shared/x && rm /srv/app/shared/x").rc == 0


def test_database_of_the_stack(host):
    only(host, "bookworm")
    process = host.check_output("systemctl show --value --property=MainPID app.service")
    found = dict(line.split("=", 1) for line in host.file(f"/proc/{process}/environ").content_string.split("\0") if line)
    assert found["DB_PASSWORD"] == "it's \"$HOME\" \\ 100% {{ x }}"
    assert (found["DB_WRITER_HOST"], found["DB_WRITER_PORT"], found["DB_READER_PORT"]) == ("writer.mysql.internal", "6446", "6447")
    assert host.check_output("getent ahostsv4 reader.mysql.internal").startswith("127.0.0.1 ")


def test_sandbox(host):
    level = re.search(r"exposure level for app.service: ([0-9.]+)", host.run("systemd-analyze security --no-pager app.service").stdout)
    assert float(level.group(1)) <= 1.5


def test_both_units_come_back_after_a_boot(host):
    assert host.service("app.service").is_enabled and host.service("app.socket").is_enabled


def test_restart_refuses_nothing(host):
    before = host.check_output("systemctl show --value --property=MainPID app.service")
    host.run("(sleep 0.3; systemctl restart app.service) >/dev/null 2>&1 &")
    answers = ask(host, count=60, pause=0.03)
    assert [answer for answer in answers if answer[0] != 200] == []
    assert host.check_output("systemctl show --value --property=MainPID app.service") != before


def test_archive_with_requirements_and_nasty_environment(host, site, tmp_path):
    """While it is deployed, every request is answered, first by the old release, then by the new one."""
    only(host, "trixie")
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
    host.run("touch /tmp/client-stop; sleep 0.5; rm /tmp/client-stop")
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
    only(host, "trixie")
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


def test_any_command_from_git_and_old_releases_go(host, tmp_path):
    only(host, "trixie")
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


def test_bad_input_changes_nothing(host, site, tmp_path):
    only(host, "trixie")
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


def test_web_host_gets_files_only(host, site, tmp_path):
    only(host, "bookworm")
    before = ask(host)[0][1]
    process = host.check_output("systemctl show --value --property=MainPID app.service")
    result = deploy(host.backend.get_hostname(), tmp_path, app_source={"type": "directory", "path": str(site)}, app_version="static", app_parts=["static"])
    assert result.returncode == 0, result.stdout
    assert current(host) == "static" and host.file("/srv/app/current/static/a.css.gz").exists
    assert ask(host)[0][1] == before and host.check_output("systemctl show --value --property=MainPID app.service") == process
