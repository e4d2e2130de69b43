"""What only a newer HAProxy and OpenSSL can do, and what is the same on every release."""
from helpers import SITE, curl, play, s_client

testinfra_hosts = ["haproxy-trixie"]


def test_post_quantum_key_exchange(host):
    assert "X25519MLKEM768" in s_client(host, "-tls1_3")


def test_bad_variables_are_all_named(host):
    result = play(host, haproxy_web_servers=[], haproxy_certificates=[{"name": "a b", "content": "x"}])
    for problem in ("haproxy_web_servers is empty", '"a b"', "need a certificate and its private key"):
        assert problem in " ".join((result.stdout + result.stderr).split())


def test_port_taken_by_another_program_fails_the_play(host):
    """HAProxy 2.6 could not say so."""
    listen = [{"name": "taken", "mode": "tcp", "binds": ["127.0.0.21:3306"]}]
    assert play(host, haproxy_listens=listen).returncode != 0
    assert curl(host, f"-o /dev/null -w '%{{http_code}}' {SITE}") == "200"
    assert play(host).returncode == 0
