import pytest

SITE = """
import json, os
def application(environ, start):
    if environ["PATH_INFO"] == "/environment":
        try:
            import wheeled
            found = wheeled.NAME
        except ImportError:
            found = None
        body = dict(os.environ, wheel=found, user=os.getuid(), writable=[path for path in (".", "/srv/app/shared", "/etc/app") if os.access(path, os.W_OK)])
    else:
        body = {"version": os.environ["APP_VERSION"]}
    start("200 OK", [("Content-Type", "application/json"), ("X-App-Version", os.environ["APP_VERSION"])])
    return [json.dumps(body).encode()]
"""


@pytest.fixture(name="site")
def fixture_site(tmp_path):
    site = tmp_path / "site"
    (site / "static").mkdir(parents=True)
    (site / "static" / "a.css").write_text("a { color: red }\n" * 50)
    (site / "wsgi.py").write_text(SITE)
    return site
