"""Faults for tests: make the embedded broker do what real ones do on a bad day.

Every `MemoryBroker` has one, `broker.faults`:

```python
async def test_a_task_is_not_lost_when_the_broker_goes_away():
    async with MemoryBroker() as broker:
        broker.declare(fog_topology())
        bus = MemoryBus(broker)
        await bus.open()

        broker.faults.refuse("tasks.normal")  # the next publish to this queue or exchange: QueueFull
        broker.faults.lose_confirms()         # the next publish arrives, its publisher gets BusUnavailable
        broker.faults.confirm_delay_s = 0.2   # every confirm from now on comes this late
        broker.faults.redeliver("tasks.normal")  # the next message that is acked there comes a second time
        broker.faults.drop_connections()      # all consumers die, what they held is delivered again
        broker.faults.down()                  # nobody connects ...
        broker.faults.up()                    # ... until now; queues kept what they had
```

Counts (`refuse`, `lose_confirms`, `redeliver` take `times`) run down to nothing; `confirm_delay_s` and `down`
stay until they are taken back. One client alone is cut off by `broker.kill_connection(bus.name)`.
"""

from fogactors.bus.embedded.faults import Faults

__all__ = ["Faults"]
