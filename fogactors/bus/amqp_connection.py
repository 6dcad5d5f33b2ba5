"""One plain connection to RabbitMQ, and the translation of everything that the client library raises.

Plain on purpose: `connect_robust` has a restore loop of its own (fixed pause, one host, one failing redeclare
fails all), and ours restarts what stands on the connection as well. We stand on aiormq, the engine below aio-pika:
the layer above it adds nothing that the bus needs and costs a third of the time per message.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast

import aiormq.connection
from aiormq import exceptions as amqp
from aiormq.channel import Channel
from aiormq.connection import FrameReceiver, TCPTransportFactory, TLSTransportFactory, TransportFactory
from pamqp import commands
from pamqp.base import Frame
from yarl import URL

from fogactors.bus.amqp_errors import Call, text_of
from fogactors.bus.amqp_writer import GatheringWriter
from fogactors.errors import AccessRefused, BusError, BusUnavailable

__all__ = ["Connection", "connect", "disconnect", "is_blocked", "is_usable", "on_closed", "on_ended", "open_channel"]

# What the library logs as an error reaches us as an exception, and is told once, by whoever decides. A program that
# configures logging still gets it.
logging.getLogger("aiormq").addHandler(logging.NullHandler())

TCP_USER_TIMEOUT_MS: Final = 4000
"""A host that vanishes without a word is noticed when something sent to it is unacknowledged for this long: so short
that publishers are on another host within 5 s, so long that a radio link may be down for a moment."""
KEEPALIVE_IDLE_S: Final = 2
KEEPALIVE_INTERVAL_S: Final = 1
"""So that something is sent to it on an idle connection too: heartbeats alone would take 15 s longer."""
DISCONNECT_S: Final = 1.0
"""For a goodbye. A link has 3 s to close."""
FIRST_FRAMES_MAX: Final = 8192
"""Bytes of a frame before its limit is negotiated (RabbitMQ's `initial_frame_max`)."""


class _Transport(TransportFactory):
    """The library's transport with our socket options, and a way to end it that does not wait for the peer."""

    def __init__(self, inner: TransportFactory) -> None:
        self._inner = inner
        self.writer: asyncio.StreamWriter | None = None

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await self._inner.create(url, **kwargs)
        self.writer = writer
        sock = writer.get_extra_info("socket")
        if sock is not None and hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux only
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_USER_TIMEOUT_MS)
        return reader, cast("asyncio.StreamWriter", GatheringWriter(writer))


class _Handshake(FrameReceiver):
    """Reads the broker's refusal. The library compares frames only, and loses the code and the text."""

    def __init__(self, inner: FrameReceiver) -> None:
        super().__init__(inner.reader)
        self._inner = inner

    async def get_frame(self) -> Any:
        received = await self._inner.get_frame()
        frame = received[2]
        if isinstance(frame, commands.Connection.Close):
            if frame.reply_code == 403:
                raise amqp.ProbableAuthenticationError(frame.reply_text)
            raise aiormq.connection.exception_by_code(frame)
        return received


class Connection(aiormq.connection.Connection):
    """The library's, which a peer that says nothing cannot hold up."""

    # Silence of two heartbeats and a bit; with the library's 3 a frozen broker would take half a minute longer. With 1
    # a loop of ours that was blocked for 30 s would give up a broker that has nothing wrong with it.
    HEARTBEAT_GRACE_MULTIPLIER = 2
    # No bound on the frames that wait for the writer: whoever waits for a place there is not told when the connection
    # goes. What bounds it is the prefetch, and for publishes `unsent_bytes`.
    FRAME_BUFFER_SIZE = 0

    def __init__(self, url: str) -> None:
        inner = TLSTransportFactory() if url.startswith("amqps:") else TCPTransportFactory()
        self._transport = _Transport(inner)
        super().__init__(url, transport_factory=self._transport)

    @property
    def reached(self) -> bool:
        """Whether somebody accepted the connection, broker or not."""
        return self._transport.writer is not None

    @property
    def unsent_bytes(self) -> int:
        """What the peer and the kernel have not taken yet."""
        writer = self._transport.writer
        return 0 if writer is None else writer.transport.get_write_buffer_size()

    @property
    def version(self) -> tuple[int, int]:
        """As the server says; `(0, 0)` where that is no version."""
        told: Any = self.server_properties.get("version", "")
        text = told.decode("ascii", "replace") if isinstance(told, bytes | bytearray) else str(told)
        found = re.match(r"(\d+)\.(\d+)", text)
        return (int(found[1]), int(found[2])) if found else (0, 0)

    def abort(self) -> None:
        """Close the socket now. What is left to send is lost."""
        if self._transport.writer is not None:
            self._transport.writer.transport.abort()

    @staticmethod
    async def _rpc(
        request: Frame, writer: asyncio.StreamWriter, frame_receiver: FrameReceiver, wait_response: bool = True
    ) -> Any:
        return await aiormq.connection.Connection._rpc(  # pyright: ignore[reportPrivateUsage]
            request, writer, _Handshake(frame_receiver), wait_response
        )


