"""The guest book without Flask and without a server."""

import hashlib
import pathlib
import sys

import pymysql
import pytest

DEMO = pathlib.Path(__file__).resolve().parents[3] / "roles" / "app" / "files" / "demo"
sys.path.insert(0, str(DEMO))

from demo import database as db  # noqa: E402  pylint: disable=wrong-import-position
from demo import entries  # noqa: E402  pylint: disable=wrong-import-position

KEY = "0123456789abcdef"


class Clock:
    """Time that passes only in sleep."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class Server:
    """A server that answers what the demo asks; `script` holds the problems of the next statements."""

    def __init__(self, name, read_only=0, table=None):
        self.name, self.read_only, self.executed = name, read_only, "uuid:1-5"
        self.table = {} if table is None else table
        self.script, self.behind, self.connections, self.statements = [], False, 0, []

    def connect(self):
        self.connections += 1
        self.next()
        return Connection(self)

    def next(self):
        problem = self.script.pop(0) if self.script else None
        if isinstance(problem, int):
            raise pymysql.err.OperationalError(problem, "scripted")
        return problem


class Connection:
    """A connection and its cursor."""

    def __init__(self, server):
        self.server, self.rows, self.closed = server, [], False

    def _force_close(self):
        self.closed = True

    def cursor(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False

    def execute(self, statement, values=()):
        assert not self.closed
        server = self.server
        server.statements.append(statement)
        after = server.next()
        if statement.startswith("INSERT"):
            if server.read_only:
                raise pymysql.err.OperationalError(1290, "read only")
            if values[0] in server.table:
                raise pymysql.err.IntegrityError(1062, "duplicate")
            server.table[values[0]] = values
            if after == "committed, then lost":
                raise pymysql.err.OperationalError(2013, "lost")
        elif statement.startswith("SELECT name, text"):
            self.rows = [server.table[values[0]][1:3]]
        elif "WAIT_FOR" in statement:
            self.rows = [(1 if server.behind else 0,)]
        elif "FROM entries" in statement:
            self.rows = [(*row, None) for row in server.table.values()]
        elif "gtid_executed" in statement:
            self.rows = [(server.name, server.read_only, server.executed)]

    def fetchone(self):
        return self.rows[0]

    def fetchall(self):
        return self.rows


@pytest.fixture(name="stack")
def fixture_stack():
    table, clock = {}, Clock()
    writer, reader = Server("db1", 0, table), Server("db2", 1, table)
    book = db.Database(db.Endpoint(writer.connect, clock), db.Endpoint(reader.connect, clock), "app1", clock, clock.sleep)
    return book, writer, reader, clock


ENTRY = entries.Entry(KEY, "Ada", "hello")


def test_write_and_read(stack):
    book, writer, reader, _clock = stack
    written = book.add(ENTRY)
    assert (written.server.name, written.server.role, written.gtid, written.created) == ("db1", "writable", "uuid:1-5", True)
    page = book.page(written.gtid)
    assert (page.server.name, page.server.role, page.stale) == ("db2", "read only", False)
    assert page.entries[0]["text"] == "hello" and page.entries[0]["host"] == "app1"
    assert writer.connections == reader.connections == 1


def test_double_submit_is_written_once(stack):
    book, writer, _reader, _clock = stack
    book.add(ENTRY)
    assert book.add(ENTRY).created is False and len(writer.table) == 1
    with pytest.raises(db.Conflict):
        book.add(entries.Entry(KEY, "Ada", "other"))


def test_connection_lost_in_commit(stack):
    """Committed before it was lost: the next attempt finds its own key."""
    book, writer, _reader, clock = stack
    writer.script = [None, "committed, then lost"]
    written = book.add(ENTRY)
    assert written.created is False and len(writer.table) == 1 and writer.connections == 2 and clock.now < 0.2


@pytest.mark.parametrize("problem", [2013, 2006, 1053, 1317, 1927, 3032, 3169, 1290, 1792, 1836])
def test_refused_or_lost_before_the_commit(stack, problem):
    """Each attempt has a connection of its own."""
    book, writer, _reader, clock = stack
    writer.script = [None, problem, None, problem, problem]
    written = book.add(ENTRY)
    assert written.created and len(writer.table) == 1 and writer.connections == 4 and clock.now < 0.5


def test_connection_lost_in_commit_and_the_new_primary_does_not_have_it(stack):
    book, writer, _reader, _clock = stack
    new = Server("db2", 0)
    writer.script = [None, "committed, then lost"]
    lost = writer.connect

    def connect():
        return lost() if writer.connections == 0 else new.connect()

    book.writer._connect = connect
    written = book.add(ENTRY)
    assert written.created and written.server.name == "db2" and list(new.table) == [KEY]


def test_waits_for_a_new_primary(stack):
    book, writer, _reader, clock = stack
    book.add(entries.Entry("x" * 8, "a", "b"))
    writer.read_only = 1

    def sleep(seconds):
        clock.sleep(seconds)
        writer.read_only = 1 if clock.now < 2 else 0

    book._sleep = sleep
    assert book.add(ENTRY).created and 2 <= clock.now < 3
    assert writer.connections > 2


def test_patience_ends(stack):
    book, writer, _reader, clock = stack
    writer.read_only = 1
    with pytest.raises(db.Problem) as caught:
        book.add(ENTRY)
    assert db.code(caught.value) == 1290 and clock.now <= db.WRITE_PATIENCE


def test_wrong_password_is_not_retried(stack):
    book, writer, _reader, clock = stack
    writer.script = [1045]
    with pytest.raises(db.Problem):
        book.add(ENTRY)
    assert clock.now == 0


def test_read_whose_replica_went_away(stack):
    """Once more on another connection."""
    book, _writer, reader, clock = stack
    book.page()
    reader.script = [2013]
    assert book.page().server.name == "db2" and reader.connections == 2 and clock.now == 0


def test_read_waits_for_any_server(stack):
    book, writer, reader, clock = stack
    writer.script, reader.script = [2003] * 4, [2003] * 4
    assert book.page().server.name == "db2" and 0 < clock.now < 1


def test_read_does_not_go_back_to_the_primary_of_a_moment_ago(stack):
    """Its kept connection may live a little longer than its role."""
    book, writer, reader, clock = stack
    book.page(db.ANYTHING)
    new, old = Server("db2", 0, writer.table), Server("db1", 1, {})
    kept = book.writer._thread.connection
    kept.server = old
    book.writer._connect = new.connect
    assert book.page(db.ANYTHING).server.name == "db2" and kept.closed and clock.now < 0.2
    assert reader.connections == 0


@pytest.mark.parametrize("how", ["behind", "away"])
def test_reads_from_the_writer_when_the_reader_cannot(stack, how):
    book, _writer, reader, _clock = stack
    book.add(ENTRY)
    if how == "behind":
        reader.behind = True
    else:
        reader.script = [2003]
    page = book.page("uuid:1-5")
    assert page.server.name == "db1" and not page.stale


def test_reads_what_the_reader_has_when_the_writer_is_away(stack):
    book, writer, reader, clock = stack
    book.add(ENTRY)
    reader.behind = True
    writer.script = [2013] + [2003] * 100
    page = book.page("uuid:1-5")
    assert page.server.name == "db2" and page.stale and clock.now <= db.READ_PATIENCE
    reader.script = [2003] * 100
    book.reader.drop()
    with pytest.raises(db.Problem):
        book.page("uuid:1-5")


def test_reads_never_go_back(stack):
    """Who only reads, first on a replica that has all and then on one that lags, is sent to the writer."""
    book, _writer, reader, _clock = stack
    reader.executed = "uuid:1-4"
    first = book.page()
    seen = first.after("")
    assert (first.server.name, seen) == ("db2", "uuid:1-4")
    reader.behind = True
    second = book.page(seen)
    assert second.server.name == "db1" and second.after(seen) == "uuid:1-5"


def test_the_position_is_that_of_after_the_rows(stack):
    book, _writer, reader, _clock = stack
    reader.statements.clear()
    book.page("uuid:1-4")
    assert [word for statement in reader.statements for word in ("WAIT_FOR", "FROM entries", "gtid_executed") if word in statement] == [
        "WAIT_FOR", "FROM entries", "gtid_executed"]


def test_what_a_session_keeps_is_small_and_a_stale_page_lowers_nothing():
    assert db.position("uuid:1-5") == "uuid:1-5"
    assert db.position("") == db.position("x" * (db.POSITION_LENGTH + 1)) == db.ANYTHING
    server = db.Server("db2", False)
    assert db.Page([], server, "uuid:1-2", stale=True).after("uuid:1-5") == "uuid:1-5"
    # Without GTIDs, as before.
    assert db.Page([], server).after("") == ""
    assert db.Page([], server, "uuid:1-6").after(db.ANYTHING) == "uuid:1-6"


def test_unknown_position_reads_from_the_writer(stack):
    book, _writer, reader, _clock = stack
    assert book.page(db.ANYTHING).server.name == "db1" and reader.connections == 0


def test_dead_kept_connection_is_replaced_at_once(stack):
    book, _writer, reader, clock = stack
    book.page()
    reader.script = [2006]
    assert book.page().server.name == "db2" and reader.connections == 2
    clock.now += db.CONNECTION_AGE + 1
    book.page()
    assert reader.connections == 3


def test_ready(stack):
    book, writer, reader, _clock = stack
    assert all(check["ok"] for check in book.ready().values())
    writer.read_only = 1
    reader.script = [2003, 2003]
    ready = book.ready()
    assert ready["writer"] == {"ok": False, "server": "db1", "role": "read only"} and ready["reader"] == {"ok": False, "error": 2003}


def test_environment():
    assert db.from_environment({}) is None
    assert db.from_environment({"DB_WRITER_HOST": "writer", "DB_READER_HOST": "reader", "APP_HOST": "app1"})._host == "app1"


def test_missing_ca_is_a_problem_of_the_database():
    book = db.from_environment({"DB_WRITER_HOST": "writer", "DB_SSL_CA": "/nowhere/ca.crt"})
    assert book.ready() == {"writer": {"ok": False, "error": 2026}, "reader": {"ok": False, "error": 2026}}


@pytest.mark.parametrize(
    "key, name, text, wrong",
    [
        (KEY, "Ada", "hello\nworld", set()),
        (KEY, "é" * 60, "x" * 1000, set()),
        (KEY, "é" * 61, "x" * 1001, {"name", "text"}),
        (KEY, " \u202e\x00 ", "\r\n", {"name", "text"}),
        ("short", "a", "b", {"id"}),
        ("a b c d e f", "a", "b", {"id"}),
        (None, 5, [], {"id", "name", "text"}),
    ],
)
def test_entries(key, name, text, wrong):
    entry, problems = entries.check(key, name, text)
    assert set(problems) == wrong and (entry is None) == bool(wrong)


def test_cleaning():
    assert entries.clean(" a\x00\u202eb\r\nc ") == "abc" and entries.clean("a\r\nb", newlines=True) == "a\nb"
    assert entries.hop(None) == "" and len(entries.hop("x" * 500)) == 64 and entries.hop("<b>") == "<b>"


def test_names_of_static_files_follow_their_content():
    files = list((DEMO / "static").iterdir())
    assert files
    for path in files:
        assert path.name.split(".")[1] == hashlib.sha256(path.read_bytes()).hexdigest()[:10], f"rename {path.name}"
