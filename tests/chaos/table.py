"""A pytest plugin: a table of what was run, one line after each test, in tests/output/chaos.md."""
import json
from pathlib import Path

TABLE = Path(__file__).resolve().parents[2] / "tests/output/chaos.md"


def figures(text):
    """Of the lines that chaos.report() prints."""
    for line in text.splitlines():
        if line.startswith('{"name": '):
            values = json.loads(line)
            yield f"{values.pop('name')}: " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())


def pytest_sessionstart():
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text("| test | | s | figures |\n|---|---|---|---|\n", encoding="utf-8")


def pytest_runtest_logreport(report):
    if report.when == "call" or report.failed:
        outcome = report.outcome if report.when == "call" else f"{report.outcome} in its {report.when}"
        with TABLE.open("a", encoding="utf-8") as table:
            table.write(f"| `{report.nodeid.removeprefix('tests/')}` | {outcome} | {report.duration:.0f} | {'<br>'.join(figures(report.capstdout))} |\n")
