# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who may change the site: runs on the controller, decides about the lock that lies on an app host.

Reads a JSON object on standard input: {"held": the lock's content or "", "purpose", "break"}.
Prints {"mine": the content to write, "problem": who holds it, or ""}. A lock whose ansible-playbook is dead is free.
"""

import getpass
import json
import os
import platform
import sys
import time


def read(path):
    with open(path, encoding="utf-8", errors="replace") as stream:
        return stream.read()


def process(pid):
    """(parent, start) of a process."""
    fields = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(fields[1]), fields[19]


def playbook():
    """The ansible-playbook that this process descends from, not its workers."""
    found, pid = os.getppid(), os.getppid()
    while pid > 1:
        arguments = read(f"/proc/{pid}/cmdline").split("\0")
        if any(os.path.basename(argument).startswith("ansible-playbook") for argument in arguments[:3]) and "python" in os.path.basename(arguments[0]):
            found = pid
        pid = process(pid)[0]
    return found


def place():
    """Where process ids mean the same: the boot, and the container."""
    return read("/proc/sys/kernel/random/boot_id").strip(), os.readlink("/proc/self/ns/pid")


def is_dead(lock):
    boot, namespace = place()
    if lock["host"] == platform.node() and lock["boot"] != boot:
        return True
    if [lock["boot"], lock["namespace"]] != [boot, namespace]:
        return False
    try:
        return process(lock["pid"])[1] != lock["start"]
    except OSError:
        return True


def decide(request):
    pid, (boot, namespace) = playbook(), place()
    mine = {
        "by": getpass.getuser(), "host": platform.node(), "purpose": request["purpose"], "since": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "boot": boot, "namespace": namespace, "pid": pid, "start": process(pid)[1],
    }
    problem = ""
    if request["held"] and not request["break"]:
        try:
            lock = json.loads(request["held"])
            if not is_dead(lock):
                problem = (f"{lock['by']} on {lock['host']} is at work: {lock['purpose']}, since {lock['since']}, process {lock['pid']}. "
                           "Wait until that is done; if it no longer runs, say -e break_lock=true")
        except (ValueError, KeyError, TypeError):
            pass  # cut off while it was written
    return {"mine": json.dumps(mine, sort_keys=True), "problem": problem}


if __name__ == "__main__":
    json.dump(decide(json.load(sys.stdin)), sys.stdout)
