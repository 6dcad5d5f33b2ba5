"""The private CA, by openssl itself, and a handshake with what it made."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from pathlib import Path

import pytest

from fogactors.app.swarm.certs import NAMES, make_certs
from fogactors.errors import ConfigError


def handshake(folder: Path, name: str) -> None:
    """As a strict client does. Raises `ssl.SSLError`."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server.crt", folder / "server.key")
    client = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    client.verify_flags |= ssl.VERIFY_X509_STRICT  # Python 3.13's default
    left, right = socket.socketpair()
    left.settimeout(10)
    right.settimeout(10)

    def serve() -> None:
        try:
            with server.wrap_socket(left, server_side=True) as ours:
                ours.recv(1)
        except OSError:  # the client's verdict is what counts
            left.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(right, server_hostname=name) as theirs:
            theirs.send(b"x")
    finally:
        right.close()
        thread.join(10)
    assert not thread.is_alive()


def test_a_client_that_trusts_the_ca_trusts_the_servers_under_their_names(tmp_path):
    folder = tmp_path / "certs"
    found = make_certs(folder, ["fog.example", "10.0.0.11"])
    assert found.made == ("ca.key", "ca.crt", "server.key", "server.crt")
    assert set(found.names) == {*NAMES, "fog.example", "10.0.0.11"}
    for name in found.names:
        handshake(folder, name)
    with pytest.raises(ssl.SSLCertVerificationError, match="rabbitmq4"):
        handshake(folder, "rabbitmq4")


def test_keys_are_their_owners_alone_and_nothing_else_is_left(tmp_path):
    folder = tmp_path / "certs"
    make_certs(folder)
    assert {each.name: each.stat().st_mode & 0o777 for each in folder.iterdir() if each.suffix == ".key"} == {
        "ca.key": 0o600,
        "server.key": 0o600,
    }
    assert folder.stat().st_mode & 0o777 == 0o700
    assert sorted(each.name for each in folder.iterdir()) == ["ca.crt", "ca.key", "server.crt", "server.key"]


def test_what_is_good_stays_and_a_new_name_or_renewal_keeps_the_ca(tmp_path):
    make_certs(tmp_path)
    ca, server = (tmp_path / "ca.crt").read_bytes(), (tmp_path / "server.crt").read_bytes()
    assert make_certs(tmp_path).made == ()
    assert (tmp_path / "server.crt").read_bytes() == server
    assert make_certs(tmp_path, ["10.0.0.11"]).made == ("server.key", "server.crt")
    assert make_certs(tmp_path, ["10.0.0.11"]).made == ()
    assert make_certs(tmp_path, renew=True).made == ("server.key", "server.crt")
    assert (tmp_path / "ca.crt").read_bytes() == ca
    handshake(tmp_path, "redis")


def test_one_that_is_about_to_end_is_renewed(tmp_path):
    make_certs(tmp_path, days=29)
    assert make_certs(tmp_path).made == ("server.key", "server.crt")
    assert make_certs(tmp_path).made == ()


def test_a_certificate_of_another_key_is_renewed(tmp_path):
    make_certs(tmp_path / "a")
    make_certs(tmp_path / "b")
    (tmp_path / "b" / "server.key").replace(tmp_path / "a" / "server.key")
    assert make_certs(tmp_path / "a").made == ("server.key", "server.crt")
    handshake(tmp_path / "a", "rabbitmq1")


def test_the_cas_key_is_not_needed_while_there_is_nothing_to_sign(tmp_path):
    make_certs(tmp_path)
    (tmp_path / "ca.key").rename(tmp_path / "elsewhere")
    assert make_certs(tmp_path).made == ()
    with pytest.raises(ConfigError, match=r"has ca\.crt, server\.key, server\.crt but not both ca\.key and ca\.crt"):
        make_certs(tmp_path, renew=True)
    assert not (tmp_path / "ca.key").exists()


@pytest.mark.parametrize("name", ["a b", "a,DNS:evil", "-x", "", "x\ny"])
def test_what_is_no_name_is_refused_before_anything_is_made(tmp_path, name):
    with pytest.raises(ConfigError, match="is neither a host's name nor an address"):
        make_certs(tmp_path / "certs", [name])
    assert not (tmp_path / "certs").exists()


def test_without_openssl_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="there is no program openssl"):
        make_certs(tmp_path / "certs")


def test_the_command(fog):
    code, out, err = fog("swarm", "certs", "--host", "10.0.0.11")
    assert (code, err) == (0, "")
    first, second = out.splitlines()
    assert first == "certs: ca.key, ca.crt, server.key, server.crt"
    assert second.startswith(
        "the servers' certificate is for rabbitmq1, rabbitmq2, rabbitmq3, redis, localhost, 127.0.0.1, "
    )
    code, out, _ = fog("swarm", "certs", "--json")
    assert json.loads(out)["made"] == []
