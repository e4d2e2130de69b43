"""What the hosts do not have: nmap, tcpdump and forged certificates, used from where a host stands in the network."""

import base64
import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lab

IMAGE = "webstack-lab/internet:trixie"
CREDENTIALS = Path(lab.LAB["vars"]["webstack_credentials_dir"])


def docker(*command, check=True, **options):
    result = subprocess.run(["docker", *command], check=False, capture_output=True, text=True, **options)
    assert not check or result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result


def in_network_of(name, *command):
    """The arguments of `docker` that run a command with the tools of the image and the network of a host."""
    network = name if name in ("host", "none") else f"container:{name}"
    return ["run", "--rm", "--interactive", "--network", network, "--cap-add", "NET_ADMIN", "--cap-add", "NET_RAW",
            "--label", "owner=webstack-lab", IMAGE, *command]


def everywhere(names, function, workers=4):
    """{name: function(name)}, several at a time."""
    with ThreadPoolExecutor(workers) as pool:
        return dict(zip(names, pool.map(function, names)))


def addresses(name):
    """[(network, family, address)] of a lab host."""
    networks = json.loads(docker("inspect", "--format", "{{json .NetworkSettings.Networks}}", name).stdout)
    return [(network, family, found[key]) for network, found in sorted(networks.items())
            for family, key in ((4, "IPAddress"), (6, "GlobalIPv6Address")) if found[key]]


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
