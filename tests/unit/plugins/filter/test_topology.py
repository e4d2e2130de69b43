from __future__ import annotations

import pytest
from ansible_collections.foobar.webstack.plugins.filter.topology import webstack_database_topology, webstack_topology

DEBIAN = {"distribution": "Debian", "distribution_version": "13.1"}


def hosts(**tiers):
    """hostvars and groups for {tier: {name: address}}."""
    hostvars, groups = {}, {}
    for tier, members in tiers.items():
        groups[tier] = list(members)
        for name, address in members.items():
            hostvars[name] = {"webstack_address": address, "ansible_facts": dict(DEBIAN)}
    return hostvars, groups


def stage4():
    return hosts(
        loadbalancers={"lb1": "198.19.0.11", "lb2": "198.19.0.12"},
        web={"web1": "198.19.0.21", "web2": "198.19.0.22"},
        app={"app1": "198.19.0.31", "app2": "198.19.0.32"},
        database={"db1": "198.19.0.41", "db2": "198.19.0.42", "db3": "198.19.0.43"},
        monitoring={"monitor1": "198.19.0.51"},
    )


def stage2():
    servers = {"server1": "198.19.0.21", "server2": "198.19.0.22"}
    return hosts(loadbalancers={"lb1": "198.19.0.11"}, web=servers, app=servers, database=servers)


def settings(**changes):
    given = {
        "webstack_domain": "foobar.com",
        "webstack_private_networks": ["198.19.0.0/24"],
        "webstack_vips": ["198.18.0.100/24"],
        "webstack_credentials_dir": "/somewhere",
        "certbot_email": "hostmaster@foobar.com",
    }
    given.update(changes)
    return given


def judge(inventory, stage, **changes):
    return webstack_topology(inventory[0], inventory[1], stage, settings(**changes))


def test_stage4_fits():
    result = judge(stage4(), 4)
    assert result["problems"] == []
    webstack = result["webstack"]
    assert webstack["web"] == [{"name": "web1", "address": "198.19.0.21"}, {"name": "web2", "address": "198.19.0.22"}]
    assert webstack["public_addresses"] == ["198.18.0.100"]
    assert webstack["ports"]["web"] == 443 and webstack["ports"]["writer"] == 6446
    assert all(webstack["features"].values())


def test_stage1_is_one_server_without_router():
    server = {"server1": "198.19.0.21"}
    result = judge(hosts(web=server, app=server, database=server), 1, webstack_vips=[])
    assert result["problems"] == []
    assert result["webstack"]["ports"]["writer"] == 3306 and result["webstack"]["ports"]["web"] == 80
    assert not any(result["webstack"]["features"].values())
    assert result["webstack"]["server_names"] == ["www.foobar.com", "foobar.com"]


def test_stage2_fits_and_has_no_vip():
    result = judge(stage2(), 2)
    assert result["problems"] == []
    assert result["webstack"]["vips"] == []
    assert result["webstack"]["public_addresses"] == ["198.19.0.11"]


@pytest.mark.parametrize(
    "value", ['foo"bar.com', "foo$bar.com", "{{ x }}", "foo bar.com", "foo%.com", "Foobar.com", "com", "-a.com", 7, ["a.com"], "", "foobar.com\n"]
)
def test_a_domain_that_is_none(value):
    problems = judge(stage4(), 4, webstack_domain=value)["problems"]
    assert len([problem for problem in problems if problem.startswith("webstack_domain")]) == 1


@pytest.mark.parametrize(
    "tier, kept, words",
    [
        ("web", 1, "group 'web' has 1 host(s), stage 4 needs 2 or more"),
        ("loadbalancers", 0, "group 'loadbalancers' has 0 host(s)"),
        ("database", 1, "group 'database' has 1 host(s)"),
    ],
)
def test_too_few_hosts(tier, kept, words):
    hostvars, groups = stage4()
    groups[tier] = groups[tier][:kept]
    assert any(words in problem for problem in judge((hostvars, groups), 4)["problems"])


def test_all_problems_at_once():
    hostvars, groups = stage4()
    groups["web"] = []
    hostvars["app1"]["ansible_facts"] = {"distribution": "CentOS", "distribution_version": "7.9"}
    problems = judge((hostvars, groups), 4, webstack_domain="x y", webstack_vips=[], certbot_email="")["problems"]
    assert len(problems) == 5