async def connect(url: str, name: str, timeout: float) -> Connection:
    """Raises `BusUnavailable`, or `AccessRefused` when it is no use to try again."""
    connection = Connection(url)
    where = f"{connection.url.host}:{connection.url.port}"
    try:
        with Call(where, timeout) as call:
            try:
                await connection.connect({"connection_name": name})  # pyright: ignore[reportUnknownMemberType]
            except (amqp.AMQPError, OSError, RuntimeError) as error:
                raise _refusal(error, where, connection) from error
            finally:
                call.late = (
                    "accepts connections, but is it a broker? It did not speak AMQP"
                    if connection.reached
                    else "did not answer"
                )
    except BaseException:
        connection.abort()
        raise
    return connection


async def open_channel(connection: Connection, *, confirms: bool) -> Channel:
    """With `confirms`, what no queue takes raises; without that flag the library hands it back as if it were a
    success."""
    # Frames that were read wait for their channel without a bound too: with the library's ten a burst costs a switch of
    # tasks for every third message.
    return cast(
        "Channel",
        await connection.channel(
            publisher_confirms=confirms, on_return_raises=True, frame_buffer_size=connection.FRAME_BUFFER_SIZE
        ),
    )


def is_usable(channel: Channel) -> bool:
    """Whether one may write on it. The library calls a channel open for some turns after it has agreed to close it,
    and what is written then makes the broker close the connection."""
    return not channel.is_closed and channel._close_exception is None  # pyright: ignore[reportPrivateUsage]


async def disconnect(connection: Connection) -> None:
    """Bounded, and never fails: what is left to say to a dead broker is not worth an error."""
    try:
        with suppress(BusUnavailable), Call("disconnect", DISCONNECT_S):
            # An error of its own, or what waits for an answer would be failed with a bare `Exception`.
            await connection.close(amqp.ConnectionClosed(0, "closed by this client"))
    finally:
        connection.abort()


def is_blocked(connection: Connection) -> bool:
    """Whether the broker has told this connection not to publish (a memory or disk alarm). The library keeps this
    to itself and its log; a test holds this private name against its next version."""
    unblocked: asyncio.Event = getattr(connection, "_Connection__connection_unblocked")  # noqa: B009 - mangled
    return connection.connected.is_set() and not unblocked.is_set()


def on_ended(connection: Connection, call: Callable[[str], None]) -> None:
    """Call once with the reason when nothing more can come from the broker. That is earlier than the library's
    `closing`, which waits for a goodbye to be sent, and so perhaps for a host that is gone."""

    def ended(reader: asyncio.Task[Any]) -> None:
        error = asyncio.CancelledError() if reader.cancelled() else reader.exception()
        call("closed" if error is None else text_of(error))

    connection._reader_task.add_done_callback(ended)  # pyright: ignore


def on_closed(channel: Channel, call: Callable[[str], None]) -> None:
    """Call once with the reason when a channel is closed, by whom ever."""

    def closed(future: asyncio.Future[Any]) -> None:
        error = None if future.cancelled() else future.exception()
        call("closed" if error is None else text_of(error))

    channel.closing.add_done_callback(closed)  # pyright: ignore[reportUnknownMemberType]


def _refusal(error: Exception, where: str, connection: Connection) -> BusError:
    text, cause = text_of(error), error.__cause__
    match error:
        case amqp.ProbableAuthenticationError():
            user = connection.url.user
            return AccessRefused(f"{where} refuses user {user!r}: wrong name or password ({text})")
        case amqp.ConnectionNotAllowed() if "limit" not in text:
            return AccessRefused(f"{where} has no virtual host {connection.vhost!r} for this user: {text}")
        case amqp.AuthenticationError():
            return AccessRefused(f"{where} offers no login by password: {text}")
        case amqp.ProtocolSyntaxError() | amqp.IncompatibleProtocolError():
            return _not_amqp(where, text)
        case _ if isinstance(cause, asyncio.IncompleteReadError) and (cause.expected or 0) > FIRST_FRAMES_MAX:
            # What was taken for the length of a frame was somebody else's text (HTTP) or a TLS alert.
            return _not_amqp(where, text)
        case _ if isinstance(cause, ssl.SSLCertVerificationError):
            return AccessRefused(f"{where} shows a certificate that is not trusted: {cause.verify_message}")
        case _ if isinstance(cause, ssl.SSLError):
            return AccessRefused(f"{where} does not speak TLS here ({cause.reason}); is it amqp:// or another port?")
        case _:
            return BusUnavailable(f"{where}: {text}")


def _not_amqp(where: str, text: str) -> AccessRefused:
    return AccessRefused(f"{where} does not speak plain AMQP 0-9-1 ({text}); is it amqps://, or another port?")
