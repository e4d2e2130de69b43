"""Requests by route, for Prometheus: all worker processes of the service together."""

import os
import tempfile
import time

# Before the import, which decides by it. Workers are forks of the process that reads this; the directory goes with the service's /tmp.
if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="metrics-")

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Histogram, generate_latest, multiprocess  # noqa: E402

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SECONDS = Histogram("app_request_duration_seconds", "Time from the request to the answer.", ["route", "method", "status"], registry=None, buckets=BUCKETS)


def observe(app, request, g):
    """Have app measure each request."""

    @app.before_request
    def begin():
        g.began = time.monotonic()

    @app.after_request
    def end(response):
        # What is not ours comes with as many names as visitors can think of.
        route = request.url_rule.rule if request.url_rule else "none"
        method = request.method if request.url_rule else "any"
        SECONDS.labels(route, method, str(response.status_code)).observe(time.monotonic() - g.pop("began", time.monotonic()))
        return response


def text():
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    return generate_latest(registry), {"Content-Type": CONTENT_TYPE_LATEST}
