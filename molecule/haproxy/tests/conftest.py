import pytest

from helpers import wait_for, web_is_up


@pytest.fixture(autouse=True)
def all_is_well(host):
    host.check_output(
        "systemctl start haproxy upstream@web1 upstream@web2 upstream@lb1 upstream@lb2 upstream@db1 upstream@db2 upstream@db3;"
        "echo 'set server web/web1 state ready; set server web/web2 state ready' | socat -t 5 /run/haproxy/admin.sock - >/dev/null;"
        "echo primary > /run/lab/db1.role; echo replica | tee /run/lab/db2.role > /run/lab/db3.role"
    )
    wait_for(web_is_up(host))
