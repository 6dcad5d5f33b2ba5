"""`[tls]`: one switch, and every URL is one over TLS."""

from pathlib import Path

import pytest

from fogactors.app.settings import load
from fogactors.app.settings_tls import TlsSettings, with_tls
from fogactors.errors import ConfigError

ON = TlsSettings(enabled=True, ca_file="/run/ca.pem")
BOTH = TlsSettings(enabled=True, ca_file="/run/my ca.pem", cert_file="/run/c.pem", key_file="/run/k.pem")


@pytest.mark.parametrize(
    ("tls", "plain", "secure"),
    [
        (ON, "amqp://u:p@a:5672,b,c:5673/%2Ffog", "amqps://u:p@a:5671,b,c:5673/%2Ffog?cafile=/run/ca.pem"),
        (ON, "amqp://u::5672@a/v", "amqps://u::5672@a/v?cafile=/run/ca.pem"),
        (ON, "http://u:p@a:15672", "https://u:p@a:15671?cafile=/run/ca.pem"),
        (ON, "http://a:8080", "https://a:8080?cafile=/run/ca.pem"),
        (ON, "redis://u:p@r:6379/0", "rediss://u:p@r:6379/0?ssl_ca_certs=/run/ca.pem"),
        (ON, "redis://r", "rediss://r?ssl_ca_certs=/run/ca.pem"),
        (ON, "redis://r/0?db=1", "rediss://r/0?db=1&ssl_ca_certs=/run/ca.pem"),
        (ON, "amqps://a:5672/v?cafile=/mine.pem", "amqps://a:5672/v?cafile=/mine.pem"),
        (ON, "memory://", "memory://"),
        (ON, "", ""),
        (TlsSettings(enabled=True), "amqp://a/v", "amqps://a/v"),
        (TlsSettings(ca_file="/run/ca.pem"), "amqp://a/v", "amqp://a/v"),
        (BOTH, "amqp://a/v", "amqps://a/v?cafile=/run/my%20ca.pem&certfile=/run/c.pem&keyfile=/run/k.pem"),
    ],
)
def test_urls(tls, plain, secure):
    assert with_tls(plain, tls) == secure
    assert with_tls(secure, tls) == secure  # a child is given the URL of its parent, and the switch as well


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


REMOTE = {"FOGACTORS_BUS__URL": "amqp://a/v", "FOGACTORS_COORD__URL": "redis://r/0", "FOGACTORS_TLS__ENABLED": "true"}


@pytest.mark.usefixtures("here")
def test_the_switch_and_the_login_go_into_the_same_urls():
    Path("ca.pem").touch()
    env = {"TLS__CA_FILE": "ca.pem", "NODE__USER": "worker1", "USERS__WORKER1__PASSWORD": "a/b"}
    settings = load(None, REMOTE | {f"FOGACTORS_{key}": value for key, value in env.items()}, default_ok=True)
    assert settings.bus.url == "amqps://worker1:a%2Fb@a/v?cafile=ca.pem"
    assert settings.coord.url == "rediss://worker1:a%2Fb@r/0?ssl_ca_certs=ca.pem"


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"CA_FILE": "none.pem"}, "FOGACTORS_TLS__CA_FILE: [tls] ca_file: there is no file none.pem"),
        ({"CERT_FILE": "c.pem"}, "[tls] key_file: missing; a certificate and its key are given together"),
        ({"KEY_FILE": "c.pem"}, "[tls] cert_file: missing; a certificate and its key are given together"),
    ],
)
def test_what_is_wrong_is_one_line(env, said):
    Path("c.pem").touch()
    with pytest.raises(ConfigError) as caught:
        load(None, REMOTE | {f"FOGACTORS_TLS__{key}": value for key, value in env.items()}, default_ok=True)
    assert said in str(caught.value)
