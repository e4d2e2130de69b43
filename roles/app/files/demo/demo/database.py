"""Writes go to the writer, reads to the reader, and a visitor never misses an own entry, or one already seen."""

import os
import threading
import time
from dataclasses import dataclass

import pymysql

CONNECT_TIMEOUT = 2
QUERY_TIMEOUT = 5
CONNECTION_AGE = 60  # seconds; so that replicas that came back get their share
WRITE_PATIENCE = 5  # seconds; a planned switch-over is shorter
READ_PATIENCE = 2
WAIT_FOR_REPLICA = 0.3  # seconds
POSITION_LENGTH = 2000  # characters of a GTID set that fit into a cookie; a healthy site's has some hundred at most
ANYTHING = "*"  # instead of a GTID set: only the writer surely has it

# The connection is gone, or the server is on its way up or down.
LOST = {0, 1040, 1047, 1053, 1152, 1158, 1159, 1160, 1161, 1184, 1203, 1317, 1927, 2002, 2003, 2006, 2013, 2055, 3032, 3169, 4031}
# This server does not write (any more): another one does, or soon will.
READ_ONLY = {1290, 1792, 1836}
# An earlier attempt of the same write still holds its lock.
BUSY = {1205, 1213}
DUPLICATE = 1062

SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
  number BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL UNIQUE,
  name VARCHAR(60) NOT NULL,
  text VARCHAR(1000) NOT NULL,
  host VARCHAR(64) NOT NULL,
  at TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3)
) CHARACTER SET utf8mb4
"""

Problem = pymysql.err.MySQLError


class Conflict(Exception):
    """The same key came with another entry."""


class Behind(Exception):
    """The reader does not have what this visitor has seen yet."""


def position(gtid):
    """What a session remembers of what it has seen."""
    return gtid if 0 < len(gtid) <= POSITION_LENGTH else ANYTHING


@dataclass(frozen=True)
class Server:
    """Who answered."""

    name: str
    writable: bool

    @property
    def role(self):
        return "writable" if self.writable else "read only"


@dataclass(frozen=True)
class Written:
    """What became of an entry."""

    server: Server
    gtid: str
    created: bool


@dataclass(frozen=True)
class Page:
    """Entries, newest first, and where they came from."""

    entries: list
    server: Server
    gtid: str = ""
    stale: bool = False

    def after(self, seen):
        """What a session that had seen `seen` has seen now: a page shown in need may be older, and lowers nothing."""
        return position(self.gtid) if self.gtid and not self.stale else seen


def code(problem):
    """MySQL's error number."""
    return problem.args[0] if problem.args and isinstance(problem.args[0], int) else 0


def transient(problem):
    return code(problem) in LOST | READ_ONLY | BUSY


class Endpoint:
    """A logical server behind the router; each thread keeps one connection."""

    def __init__(self, connect, clock=time.monotonic):
        self._connect = connect
        self._clock = clock
        self._thread = threading.local()

    def run(self, work):
        """work(cursor) on the kept connection, and once more on a new one if the kept one turns out to be dead."""
        kept = getattr(self._thread, "connection", None)
        if kept and self._clock() - self._thread.since < CONNECTION_AGE:
            try:
                return self._work(work, kept)
            except Problem as problem:
                if code(problem) not in LOST:
                    raise
        self.drop()
        self._thread.connection = self._connect()
        self._thread.since = self._clock()
        return self._work(work, self._thread.connection)

    def _work(self, work, connection):
        try:
            with connection.cursor() as cursor:
                return work(cursor)
        except Problem as problem:
            # Behind the router, a new connection leads to the server that writes now.
            if code(problem) in LOST | READ_ONLY:
                self.drop()
            raise

    def drop(self):
        """Close the connection without a word to a server that may be gone."""
        connection, self._thread.connection = getattr(self._thread, "connection", None), None
        if connection:
            connection._force_close()  # pylint: disable=protected-access


def identify(cursor):
    """(server, everything it has executed)"""
    cursor.execute("SELECT @@hostname, @@global.read_only, @@global.gtid_executed")
    name, read_only, executed = cursor.fetchone()
    return Server(name, not read_only), (executed or "").replace("\n", "")


