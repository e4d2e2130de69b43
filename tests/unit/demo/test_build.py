"""The release builder: the same content gives the same bytes, and nothing leads out of a release."""

import gzip
import hashlib
import io
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import zipfile

import pytest

FILES = pathlib.Path(__file__).resolve().parents[3] / "roles" / "app" / "files"
sys.path.insert(0, str(FILES))

import build  # noqa: E402  pylint: disable=wrong-import-position


@pytest.fixture(name="tree")
def fixture_tree(tmp_path):
    tree = tmp_path / "site"
    (tree / "static").mkdir(parents=True)
    (tree / "static" / "site.css").write_text("a { color: red }\n" * 100)
    (tree / "static" / "pixel.png").write_bytes(b"\x89PNG" + bytes(500))
    (tree / "run").write_text("#!/bin/sh\n")
    (tree / "run").chmod(0o750)
    (tree / "über name").write_text("x")
    (tree / "latest").symlink_to("static/site.css")
    (tree / "__pycache__").mkdir()
    (tree / "__pycache__" / "x.pyc").write_bytes(b"x")
    return tree


def made(source, tmp_path, name="out", **more):
    return build.build({**source, "build_dir": str(tmp_path / name), **more})


def members(result):
    with tarfile.open(result["artifact"]) as archive:
        return {member.name: member for member in archive.getmembers()}


def test_same_content_same_bytes(tree, tmp_path):
    source = {"type": "directory", "path": str(tree)}
    one = made(source, tmp_path, "one")
    for path in tree.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)
    (tree / "run").chmod(0o700)
    two = made(source, tmp_path, "two")
    assert one["id"] == two["id"] and one["checksum"] == two["checksum"]
    assert pathlib.Path(one["artifact"]).read_bytes() == pathlib.Path(two["artifact"]).read_bytes()
    (tree / "run").chmod(0o600)
    assert made(source, tmp_path, "three")["id"] != one["id"]


