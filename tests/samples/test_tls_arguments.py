"""What the samples' command lines take for TLS: certificates for a server, trust for a client."""

from __future__ import annotations

import os
import socket
import ssl
from pathlib import Path

import attrs
import pytest
import trustme
from cryptography.hazmat.primitives import serialization  # trustme is built on it

from samples import exchange
from tests.samples.processes import PATIENCE, read_to_end


@attrs.frozen
class Files:
    """What `openssl` or a certificate authority gives people."""

    chain: str
    key: str
    both: str
    other_key: str
    encrypted_key: str
    authority: str
    junk: str


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Files:
    folder: Path = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    leaf = authority.issue_cert("localhost")
    contents = {
        "chain": b"".join(one.bytes() for one in leaf.cert_chain_pems),
        "key": leaf.private_key_pem.bytes(),
        "both": leaf.private_key_and_cert_chain_pem.bytes(),
        "other_key": authority.issue_cert("localhost").private_key_pem.bytes(),
        "encrypted_key": encrypted(leaf.private_key_pem.bytes()),
        "authority": authority.cert_pem.bytes(),
        "junk": b"-----BEGIN CERTIFICATE-----\nnot at all\n-----END CERTIFICATE-----\n",
    }
    for name, content in contents.items():
        (folder / f"{name}.pem").write_bytes(content)
    return Files(**{name: str(folder / f"{name}.pem") for name in contents})


def encrypted(key: bytes) -> bytes:
    made: bytes = serialization.load_pem_private_key(key, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    return made


def client_context(files: Files) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=files.authority)


