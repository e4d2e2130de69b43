"""Who holds the VIP when something fails, seen from both load balancers and from a neighbour."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

VIP, VIP6, SECOND = "198.18.0.118", "fd00:0:0:18::118", "198.18.0.119"
LB1, LB2, NEIGHBOUR = "keepalived-lb1", "keepalived-lb2", "keepalived-neighbour"
NODES = (LB1, LB2)


def on(name, command, check=True):
    done = subprocess.run(["docker", "exec", name, "sh", "-c", command], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"{name}: {command}: {done.stdout}{done.stderr}"
    return done.stdout


def holders(vip=VIP):
    return [name for name in NODES if on(name, f"ip -oneline address show to {vip}")]


def wait(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s; holders: {holders()}"
        time.sleep(0.1)


def other(name):
    return LB2 if name == LB1 else LB1


def play(*arguments):
    """The scenario's converge playbook with other variables."""
    return subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), "-i", os.environ["MOLECULE_INVENTORY_FILE"], *arguments,
         str(Path(__file__).parents[1] / "converge.yml")],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        env=os.environ | {"ANSIBLE_COLLECTIONS_PATH": str(Path(__file__).parents[3] / ".collections"), "ANSIBLE_FORCE_COLOR": "0",
                          "ANSIBLE_NOCOLOR": "1"})


class Move:
    """A fault on the holder, and when the VIP left it and reached the other, by the kernel's own events."""

    def __init__(self, fault, fault_command=None, within=5.0):
        self.holder, = holders()
        self.taker = other(self.holder)
        for name in NODES:
            subprocess.run(["docker", "exec", "-d", name, "sh", "-c", "exec ip -ts -oneline monitor address > /run/monitor"], check=True)
        time.sleep(0.3)
        self.fault = time.time()
        if fault_command:
            subprocess.run(fault_command(self.holder), check=True)
        else:
            on(self.holder, fault)
        wait(lambda: on(self.taker, f"ip -oneline address show to {VIP}"), within)
        time.sleep(0.5)
        self.added = self.event(self.taker, deleted=False)
        self.gap = self.added - self.fault
        print(f"{fault or 'fault'}: VIP on {self.taker} after {self.gap:.3f} s")

    def event(self, name, deleted):
        """Seconds since the epoch of the last event of that kind for the VIP."""
        found = [line for line in on(name, "cat /run/monitor").splitlines() if f" {VIP}/" in line and ("Deleted" in line) == deleted]
        assert found, f"{name} saw no {'removal' if deleted else 'arrival'} of {VIP}"
        stamp = re.match(r"\[?([0-9T:.-]+)\]?", found[-1]).group(1)
        return float(subprocess.check_output(["date", "-u", "-d", stamp + "Z", "+%s.%N"]))

    def stays_on_one(self):
        """Both may have it for a moment on a busy machine, as a killed keepalived leaves the removal to systemd."""
        wait(lambda: holders() == [self.taker], 3)
        return self.event(self.holder, deleted=True) < self.added + 1


@pytest.fixture(autouse=True)
def settled():
    """Every test starts with two healthy nodes and one holder."""
    for name in NODES:
        subprocess.run(["docker", "unpause", name], capture_output=True, check=False)
        on(name, "pkill -x ip; ip link set eth1 up; systemctl reset-failed haproxy keepalived; pkill -CONT -x haproxy;"
                 "systemctl start haproxy keepalived", check=False)
    wait(lambda: all(on(name, "cat /run/haproxy-alive/state").strip() == "0" for name in NODES), 10)
    wait(lambda: len(holders()) == 1, 10)
    time.sleep(1.5)  # the health check's first success on a node that came back


def test_one_holds_both_addresses():
    assert len(holders()) == 1
    assert holders(VIP6) == holders()


def test_neighbour_reaches_the_holder():
    holder, = holders()
    assert on(NEIGHBOUR, f"curl -s -m 5 http://{VIP}/") == holder
    assert on(NEIGHBOUR, f"curl -s -m 5 'http://[{VIP6}]/'") == holder


