"""No secret is where others than its owner could read it: files, logs, processes, units, and what Ansible prints."""

import json
import re

import lab
import pytest
from attacker import docker, everywhere

# Searches a host as root and says where others could read a secret. The secrets come by standard input: they are in no argument and no file.
SEARCH = r"""
import json, os, pathlib, re, subprocess, sys
secrets = {name: text.encode() for name, text in json.load(sys.stdin).items()}
anything = re.compile(b"|".join(re.escape(text) for text in set(secrets.values())))
found = set()

def look(where, data):
    if anything.search(data):
        found.update((where, name) for name, text in secrets.items() if text in data)

def read(path):
    try:
        return pathlib.Path(path).read_bytes()
    except OSError:
        return b""

def files(top, all_of_them=False):
    for directory, below, names in os.walk(top):
        # Nobody gets into what he may not enter.
        below[:] = [name for name in below if all_of_them or os.lstat(os.path.join(directory, name)).st_mode & 0o001]
        for name in names:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            if status.st_mode & 0o170000 == 0o100000 and (all_of_them or status.st_mode & 0o004):
                yield path

for top in ("/etc", "/srv", "/run", "/opt", "/home", "/tmp", "/var/backups", "/var/lib", "/var/mail", "/var/spool", "/var/tmp", "/usr/local"):
    for path in files(top):
        if os.lstat(path).st_size < 50_000_000:
            look(path, read(path))
# Logs go further than the host: whatever their mode, and the journal is compressed.
for path in files("/var/log", all_of_them=True):
    if not path.startswith("/var/log/journal"):
        look(path, read(path))
journal = subprocess.Popen(["journalctl", "--all", "--no-pager", "--output=export"], stdout=subprocess.PIPE)
rest = b""
while block := journal.stdout.read(1 << 20):
    look("journal", rest + block)
    rest = block[-200:]
look("systemctl show", subprocess.run(["systemctl", "show", "*"], capture_output=True).stdout)
for process in pathlib.Path("/proc").glob("[0-9]*"):
    name = read(process / "comm").decode().strip()
    look(f"arguments of {name}", read(process / "cmdline"))
    look(f"environment of {name} in {read(process / 'cgroup').decode().strip().rpartition('/')[2]}", read(process / "environ"))
print(json.dumps(sorted(found)))
"""

def search(name, known):
    result = docker("exec", "--interactive", name, "python3", "-c", SEARCH, input=json.dumps(known))
    return {tuple(hit) for hit in json.loads(result.stdout)}


def allowed(hit):
    """The app is told by its environment, which only itself and root can read."""
    where, name = hit
    return name in ("app_database_password", "app_secret_key") and re.fullmatch(r"environment of \S+ in app\.service", where)


def test_no_host_shows_a_secret(known):
    hits = everywhere(lab.EVERY_HOST, lambda name: search(name, known), workers=2)
    assert any(allowed(hit) for name in lab.HOSTS["app"] for hit in hits[name]), "the search finds nothing at all"
    assert {name: visible for name, found in hits.items() if (visible := [hit for hit in sorted(found) if not allowed(hit)])} == {}


def test_the_search_would_find_them(known):
    """One in each kind of place, made up for this test."""
    canary = {"canary": "canary-3f9c1d7e5b8a4260"}
    host = lab.on(lab.HOSTS["web"][0])
    sleeper = host.check_output("echo canary-3f9c1d7e5b8a4260 >/etc/canary; logger canary-3f9c1d7e5b8a4260; journalctl --sync;"
                                " CANARY=canary-3f9c1d7e5b8a4260 sh -c 'sleep 100; : canary-3f9c1d7e5b8a4260' >/dev/null 2>&1 & echo $!")
    try:
        places = {where.split(" of ")[0] for where, _ in search(lab.HOSTS["web"][0], canary)}
        assert {"/etc/canary", "journal", "arguments", "environment"} <= places
    finally:
        host.run("kill %s; rm /etc/canary", sleeper.strip())


def shown(output, known, new):
    return [name for name, text in {**known, **new}.items() if text in output]


def test_ansible_shows_no_secret(known, intended):
    """In what comes before any tier, and in the firewall."""
    assert shown(intended[0], known, intended[1]) == []


@pytest.mark.long
def test_a_whole_run_shows_no_secret(known, intend):
    output, new = intend()
    assert "--- before" in output and "the output has been hidden" in output
    assert shown(output, known, new) == []
