# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Wait until the site answers with the right version, several times. Exits 1 with the reason when the time is over or the service keeps dying.

Runs on the app's host, and asks over a socket (--socket and the --unit behind it), or as a visitor (--site, once for each address, and the site's --name).
Other versions are welcome as a visitor: they come from other hosts. No version given means that any will do.
"""

import argparse
import http.client
import json
import socket
import ssl
import subprocess
import sys
import time
import urllib.parse

TIMES = 3
DEATHS = 2


class Connection(http.client.HTTPConnection):
    """HTTP over a socket."""

    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Visit(http.client.HTTPConnection):
    """HTTP or HTTPS to one address under the site's name. An address proves no name, so the certificate is not looked at."""

    def __init__(self, url, name, timeout):
        parts = urllib.parse.urlsplit(url)
        self.tls = parts.scheme == "https"
        super().__init__(parts.hostname, parts.port or (443 if self.tls else 80), timeout=timeout)
        self.name = name

    def connect(self):
        super().connect()
        if self.tls:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self.sock = context.wrap_socket(self.sock, server_hostname=self.name)


def get(connection, path, name):
    """(status, version, problem)"""
    try:
        connection.request("GET", path, headers={"Host": name})
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as problem:
        return 0, None, f"no answer ({type(problem).__name__}: {problem})"
    finally:
        connection.close()
    version = answer.headers.get("X-App-Version")
    if version is None:
        try:
            version = json.loads(body)["version"]
        except (ValueError, KeyError, TypeError):
            version = None
    return answer.status, version, ""


def judge(status, found, problem, version):
    """What is wrong with the answer; empty when nothing is."""
    if problem:
        return problem
    if status != 200:
        return f"status {status}"
    if version and found is None:
        return "status 200, but neither a header X-App-Version nor JSON with a key version (see app_health_version)"
    if version and found != version:
        return f"version {found} instead of {version}"
    return ""


def restarts(unit):
    """How often systemd has started the dead service again."""
    if not unit:
        return 0
    shown = subprocess.run(["systemctl", "show", "--value", "--property=NRestarts", unit], stdout=subprocess.PIPE, check=False)
    return int(shown.stdout.strip() or 0)


def wait(connect, options):
    """The version, TIMES in a row over a socket, or as often for a visitor who also meets others."""
    name = options.name or "localhost"
    deadline = time.monotonic() + options.seconds
    before = restarts(options.unit)
    good, bad, others = 0, 0, set()
    while good < TIMES:
        status, found, problem = get(connect(min(2, max(deadline - time.monotonic(), 0.1))), options.path, name)
        problem = judge(status, found, problem, options.version)
        another = options.site and status == 200 and found
        if problem and another:
            others.add(found)
            problem = f"version {' and '.join(sorted(others))} instead of {options.version}"
        good = good + 1 if not problem else good if another else 0
        bad += bool(problem and not another)
        if options.site and bad >= TIMES:
            return f"GET {options.path}: {problem}, {TIMES} times"  # visitors meet this
        if problem and restarts(options.unit) - before >= DEATHS:
            return f"GET {options.path}: {problem}; the service died {DEATHS} times"
        if problem and time.monotonic() >= deadline:
            return f"GET {options.path}: {problem}, for {options.seconds:g} s"
        if problem:
            time.sleep(0.01 if another else 0.2)
    for path in options.page:
        for _turn in range(TIMES):
            status, _found, problem = get(connect(max(2, deadline - time.monotonic())), path, name)
            if problem or status >= 500:
                return f"GET {path}: {problem or f'status {status}'}"
    return 0


def connector(options):
    if not options.site:
        return lambda timeout: Connection(options.socket, timeout)
    sites = list(options.site)

    def connect(timeout):
        """The addresses take turns; one that is away is not asked again."""
        while len(sites) > 1:
            sites.append(sites.pop(0))
            try:
                parts = urllib.parse.urlsplit(sites[0])
                socket.create_connection((parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)), timeout=1).close()
                break
            except OSError:
                sites.pop(0)
        return Visit(sites[0], options.name, timeout)

    return connect


def main(arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument("--path", required=True)
    parser.add_argument("--version", default="")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--page", action="append", default=[])
    parser.add_argument("--socket", default="/run/app/app.sock")
    parser.add_argument("--unit", default="")
    parser.add_argument("--site", action="append", default=[])
    parser.add_argument("--name", default="")
    options = parser.parse_args(arguments)
    return wait(connector(options), options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
