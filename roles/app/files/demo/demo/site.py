"""Pages for visitors, JSON for programs."""

import hmac
import os
import pathlib
import secrets
import socket
import threading
from contextlib import contextmanager

from flask import Flask, flash, g, get_flashed_messages, jsonify, redirect, render_template, request, session
from flask.sessions import SecureCookieSessionInterface
from werkzeug.exceptions import BadRequest, HTTPException, NotFound, ServiceUnavailable, UnprocessableEntity

from demo import database as db
from demo import entries, metrics

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Of gunicorn's threads in a process: a database that hangs must leave some for /healthz, and writes that wait must leave some for reads.
DATABASE_THREADS = 12
WRITE_THREADS = 8
AWAY = "The guest book cannot be reached at the moment. Please try again in a few seconds."
REFUSED = "Your entry was not written: the database takes no entries at the moment. Nothing is lost, please send it again in a few seconds."
SECURITY = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


class Sessions(SecureCookieSessionInterface):
    """TLS ends before this process: the proxies say whether the visitor used it."""

    def get_cookie_secure(self, app):
        return request.headers.get("X-Forwarded-Proto") == "https"


class Slots:
    """At most so many threads at once; the others hear it soon."""

    def __init__(self, count):
        self._free = threading.BoundedSemaphore(count)

    @contextmanager
    def one(self):
        if not self._free.acquire(timeout=1):
            raise ServiceUnavailable(AWAY)
        try:
            yield
        finally:
            self._free.release()


def assets(folder):
    """{"style.css": "style.<hash>.css"}: names follow contents, so browsers keep them for ever."""
    return {f"{path.stem.split('.')[0]}{path.suffix}": path.name for path in sorted(folder.iterdir()) if path.suffix != ".gz"}


