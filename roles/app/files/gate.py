# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Wait until the site answers over its socket with the right version, several times in a row.

Runs on the host: gate.py <path> <version, or empty> <seconds>. Exits 1 with the reason when the time is over or the service keeps dying.
"""

import http.client
import json
import socket
import subprocess
import sys
import time

IN_A_ROW = 3
DEATHS = 2


class Connection(http.client.HTTPConnection):
    """HTTP over the socket."""

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect("/run/app/app.sock")


def ask(path, version, timeout):
    """What is wrong with the answer; empty when nothing is."""
    connection = Connection("localhost", timeout=timeout)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as problem:
        return f"no answer ({type(problem).__name__}: {problem})"
    finally:
        connection.close()
    if answer.status != 200:
        return f"status {answer.status}"
    found = answer.headers.get("X-App-Version")
    if found is None:
        try:
            found = json.loads(body)["version"]
        except (ValueError, KeyError, TypeError):
            found = None
    if version and found is None:
        return "status 200, but neither a header X-App-Version nor JSON with a key version (see app_health_version)"
    if version and found != version:
        return f"version {found} instead of {version}"
    return ""


def restarts():
    """How often systemd has started the dead service again."""
    shown = subprocess.run(["systemctl", "show", "--value", "--property=NRestarts", "app.service"], stdout=subprocess.PIPE, check=False)
    return int(shown.stdout.strip() or 0)


def main(path, version, seconds):
    deadline = time.monotonic() + float(seconds)
    before = restarts()
    good = 0
    while good < IN_A_ROW:
        left = deadline - time.monotonic()
        problem = ask(path, version, min(2, max(left, 0.1)))
        good = 0 if problem else good + 1
        if problem and restarts() - before >= DEATHS:
            return f"GET {path}: {problem}; the service died {DEATHS} times"
        if problem and time.monotonic() >= deadline:
            return f"GET {path}: {problem}, {seconds} s after the start"
        if problem:
            time.sleep(0.2)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