def exchange_over_tls(files: Files, port: int, request: bytes) -> bytes:
    """A client of the standard library's, which knows nothing of this project."""
    with (
        socket.create_connection(("127.0.0.1", port), PATIENCE) as plain,
        client_context(files).wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        secure.sendall(request)
        received = b""
        while len(received) < len(request):
            received += secure.recv(65536)
        secure.unwrap()  # close_notify, and then theirs
        return received


@pytest.mark.parametrize("arguments", [("chain", "key"), ("both", None)])
def test_a_server_serves_with_the_certificate_it_was_given(run, files, arguments):
    """--tls-cert with --tls-key, or alone when both are in one file."""
    chain, key = arguments
    more = [] if key is None else ["--tls-key", getattr(files, key)]
    server = run("echo", "--port", "0", "--tls-cert", getattr(files, chain), *more)
    assert exchange_over_tls(files, server.port(), b"hello") == b"hello"
    assert server.stop() == 0


def test_workers_serve_with_one_certificate(run, files):
    """--workers and --tls-cert together."""
    server = run("echo", "--port", "0", "--workers", "2", "--tls-cert", files.both)
    for _ in range(6):
        assert exchange_over_tls(files, server.port(), b"x" * 100_000) == b"x" * 100_000
    assert server.stop() == 0
    assert server.errors == ""


def test_a_client_of_ours_half_closes_over_tls(run, files):
    """--connect with --tls: request, close_notify and FIN; the whole reply comes after it."""
    server = run("exchange", "--port", "0", "--tls-cert", files.chain, "--tls-key", files.key)
    client = run("exchange", "--connect", f"localhost:{server.port()}", "--tls", "--tls-ca", files.authority, "one two")
    assert client.ended() == 0, client.errors
    assert client.output.endswith(b"ONE TWO")
    assert server.stop() == 0
    assert server.errors == ""


@pytest.mark.parametrize(
    ("host", "trusted"), [("localhost", False), ("127.0.0.1", True)], ids=["not trusted", "another name"]
)
def test_a_client_checks_the_certificate_always(run, files, host, trusted):
    """A stranger's certificate, or another name's, is refused with OpenSSL's reason; nothing was sent."""
    server = run("exchange", "--port", "0", "--tls-cert", files.both)
    trust = ["--tls-ca", files.authority] if trusted else []
    client = run("exchange", "--connect", f"{host}:{server.port()}", "--tls", *trust, "secret")
    assert client.ended() == 1
    assert client.output == b""
    assert "CERTIFICATE_VERIFY_FAILED" in client.errors
    assert client.errors.count("\n") == 1
    assert server.stop() == 0


def test_a_client_without_tls_is_not_served_by_a_server_with_it(run, files):
    """Plain bytes meet no echo; the server says why, and serves on."""
    server = run("echo", "--port", "0", "--tls-cert", files.both)
    with server.connect() as client:
        client.sendall(b"hello, is this plain?\n")
        try:
            answer = read_to_end(client)
        except ConnectionResetError:
            answer = b""
        assert b"hello" not in answer
    assert exchange_over_tls(files, server.port(), b"hello") == b"hello"
    assert server.stop() == 0
    assert "handshake" in server.errors


SERVERS_MISTAKES = {
    "a file that is not there": (
        ["--tls-cert", "/nonexistent/chain.pem"],
        "--tls-cert /nonexistent/chain.pem: No such",
    ),
    "a key that is not there": (["--tls-cert", "{chain}", "--tls-key", "/nonexistent/key.pem"], "--tls-key /nonexist"),
    "a directory": (["--tls-cert", "/"], "--tls-cert /: Is a directory"),
    "a chain without a key": (["--tls-cert", "{chain}"], "not a certificate chain and its private key in PEM"),
    "the key of another": (["--tls-cert", "{chain}", "--tls-key", "{other_key}"], "key values mismatch"),
    "an encrypted key": (["--tls-cert", "{chain}", "--tls-key", "{encrypted_key}"], "the private key is encrypted"),
    "junk": (["--tls-cert", "{junk}"], "not a certificate chain and its private key in PEM"),
    "a key alone": (["--tls-key", "{key}"], "--tls-key needs --tls-cert"),
    "a client's option": (["--tls"], "--tls and --tls-ca need --connect"),
    "a client's trust": (["--tls-ca", "{authority}"], "--tls and --tls-ca need --connect"),
    "a NUL in a name": (["--tls-cert", "a\0b"], "embedded null"),
}
CLIENTS_MISTAKES = {
    "trust without TLS": (["--tls-ca", "{authority}"], "--tls-ca needs --tls"),
    "trust that is not there": (["--tls", "--tls-ca", "/nonexistent"], "--tls-ca /nonexistent: No such file"),
    "trust in junk": (["--tls", "--tls-ca", "{junk}"], "not certificates in PEM"),
    "a server's certificate": (["--tls-cert", "{both}"], "--connect cannot be combined with --tls-cert"),
}


def refusal(capsys, arguments: list[str]) -> str:
    """What the sample says on stderr instead of beginning."""
    with pytest.raises(SystemExit) as leaving:
        exchange.main(arguments)
    assert leaving.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("python -m samples.exchange: ")
    assert printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize(("arguments", "message"), SERVERS_MISTAKES.values(), ids=SERVERS_MISTAKES)
def test_a_server_that_cannot_use_its_files_says_which(capsys, files, arguments, message):
    """Exit status 2 and one line that names the file, before anything is served."""
    arguments = [argument.format(**attrs.asdict(files)) for argument in arguments]
    assert message in refusal(capsys, ["--port", "0", *arguments])


@pytest.mark.parametrize(("arguments", "message"), CLIENTS_MISTAKES.values(), ids=CLIENTS_MISTAKES)
def test_a_client_that_cannot_check_refuses_to_call(capsys, files, arguments, message):
    """Exit status 2 and one line, before anybody is called."""
    arguments = [argument.format(**attrs.asdict(files)) for argument in arguments]
    assert message in refusal(capsys, ["--connect", "localhost:1", *arguments, "hello"])


def test_a_unix_socket_has_no_name_to_check(capsys):
    """--tls with unix:PATH is refused, not checked less."""
    assert "a Unix socket has no name" in refusal(capsys, ["--connect", "unix:/run/x", "--tls", "hello"])


def test_a_key_that_may_not_be_read_is_named(capsys, files, monkeypatch):
    """Permission denied says which of the two files; asked of the system, for root may read every file."""
    monkeypatch.setattr(os, "access", lambda path, mode: path != files.key)
    message = refusal(capsys, ["--port", "0", "--tls-cert", files.chain, "--tls-key", files.key])
    assert message == f"python -m samples.exchange: --tls-key {files.key}: Permission denied\n"


def test_what_a_sample_has_no_use_for_is_an_unknown_option(run):
    """A chat's members must know of each other, so it takes no workers."""
    sample = run("chat", "--port", "0", "--workers", "2")
    assert sample.ended() == 2
    assert "unrecognized arguments: --workers 2" in sample.errors