@pytest.mark.parametrize(
    "distribution, version, fits",
    [
        ("Debian", "12.9", True),
        ("Debian", "13.0", True),
        ("Debian", "11.8", False),
        ("Debian", "14", False),
        ("Ubuntu", "24.04", True),
        ("Ubuntu", "26.10", True),
        ("Ubuntu", "22.04", False),
        ("Fedora", "42", False),
    ],
)
def test_distributions(distribution, version, fits):
    hostvars, groups = stage4()
    hostvars["web1"]["ansible_facts"] = {"distribution": distribution, "distribution_version": version}
    assert (judge((hostvars, groups), 4)["problems"] == []) is fits


def test_a_host_in_two_tiers_of_stage4():
    hostvars, groups = stage4()
    groups["app"][0] = "web1"
    assert any("'web1' is in web and app" in problem for problem in judge((hostvars, groups), 4)["problems"])


def test_one_machine_under_two_names():
    hostvars, groups = stage4()
    hostvars["web2"]["webstack_address"] = "198.19.0.21"
    assert any("'web1' and 'web2' have the same address" in problem for problem in judge((hostvars, groups), 4)["problems"])


@pytest.mark.parametrize("address", ["", "web1.example", "198.19.0.300"])
def test_an_address_that_is_none(address):
    hostvars, groups = stage4()
    hostvars["web1"]["webstack_address"] = address
    assert any("host 'web1' has no usable address" in problem for problem in judge((hostvars, groups), 4)["problems"])


def test_an_address_outside_the_private_networks():
    assert any("in none of webstack_private_networks" in p for p in judge(stage4(), 4, webstack_private_networks=["10.0.0.0/8"])["problems"])


@pytest.mark.parametrize("value", ["198.18.0.100", "198.18.0.100/33", "vip", 3])
def test_a_vip_without_a_sound_prefix(value):
    assert any("not an address with a prefix" in problem for problem in judge(stage4(), 4, webstack_vips=[value])["problems"])


@pytest.mark.parametrize("written, kernel", [
    ("2001:DB8::100/64", "2001:db8::100/64"), ("2001:db8:0:0::0100/64", "2001:db8::100/64"), ("198.18.0.100/255.255.255.0", "198.18.0.100/24")])
def test_a_vip_as_the_kernel_writes_it(written, kernel):
    result = judge(stage4(), 4, webstack_vips=[written])
    assert result["problems"] == []
    assert result["webstack"]["vips"] == [kernel] and result["webstack"]["public_addresses"] == [kernel.split("/")[0]]


def test_a_vip_in_no_network_of_a_load_balancer():
    hostvars, groups = stage4()
    interface = {"ipv4": {"address": "198.18.0.11", "netmask": "255.255.255.0"}}
    hostvars["lb1"]["ansible_facts"].update(interfaces=["eth0"], eth0=interface)
    assert judge((hostvars, groups), 4)["problems"] == []
    problems = judge((hostvars, groups), 4, webstack_vips=["198.51.100.1/24"])["problems"]
    assert problems == ["webstack_vips: 198.51.100.1/24 is in no network of load balancer 'lb1' (it has 198.18.0.0/24): choose an address of one of them"]


def test_a_vip_that_a_host_has():
    assert any("is the address of host 'lb1'" in problem for problem in judge(stage4(), 4, webstack_vips=["198.19.0.11/24"])["problems"])


@pytest.mark.parametrize("value, words", [
    ({"tls": False}, "'tls' cannot be switched"), ({"cluster": "no"}, "write true or false"), ("tls", "write a dictionary"),
    ({"semi_sync": True}, "comes with stage 4")])
def test_features_that_are_none(value, words):
    assert any(words in problem for problem in judge(stage2(), 2, webstack_features=value)["problems"])


def test_one_end_of_a_connection():
    assert judge(hosts_with(mysql_port=3306, haproxy_web_port="443"), 4)["problems"] == []
    assert judge(hosts_with(mysql_port=3307), 4)["problems"] == ["mysql_port is 3307: in the stages both ends use 3306, leave it out"]


def hosts_with(**variables):
    hostvars, groups = stage4()
    for host in hostvars.values():
        host.update(variables)
    return hostvars, groups


def test_two_hosts_that_receive_what_agents_send():
    hostvars, groups = stage4()
    groups["monitoring"] = ["monitor1", "web1"]
    assert any("group 'monitoring' has 2 host(s), stage 4 needs at most 1" in problem for problem in judge((hostvars, groups), 4)["problems"])


