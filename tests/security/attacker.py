"""What the hosts do not have: nmap, tcpdump and forged certificates, used from where a host stands in the network."""

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lab

ROOT = Path(lab.ROOT)
IMAGE = "webstack-lab/internet:trixie"
CREDENTIALS = Path(lab.LAB["vars"]["webstack_credentials_dir"])


def docker(*command, check=True, **options):
    result = subprocess.run(["docker", *command], check=False, capture_output=True, text=True, **options)
    assert not check or result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result


def in_network_of(name, *command):
    """The arguments of `docker` that run a command with the tools of the image and the network of a host."""
    return ["run", "--rm", "--interactive", "--network", name if name == "host" else f"container:{name}", "--cap-add", "NET_ADMIN", "--cap-add", "NET_RAW",
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


def play(*options, check=True, **environment):
    """The stage's playbook with options; returns its output."""
    result = subprocess.run(
        ["ansible-playbook", "-i", "inventories/stage4", "-i", ".lab/stage4.yml", "playbooks/stage4.yml", *options],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "ANSIBLE_NOCOLOR": "1", **environment})
    assert not check or result.returncode == 0, (result.stdout + result.stderr)[-4000:]
    return result.stdout
