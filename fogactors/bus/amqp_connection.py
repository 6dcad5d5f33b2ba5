"""One plain connection to RabbitMQ, and the translation of everything that the client library raises.

Plain on purpose: `connect_robust` has a restore loop of its own (fixed pause, one host, one failing redeclare
fails all), and ours restarts what stands on the connection as well. We stand on aiormq, the engine below aio-pika:
the layer above it adds nothing that the bus needs and costs a third of the time per message.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
from aiormq import exceptions as amqp
from aiormq.channel import Channel
from aiormq.connection import Connection, TCPTransportFactory, TLSTransportFactory, TransportFactory
from yarl import URL

from fogactors.errors import (
    AccessRefused,
    BusError,
    BusUnavailable,
    QueueFull,
    QueueMissing,
    TopologyMismatch,
    Unroutable,
)

__all__ = ["Connection", "connect", "disconnect", "is_blocked", "on_closed", "open_channel", "translated"]

TCP_USER_TIMEOUT_MS = 5000
"""A host that vanishes without a word is noticed as soon as something unacknowledged is this old."""


class _Transport(TransportFactory):
    """The library's transport with our socket options."""

    def __init__(self, inner: TransportFactory) -> None:
        self._inner = inner

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await self._inner.create(url, **kwargs)
        sock = writer.get_extra_info("socket")
        option = getattr(socket, "TCP_USER_TIMEOUT", None)  # Linux only
        if sock is not None and option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, TCP_USER_TIMEOUT_MS)
        return reader, writer


async def connect(url: str, name: str, timeout: float) -> Connection:
    """Raises `BusUnavailable`, or `AccessRefused` when it is no use to try again."""
    inner = TLSTransportFactory() if url.startswith("amqps:") else TCPTransportFactory()
    connection = Connection(url, transport_factory=_Transport(inner))
    where = f"{connection.url.host}:{connection.url.port}"
    try:
        with anyio.fail_after(timeout):
            await connection.connect({"connection_name": name})  # pyright: ignore[reportUnknownMemberType]
    except TimeoutError:
        await disconnect(connection)
        raise BusUnavailable(f"{where} did not answer within {timeout:g} s") from None
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True):
            await disconnect(connection)
        if _cancelled_by_us():
            raise
        raise BusUnavailable(f"{where} closed the connection while it was being opened") from None
    except (amqp.AMQPError, OSError, RuntimeError) as error:
        await disconnect(connection)
        raise _refusal(error, where, connection) from error
    return connection


async def open_channel(connection: Connection, *, confirms: bool) -> Channel:
    """With `confirms`, what no queue takes raises; without that flag the library hands it back as if it were a
    success."""
    return cast("Channel", await connection.channel(publisher_confirms=confirms, on_return_raises=True))


async def disconnect(connection: Connection) -> None:
    """Bounded, and never fails: what is left to say to a dead broker is not worth an error."""
    with anyio.move_on_after(2.0):
        try:
            await connection.close(None)
        except (amqp.AMQPError, OSError, RuntimeError):
            return


def is_blocked(connection: Connection) -> bool:
    """Whether the broker has told this connection not to publish (a memory or disk alarm). The library keeps this
    to itself and its log; a test holds this private name against its next version."""
    unblocked: asyncio.Event = getattr(connection, "_Connection__connection_unblocked")  # noqa: B009 - mangled
    return connection.connected.is_set() and not unblocked.is_set()


def on_closed(what: Connection | Channel, call: Callable[[str], None]) -> None:
    """Call once with the reason when a connection or channel is closed, by whom ever."""

    def closed(future: asyncio.Future[Any]) -> None:
        error = None if future.cancelled() else future.exception()
        call(_text(error) if error is not None else "closed")

    what.closing.add_done_callback(closed)  # pyright: ignore[reportUnknownMemberType]


@asynccontextmanager
async def translated(what: str, unsent: Any = None) -> AsyncGenerator[None]:
    """Turn whatever comes out of the library into one of our errors. `what`: the operation and its object."""
    try:
        yield
    except BusError:
        raise
    except asyncio.CancelledError:
        if _cancelled_by_us():
            raise
        # The library fails pending calls of a connection that closes with a CancelledError, which would end a task
        # group as if it had been asked to.
        raise BusUnavailable(f"{what}: the connection was lost", unsent=unsent) from None
    except amqp.PublishError as error:
        raise Unroutable(f"{what}: no queue takes it", unsent=unsent) from error
    except amqp.DeliveryError as error:
        raise QueueFull(f"{what}: the broker refused it; the queue is full or unavailable", unsent=unsent) from error
    except amqp.ChannelNotFoundEntity as error:
        raise QueueMissing(f"{what}: {_text(error)}; run `fogactors topology apply`", unsent=unsent) from error
    except amqp.ChannelAccessRefused as error:
        raise AccessRefused(f"{what}: {_text(error)}", unsent=unsent) from error
    except amqp.ChannelPreconditionFailed as error:
        raise TopologyMismatch(f"{what}: {_text(error)}", unsent=unsent) from error
    except (amqp.AMQPError, amqp.ChannelInvalidStateError, OSError, RuntimeError) as error:
        raise BusUnavailable(f"{what}: {_text(error)}", unsent=unsent) from error


def _cancelled_by_us() -> bool:
    """Whether somebody cancelled this very task: anyio's scopes do it so, the library does it to futures."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _refusal(error: Exception, where: str, connection: Connection) -> BusError:
    user, vhost = connection.url.user, connection.vhost
    text = _text(error)
    if isinstance(error, amqp.ProbableAuthenticationError):
        return AccessRefused(f"{where} refuses user {user!r}: wrong name or password ({text})")
    if isinstance(error, amqp.ConnectionNotAllowed) or ("Connection.Close" in text and "OpenOk" in text):
        # A missing virtual host and one that the user has no permission in look alike, and come as an unexpected frame.
        return AccessRefused(f"{where} has no virtual host {vhost!r}, or user {user!r} may not use it")
    if isinstance(error, ssl.SSLError) or isinstance(error.__cause__, ssl.SSLError):
        return AccessRefused(f"{where} does not speak TLS, or its certificate is not trusted: {text}")
    if isinstance(error, amqp.ProtocolSyntaxError | amqp.IncompatibleProtocolError):
        return AccessRefused(f"{where} does not speak AMQP 0-9-1 here ({text}); is it the right port?")
    return BusUnavailable(f"{where}: {text}")


def _text(error: BaseException) -> str:
    words = " ".join(str(arg) for arg in error.args if arg is not None) or str(error)
    return f"{type(error).__name__}: {' '.join(words.split())[:200]}" if words else type(error).__name__