def create_app(database=None):
    app = Flask(__name__, static_folder=str(ROOT / "static"), static_url_path="/static")
    app.session_interface = Sessions()
    app.config.update(
        SECRET_KEY=os.environ.get("APP_SECRET_KEY") or None,
        SESSION_COOKIE_NAME="guestbook",
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SEND_FILE_MAX_AGE_DEFAULT=365 * 24 * 3600,
        MAX_CONTENT_LENGTH=64 * 1024,
    )
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    version = os.environ.get("APP_VERSION", "development")
    host = os.environ.get("APP_HOST") or socket.gethostname()
    database = database or db.from_environment()
    files = assets(ROOT / "static")
    reading, writing = Slots(DATABASE_THREADS), Slots(WRITE_THREADS)

    def read(seen, limit=50):
        if database is None:
            raise ServiceUnavailable("No database is configured.")
        try:
            with reading.one():
                return database.page(seen, limit)
        except db.Problem as problem:
            app.logger.error("Reading failed: %s", problem)
            raise ServiceUnavailable(AWAY) from None

    def write(entry):
        if database is None:
            raise ServiceUnavailable("No database is configured.")
        try:
            with writing.one(), reading.one():
                return database.add(entry)
        except db.Conflict:
            raise UnprocessableEntity("This entry was sent before with another text.") from None
        except db.Problem as problem:
            app.logger.error("Writing failed: %s", problem)
            raise ServiceUnavailable(REFUSED if db.code(problem) in db.READ_ONLY else AWAY) from None

    def remember(seen):
        """Later reads of this session show no less; a cookie is sent when that is something new."""
        if session.get("seen", "") != seen:
            session["seen"] = seen

    def hops():
        return [
            ("Load balancer", entries.hop(request.headers.get("X-Load-Balancer"))),
            ("Web server", entries.hop(request.headers.get("X-Web-Server"))),
            ("App server", host),
        ]

    def show(status=200, problem="", form=None):
        """The page; it is shown even when the entries are not to be had."""
        page = None
        try:
            page = read(session.get("seen", "") if app.secret_key else "")
        except ServiceUnavailable as away:
            status, problem = (503, away.description) if status == 200 else (status, problem)
        if app.secret_key:
            session.setdefault("csrf", secrets.token_urlsafe(16))
            if page:
                remember(page.after(session.get("seen", "")))
        return (
            render_template(
                "index.html",
                page=page,
                problem=problem,
                messages=get_flashed_messages() if app.secret_key else [],
                form=form or {"name": "", "text": "", "id": secrets.token_hex(16)},
                csrf=session.get("csrf", ""),
                writable=bool(app.secret_key),
            ),
            status,
        )

    metrics.observe(app, request, g)

    @app.context_processor
    def everywhere():
        return {"hops": hops(), "version": version, "files": files, "limits": entries}

    @app.after_request
    def headers(response):
        response.headers["X-App-Version"] = version
        response.headers["X-App-Host"] = host
        for name, value in SECURITY.items():
            response.headers.setdefault(name, value)
        if response.status_code == 503:
            response.headers["Retry-After"] = "5"
        if request.endpoint != "static":
            response.headers.setdefault("Cache-Control", "no-store")
        return response

    @app.errorhandler(HTTPException)
    def failed(problem):
        if request.path.startswith("/api/"):
            return jsonify(error=problem.description), problem.code
        return render_template("error.html", code=problem.code, name=problem.name, text=problem.description), problem.code

    @app.get("/")
    def index():
        return show()

    @app.post("/entries")
    def sign():
        form = {field: request.form.get(field, "") for field in ("id", "name", "text")}
        if not app.secret_key:
            raise ServiceUnavailable("APP_SECRET_KEY is not set: forms are switched off.")
        if not hmac.compare_digest(request.form.get("csrf", "").encode(), session.get("csrf", secrets.token_hex()).encode()):
            return show(400, "This form had expired. Please send it again.", form)
        entry, problems = entries.check(**{"key": form["id"], "name": form["name"], "text": form["text"]})
        if problems:
            named = {"name": "The name", "text": "The entry", "id": "The form's id"}
            return show(422, " ".join(f"{named[field]} {problem}." for field, problem in problems.items()), form)
        try:
            written = write(entry)
        except (ServiceUnavailable, UnprocessableEntity) as problem:
            # The same id stays in the form: sending it again cannot write it twice.
            return show(problem.code, problem.description, form)
        remember(db.position(written.gtid))
        flash(f"Thank you! Your entry was {'written' if written.created else 'already there'} on {written.server.name} ({written.server.role}).")
        return redirect("/", 303)

    @app.get("/api/entries")
    def api_list():
        seen, limit = request.args.get("seen", ""), request.args.get("limit", "50")
        if not entries.GTID_SET.fullmatch(seen) or not limit.isdecimal() or not 1 <= int(limit) <= 1000:
            raise BadRequest("seen is a GTID set, limit a number from 1 to 1000.")
        page = read(seen, int(limit))
        rows = [dict(row, at=row["at"].isoformat(timespec="milliseconds") + "Z") for row in page.entries]
        return jsonify(server=page.server.name, role=page.server.role, stale=page.stale, entries=rows)

    @app.post("/api/entries")
    def api_add():
        # JSON only: a form of another site cannot send it.
        sent = request.get_json(silent=True) if request.is_json else None
        if not isinstance(sent, dict):
            raise BadRequest("Send a JSON object with id, name and text.")
        entry, problems = entries.check(sent.get("id"), sent.get("name"), sent.get("text"))
        if problems:
            raise UnprocessableEntity("; ".join(f"{field} {problem}" for field, problem in problems.items()))
        written = write(entry)
        return jsonify(id=entry.key, server=written.server.name, gtid=written.gtid), 201 if written.created else 200

    @app.get("/healthz")
    def healthz():
        return jsonify(status="ok", version=version, host=host)

    @app.get("/metrics")
    def numbers():
        # Whoever comes through a proxy is a visitor.
        if "X-Forwarded-For" in request.headers:
            raise NotFound
        return metrics.text()

    @app.get("/readyz")
    def readyz():
        checks = {}
        if database is not None:
            with reading.one():
                checks = database.ready()
        good = bool(checks) and all(check["ok"] for check in checks.values())
        return jsonify(status="ready" if good else "not ready", version=version, database=checks or "not configured"), 200 if good else 503

    return app
