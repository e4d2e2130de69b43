"""Writes rows at a fixed rate through the writer port, or entries through the site, and notes what was acknowledged. Runs inside a lab host.

  writer.py sql RATE SECONDS DIRECTORY    on an app host, with the app's environment
  writer.py http RATE SECONDS DIRECTORY   on the visitor's machine

A write is tried again with the same key until it is acknowledged: whoever sees it twice has found a bug. DIRECTORY/stop ends it early.
DIRECTORY/acks holds a line "key time" for each acknowledged write, DIRECTORY/errors a line "time text" for each attempt that failed.
"""
import http.client
import json
import os
import ssl
import sys
import threading
import time
import uuid

THREADS = 10


class Sql:
    def __init__(self):
        import pymysql

        self.driver = pymysql
        self.connection = None

    def write(self, key):
        try:
            if self.connection is None:
                context = ssl.create_default_context(cafile=os.environ["DB_SSL_CA"])
                self.connection = self.driver.connect(
                    host=os.environ["DB_WRITER_HOST"], port=int(os.environ["DB_WRITER_PORT"]), user=os.environ["DB_USER"], ssl=context,
                    password=os.environ["DB_PASSWORD"], database=os.environ["DB_NAME"], autocommit=True, connect_timeout=2, read_timeout=5, write_timeout=5)
            with self.connection.cursor() as cursor:
                cursor.execute("INSERT INTO chaos (id) VALUES (%s)", (key,))
        except Exception as error:
            if self.connection is not None:
                self.connection._force_close()
                self.connection = None
            if isinstance(error, self.driver.err.IntegrityError) and error.args[0] == 1062:
                return  # an earlier attempt came through
            raise


class Http:
    def __init__(self):
        self.connection = None
        self.context = ssl.create_default_context(cafile="/tmp/acme-root.pem")

    def write(self, key):
        try:
            if self.connection is None:
                self.connection = http.client.HTTPSConnection("www.foobar.com", timeout=15, context=self.context)
            self.connection.request("POST", "/api/entries", json.dumps({"id": key, "name": "chaos", "text": "written under load"}), {"Content-Type": "application/json"})
            answer = self.connection.getresponse()
            body = answer.read()
            if answer.status not in (200, 201):
                raise RuntimeError("%s %s" % (answer.status, body[:200]))
        except Exception:
            if self.connection is not None:
                self.connection.close()
                self.connection = None
            raise


def work(kind, pause, offset, end, directory, acks, errors, lock):
    target = {"sql": Sql, "http": Http}[kind]()
    due = time.monotonic() + offset
    while time.monotonic() < end and not os.path.exists(directory + "/stop"):
        time.sleep(max(0, due - time.monotonic()))
        due = max(due + pause, time.monotonic() - 1)
        key = uuid.uuid4().hex
        while time.monotonic() < end + 10:
            begun = time.time()
            try:
                target.write(key)
            except Exception as error:
                with lock:
                    errors.write("%.4f %s %s\n" % (begun, type(error).__name__, str(error).replace("\n", " ")[:200]))
                time.sleep(0.01)
                continue
            with lock:
                acks.write("%s %.4f\n" % (key, time.time()))
            break


def main(kind, rate, seconds, directory):
    os.makedirs(directory, exist_ok=True)
    lock, end, pause = threading.Lock(), time.monotonic() + float(seconds), THREADS / float(rate)
    with open(directory + "/acks", "w", buffering=1) as acks, open(directory + "/errors", "w", buffering=1) as errors:
        threads = [threading.Thread(target=work, args=(kind, pause, pause * number / THREADS, end, directory, acks, errors, lock)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


main(*sys.argv[1:])
