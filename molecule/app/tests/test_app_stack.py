"""An app host of the stack, whose database is away."""

from helpers import ask, current, deploy

testinfra_hosts = ["app-bookworm"]


def test_database_of_the_stack(host):
    process = host.check_output("systemctl show --value --property=MainPID app.service")
    found = dict(line.split("=", 1) for line in host.file(f"/proc/{process}/environ").content_string.split("\0") if line)
    assert found["DB_PASSWORD"] == "it's \"$HOME\" \\ 100% {{ x }}"
    assert (found["DB_WRITER_HOST"], found["DB_WRITER_PORT"], found["DB_READER_PORT"]) == ("writer.mysql.internal", "6446", "6447")
    assert host.check_output("getent ahostsv4 reader.mysql.internal").startswith("127.0.0.1 ")


def test_web_host_gets_files_only(host, site, tmp_path):
    before = ask(host)[0][1]
    process = host.check_output("systemctl show --value --property=MainPID app.service")
    result = deploy(host.backend.get_hostname(), tmp_path, app_source={"type": "directory", "path": str(site)}, app_version="static", app_parts=["static"])
    assert result.returncode == 0, result.stdout
    assert current(host) == "static" and host.file("/srv/app/current/static/a.css.gz").exists
    assert ask(host)[0][1] == before and host.check_output("systemctl show --value --property=MainPID app.service") == process
