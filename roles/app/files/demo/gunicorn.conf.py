"""gunicorn reads this file by itself; what stands on its command line wins."""

from gunicorn.workers.gthread import TConn

worker_class = "gthread"
threads = 16
preload_app = True
# Proxies on the same host: a connection costs nothing, and one that is closed after its answer cannot be cut by a restart.
keepalive = 0


def post_worker_init(worker):
    """Lose no request in a restart: gunicorn's threaded worker still accepts a connection while it ends, and then drops it (gunicorn issue 3380)."""

    def accept(server, listener):
        if not worker.alive:
            return
        try:
            client, address = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        worker.nr_conns += 1
        worker.enqueue_req(TConn(worker.cfg, client, address, server))

    worker.accept = accept
