"""Orders and their answers: one reply queue for all of a client's, whatever happens to the connection."""

from datetime import UTC, datetime

import anyio
import pytest

from fogactors.bus import MemoryBroker, MemoryBus, Message
from fogactors.errors import BusUnavailable
from fogactors.messages import Control, ControlReply
from fogactors.tasks.orders import Orders
from fogactors.testing import eventually
from fogactors.wire import decode, encode, fog_topology
from fogactors.wire.topology import CONTROL, RESULTS

pytestmark = pytest.mark.asyncio


class Roles:
    """As many as are named; each answers every order, as soon as `answering` is set."""

    def __init__(self, broker, *names):
        self.broker, self.names = broker, names
        self.orders: list[Control] = []
        self.answering = True

    async def __aenter__(self):
        self.tasks = await anyio.create_task_group().__aenter__()
        self.bus = MemoryBus(self.broker, name="roles")
        await self.bus.open()
        queue = await self.bus.open_exclusive("ctl.test", ((CONTROL, ""),))
        await self.bus.consume(queue, self._obey, prefetch=1000)
        return self

    async def __aexit__(self, *error):
        self.tasks.cancel_scope.cancel()
        await self.tasks.__aexit__(None, None, None)
        await self.bus.close()

    def _obey(self, delivery):
        control = decode(delivery.body, Control)
        self.orders.append(control)
        if self.answering:
            for name in self.names:
                self.tasks.start_soon(self.answer, control, name)

    async def answer(self, control, name):
        reply = ControlReply(id=control.id, command=control.command, node="node", role=name, at=datetime.now(UTC))
        await self.bus.publish(RESULTS, control.reply_to, Message(encode(reply)), mandatory=False)


class operator:  # noqa: N801
    def __init__(self, *names):
        self.names = names

    async def __aenter__(self):
        self.broker = await MemoryBroker().__aenter__()
        self.broker.declare(fog_topology())
        self.bus = MemoryBus(self.broker, name="operator")
        await self.bus.open()
        self.roles = await Roles(self.broker, *self.names).__aenter__()
        return self.broker, self.bus, Orders(self.bus), self.roles

    async def __aexit__(self, *error):
        await self.roles.__aexit__(*error)
        await self.broker.__aexit__(*error)


def reply_queues(broker):
    return [name for name in broker.depths() if name.startswith("ctl.guest.order.")]


async def test_answers_are_collected_for_a_while_and_sorted():
    async with operator("b", "a") as (_, _, orders, roles):
        replies = await orders.ask("ping", node="node", role="a", task_id="t-1", wait_s=0.05)
        assert [reply.role for reply in replies] == ["a", "b"]
        [order] = roles.orders
        assert (order.command, order.node, order.role, order.task_id) == ("ping", "node", "a", "t-1")


async def test_enough_ends_the_wait():
    async with operator("a") as (_, _, orders, _):
        with anyio.fail_after(5):
            [reply] = await orders.ask("ping", wait_s=60, enough=lambda replies: len(replies) == 1)
        assert reply.role == "a"


async def test_many_orders_share_one_queue_and_leave_nothing_in_it():
    async with operator("a", "b") as (broker, _, orders, _):
        ids = set()

        async def ask(number):
            replies = await orders.ask("ping", task_id=str(number), wait_s=60, enough=lambda found: len(found) == 2)
            assert len({reply.id for reply in replies}) == 1
            ids.add(replies[0].id)

        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                for number in range(300):
                    tasks.start_soon(ask, number)
        assert len(ids) == 300
        [queue] = reply_queues(broker)
        await orders.ask("ping", wait_s=0)
        await eventually(lambda: broker.depths()[queue].ready == 0, "all were delivered")
        await orders.ask("ping", wait_s=0.05)  # settles what came too late for the one before
        assert broker.depths()[queue].unsettled == 0


async def test_after_a_lost_connection_it_listens_anew():
    async with operator("a") as (broker, bus, orders, _):
        assert await orders.ask("ping", wait_s=0.05)
        broker.kill_connection("operator")
        await bus.open()
        assert await orders.ask("ping", wait_s=0.05)
        await bus.close()  # by its owner: then nobody is told that the consumer is lost
        await bus.open()
        assert await orders.ask("ping", wait_s=0.05)
        assert len(reply_queues(broker)) == 1


async def test_a_connection_that_is_lost_meanwhile_is_an_error_and_not_silence():
    async with operator("a") as (broker, _, orders, roles):
        roles.answering = False
        async with anyio.create_task_group() as tasks:

            async def cut():
                await eventually(lambda: bool(roles.orders), "the order is out")
                broker.kill_connection("operator")

            tasks.start_soon(cut)
            with anyio.fail_after(5), pytest.raises(BusUnavailable, match="lost while waiting for answers"):
                await orders.ask("ping", wait_s=60)


async def test_a_broker_that_stays_away_is_an_error_within_seconds():
    async with operator("a") as (broker, _, orders, _):
        broker.faults.down()
        with anyio.fail_after(4), pytest.raises(BusUnavailable):
            await orders.ask("ping", wait_s=60)


async def test_closing_ends_the_subscription():
    async with operator("a") as (broker, _, orders, _):
        await orders.ask("ping", wait_s=0)
        await orders.close()
        assert [broker.depths()[queue].consumers for queue in reply_queues(broker)] == [0]
        assert await orders.ask("ping", wait_s=0.05)  # it may be used again


async def test_garbage_in_the_reply_queue_is_left_alone():
    async with operator("a") as (_, bus, orders, roles):
        await orders.ask("ping", wait_s=0)
        key = roles.orders[0].reply_to
        for body in (b"\x00", b"{}", b'{"schema":"event/1"}'):
            await bus.publish(RESULTS, key, Message(body), mandatory=False)
        assert len(await orders.ask("ping", wait_s=0.05)) == 1
