"""A pytest plugin: a table of what was run, one line after each test, in docs/chaos.md.

With CHAOS_GO_ON a run that was ended early goes on: what the table says has passed is not run again.
"""
import json
import os
import time
from pathlib import Path

TABLE = Path(__file__).resolve().parents[2] / "docs/chaos.md"


def figures(text):
    """Of the lines that chaos.report() prints."""
    for line in text.splitlines():
        if line.startswith('{"name": '):
            values = json.loads(line)
            yield f"{values.pop('name')}: " + ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in values.items())


def name(nodeid):
    return nodeid.removeprefix("tests/")


def head():
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (f"Written by `make chaos`, begun {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}, all hosts and the controller on {os.cpu_count()} cores with {memory:.1f} GiB of memory.\n\n"
            "| test | | s | figures |\n|---|---|---|---|\n")


def pytest_sessionstart():
    if os.environ.get("CHAOS_GO_ON") and TABLE.exists():
        return
    TABLE.write_text(head(), encoding="utf-8")


def pytest_collection_modifyitems(config, items):
    table = TABLE.read_text(encoding="utf-8")
    done = [item for item in items if f"| `{name(item.nodeid)}` | passed |" in table]
    config.hook.pytest_deselected(items=done)
    items[:] = [item for item in items if item not in done]


def pytest_runtest_logreport(report):
    if report.when == "call" or report.failed:
        outcome = report.outcome if report.when == "call" else f"{report.outcome} in its {report.when}"
        with TABLE.open("a", encoding="utf-8") as table:
            table.write(f"| `{name(report.nodeid)}` | {outcome} | {report.duration:.0f} | {'<br>'.join(figures(report.capstdout))} |\n")
