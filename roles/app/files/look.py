# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What this host has of the site: look.py <its name>. Runs on the host, changes nothing, prints a JSON object.

A release that was not unpacked completely has no marker (.release) and is not seen.
"""

import datetime
import hashlib
import json
import os
import subprocess
import sys

ROOT = "/srv/app"
UNIT = "app.service"
# What a run of the service comes from.
SOURCES = ["/srv/app/current", "/etc/app/environment", "/etc/systemd/system/app.service"]


def release(folder, host):
    """{id, marker, requirements, host}; empty when there is none."""
    try:
        with open(os.path.join(folder, ".release"), "rb") as stream:
            marker = hashlib.sha1(stream.read()).hexdigest()
    except OSError:
        return {}
    requirements = os.path.exists(os.path.join(folder, "requirements.txt"))
    return {"id": os.path.basename(os.path.realpath(folder)), "marker": marker, "requirements": requirements, "host": host}


def releases(host, root=ROOT):
    try:
        folders = sorted(entry.path for entry in os.scandir(os.path.join(root, "releases")) if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []
    return [found for found in (release(folder, host) for folder in folders) if found]


def service():
    """What systemd says of the service; nothing where there is no systemd."""
    command = ["systemctl", "show", "--timestamp=us+utc", "--property=ActiveState,ActiveEnterTimestamp,InvocationID,NeedDaemonReload", UNIT]
    try:
        shown = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False).stdout.decode()
    except OSError:
        return {}
    return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)


def outdated(shown, sources):
    """Whether the running service was started before what it comes from was written: an earlier run was cut off."""
    if shown.get("ActiveState") != "active":
        return False
    if shown.get("NeedDaemonReload") == "yes":
        return True
    started = datetime.datetime.strptime(shown["ActiveEnterTimestamp"], "%a %Y-%m-%d %H:%M:%S.%f UTC").replace(tzinfo=datetime.timezone.utc).timestamp()
    return any(os.lstat(path).st_mtime > started for path in sources if os.path.lexists(path))


def lock(root=ROOT):
    """What the run that holds the lock, or was cut off with it, is for: {purpose: rollback to or deploy of, release}; empty when there is none."""
    try:
        with open(os.path.join(root, "deploy.lock"), encoding="utf-8") as stream:
            purpose, wanted = json.load(stream)["purpose"].split(" release ", 1)
    except (OSError, ValueError, KeyError):
        return {}
    return {"purpose": purpose, "release": wanted}


def free(path):
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return os.statvfs(path).f_bavail * os.statvfs(path).f_frsize


def main(host):
    shown = service()
    json.dump({
        "current": release(ROOT + "/current", host),
        "previous": release(ROOT + "/previous", host),
        "releases": releases(host),
        "lock": lock(),
        "outdated": outdated(shown, SOURCES),
        "invocation": shown.get("InvocationID", ""),
        # A run that was cut off while the new release stood in for the service.
        "stand_in": os.path.lexists("/run/app/service.sock"),
        "free": free(ROOT + "/releases"),
    }, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
