"""No secret is where others than its owner could read it: files, logs, processes, units, and what Ansible prints."""

import base64
import json
import re

import lab
import pytest
import yaml
from attacker import CREDENTIALS, docker, everywhere, play

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
    look(f"arguments of {read(process / 'comm').decode().strip()}", read(process / "cmdline"))
    look(f"environment of {read(process / 'comm').decode().strip()} in {read(process / 'cgroup').decode().strip().rpartition('/')[2]}", read(process / "environ"))
print(json.dumps(sorted(found)))
"""

def secrets():
    """{name: text}: what the stage keeps, what the inventory gives, and the private keys of the hosts."""
    found = {path.name: path.read_text().strip() for path in CREDENTIALS.iterdir() if path.name.endswith(("_password", "_key"))}
    found["monitoring_password, as HTTP sends it"] = base64.b64encode(f"webstack:{found['monitoring_password']}".encode()).decode()
    found["dns_record_key_secret"] = lab.LAB["vars"]["dns_record_key_secret"]
    keys = {"internal_ca.key": (CREDENTIALS / "internal_ca.key").read_text()}
    for name in lab.EVERY_HOST:
        keys[f"key of {name}"] = lab.on(name).check_output("cat /etc/webstack/pki/host.key")
    for name in lab.HOSTS["loadbalancers"]:
        keys[f"certbot's key of {name}"] = lab.on(name).check_output("cat /etc/letsencrypt/live/*/privkey.pem")
    found.update({name: key.splitlines()[1] for name, key in keys.items()})
    assert len(found) == len(set(found.values())) >= 20 and all(len(text) >= 20 for text in found.values())
    return found


@pytest.fixture(scope="module")
def known():
    return secrets()


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
    assert {name: shown for name, found in hits.items() if (shown := [hit for hit in sorted(found) if not allowed(hit)])} == {}


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


def test_ansible_shows_no_secret(known, tmp_path):
    """With -vvv and --diff, on hosts where each secret is about to change, so that the old and the new one would be shown."""
    new = {f"webstack_{path.name}": f"canary{number:026d}" for number, path in enumerate(CREDENTIALS.glob("*_password"))}
    new["webstack_app_secret_key"] = "canary99999999999999999999999999"
    new["dns_record_key_secret"] = base64.b64encode(b"canary98989898989898989898989898").decode()
    (tmp_path / "secrets.yml").write_text(yaml.safe_dump(new))
    output = play("--check", "--diff", "-vvv", "--extra-vars", f"@{tmp_path}/secrets.yml", check=False)
    assert "--- before" in output and "no_log" in output
    shown = {**known, **new}
    assert [name for name, text in shown.items() if text in output] == []
