"""Where the agent sends, and whom it trusts there: the defaults of the role, over what an inventory says."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar

ROLE = Path(__file__).resolve().parents[3] / "roles/monitoring_agent"
PKI = {"ca": "/pki/ca.crt", "certificate": "/pki/host.crt", "key": "/pki/host.key"}
WEBSTACK = {
    "self": {"name": "web1", "address": "198.19.0.23", "groups": ["web"]},
    "monitoring": [{"name": "monitor1", "address": "198.19.0.51"}],
    "ports": {"metrics": 9090, "logs": 6514},
    "pki": PKI,
}


def defaults(*names, **inventory):
    init_plugin_loader()
    loader = DataLoader()
    variables = {"inventory_hostname": "web1", "webstack": WEBSTACK}
    for file in ("defaults/main.yml", "vars/main.yml"):
        variables |= loader.load_from_file(str(ROLE / file), trusted_as_template=True)
    found = Templar(loader, variables | inventory)
    return tuple(found.template(variables[name]) for name in names)


TRUST = ("monitoring_agent_log_ca", "monitoring_agent_log_certificate", "monitoring_agent_log_key")


@pytest.mark.parametrize("inventory", [{}, {"monitoring_agent_log_transport": "relp", "monitoring_agent_log_port": 2514}])
def test_logs_to_the_service_of_the_stack(inventory):
    assert defaults(*TRUST, "monitoring_agent_log_peer", **inventory) == (PKI["ca"], PKI["certificate"], PKI["key"], "monitor1")


@pytest.mark.parametrize("inventory", [
    {"monitoring_agent_log_host": "logs.example.com"},
    # The log host keeps its default, of which an upload of the journal knows nothing.
    {"monitoring_agent_log_transport": "journal-upload", "monitoring_agent_journal_upload_url": "https://logs.example.com:19532"},
])
def test_logs_to_a_service_with_a_public_certificate(inventory):
    assert defaults(*TRUST, **inventory) == ("", "", "")


def test_metrics_to_the_service_of_the_stack():
    assert defaults("monitoring_agent_remote_write_url", "monitoring_agent_remote_write_ca", "monitoring_agent_remote_write_server_name") == (
        "https://198.19.0.51:9090/api/v1/write", PKI["ca"], "monitor1")