def test_archive_and_git_give_the_same_release_as_the_directory(tree, tmp_path):
    direct = made({"type": "directory", "path": str(tree)}, tmp_path)
    with tarfile.open(tmp_path / "site.tar.xz", "w:xz") as archive:
        archive.add(tree, "site-1.0")
    digest = hashlib.sha256((tmp_path / "site.tar.xz").read_bytes()).hexdigest()
    packed = made({"type": "archive", "path": str(tmp_path / "site.tar.xz"), "checksum": "sha256:" + digest}, tmp_path)
    assert packed == direct

    def git(*arguments):
        subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@example.com", "-C", str(tree), *arguments], check=True, capture_output=True)

    git("init", "--quiet", "--initial-branch=main")
    git("add", "run", "static", "latest", "über name")
    git("commit", "--quiet", "--message=x")
    git("tag", "v1")
    commit = subprocess.run(["git", "-C", str(tree), "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    for revision in ("main", "v1", commit, commit[:10]):
        assert made({"type": "git", "url": str(tree), "revision": revision}, tmp_path) == direct, revision
    assert "no revision 'v2'" in made({"type": "git", "url": str(tree), "revision": "v2"}, tmp_path)["error"]


def test_contents(tree, tmp_path):
    result = made({"type": "directory", "path": str(tree)}, tmp_path)
    found = members(result)
    root = result["id"]
    assert list(found)[0] == root and list(found)[-1] == f"{root}/.release"
    assert {member.uid for member in found.values()} == {member.gid for member in found.values()} == {0}
    assert found[f"{root}/run"].mode == 0o755 and found[f"{root}/über name"].mode == 0o644
    assert found[f"{root}/latest"].linkname == "static/site.css"
    assert not [name for name in found if "pycache" in name]
    assert f"{root}/static/pixel.png.gz" not in found
    assert found[f"{root}/static/site.css"].mtime == found[f"{root}/static/site.css.gz"].mtime
    with tarfile.open(result["artifact"]) as archive:
        assert gzip.decompress(archive.extractfile(f"{root}/static/site.css.gz").read()) == (tree / "static/site.css").read_bytes()
        marker = archive.extractfile(f"{root}/.release").read()
    assert marker.startswith(f"APP_VERSION={root}\n".encode()) and hashlib.sha1(marker).hexdigest() == result["marker"]


def test_dates_follow_the_content():
    dates = {build.timestamp(str(number).encode()) for number in range(100)}
    assert len(dates) == 100 and min(dates) > 946684000 and max(dates) < 1600000000


def test_version_and_exclude(tree, tmp_path):
    result = made({"type": "directory", "path": str(tree), "exclude": ["static/*.png"]}, tmp_path, version="1.2")
    assert result["id"] == "1.2" and "1.2/static/site.css" in members(result) and "1.2/static/pixel.png" not in members(result)
    (tree / "requirements.txt").write_text("flask\n")
    assert made({"type": "directory", "path": str(tree)}, tmp_path)["requirements"] is True


def test_check_mode_keeps_nothing(tree, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    result = build.build({"type": "directory", "path": str(tree), "build_dir": ""})
    assert result["id"] and not result["artifact"] and sorted(tmp_path.rglob("*")) == before


def test_old_artifacts_go_and_strangers_stay(tree, tmp_path):
    stranger = tmp_path / "out" / "mine.tar.gz"
    for number in range(build.KEEP_ARTIFACTS + 3):
        (tree / "run").write_text(str(number))
        result = made({"type": "directory", "path": str(tree)}, tmp_path)
        stranger.write_text("x")
    left = list((tmp_path / "out").glob("app-*"))
    assert len(left) == build.KEEP_ARTIFACTS and pathlib.Path(result["artifact"]) in left and stranger.exists()
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith("tmp")]


@pytest.mark.parametrize(
    "source, message",
    [
        ({"type": "rsync"}, "write directory, archive or git"),
        ({"type": "directory", "path": "/nowhere"}, "not a directory"),
        ({"type": "directory"}, "not a directory"),
        ({"type": "directory", "path": "/", "url": "x"}, "url, which mean nothing to type directory"),
        ({"type": "archive", "path": "/nowhere.tar"}, "not a file"),
        ({"type": "archive"}, "either path or url"),
        ({"type": "archive", "url": "https://example.com/x.tar"}, "needs app_source.checksum"),
        ({"type": "archive", "url": "file:///etc/passwd", "checksum": "sha256:00"}, "starts with https://"),
        ({"type": "git", "url": "x"}, "takes url and revision"),
        ({"type": "git", "url": "x", "revision": "--upload-pack=x"}, "takes url and revision"),
    ],
)
def test_bad_sources(source, message, tmp_path):
    assert message in made(source, tmp_path)["error"]


def test_bad_checksums(tree, tmp_path):
    archive = tmp_path / "x.tar"
    with tarfile.open(archive, "w") as stream:
        stream.add(tree, "x")
    for checksum, message in (("sha256:00", "the archive's checksum is sha256:"), ("00", "write it as sha256:"), ("crc:1", "write it as")):
        assert message in made({"type": "archive", "path": str(archive), "checksum": checksum}, tmp_path)["error"]


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_archives_that_lead_out(kind, tmp_path):
    def pack(*entries):
        path = tmp_path / f"evil.{kind}"
        if kind == "zip":
            with zipfile.ZipFile(path, "w") as archive:
                for name, link in entries:
                    info = zipfile.ZipInfo(name)
                    info.external_attr = (0o120777 if link else 0o100644) << 16
                    archive.writestr(info, link or "x")
        else:
            with tarfile.open(path, "w") as archive:
                for name, link in entries:
                    info = tarfile.TarInfo(name)
                    if link:
                        info.type, info.linkname = tarfile.SYMTYPE, link
                        archive.addfile(info)
                    else:
                        info.size = 1
                        archive.addfile(info, io.BytesIO(b"x"))
        return made({"type": "archive", "path": str(path)}, tmp_path).get("error", "")

    outside = tmp_path / "outside"
    outside.mkdir()
    assert "leads out" in pack(("../evil", None))
    assert "leads out" in pack(("/evil", None))
    assert "link out of the release" in pack(("a", str(outside)), ("b", None))
    assert "leads out" in pack(("a", str(outside)), ("a/evil", None))
    target = outside / "file"
    target.write_text("kept")
    pack(("a", str(target)), ("a", None))
    assert target.read_text() == "kept" and [path.name for path in outside.iterdir()] == ["file"]


def test_not_an_archive(tmp_path):
    (tmp_path / "x.tar").write_text("no")
    assert "neither a tar nor a zip" in made({"type": "archive", "path": str(tmp_path / "x.tar")}, tmp_path)["error"]


def test_program(tree):
    done = subprocess.run(
        [sys.executable, str(FILES / "build.py")], input=json.dumps({"type": "directory", "path": str(tree)}), capture_output=True, text=True, check=True
    )
    assert len(json.loads(done.stdout)["id"]) == 12


def test_entry_point_and_size(tree, tmp_path):
    source = {"type": "directory", "path": str(tree)}
    assert made(source, tmp_path, entry_point="run")["size"] > 2000
    assert made(source, tmp_path, entry_point="wsgi.py")["error"] == "app_source has no file wsgi.py (app_entry_point), which app_command runs"
