"""Visitors at a fixed rate, whatever the site's answers take (open loop). Runs on the visitor's machine, prints one line of JSON.

  load.py RATE SECONDS [LEAST]    RATE requests a second, for SECONDS, or until there is a file /tmp/load-stop and LEAST requests were sent

Every fifth request writes an entry. Nothing is tried again: whatever is not answered as it should is a failed request.
Every 20th request is the page with the style sheet that it names.
Latencies count from the moment when a request was due. No Debian package does this: hey and bombardier wait for answers before they go on,
and neither counts methods or reasons apart.
"""
import http.client
import itertools
import json
import os
import re
import select
import ssl
import sys
import threading
import time
import uuid

NAME = "www.foobar.com"
THREADS = 150
# HAProxy closes idle connections after 10 s: a visitor who comes back later opens another one.
KEPT = 4


class Visitor:
    def __init__(self):
        self.context = ssl.create_default_context(cafile="/tmp/acme-root.pem")
        self.connection, self.used = None, 0

    def ask(self, method, path, body=None):
        # As browsers do: not on a connection that the site has closed meanwhile.
        if self.connection is None or time.monotonic() - self.used > KEPT or select.select([self.connection.sock], [], [], 0)[0]:
            self.close()
            self.connection = http.client.HTTPSConnection(NAME, timeout=30, context=self.context)
        try:
            self.connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            answer = self.connection.getresponse()
            text = answer.read()
        except Exception:
            self.close()
            raise
        self.used = time.monotonic()
        if answer.will_close:
            self.close()
        # 200 says that the entry was there already: the app wrote it again after it had lost its database connection.
        if answer.status not in (200, 201):
            raise RuntimeError("status %s for %s %s %s" % (answer.status, path, answer.headers.get("X-App-Version"), answer.headers.get("X-App-Host")))
        return answer.headers, text

    def close(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def visit(self, number):
        if number % 5 == 1:
            entry = {"id": uuid.uuid4().hex, "name": "load", "text": "written under load"}
            return self.ask("POST", "/api/entries", json.dumps(entry))[0]
        if number % 20:
            return self.ask("GET", "/api/entries?limit=1")[0]
        headers, page = self.ask("GET", "/")
        self.ask("GET", re.search(rb"/static/style\.[0-9a-f]+\.css", page).group().decode())
        return headers


def work(numbers, start, rate, seconds, least, results):
    visitor = Visitor()
    for number in numbers:
        due = start + number / rate
        time.sleep(max(0, due - time.monotonic()))
        if number >= rate * seconds or number >= least and os.path.exists("/tmp/load-stop"):
            return
        kind = "POST" if number % 5 == 1 else "GET"
        try:
            headers = visitor.visit(number)
            results.append((kind, time.monotonic() - due, "", headers.get("X-App-Version"), headers.get("X-App-Host"), time.time()))
        except Exception as problem:
            results.append((kind, time.monotonic() - due, "%s: %s" % (type(problem).__name__, problem), None, None, time.time()))


def main(rate, seconds, least="0"):
    results, numbers, start = [], itertools.count(), time.monotonic() + 0.5
    threads = [threading.Thread(target=work, args=(numbers, start, float(rate), float(seconds), int(least), results)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    summary = {"seconds": round(time.monotonic() - start, 1), "reasons": [(round(result[5], 1), result[0], result[2]) for result in results if result[2]][:100]}
    for kind in ("GET", "POST"):
        mine = [result for result in results if result[0] == kind]
        times = sorted(1000 * result[1] for result in mine) or [0]
        summary[kind] = {"requests": len(mine), "failed": sum(bool(result[2]) for result in mine), "p50_ms": round(times[len(times) // 2], 1),
                         "p99_ms": round(times[int(len(times) * 0.99)], 1), "max_ms": round(times[-1], 1)}
    answered = {(str(result[3]), str(result[4])) for result in results if not result[2]}
    summary["hosts"] = {version: sorted(host for other, host in answered if other == version) for version, _ in answered}
    times = {version: [result[5] for result in results if str(result[3]) == version and not result[2]] for version, _ in answered}
    summary["seen"] = {version: (min(found), max(found)) for version, found in times.items()}
    print(json.dumps(summary))


main(*sys.argv[1:])
