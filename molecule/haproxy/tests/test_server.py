"""The module haproxy_server against a running HAProxy, the older one: patch.yml uses the newer one on stage 4."""
import json
import os
import subprocess

from helpers import SITE, admin, curl, servers

testinfra_hosts = ["haproxy-bookworm"]


def run(host, *options, **arguments):
    done = subprocess.run(
        ["ansible", "-i", os.environ["MOLECULE_INVENTORY_FILE"], host.backend.get_hostname(), "-m", "foobar.webstack.haproxy_server",
         "-a", json.dumps({"backend": "web", "server": ["web2"], **arguments}), *options],
        env={**os.environ, "ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_LOAD_CALLBACK_PLUGINS": "0"},
        capture_output=True, text=True, check=False, timeout=120)
    assert "=> {" in done.stdout, done.stdout + done.stderr
    return json.loads(done.stdout.rpartition("=> ")[2])


def test_out_and_back(host):
    assert run(host, "--check", state="drain")["changed"] and servers(host, "web")["web2"] == "UP"
    result = run(host, state="drain")
    assert result["changed"] and (result["servers"][0]["before"], result["servers"][0]["after"]) == ("ready", "drain")
    assert servers(host, "web")["web2"].startswith("DRAIN")
    assert {json.loads(curl(host, SITE))["name"] for _ in range(4)} == {"web1"}
    assert not run(host, state="drain")["changed"]
    assert "no other server serves backend web than web1" in run(host, server=["web1"], state="maint")["msg"]
    assert run(host, state="maint")["servers"][0]["status"] == "MAINT"
    result = run(host, state="ready")
    assert result["changed"] and result["servers"][0]["status"] == "UP"
    assert not run(host, state="ready")["changed"]


def hold(host, until):
    """A session through the listen section echo, held until a command succeeds."""
    script = f"exec 3<>/dev/tcp/127.0.0.1/8082; read -u3 a; touch /tmp/held; timeout 60 bash -c 'until {until}; do sleep 0.1; done'"
    host.check_output("rm -f /tmp/held; (bash -c %s) >/dev/null 2>&1 & timeout 10 sh -c 'until test -e /tmp/held; do sleep 0.05; done'", script)


def test_sessions_end_or_are_cut(host):
    echo = {"backend": "echo", "server": ["db1"], "force": True}
    hold(host, 'echo "show servers state echo" | socat /run/haproxy/admin.sock - | grep -q " db1 [^ ]* [0-9]* 8 " && sleep 1')
    result = run(host, state="drain", **echo)
    assert result["servers"][0]["sessions"] == 0 and result["waited"] >= 0.5
    run(host, state="ready", **echo)
    hold(host, "test -e /tmp/let-go")
    try:
        assert "not all sessions ended: echo/db1 has 1" in run(host, state="drain", wait_timeout=0, **echo)["msg"]
        assert run(host, state="drain", wait_timeout=0, on_timeout="cut", **echo)["cut"] == 1
    finally:
        host.check_output("touch /tmp/let-go")
        run(host, state="ready", **echo)


def test_what_is_wrong_is_said(host):
    assert "has no server x; there are: web1, web2, web3" in run(host, server=["x"], state="drain")["msg"]
    assert "HAProxy has no backend x; there are: " in run(host, backend="x", state="drain")["msg"]
    assert "there is no socket /run/none" in run(host, socket="/run/none", state="drain")["msg"]
    # web3 has the certificate of another, so it never is up.
    assert "not up after 1 s: web/web3 is DOWN" in run(host, server=["web3"], state="ready", wait_timeout=1)["msg"]
    assert admin(host, "show servers state web").count(" web3 ") == 1
