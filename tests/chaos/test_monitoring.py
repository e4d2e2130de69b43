"""The monitoring service is away for ten minutes, and the agent restarts meanwhile."""
import re
import time
import uuid

import lab
import pytest

from chaos import docker, report

pytestmark = pytest.mark.long
MONITOR, HOST = lab.HOSTS["monitoring"][0], lab.HOSTS["web"][0]


def test_ten_minutes_without_the_service():
    """Samples are there with no gap but one of the restart, and so are the lines that were written after the service was gone."""
    token, start = uuid.uuid4().hex, time.time()
    docker("exec", MONITOR, "systemctl", "stop", "prometheus", "rsyslog", "syslog.socket")
    try:
        for number in range(60):
            docker("exec", HOST, "logger", "--tag", "outage", f"{token}-{number}.")
            if number == 30:
                docker("exec", HOST, "systemctl", "restart", "vmagent", "rsyslog")
            time.sleep(max(0, start + 10 * (number + 1) - time.time()))
    finally:
        docker("exec", MONITOR, "systemctl", "start", "prometheus", "syslog.socket", "rsyslog")
    time.sleep(30)

    def lines():
        return set(map(int, re.findall(rf"{token}-(\d+)[.]", docker("exec", MONITOR, "sh", "-c", f"cat /var/log/remote/{HOST}/outage.log", check=False).stdout)))

    def gaps():
        row, = lab.ask_monitoring(f'node_load1{{host="{HOST}"}}[{int(time.time() - start) + 60}s]')
        times = [float(at) for at, _ in row["values"]]
        return sorted(later - earlier for earlier, later in zip(times, times[1:]))

    assert lab.wait_for(lambda: gaps()[-1] < 60, seconds=120, pause=5), gaps()[-5:]
    lab.wait_for(lambda: lines() >= set(range(1, 60)), seconds=60, pause=3)
    found = gaps()
    report("ten minutes without the monitoring service", samples=len(found) + 1, usual_gap_s=round(found[len(found) // 2], 1), longest_gap_s=round(found[-1], 1),
           lines_lost=60 - len(lines()))
    # The connection may have been closed while the first line was on its way: TCP cannot tell.
    assert lines() >= set(range(1, 60))
    # The restart may cost one scrape.
    usual = found[len(found) // 2]
    assert found[-2] <= usual + 3 and found[-1] <= 2 * usual + 3
