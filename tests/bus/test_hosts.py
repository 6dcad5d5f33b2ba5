"""Where the broker is."""

from __future__ import annotations

import random

import pytest
from aiormq.connection import Connection
from yarl import URL

from fogactors.bus.hosts import Hosts, parse_hosts
from fogactors.errors import ConfigError


def test_one_host_and_what_is_left_out():
    assert parse_hosts("amqp://fog1") == Hosts("amqp", "guest", "guest", (("fog1", 5672),), "/")
    assert parse_hosts("amqps://u:p@fog1/") == Hosts("amqps", "u", "p", (("fog1", 5671),), "/")


def test_several_hosts_ports_addresses_and_quoted_parts():
    hosts = parse_hosts("amqp://u%40x:p%2F%3F@fog1:5673,fog2,[::1]:5674,[::2]/%2Ffog")
    assert hosts == Hosts("amqp", "u@x", "p/?", (("fog1", 5673), ("fog2", 5672), ("::1", 5674), ("::2", 5672)), "/fog")


@pytest.mark.parametrize("vhost", ["/", "/fog", "fog", "a b", "ü"])
@pytest.mark.parametrize("secret", ["plain", "p@s:s/w?o#r%d", "ü"])
@pytest.mark.asyncio
async def test_the_client_library_reads_from_our_url_what_we_read(vhost: str, secret: str):
    hosts = Hosts("amqp", "u@x", secret, (("fog1", 5673), ("::1", 5674)), vhost)
    assert parse_hosts(hosts.url(0)[:-1]) == Hosts("amqp", "u@x", secret, (("fog1", 5673),), vhost)
    for index, (host, port) in enumerate(hosts.hosts):
        url = URL(hosts.url(index, heartbeat=30))
        assert (url.user, url.password, url.host, url.port, url.query["heartbeat"]) == ("u@x", secret, host, port, "30")
        assert Connection(url).vhost == vhost


def test_tls_options_reach_the_library_and_others_are_refused():
    hosts = parse_hosts("amqps://u:p@fog1/v?cafile=/run/ca.pem&no_verify_ssl=1")
    assert (hosts.vhost, URL(hosts.url(0, heartbeat=5)).query["cafile"]) == ("v", "/run/ca.pem")
    with pytest.raises(ConfigError, match="'heartbeat'"):
        parse_hosts("amqp://fog1/v?heartbeat=5")


@pytest.mark.parametrize(
    "url",
    [
        "fog1:5672",
        "http://u:secret@fog1",
        "amqp://u:secret@",
        "amqp://u:secret@fog1,,fog2",
        "amqp://u:secret@fog1:port",
        "amqp://u:secret@fog1:0",
        "amqp://u:secret@fog1:70000",
        "amqp://u:secret@fog1?nonsense",
    ],
)
def test_a_wrong_url_is_refused_without_its_password(url: str):
    with pytest.raises(ConfigError) as caught:
        parse_hosts(url)
    assert "secret" not in str(caught.value)


def test_its_text_leaves_the_password_out():
    assert str(parse_hosts("amqp://u:secret@fog1,fog2/%2Ffog")) == "amqp://u@fog1:5672,fog2:5672/%2Ffog"


def test_the_last_good_host_is_first_and_the_others_are_spread():
    hosts = parse_hosts("amqp://fog1,fog2,fog3,fog4")
    orders = [tuple(hosts.order(2, random.Random(seed))) for seed in range(100)]
    assert {order[0] for order in orders} == {2}
    assert {order[1] for order in orders} == {0, 1, 3}
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    assert {hosts.order(None, random.Random(seed), lost=2)[-1] for seed in range(100)} == {2}
    assert {hosts.order(2, random.Random(seed), lost=2)[-1] for seed in range(100)} == {2}
    assert sorted(hosts.order(2, random.Random(0), lost=2)) == [0, 1, 2, 3]
    first = [hosts.order(None, random.Random(seed))[0] for seed in range(100)]
    assert all(first.count(index) > 10 for index in range(4))
