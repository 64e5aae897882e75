"""Schemas by id from a real registry, and what is said when it cannot be asked."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import ssl
import subprocess
import threading
import uuid
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import urlopen

import numpy as np
import pytest
from support.payments_formats import AVRO_V1, AVRO_V2, PROTO, avro, framed

from streamsvc.columns import strings
from streamsvc.definitions.plan import Source
from streamsvc.errors import ConfigurationError, UnavailableError
from streamsvc.events.decode import Decoder
from streamsvc.events.framing import WriterSchema
from streamsvc.events.schema import parse_avro_schema
from streamsvc.settings import Settings
from streamsvc.transport.schema_registry import HttpSchemaRegistry, open_registry


def client(url: str, **settings) -> HttpSchemaRegistry:
    return HttpSchemaRegistry(
        Settings(schema_registry_url=url, **{"schema_registry_patience_s": 0, **settings})
    )


def subject() -> str:
    return f"s-{uuid.uuid4().hex}"


def source(*, framed: bool = True) -> Source:
    schema = parse_avro_schema(json.dumps(AVRO_V2), "paid_at", None, framed=framed)
    return Source("payments", "t", schema, 0, 0, None, None)


def test_schemas_are_found_by_their_id(registry):
    asked = client(registry.url + "/")
    one = registry.register(subject(), json.dumps(AVRO_V1))
    found = asked.schema(one)
    assert found.kind == "AVRO"
    assert json.loads(found.text) == AVRO_V1
    two = registry.register(subject(), PROTO, "PROTOBUF")
    assert asked.schema(two) == WriterSchema("PROTOBUF", PROTO)
    assert asked.schema(2**31 - 1) is None
    assert asked.schema(2**32 - 1) is None


def test_references_come_before_what_uses_them(registry):
    def record(name: str, kind: str) -> str:
        return json.dumps({"type": "record", "name": name, "fields": [{"name": "x", "type": kind}]})

    names = [subject() for _ in range(3)]
    registry.register(names[0], record("Inner", "long"))
    registry.register(names[1], record("Middle", "Inner"), references=[("Inner", names[0], 1)])
    outer = registry.register(
        names[2],
        record("Outer", "Middle"),
        references=[("Middle", names[1], 1)],
    )
    found = client(registry.url).schema(outer)
    assert [json.loads(text)["name"] for text in found.references] == ["Inner", "Middle"]


def test_an_unknown_id_is_asked_for_again_after_a_while(registry):
    now = [0.0]
    settings = Settings(schema_registry_url=registry.url)
    asked = HttpSchemaRegistry(settings, clock=lambda: now[0])
    coming = (
        registry.register(subject(), json.dumps({**AVRO_V1, "name": f"N{uuid.uuid4().hex}"})) + 1
    )
    assert asked.schema(coming) is None
    assert registry.register(subject(), json.dumps({**AVRO_V1, "name": "Late"})) == coming
    assert asked.schema(coming) is None
    now[0] = 31
    assert asked.schema(coming) is not None


def test_records_of_two_schemas_in_one_chunk(registry):
    ids = [registry.register(subject(), json.dumps(s)) for s in (AVRO_V1, AVRO_V2)]
    event = {
        "payment_id": "p1",
        "card_id": "c1",
        "shop_id": 2,
        "amount": 1.5,
        "items": 3,
        "paid_at": 1_700_000_000_000,
    }
    rows = [
        framed(ids[0], avro(AVRO_V1, event)),
        framed(ids[1], avro(AVRO_V2, event)),
        framed(2**31 - 1, b""),
    ]
    registry_ = open_registry(Settings(schema_registry_url=registry.url), [source()])
    found = Decoder(source(), max_record_bytes=1000, registry=registry_).decode(
        strings(rows), np.full(3, -1)
    )
    assert found.ok.tolist() == [True, True, False]
    assert [r.reason for r in found.rejects] == ["unknown_schema"]
    assert found.columns["amount"].to_pylist() == [1.5, 1.5, None]


def test_a_registry_that_is_needed_has_to_be_set():
    assert open_registry(Settings(), [source(framed=False)]) is None
    with pytest.raises(ConfigurationError, match=r"payments carry ids .* set schema_registry_url"):
        open_registry(Settings(), [source()])


def test_a_registry_that_does_not_answer(registry):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(UnavailableError, match=r"does not answer .* set schema_registry_url"):
        client(f"http://127.0.0.1:{port}").schema(1)
    # Another server's 404 is not a schema that does not exist.
    with pytest.raises(UnavailableError, match="answers HTTP 404"):
        client(f"http://{registry.address}/elsewhere").schema(1)


def test_an_answer_that_is_no_http():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"SSH-2.0-nothing\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(UnavailableError, match="does not answer"):
            client(f"http://127.0.0.1:{server.getsockname()[1]}").schema(1)
        thread.join()


BAD_REFERENCES = [7, [7], [{}], [{"subject": "s"}], [{"subject": "s", "version": "x"}], {"a": 1}]


@pytest.mark.parametrize("references", BAD_REFERENCES)
def test_references_that_are_none(references):
    """What a proxy or a broken registry may say is no reason to end otherwise than with words."""
    answers = {"/schemas/ids/1": {"schema": "{}", "references": references}}
    told = pytest.raises(UnavailableError, match="answers something that is no schema")
    with canned(answers) as url, told:
        client(url).schema(1)


def test_references_in_a_circle():
    """No registry takes them, but one may have been filled by hand."""

    def using(*subjects: str) -> dict[str, object]:
        references = [{"name": s, "subject": s, "version": 1} for s in subjects]
        return {"schema": f"of {subjects}", "references": references}

    answers = {
        "/schemas/ids/1": using("a", "b"),
        "/subjects/a/versions/1": using("b"),
        "/subjects/b/versions/1": using("a"),
    }
    with canned(answers) as url:
        found = client(url).schema(1)
    assert found.references == ("of ('a',)", "of ('b',)")


def test_a_kind_that_is_null_is_avro():
    with canned({"/schemas/ids/1": {"schema": "{}", "schemaType": None}}) as url:
        assert client(url).schema(1) == WriterSchema("AVRO", "{}")


def test_an_error_that_breaks_off_is_an_absent_registry():
    """The connection ends within the answer, as when a registry is stopped."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(10_000)
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 90\r\n\r\n{")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(UnavailableError, match="answers HTTP 404"):
            client(f"http://127.0.0.1:{server.getsockname()[1]}").schema(1)
        thread.join()


def test_an_answer_of_brackets():
    told = pytest.raises(UnavailableError, match="does not answer")
    with canned({"/schemas/ids/1": b"[" * 100_000}) as url, told:
        client(url).schema(1)


@contextmanager
def canned(answers: dict[str, object]):
    """A server that knows these paths."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers[self.path]
            body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_it_is_waited_for(registry):
    """The first answers are errors; then the registry's own come."""
    one = registry.register(subject(), json.dumps(AVRO_V1))
    with front(registry, failures=3) as (server, url):
        assert client(url, schema_registry_patience_s=60).schema(one) is not None
    assert server.asked == 4


def test_credentials(registry):
    one = registry.register(subject(), json.dumps(AVRO_V1))
    given = {"schema_registry_username": "us", "schema_registry_password": "pass"}
    with front(registry, credentials="us:pass") as (_, url):
        assert client(url, **given).schema(one) is not None
        with pytest.raises(ConfigurationError, match="look at schema_registry_username"):
            client(url).schema(one)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate")
def test_tls(registry, tmp_path):
    one = registry.register(subject(), json.dumps(AVRO_V1))
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )  # fmt: skip
    with front(registry, tls=(cert, key)) as (_, url):
        assert client(url, schema_registry_ssl_ca=cert).schema(one) is not None
        with pytest.raises(ConfigurationError, match=r"is not trusted .* schema_registry_ssl_ca"):
            client(url).schema(one)
        with pytest.raises(ConfigurationError, match="is not trusted"):
            client(url.replace("localhost", "127.0.0.1"), schema_registry_ssl_ca=cert).schema(one)
    with pytest.raises(ConfigurationError, match="look at schema_registry_ssl_ca"):
        client(url, schema_registry_ssl_ca=tmp_path / "none.pem")


@contextmanager
def front(registry, *, failures: int = 0, credentials: str = "", tls=None):
    """A server before the registry: it fails at first, wants credentials, or speaks TLS."""
    wanted = f"Basic {base64.b64encode(credentials.encode()).decode()}" if credentials else None

    class Front(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.server.asked += 1
            code, body = 200, b""
            if wanted is not None and self.headers["Authorization"] != wanted:
                code = 401
            elif self.server.asked <= failures:
                code = 503
            else:
                with urlopen(f"http://{registry.address}{self.path}", timeout=30) as answer:
                    body = answer.read()
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Front)
    server.asked = 0
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        scheme = "http" if tls is None else "https"
        yield server, f"{scheme}://localhost:{server.server_address[1]}/apis/ccompat/v7"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
