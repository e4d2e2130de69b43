#!/usr/bin/env python3
"""What setting up stage 4 costs: ansible-playbook against a shell script that installs the same packages and writes the same files on as many fresh hosts.

  converge.py     about 25 minutes; it takes the stages of the lab down first and leaves a stage 4 behind

The script knows nothing: no checks, no order, no secrets to make, no waiting until something works, no clustering, no data. It is what no tool can be quicker than.
CPU is that of the controller (ansible-playbook, the script with docker) and of all hosts. Writes lines to tests/output/benchmark.jsonl, of which chart.py makes a table.
"""
import os
import re
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
os.environ.setdefault("MOLECULE_SCENARIO_NAME", "stage4")
os.environ.setdefault("MOLECULE_PROJECT_DIRECTORY", str(ROOT))
sys.path[:0] = [str(ROOT / "molecule/shared/tests"), str(ROOT / "tests/chaos")]
HOST = ["--cap-add=SYS_ADMIN", "--cap-add=NET_ADMIN", "--cap-add=NET_RAW", "--cap-add=NET_BROADCAST", "--cap-add=SYS_NICE", "--cap-add=IPC_LOCK",
        "--security-opt=seccomp=unconfined", "--security-opt=apparmor=unconfined", "--cgroupns=private", "--tmpfs=/run", "--tmpfs=/run/lock", "--tmpfs=/tmp",
        "--network=webstack-private", "--label=owner=webstack-lab"]
INSTALL = """set -e
export DEBIAN_FRONTEND=noninteractive
tar --extract --directory=/
apt-get update -qq
apt-get install -y -qq --no-install-recommends %s -o Dpkg::Options::=--force-confold %s >/dev/null
systemctl daemon-reload
"""


def run(*command, **options):
    return subprocess.run(command, cwd=ROOT, check=True, **options)


def docker(*command, **options):
    return run("docker", *command, capture_output=True, **options)


def everywhere(names, function):
    """As many at once as there are hosts: a script has no forks to count."""
    with ThreadPoolExecutor(len(names)) as pool:
        return dict(zip(names, pool.map(function, names)))


def spent(names):
    """Seconds of CPU that hosts used since they were started."""
    def one(name):
        return int(re.search(rb"usage_usec (\d+)", docker("exec", name, "cat", "/sys/fs/cgroup/cpu.stat").stdout)[1]) / 1e6
    return sum(everywhere(names, one).values())


def measured(what, names, function):
    """Seconds of wall clock, CPU of the controller, CPU of the hosts."""
    from chaos import report  # It reads the lab's inventory, which the hosts' creation writes.

    hosts, start, children = spent(names), time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    function()
    seconds, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    controller = after.ru_utime + after.ru_stime - children.ru_utime - children.ru_stime
    report(f"stage 4, {what}", "benchmark.jsonl", wall_s=round(seconds), controller_cpu_s=round(controller), hosts_cpu_s=round(spent(names) - hosts))


def play():
    with open(ROOT / "tests/output/benchmark-stage4.log", "a", encoding="utf-8") as log:
        run("ansible-playbook", "-i", "inventories/stage4", "-i", ".lab/stage4.yml", "playbooks/stage4.yml", stdout=log, stderr=log)


def needs(name):
    """The packages that were asked for, and the files that are new or different under these directories."""
    image = docker("inspect", "--format", "{{.Config.Image}}", name, text=True).stdout.strip()
    before = set(docker("run", "--rm", "--entrypoint", "apt-mark", image, "showmanual", text=True).stdout.split())
    packages = sorted(set(docker("exec", name, "apt-mark", "showmanual", text=True).stdout.split()) - before)
    changed = [line[2:] for line in docker("diff", name, text=True).stdout.splitlines() if line[0] in "AC" and line[2:].startswith(("/etc/", "/usr/local/", "/srv/"))]
    # What the package manager and the host itself wrote is not ours to write.
    changed = [path for path in changed if not re.match(r"/etc/(hosts|hostname|resolv[.]conf|machine-id|ld[.]so[.]cache|passwd|group|shadow|gshadow|rc.[.]d|alternatives|ssh)\b", path)]
    files = docker("exec", "--interactive", name, "sh", "-c", "xargs -d '\\n' sh -c 'for f; do [ -f \"$f\" ] && [ ! -L \"$f\" ] && echo \"$f\"; done' - | tar --create --files-from=-",
                   input="\n".join(changed).encode()).stdout
    return image, packages, files


def fresh(name, image):
    volume = ["--volume=/var/lib/mysql"] if "database" in image else []
    docker("run", "--detach", "--name", f"bench-{name}", *HOST, *volume, image)
    subprocess.run(["docker", "exec", f"bench-{name}", "systemctl", "is-system-running", "--wait"], check=False, capture_output=True)


def main():
    (ROOT / "tests/output").mkdir(exist_ok=True)
    run("scripts/lab", "down", "stages")
    run("scripts/setup")
    for action in (["create"], ["prepare", "--force"]):
        run("molecule", action[0], "--scenario-name", "stage4", *action[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    import lab

    names = lab.EVERY_HOST
    measured("first run, ansible-playbook", names, play)
    measured("no-change run, ansible-playbook", names, play)
    measured("a minute without anything", names, lambda: time.sleep(60))
    wanted = everywhere(names, needs)
    others = [f"bench-{name}" for name in names]
    # Idle hosts cost CPU of their own.
    docker("pause", *names)
    try:
        for name in names:
            fresh(name, wanted[name][0])

        def script():
            def one(name):
                image, packages, files = wanted[name]
                release = "-t sid" if "database" in image else ""
                docker("exec", "--interactive", f"bench-{name}", "sh", "-c", INSTALL % (release, " ".join(packages)), input=files)
            everywhere(names, one)
        measured("first run, shell script", others, script)
        measured("no-change run, shell script", others, script)
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", *others], check=False, capture_output=True)
        docker("unpause", *names)


if __name__ == "__main__":
    main()
