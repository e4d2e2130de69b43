"""Writes rows at a fixed rate through the writer port, or entries through the site, or reads the site's page, and notes what was acknowledged. Runs inside a lab host.

  writer.py sql RATE SECONDS DIRECTORY    on an app host, with the app's environment
  writer.py http RATE SECONDS DIRECTORY   on the visitor's machine
  writer.py pages RATE SECONDS DIRECTORY  on the visitor's machine, two sessions with cookies of their own

A row that was refused is tried again with the same key until it is acknowledged, and so is whatever failed through the site, which takes a key once.
A row whose connection ended before the answer is given up: nobody can know whether it is there, but never twice. DIRECTORY/stop ends it early.
DIRECTORY holds lines: acks "key time" for each acknowledged write or page, errors "time text" for each attempt that failed, unknown "key time" for each row that was given up,
back "time text" for each page that was older than what its session had seen before, old "time text" for each page that says so itself.
"""
import datetime
import http.client
import http.cookies
import json
import os
import re
import ssl
import sys
import threading
import time
import uuid

THREADS = {"sql": 10, "http": 10, "pages": 2}
# The server is read-only, or ended a deadlock: it has written nothing.
REFUSED = (1205, 1213, 1290, 1792, 1836)


class Unknown(Exception):
    """Whether the row is there."""


class Notes:
    """Files of lines."""

    def __init__(self, directory):
        os.makedirs(directory, exist_ok=True)
        self.lock = threading.Lock()
        self.files = {name: open("%s/%s" % (directory, name), "w", buffering=1) for name in ("acks", "errors", "unknown", "back", "old")}

    def add(self, name, *words):
        with self.lock:
            self.files[name].write(" ".join(word if isinstance(word, str) else "%.4f" % word for word in words) + "\n")


class Sql:
    def __init__(self, _notes):
        import pymysql

        self.driver = pymysql
        self.connection = None

    def do(self, key):
        sent = False
        try:
            if self.connection is None:
                context = ssl.create_default_context(cafile=os.environ["DB_SSL_CA"])
                self.connection = self.driver.connect(
                    host=os.environ["DB_WRITER_HOST"], port=int(os.environ["DB_WRITER_PORT"]), user=os.environ["DB_USER"], ssl=context,
                    password=os.environ["DB_PASSWORD"], database=os.environ["DB_NAME"], autocommit=True, connect_timeout=2, read_timeout=5, write_timeout=5)
            with self.connection.cursor() as cursor:
                sent = True
                cursor.execute("INSERT INTO writes (id) VALUES (%s)", (key,))
        except Exception as error:
            if self.connection is not None:
                self.connection._force_close()
                self.connection = None
            if sent and (error.args or (0,))[0] not in REFUSED:
                raise Unknown("%s %s" % (type(error).__name__, error)) from error
            raise


class Site:
    def __init__(self):
        self.connection = None
        self.context = ssl.create_default_context(cafile="/tmp/acme-root.pem")

    def ask(self, method, path, body=None, headers=None):
        try:
            if self.connection is None:
                self.connection = http.client.HTTPSConnection("www.foobar.com", timeout=15, context=self.context)
            self.connection.request(method, path, body, headers or {})
            answer = self.connection.getresponse()
            text = answer.read().decode()
            if answer.status not in (200, 201):
                raise RuntimeError("%s for %s %s" % (answer.status, path, text[:200]))
            return answer.headers, text
        except Exception:
            if self.connection is not None:
                self.connection.close()
                self.connection = None
            raise


class Http(Site):
    def __init__(self, _notes):
        super().__init__()

    def do(self, key):
        self.ask("POST", "/api/entries", json.dumps({"id": key, "name": "chaos", "text": "written under load"}), {"Content-Type": "application/json"})


class Pages(Site):
    """A session: entries are only ever added, so the newest one that it is shown never gets older."""

    def __init__(self, notes):
        super().__init__()
        self.notes, self.cookies, self.newest = notes, http.cookies.SimpleCookie(), None

    def do(self, key):
        begun = time.time()
        cookies = "; ".join("%s=%s" % (name, cookie.coded_value) for name, cookie in self.cookies.items())
        headers, page = self.ask("GET", "/", headers={"Cookie": cookies} if cookies else {})
        for cookie in headers.get_all("Set-Cookie") or ():
            self.cookies.load(cookie)
        times = [datetime.datetime.fromisoformat(text) for text in re.findall('<time datetime="([^"]+)"', page)]
        if not times:
            raise RuntimeError("a page without entries")
        newest = max(times)
        if "may be a little old" in page:
            self.notes.add("old", begun, newest.isoformat())
        elif self.newest and newest < self.newest:
            self.notes.add("back", begun, "%s after %s" % (newest.isoformat(), self.newest.isoformat()))
        else:
            self.newest = newest


def work(kind, pause, offset, end, directory, notes):
    target = {"sql": Sql, "http": Http, "pages": Pages}[kind](notes)
    due = time.monotonic() + offset
    while time.monotonic() < end and not os.path.exists(directory + "/stop"):
        time.sleep(max(0, due - time.monotonic()))
        due = max(due + pause, time.monotonic() - 1)
        key = uuid.uuid4().hex
        while time.monotonic() < end + 10:
            begun = time.time()
            try:
                target.do(key)
            except Exception as error:
                notes.add("errors", begun, "%s %s" % (type(error).__name__, str(error).replace("\n", " ")[:200]))
                if isinstance(error, Unknown):
                    notes.add("unknown", key, begun)
                    break
                time.sleep(0.01)
                continue
            notes.add("acks", key, time.time())
            break


def main(kind, rate, seconds, directory):
    notes, end, count = Notes(directory), time.monotonic() + float(seconds), THREADS[kind]
    pause = count / float(rate)
    threads = [threading.Thread(target=work, args=(kind, pause, pause * number / count, end, directory, notes)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


main(*sys.argv[1:])