@pytest.mark.parametrize("name", NODES)
def test_sandbox(name):
    exposure = on(name, "systemd-analyze security keepalived.service --no-pager | tail -1")
    assert float(re.search(r"([0-9.]+) ", exposure).group(1)) <= 3.0
    exposure = on(name, "systemd-analyze security haproxy-health.service --no-pager | tail -1")
    assert float(re.search(r"([0-9.]+) ", exposure).group(1)) <= 1.5
    for process in ("keepalived", "haproxy-health"):
        assert set(on(name, f"ps -o user:20= -C {process}").split()) == {"keepalived"}


def test_only_the_peers_talk_vrrp():
    """Unicast: a neighbour on the public network hears nothing."""
    assert "0 packets captured" in on(NEIGHBOUR, "timeout 2 tcpdump -ni any proto 112 2>&1", check=False)


def test_stopped_keepalived():
    move = Move("systemctl stop keepalived")
    assert move.gap < 1.5 and move.stays_on_one()
    assert on(NEIGHBOUR, f"curl -s -m 5 http://{VIP}/") == move.taker


def test_killed_keepalived_leaves_no_address_behind_and_comes_back():
    move = Move("pkill -KILL -x keepalived")
    assert move.gap < 1.5 and move.stays_on_one()
    wait(lambda: on(move.holder, "systemctl is-active keepalived", check=False).strip() == "active", 5)
    time.sleep(2)
    assert holders() == [move.taker], "nopreempt: it must not come back to the one that failed"


def test_dead_haproxy():
    move = Move("kill -KILL $(systemctl show --property MainPID --value haproxy)")
    assert move.gap < 1.0 and move.stays_on_one()


def test_hanging_haproxy():
    move = Move("pkill -STOP -x haproxy", within=6)
    assert move.gap < 4.0 and move.stays_on_one()


def test_unplugged_public_interface():
    move = Move("ip link set eth1 down")
    assert move.gap < 1.5
    assert on(NEIGHBOUR, f"curl -s -m 5 http://{VIP}/") == move.taker


def test_frozen_host_gives_up_when_it_wakes():
    move = Move(None, fault_command=lambda holder: ["docker", "pause", holder])
    assert move.gap < 2.0
    subprocess.run(["docker", "unpause", move.holder], check=True)
    wait(lambda: len(holders()) == 1, 2)
    time.sleep(0.5)
    assert on(NEIGHBOUR, f"curl -s -m 5 http://{VIP}/") == holders()[0]


def test_vip_outside_every_network_is_refused():
    before = on(LB1, "stat -c %y /etc/keepalived/keepalived.conf")
    done = play("--limit", LB1, "--extra-vars", json.dumps({"keepalived_vips": ["203.0.113.5/24", "nonsense"]}))
    assert done.returncode == 2 and "changed=0" in done.stdout
    output = " ".join(done.stdout.split())
    assert "203.0.113.5/24 is in none of this host's networks" in output
    assert '"nonsense" is not an address with a prefix length' in output
    assert on(LB1, "stat -c %y /etc/keepalived/keepalived.conf") == before


def test_active_active_gives_each_its_own():
    done = play("--extra-vars", json.dumps({"keepalived_vips": [f"{VIP}/24", f"{SECOND}/24"], "keepalived_active_active": True}))
    assert done.returncode == 0, done.stdout
    assert len(holders()) == len(holders(SECOND)) == 1
    for name in NODES:  # does not wait the whole minute
        on(name, "sed -i 's/preempt_delay 60/preempt_delay 1/' /etc/keepalived/keepalived.conf; systemctl reload keepalived")
    wait(lambda: (holders(), holders(SECOND)) == ([LB1], [LB2]), 10)
    on(LB2, "systemctl stop keepalived")
    wait(lambda: (holders(), holders(SECOND)) == ([LB1], [LB1]), 5)


def test_a_single_load_balancer_needs_no_peer():
    on(LB2, "systemctl stop keepalived")
    address = re.search(r"inet ([0-9.]+)", on(LB1, "ip -4 address show dev eth0")).group(1)
    done = play("--limit", LB1, "--extra-vars", json.dumps({"keepalived_vips": [f"{VIP}/24"], "keepalived_nodes": [address]}))
    assert done.returncode == 0, done.stdout
    assert holders() == [LB1]