class Database:
    """The guest book's tables."""

    def __init__(self, writer, reader, host="", clock=time.monotonic, sleep=time.sleep):
        self.writer = writer
        self.reader = reader
        self._host = host
        self._clock = clock
        self._sleep = sleep

    def _patiently(self, attempt, patience):
        """Again and again while the problem is one that passes: another connection may lead to a server that can."""
        deadline = self._clock() + patience
        pause = 0.05
        while True:
            try:
                return attempt()
            except Problem as problem:
                if not transient(problem) or self._clock() + pause > deadline:
                    raise
            self._sleep(pause)
            pause = min(pause * 2, 0.25)

    def migrate(self, patience=30):
        """Create what is missing."""
        self._patiently(lambda: self.writer.run(lambda cursor: cursor.execute(SCHEMA)), patience)

    def add(self, entry):
        """Write an entry once, whatever happens on the way.

        Refused, or lost before the commit: nothing is written, the next attempt does it. Lost during the commit: nobody knows, so the next attempt
        comes with the same key, and finds what an earlier one has committed.
        """

        def work(cursor):
            created = True
            try:
                cursor.execute("INSERT INTO entries (id, name, text, host) VALUES (%s, %s, %s, %s)", (entry.key, entry.name, entry.text, self._host))
            except pymysql.err.IntegrityError as problem:
                if code(problem) != DUPLICATE:
                    raise
                created = False
                cursor.execute("SELECT name, text FROM entries WHERE id = %s", (entry.key,))
                if cursor.fetchone() != (entry.name, entry.text):
                    raise Conflict from None
            return Written(*identify(cursor), created)

        return self._patiently(lambda: self.writer.run(work), WRITE_PATIENCE)

    def page(self, seen="", limit=50):
        """The newest entries: from the reader as soon as it has `seen`, else from the writer, else, after a while, from the reader as it is."""

        def fetch(cursor):
            cursor.execute("SELECT id, name, text, host, at FROM entries ORDER BY number DESC LIMIT %s", (limit,))
            rows = cursor.fetchall()
            # After the rows, so that the set covers all that they show.
            return Page([dict(zip(("id", "name", "text", "host", "at"), row)) for row in rows], *identify(cursor))

        def from_reader(cursor):
            if seen:
                cursor.execute("SELECT WAIT_FOR_EXECUTED_GTID_SET(%s, %s)", (seen, WAIT_FOR_REPLICA))
                if cursor.fetchone()[0] != 0:
                    raise Behind
            return fetch(cursor)

        def from_writer(cursor):
            page = fetch(cursor)
            if not page.server.writable:
                # The primary of a moment ago: what this visitor has seen may be on the new one.
                raise pymysql.err.OperationalError(1290, "the writer does not write any more")
            return page

        def attempt():
            if seen != ANYTHING:
                try:
                    return self.reader.run(from_reader)
                except (Behind, Problem):
                    pass
            return self.writer.run(from_writer)

        try:
            return self._patiently(attempt, READ_PATIENCE)
        except Problem:
            if not seen:
                raise
            page = self.reader.run(fetch)
            return Page(page.entries, page.server, stale=True)

    def ready(self):
        """{"writer": {...}, "reader": {...}}; ok when a writable and a readable server answer."""
        result = {}
        for name, endpoint in (("writer", self.writer), ("reader", self.reader)):
            try:
                server = endpoint.run(identify)[0]
                result[name] = {"ok": server.writable or name == "reader", "server": server.name, "role": server.role}
            except Problem as problem:
                result[name] = {"ok": False, "error": code(problem)}
        return result


def from_environment(environment=None):
    """The database that the environment names; None without one."""
    environment = os.environ if environment is None else environment
    if not environment.get("DB_WRITER_HOST"):
        return None

    def connector(role):
        def connect():
            try:
                return open_connection()
            except OSError as problem:
                # A CA that is missing or broken: not PyMySQL's own error.
                raise pymysql.err.OperationalError(2026, f"TLS cannot be set up: {problem}") from problem

        def open_connection():
            return pymysql.connect(
                host=environment[f"DB_{role}_HOST"],
                port=int(environment.get(f"DB_{role}_PORT", "3306")),
                user=environment.get("DB_USER", ""),
                password=environment.get("DB_PASSWORD", ""),
                database=environment.get("DB_NAME", ""),
                charset="utf8mb4",
                autocommit=True,
                connect_timeout=CONNECT_TIMEOUT,
                read_timeout=QUERY_TIMEOUT,
                write_timeout=QUERY_TIMEOUT,
                # With a CA, PyMySQL verifies the chain and the name.
                ssl={"ca": environment["DB_SSL_CA"]} if environment.get("DB_SSL_CA") else None,
                init_command="SET time_zone = '+00:00'",
            )

        return connect

    readers = connector("READER") if environment.get("DB_READER_HOST") else connector("WRITER")
    return Database(Endpoint(connector("WRITER")), Endpoint(readers), environment.get("APP_HOST", ""))
