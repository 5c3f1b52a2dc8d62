"""A stand-in for the Hugging Face Hub on this machine: what huggingface_hub 0.34 to 2.x asks of it, and its faults.

Repositories live in memory. Files of at least `LARGE` bytes are answered with a redirect to a "CDN" path, as those in
Git LFS are. Uploads go through preupload, the LFS batch and a commit of newline-delimited JSON.
"""

import base64
import contextlib
import dataclasses
import hashlib
import json
import re
import threading
import urllib.parse
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LARGE = 4096
"""Files from this many bytes on are kept in LFS."""

READ_TOKEN, WRITE_TOKEN = "hf_read", "hf_write"

# What both upload routes and the client's cache call a repository of models.
REPO = r"(?P<repo>[\w.-]+(?:/[\w.-]+)?)"


@dataclasses.dataclass
class Repository:
    """A repository: per revision name a commit, per commit its files.

    Attributes:
        commits: hash -> files.
        branches: name -> hash.
        private: answers with "not found" without a token.
        gated: answers with "gated" without a token.
    """

    commits: dict[str, dict[str, bytes]] = dataclasses.field(default_factory=dict)
    branches: dict[str, str] = dataclasses.field(default_factory=dict)
    private: bool = False
    gated: bool = False

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Adds files to a branch, a new one of which starts at the main one."""
        files = self.commits.get(self.branches.get(branch) or self.branches.get("main", ""), {}) | files
        digest = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[digest] = files
        self.branches[branch] = digest
        return digest

    def find(self, revision: str) -> str | None:
        """The commit of a branch or a hash."""
        return self.branches.get(revision) or (revision if revision in self.commits else None)


@dataclasses.dataclass
class Faults:
    """What goes wrong, each for as many requests as the number says.

    Attributes:
        status: answers every request with this status.
        drop_after: cuts the connection after so many bytes of a large file.
        drops: how often it does.
        missing_bytes: large files end so many bytes early, though the headers promise them.
        false_size: the metadata promise so many bytes more than large files have.
        delay: seconds before every answer.
    """

    status: int | None = None
    drop_after: int | None = None
    drops: int = 0
    missing_bytes: int = 0
    false_size: int = 0
    delay: float = 0.0


class HubServer(ThreadingHTTPServer):
    """The stand-in; `endpoint` is what HF_ENDPOINT is to be."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.lfs: dict[str, bytes] = {}
        self.faults = Faults()
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.commit_messages: list[str] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def cdn(self) -> str:
        """Another host, so that clients do not follow where they only ask the Hub for metadata."""
        return f"http://localhost:{self.server_address[1]}"

    def add(self, repo_id: str, files: dict[str, bytes], **settings: Any) -> Repository:
        """A new repository with one commit."""
        repository = self.repositories[repo_id] = Repository(**settings)
        repository.commit(files)
        return repository

    def tokens(self) -> list[str | None]:
        """The tokens that came with the requests so far."""
        return [headers.get("authorization") for _, _, headers in self.requests]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients hang up when they have seen enough; that is no news."""


@contextlib.contextmanager
def hub_server() -> Generator[HubServer]:
    """A running server."""
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def answer(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = b"".join(iter(self._chunk, b""))
        path = urllib.parse.unquote(self.path.partition("?")[0])
        self.server.requests.append((self.command, path, {k.lower(): v for k, v in self.headers.items()}))
        faults = self.server.faults
        threading.Event().wait(faults.delay)  # not time.sleep, which tests may switch off
        if faults.status is not None:
            return self.reply(faults.status, {"error": "out of order"})
        for command, pattern, method in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in command.split():
                return method(self, **match.groupdict())
        return self.reply(404, {"error": f"no such route: {self.command} {path}"})

    def _chunk(self) -> bytes:
        size = int(self.rfile.readline(), 16)
        data = self.rfile.read(size)
        self.rfile.readline()
        return data

    def reply(self, status: int, body: Any = None, **headers: Any) -> None:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(data), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def fail(self, status: int, code: str, message: str) -> None:
        self.reply(status, {"error": message}, X_Error_Code=code, X_Error_Message=message)

    def repository(self, repo: str, *, write: bool = False) -> Repository | None:
        """The repository if the request may see it; otherwise the answer is given."""
        found, authorization = self.server.repositories.get(repo), self.headers.get("Authorization")
        token = (authorization or "").removeprefix("Bearer ")
        if write and token != WRITE_TOKEN:
            self.fail(401 if not token else 403, "", "You need a token with the right to write.")
        elif found is None or (found.private and token not in (READ_TOKEN, WRITE_TOKEN)):
            # The Hub does not tell strangers whether a private repository exists.
            self.fail(404 if token else 401, "RepoNotFound", "Repository not found")
        elif found.gated and token not in (READ_TOKEN, WRITE_TOKEN):
            self.fail(403 if token else 401, "GatedRepo", f"Access to model {repo} is restricted.")
        else:
            return found
        return None

    def resolve(self, repo: str, revision: str, file: str) -> None:
        """HEAD or GET of a file."""
        repository = self.repository(repo)
        if repository is None:
            return
        commit = repository.find(revision)
        if commit is None:
            return self.fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        data = repository.commits[commit].get(file)
        if data is None:
            return self.reply(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        etag = hashlib.sha256(data).hexdigest()
        if len(data) < LARGE:
            return self.send_file(data, ETag=f'"{etag}"', X_Repo_Commit=commit)
        self.server.lfs[etag] = data
        size = len(data) + self.server.faults.false_size
        return self.reply(
            302,
            Location=f"{self.server.cdn}/cdn/{etag}?signature=x",
            X_Repo_Commit=commit,
            X_Linked_Etag=f'"{etag}"',
            X_Linked_Size=size,
        )

    def cdn(self, oid: str) -> None:
        self.send_file(self.server.lfs[oid], ETag=f'"{oid}"')

    def send_file(self, data: bytes, **headers: Any) -> None:
        """A file, or the rest of it from where the client already is."""
        faults, total, start = self.server.faults, len(data), 0
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, stop = int(match[1]), int(match[2]) + 1 if match[2] else total
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{total}"
            data = data[start:stop]
        self.send_response(206 if match else 200)
        for name, value in {"Content-Length": len(data), "Accept-Ranges": "bytes", **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command == "HEAD":
            return
        if total >= LARGE and faults.drop_after is not None and faults.drops > 0:
            faults.drops -= 1
            self.wfile.write(data[: faults.drop_after])
            self.close_connection = True
        elif total >= LARGE and faults.missing_bytes:
            self.wfile.write(data[: max(0, len(data) - faults.missing_bytes)])
            self.close_connection = True
        else:
            self.wfile.write(data)

    def info(self, repo: str, revision: str | None = None) -> None:
        repository = self.repository(repo)
        if repository is None:
            return
        commit = repository.find(revision or "main")
        if commit is None:
            return self.fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        siblings = [{"rfilename": name} for name in repository.commits[commit]]
        self.reply(200, {"id": repo, "sha": commit, "private": repository.private, "tags": [], "siblings": siblings})

    def tree(self, repo: str, revision: str) -> None:
        repository = self.repository(repo)
        if repository is None:
            return
        commit = repository.find(revision)
        if commit is None:
            return self.fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        self.reply(
            200,
            [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in repository.commits[commit].items()
            ],
        )

    def whoami(self) -> None:
        self.reply(200, {"type": "user", "name": "someone", "fullname": "Someone", "orgs": []})

    def validate(self) -> None:
        self.reply(200, {"errors": [], "warnings": []})

    def create(self) -> None:
        asked = json.loads(self.body)
        repo = f"{asked.get('organization') or 'someone'}/{asked['name']}"
        if self.headers.get("Authorization") != f"Bearer {WRITE_TOKEN}":
            return self.fail(403, "", "You need a token with the right to write.")
        answer = {"url": f"{self.server.endpoint}/{repo}", "name": repo, "id": repo}
        if repo in self.server.repositories:
            return self.reply(409, answer | {"error": "You already created this model repo"})
        # An empty repository has a first commit, as on the Hub.
        self.server.add(
            repo, {".gitattributes": b""}, private=bool(asked.get("private")) or asked.get("visibility") == "private"
        )
        self.reply(200, answer)

    def branch(self, repo: str, revision: str) -> None:
        repository = self.repository(repo, write=True)
        if repository is None:
            return
        if revision in repository.branches:
            return self.reply(409, {"error": "Reference already exists"})
        repository.branches[revision] = repository.branches["main"]
        self.reply(200, {})

    def preupload(self, repo: str, revision: str) -> None:
        repository = self.repository(repo, write=True)
        if repository is None:
            return
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["size"] >= LARGE else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for file in json.loads(self.body)["files"]
        ]
        self.reply(200, {"files": files, "commitOid": repository.find(revision)})

    def batch(self, repo: str) -> None:
        """Git LFS: where to put each object that is not there yet."""
        if self.repository(repo, write=True) is None:
            return
        objects = []
        for asked in json.loads(self.body)["objects"]:
            actions = {
                "upload": {"href": f"{self.server.endpoint}/lfs/{asked['oid']}", "header": {}},
                "verify": {"href": f"{self.server.endpoint}/lfs/{asked['oid']}/verify", "header": {}},
            }
            known = asked["oid"] in self.server.lfs
            objects.append({"oid": asked["oid"], "size": asked["size"]} | ({} if known else {"actions": actions}))
        self.reply(200, {"transfer": "basic", "objects": objects})

    def store(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.reply(400, {"error": "the content is not what its name says"})
        self.server.lfs[oid] = self.body
        self.reply(200)

    def verify(self, oid: str) -> None:
        asked = json.loads(self.body)
        right = asked["oid"] == oid and asked["size"] == len(self.server.lfs.get(oid, b""))
        self.reply(200 if right else 404)

    def commit(self, repo: str, revision: str) -> None:
        repository = self.repository(repo, write=True)
        if repository is None:
            return
        if repository.find(revision) is None:
            return self.fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files: dict[str, bytes] = {}
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.server.commit_messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.lfs[value["oid"]]
        digest = repository.commit(files, revision)
        self.reply(
            200,
            {"success": True, "commitOid": digest, "commitUrl": f"{self.server.endpoint}/{repo}/commit/{digest}"},
        )


_ROUTES = [
    ("GET HEAD", r"/cdn/(?P<oid>\w+)", _Handler.cdn),
    ("GET", r"/api/whoami-v2", _Handler.whoami),
    ("POST", r"/api/validate-yaml", _Handler.validate),
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", rf"/api/models/{REPO}/branch/(?P<revision>[\w.-]+)", _Handler.branch),
    ("POST", rf"/api/models/{REPO}/preupload/(?P<revision>[\w.-]+)", _Handler.preupload),
    ("POST", rf"/api/models/{REPO}/commit/(?P<revision>[\w.-]+)", _Handler.commit),
    ("GET", rf"/api/models/{REPO}/tree/(?P<revision>[\w.-]+)", _Handler.tree),
    ("GET", rf"/api/models/{REPO}/revision/(?P<revision>[\w.-]+)", _Handler.info),
    ("GET", rf"/api/models/{REPO}", _Handler.info),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", r"/lfs/(?P<oid>\w+)", _Handler.store),
    ("POST", r"/lfs/(?P<oid>\w+)/verify", _Handler.verify),
    ("GET HEAD", rf"/{REPO}/resolve/(?P<revision>[\w.-]+)/(?P<file>.+)", _Handler.resolve),
]
