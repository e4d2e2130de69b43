# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Make one release of a site: the same content gives the same bytes and the same id, on any machine.

Reads a JSON object on standard input: the keys of `app_source`, plus `version`, `entry_point` and `build_dir`; without `build_dir` nothing is kept.
Prints a JSON object: {"id", "marker", "artifact", "checksum", "requirements", "size"} or {"error"}. `marker` is the SHA-1 of the release's file .release,
which names version and content and becomes part of the site's environment. Needs only Python 3.11, and git for a git source.
"""

import fnmatch
import gzip
import hashlib
import io
import json
import os
import pathlib
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile

NEVER = [".git", ".hg", ".svn", ".venv", "__pycache__", "*.pyc", ".release"]
COMPRESS = {".css", ".html", ".ico", ".js", ".json", ".map", ".mjs", ".svg", ".txt", ".wasm", ".webmanifest", ".xml"}
KEEP_ARTIFACTS = 20


class BuildError(Exception):
    """What the operator has to put right."""


def scan(root, exclude=()):
    """{relative path: absolute path} of everything that belongs to the release, sorted."""
    found = {}
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not skipped(root, folder, name, exclude)]
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in files + links:
            if skipped(root, folder, name, exclude):
                continue
            path = os.path.join(folder, name)
            found[os.path.relpath(path, root)] = path
    return dict(sorted(found.items()))


def skipped(root, folder, name, exclude):
    relative = os.path.relpath(os.path.join(folder, name), root)
    return any(fnmatch.fnmatch(name, pattern) for pattern in NEVER) or any(fnmatch.fnmatch(relative, pattern) for pattern in exclude)


def inside(path, target):
    """Whether a symbolic link at `path` (relative to the release) stays in the release."""
    if os.path.isabs(target):
        return False
    resolved = os.path.normpath(os.path.join(os.path.dirname(path), target))
    return resolved != ".." and not resolved.startswith("../")


def describe(path, source):
    """(kind, content) of one entry; kind is file, program or link."""
    mode = os.lstat(source).st_mode
    if stat.S_ISLNK(mode):
        target = os.readlink(source)
        if not inside(path, target):
            raise BuildError(f"{path} is a symbolic link out of the release, to {target}")
        return "link", target.encode()
    if not stat.S_ISREG(mode):
        raise BuildError(f"{path} is neither a file nor a symbolic link")
    with open(source, "rb") as stream:
        return ("program" if mode & stat.S_IXUSR else "file"), stream.read()


def content_id(entries):
    """A digest of names, kinds and contents: independent of the machine, its compressor and its clock."""
    digest = hashlib.sha256()
    for path, source in entries.items():
        kind, content = describe(path, source)
        digest.update(f"{path}\0{kind}\0{hashlib.sha256(content).hexdigest()}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def timestamp(content):
    """A date between 2000 and 2020 that follows the content: web servers make ETag and Last-Modified of it, so it must change with the content."""
    return 946684800 + int(hashlib.sha256(content).hexdigest()[:8], 16) % 631152000


def member(path, kind, content):
    info = tarfile.TarInfo(path)
    info.mtime = timestamp(content)
    info.mode = 0o755 if kind == "program" else 0o644
    if kind == "link":
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, content.decode("utf-8", "surrogateescape"), 0o777
    else:
        info.size = len(content)
    return info


def pack(entries, release, marker, stream):
    """Write the release as a gzip-compressed tar archive; the marker comes last, so a release that has it was unpacked completely."""
    with gzip.GzipFile(fileobj=stream, mode="wb", filename="", mtime=0) as compressed, \
            tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        folders = {""} | {parent.as_posix() for path in entries for parent in pathlib.PurePosixPath(path).parents if parent.as_posix() != "."}
        for folder in sorted(folders):
            info = tarfile.TarInfo(os.path.join(release, folder).rstrip("/"))
            info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, timestamp(b"")
            archive.addfile(info)
        for path, source in entries.items():
            kind, content = describe(path, source)
            add(archive, f"{release}/{path}", kind, content)
            if kind != "link" and path.startswith("static/") and pathlib.PurePath(path).suffix in COMPRESS and path + ".gz" not in entries:
                small = gzip.compress(content, 9, mtime=0)
                if len(small) < len(content):
                    add(archive, f"{release}/{path}.gz", "file", small, stamp=timestamp(content))
        add(archive, f"{release}/.release", "file", marker)


def add(archive, name, kind, content, stamp=None):
    info = member(name, kind, content)
    info.mtime = stamp or info.mtime
    archive.addfile(info, io.BytesIO(content) if kind != "link" else None)


def check(data, checksum):
    """Compare with `sha256:<hex>`."""
    name, separator, expected = str(checksum).partition(":")
    if not separator or name not in hashlib.algorithms_guaranteed or name.startswith("shake"):
        raise BuildError(f"app_source.checksum is {checksum!r}: write it as sha256:<hex digits>")
    actual = hashlib.new(name, data).hexdigest()
    if actual != expected.strip().lower():
        raise BuildError(f"the archive's checksum is {name}:{actual}, app_source.checksum says {checksum}")


def unpack(data, target):
    """Unpack a tar (any compression) or zip archive, without following what it says about owners, devices or other directories."""
    if zipfile.is_zipfile(io.BytesIO(data)):
        archive = zipfile.ZipFile(io.BytesIO(data))
        for info in archive.infolist():
            mode = info.external_attr >> 16
            if stat.S_ISLNK(mode):
                place(target, info.filename, link=archive.read(info).decode())
            elif not info.is_dir():
                place(target, info.filename, archive.read(info), mode & 0o100)
    else:
        try:
            archive = tarfile.open(fileobj=io.BytesIO(data))
        except tarfile.TarError:
            raise BuildError("the archive is neither a tar nor a zip file") from None
        for info in archive:
            if info.issym():
                place(target, info.name, link=info.linkname)
            elif info.isreg() or info.islnk():
                place(target, info.name, archive.extractfile(info).read(), info.mode & 0o100)
            elif not info.isdir():
                raise BuildError(f"{info.name} in the archive is neither a file, a directory nor a link")


def place(target, name, content=None, executable=False, link=None):
    path = os.path.normpath(name)
    # A link that was unpacked earlier must not lead later files out of the directory either.
    if os.path.isabs(path) or path.startswith("..") or not os.path.realpath(os.path.join(target, os.path.dirname(path))).startswith(target):
        raise BuildError(f"{name} in the archive leads out of it")
    path = os.path.join(target, path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.lexists(path):
        os.unlink(path)
    if link is not None:
        os.symlink(link, path)
        return
    with open(path, "wb") as stream:
        stream.write(content)
    os.chmod(path, 0o755 if executable else 0o644)


def single_folder(root):
    """Archives often hold one directory that holds the site."""
    names = os.listdir(root)
    if len(names) == 1 and os.path.isdir(os.path.join(root, names[0])) and not os.path.islink(os.path.join(root, names[0])):
        return os.path.join(root, names[0])
    return root


def git(*arguments, **options):
    environment = dict(os.environ, GIT_TERMINAL_PROMPT="0", GIT_SSH_COMMAND=os.environ.get("GIT_SSH_COMMAND", "ssh -o BatchMode=yes"))
    return subprocess.run(["git", *arguments], check=True, capture_output=True, env=environment, **options).stdout


def git_archive(url, revision, work):
    """The tree of a branch, a tag or a commit as a tar file."""
    repository = os.path.join(work, "repository")
    try:
        git("init", "--quiet", "--bare", repository)
        try:
            # Servers give branches and tags this way, many give commits too: no history is fetched.
            git("-C", repository, "fetch", "--quiet", "--depth", "1", "--", url, revision)
            commit = "FETCH_HEAD"
        except subprocess.CalledProcessError:
            git("-C", repository, "fetch", "--quiet", "--", url, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
            commit = git("-C", repository, "rev-parse", "--verify", "--end-of-options", revision + "^{commit}", text=True).strip()
        return git("-C", repository, "archive", "--format=tar", commit)
    except FileNotFoundError:
        raise BuildError("app_source.type is git, but there is no git on the controller") from None
    except subprocess.CalledProcessError as problem:
        message = problem.stderr if isinstance(problem.stderr, str) else problem.stderr.decode(errors="replace")
        raise BuildError(f"git has no revision {revision!r} for us at app_source.url: {message.strip()}") from None


def fetch(source, work):
    """The directory that holds the site."""
    kind = source.get("type")
    known = {"directory": {"path"}, "archive": {"path", "url", "checksum"}, "git": {"url", "revision"}}
    if kind not in known:
        raise BuildError(f"app_source.type is {kind!r}: write directory, archive or git")
    unknown = set(source) - known[kind] - {"type", "exclude"}
    if unknown:
        takes = ", ".join(sorted(known[kind] | {"exclude"}))
        raise BuildError(f"app_source has {', '.join(sorted(unknown))}, which mean nothing to type {kind}: it takes {takes}")

    path = os.path.abspath(os.path.expanduser(str(source.get("path") or "")))
    if kind == "directory":
        if not source.get("path") or not os.path.isdir(path):
            raise BuildError(f"app_source.path {source.get('path')!r} is not a directory on the controller")
        return path
    if kind == "archive":
        if bool(source.get("path")) == bool(source.get("url")):
            raise BuildError("app_source of type archive takes either path or url")
        if source.get("path"):
            if not os.path.isfile(path):
                raise BuildError(f"app_source.path {source['path']!r} is not a file on the controller")
            data = pathlib.Path(path).read_bytes()
        elif not str(source["url"]).startswith(("https://", "http://")):
            raise BuildError("app_source.url of an archive starts with https:// or http://; for a file on the controller write path")
        elif not source.get("checksum"):
            raise BuildError("app_source.url of an archive needs app_source.checksum (sha256:<hex digits>)")
        else:
            try:
                with urllib.request.urlopen(source["url"], timeout=60) as answer:
                    data = answer.read()
            except OSError as problem:
                raise BuildError(f"app_source.url cannot be fetched: {problem}") from None
        if source.get("checksum"):
            check(data, source["checksum"])
    else:
        revision = str(source.get("revision") or "")
        if not source.get("url") or not revision or revision.startswith("-"):
            raise BuildError("app_source of type git takes url and revision (a branch, a tag or a commit)")
        data = git_archive(str(source["url"]), revision, work)

    tree = os.path.join(os.path.realpath(work), "tree")
    os.makedirs(tree)
    unpack(data, tree)
    return single_folder(tree) if kind == "archive" else tree


def keep(artifact, build_dir):
    """Leave the artifacts used last; touch nothing that this program did not make."""
    os.utime(artifact)
    artifacts = sorted(pathlib.Path(build_dir).glob("app-*.tar.gz"), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in artifacts[KEEP_ARTIFACTS:]:
        old.unlink(missing_ok=True)


def build(request):
    version, build_dir, entry_point = (request.pop(name, "") for name in ("version", "build_dir", "entry_point"))
    exclude = request.get("exclude") or []
    work = tempfile.mkdtemp(prefix="app-build-")
    try:
        entries = scan(fetch(request, work), exclude)
        if not entries:
            raise BuildError("app_source holds no files")
        if entry_point and entry_point not in entries:
            raise BuildError(f"app_source has no file {entry_point} (app_entry_point), which app_command runs")
        content = content_id(entries)
        release = version or content[:12]
        marker = f"APP_VERSION={release}\nAPP_CONTENT={content}\n".encode()
        result = {"id": release, "marker": hashlib.sha1(marker).hexdigest(), "requirements": "requirements.txt" in entries, "artifact": "", "checksum": "",
                  "size": sum(os.lstat(source).st_size for source in entries.values())}
        if build_dir:
            build_dir = os.path.expanduser(build_dir)
            os.makedirs(build_dir, mode=0o700, exist_ok=True)
            artifact = os.path.join(build_dir, f"app-{release}-{content[:12]}.tar.gz")
            if not os.path.exists(artifact):
                with tempfile.NamedTemporaryFile(dir=build_dir, delete=False) as stream:
                    pack(entries, release, marker, stream)
                os.replace(stream.name, artifact)
            keep(artifact, build_dir)
            result.update(artifact=artifact, checksum="sha256:" + hashlib.sha256(pathlib.Path(artifact).read_bytes()).hexdigest())
        return result
    except BuildError as problem:
        return {"error": str(problem)}
    except Exception as problem:  # pylint: disable=broad-exception-caught  # the task's own output is hidden: say it here
        return {"error": f"app_source cannot be built: {type(problem).__name__}: {problem}"}
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    json.dump(build(json.load(sys.stdin)), sys.stdout)