def test_a_load_balancer_that_is_a_web_server():
    hostvars, groups = stage2()
    groups["loadbalancers"] = ["server1"]
    assert judge((hostvars, groups), 2)["problems"] == ["host 'server1' is in loadbalancers and web, and both want port 80: leave it in one group"]


def test_ipv6_between_hosts():
    hostvars, groups = stage4()
    hostvars["db1"]["webstack_address"] = "fd00::41"
    problems = judge((hostvars, groups), 4, webstack_private_networks=["198.19.0.0/24", "fd00::/64"])["problems"]
    assert any("host 'db1': hosts reach each other over IPv4" in problem for problem in problems)


@pytest.mark.parametrize("path", ["~/secrets", "secrets"])
def test_a_path_that_each_reader_takes_for_another(path):
    problems = judge(stage4(), 4, webstack_credentials_dir=path)["problems"]
    assert any("webstack_credentials_dir is %r: write the whole path" % path in problem for problem in problems)


def test_a_network_behind_a_vlan_interface():
    hostvars, groups = stage4()
    vlan = {"interfaces": ["eth0.100"], "eth0.100": {"ipv4": {"address": "198.51.100.11", "netmask": "255.255.255.0"}}}
    for name in ("lb1", "lb2"):
        hostvars[name]["ansible_facts"] = {**hostvars[name].get("ansible_facts", {}), **vlan}
    assert judge((hostvars, groups), 4, webstack_vips=["198.51.100.1/24"])["problems"] == []


def test_a_feature_switched_off():
    result = judge(stage4(), 4, webstack_features={"monitoring": False})
    assert result["webstack"]["features"]["monitoring"] is False


def test_certificates_of_the_operator():
    off = {"webstack_features": {"certbot": False}, "certbot_email": ""}
    assert any("write yours into haproxy_certificates" in problem for problem in judge(stage4(), 4, **off)["problems"])
    result = judge(stage4(), 4, haproxy_certificates=1, **off)
    assert result["problems"] == [] and result["webstack"]["features"]["tls"] is True


def test_monitoring_with_nowhere_to_send():
    hostvars, groups = stage4()
    groups["monitoring"] = []
    assert any("nowhere to send" in problem for problem in judge((hostvars, groups), 4)["problems"])
    assert judge((hostvars, groups), 4, monitoring_agent_remote_write_url="https://metrics.example/write")["problems"] == []


@pytest.mark.parametrize("key", ["webstack_vips", "webstack_private_networks", "webstack_admin_networks", "webstack_server_names"])
def test_a_list_that_is_a_string(key):
    assert any(problem.startswith(key) for problem in judge(stage4(), 4, **{key: "198.19.0.0/24"})["problems"])


def choose(*states, created_before=None):
    hostvars = {}
    for number, state in enumerate(states, 1):
        hostvars["db%d" % number] = {} if state is None else {"__site_database_server": {"state": state}}
    return webstack_database_topology(hostvars, list(hostvars), created_before)


def test_a_new_pair():
    result = choose("virgin", "virgin", "absent")
    assert (result["primary"], result["replicas"], result["new"], result["problem"]) == ("db1", ["db2", "db3"], True, "")


def test_the_live_primary_beats_the_inventory():
    result = choose("read_only", "writable", "virgin")
    assert (result["primary"], result["replicas"], result["new"]) == ("db2", ["db1", "db3"], False)


def test_a_live_primary_and_a_replica_that_is_away():
    result = choose("writable", None, "read_only")
    assert (result["primary"], result["replicas"], result["problem"]) == ("db1", ["db3"], "")


@pytest.mark.parametrize(
    "states, words",
    [
        (("writable", "writable"), "two primaries"),
        (("read_only", "read_only"), "no server is writable"),
        ((None, "read_only"), "db1 cannot be reached: it may be the primary"),
        (("virgin", None), "db2 cannot be reached: it may be the primary"),
        ((), "has no host"),
    ],
)
def test_the_tier_is_left_alone(states, words):
    result = choose(*states)
    assert result["primary"] is None and words in result["problem"]


def test_empty_servers_never_replace_a_database_that_was_there():
    result = choose("virgin", "virgin", created_before="server1")
    assert result["primary"] is None and "created before (on server1)" in result["problem"]
