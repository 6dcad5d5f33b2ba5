"""TLS to a real broker, its management API and a real Redis: on by one switch, off by default, and no way around it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import pytest

from fogactors.coord.redis import RedisCoord
from fogactors.errors import CoordError, CoordRefused
from tests.integration.fog import Fog, Services, until
from tests.integration.tls import TlsRabbitMQ, TlsRedis, make_authority
from tests.services import ServiceUnavailable, skip_or_fail

pytestmark = [pytest.mark.services, pytest.mark.asyncio]


@dataclass(frozen=True)
class Secure:
    """`services`: URLs as of servers that are plain."""

    broker: TlsRabbitMQ
    redis: TlsRedis
    ca: Path
    foreign: Path

    @property
    def services(self) -> Services:
        login = f"fogadmin:{self.broker.password}"
        return Services(
            f"amqp://{login}@127.0.0.1:{self.broker.port}/{quote('/fog', safe='')}",
            f"http://{login}@127.0.0.1:{self.broker.management_port}",
            f"redis://:{self.redis.password}@127.0.0.1:{self.redis.port}/0",
        )

    def on(self, ca: Path | None = None) -> dict[str, Any]:
        return {"services": self.services, "TLS__ENABLED": "true", "TLS__CA_FILE": str(ca or self.ca)}


@pytest.fixture(scope="module", params=["4.3", pytest.param("4.0", marks=pytest.mark.slow)])
def secure(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    folder = tmp_path_factory.mktemp("tls")
    ca = make_authority(folder, "ours")
    made = Secure(TlsRabbitMQ(ca, request.param), TlsRedis(ca), ca, make_authority(folder, "foreign"))
    try:
        anyio.run(made.broker.start)
        anyio.run(made.redis.start)
        yield made
    except ServiceUnavailable as error:
        skip_or_fail(error)
    finally:
        anyio.run(made.broker.stop, 0)
        anyio.run(made.redis.stop, 0)


@pytest.fixture
def fog(tmp_path: Path) -> Iterator[Fog]:
    fog = Fog(Services("", ""), tmp_path)
    yield fog
    fog.clean_up()


async def test_the_main_job_goes_its_way_over_tls(fog: Fog, secure: Secure):
    on = secure.on()
    applied = await fog.run("topology", "apply", **on)
    assert applied.code == 0, applied
    assert (await fog.run("topology", "diff", **on)).code == 0
    executor = await fog.executor("light", **on)
    reaper = await fog.role("dlq-reaper", **on)
    await fog.role("heartbeat", **on, NODE__NAME="edge7")
    done = await fog.submit("add", "--args", '{"a": 40, "b": 2}', **on)
    assert (done.code, done.out.strip()) == (0, "42"), f"{done} {executor}"
    assert (await fog.submit("fails", **on)).code == 1
    roles = {each["role"] for each in json.loads((await fog.run("ping", "--json", **on)).out)}
    assert {"tier-executor-light", "dlq-reaper"} <= roles

    async def parked() -> bool:
        return "no luck" in (await fog.run("dlq", "list", "--json", **on)).out

    await until(parked, f"the dead letter, in {reaper}")
    coord = RedisCoord(secure.redis.url)
    try:

        async def beats() -> bool:
            return "edge7" in {beat.node for beat in await coord.beats()}

        await until(beats, "a heartbeat, from the thread's own connection")
    finally:
        await coord.close()
    for command in (executor, reaper):
        assert (await command.stop()).code == 0


async def test_a_plain_client_gets_nowhere(fog: Fog, secure: Secure):
    done = await fog.run("run", "dlq-reaper", services=secure.services, BUS__BOOT_WAIT_S="1")
    assert done.code == 2, done
    assert "does not speak plain AMQP" in done.said[0]
    done = await fog.run("topology", "diff", services=secure.services)
    assert done.code == 3, done
    assert "the management API" in done.said[0]
    coord = RedisCoord(secure.services.redis_url)
    try:
        with pytest.raises(CoordError):
            await coord.open()
    finally:
        await coord.close()


async def test_servers_that_another_authority_has_signed_are_refused_in_one_line(fog: Fog, secure: Secure):
    wrong = secure.on(secure.foreign)
    for words in (("run", "dlq-reaper"), ("topology", "diff")):
        done = await fog.run(*words, **wrong)
        assert done.code == 2, done
        assert len(done.said) == 1
        assert "shows a certificate that is not trusted" in done.said[0]
    coord = RedisCoord(secure.redis.url.replace(str(secure.ca), str(secure.foreign)))
    try:
        with pytest.raises(CoordRefused, match="shows a certificate that is not trusted"):
            await coord.open()
    finally:
        await coord.close()


async def test_tls_to_servers_that_are_plain_is_refused(fog: Fog, secure: Secure, shared_services: Services):
    done = await fog.run("run", "dlq-reaper", **{**secure.on(), "services": shared_services})
    assert done.code == 2, done
    assert "does not speak TLS here" in done.said[0]


async def test_the_name_in_the_certificate_counts(fog: Fog, secure: Secure):
    services = secure.services
    other_name = Services(services.amqp_url.replace("127.0.0.1", "127.1"), "", services.redis_url)
    done = await fog.run("run", "dlq-reaper", **{**secure.on(), "services": other_name})
    assert done.code == 2, done
    assert "shows a certificate that is not trusted: Hostname mismatch" in done.said[0]
