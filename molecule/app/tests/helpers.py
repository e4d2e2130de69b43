"""How the tests ask the app, and run the role again."""

import json
import os
import pathlib
import subprocess

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


def current(host):
    return host.run("readlink /srv/app/current").stdout.strip().rpartition("/")[2]
