"""A real RabbitMQ and a real Redis on this machine, for development and for tests.

As a command: ``python -m tests.services start | stop | status | run -- COMMAND``. As a library, in an asyncio test::

    async with RabbitMQ("4.3") as broker, RedisServer() as redis:
        connection = await aio_pika.connect(broker.amqp_url)
        await broker.kill9()
        boot = await broker.restart()  # same ports, same data

Entering raises `ServiceUnavailable` where this machine can run none (`skip_or_fail` turns that into a skip on a laptop
and a failure in CI) and `ServiceFailed` where a server should have come up and did not.
"""

from tests.services.errors import ServiceFailed, ServiceUnavailable, skip_or_fail
from tests.services.rabbitmq import RabbitMQ
from tests.services.redis_server import RedisServer
from tests.services.server import Boot

__all__ = ["Boot", "RabbitMQ", "RedisServer", "ServiceFailed", "ServiceUnavailable", "skip_or_fail"]
