"""From an executor's work to what Prometheus reads: processes, a real broker and a real Redis."""

import pytest

from tests.integration.fog import connected, until
from tests.integration.page import Scraped, free_port, shows

pytestmark = [pytest.mark.services, pytest.mark.asyncio]


async def test_what_happens_to_tasks_is_on_the_sinks_page(fog):
    port, often = free_port(), {"METRICS__INTERVAL_S": "0.5"}
    light, heavy = await fog.executor("light", **often), await fog.executor("heavy", **often)
    reaper = fog.start("run", "dlq-reaper", **often)
    sink = fog.start("run", "metrics-sink", METRICS__PORT=str(port), **often)
    for each, what in ((reaper, "dlq-reaper is up"), (sink, "metrics-sink is up")):
        await each.line(what)

    for n in range(3):
        assert (await fog.submit("add", f"a={n}")).code == 0
    assert (await fog.submit("heavy", "value=1", "--tier", "heavy", "--priority", "high")).code == 0
    assert (await fog.submit("fails")).code == 1
    lane = ("normal", "tier-executor", "light")
    page = await shows(
        port,
        {
            ("fogactors_tasks_ended_total", "normal", "tier-executor", "succeeded", "light"): 3,
            ("fogactors_tasks_ended_total", "normal", "tier-executor", "failed", "light"): 1,
            ("fogactors_tasks_ended_total", "high", "tier-executor", "succeeded", "heavy"): 1,
            ("fogactors_task_wait_seconds_count", *lane): 4,
            ("fogactors_task_run_seconds_bucket", "+Inf", *lane): 4,
            ("fogactors_dead_letters_total", "failed", "tier-executor"): 1,
            ("fogactors_tier_running_tasks", "tier-executor", "light"): 0,
            ("fogactors_store_away", "tier-executor"): 0,
            ("fogactors_queue_messages", "dlq"): 0,
            ("fogactors_sink_reports_total", "refused"): 0,
        },
    )
    assert page["fogactors_node_memory_bytes",] > page["fogactors_node_memory_used_bytes",] > 0
    assert page["fogactors_process_resident_bytes", "dlq-reaper"] > 10 << 20

    # Who is gone vanishes after three intervals, and the others stay.
    light.kill9()
    page = await shows(port, {("fogactors_tier_running_tasks", "tier-executor", "heavy"): 0})
    await until(lambda: _gone(port, ("fogactors_tier_running_tasks", "tier-executor", "light")), "it vanishes")
    assert ("fogactors_tier_running_tasks", "tier-executor", "heavy") in await Scraped.of(port)

    # A sink that is started anew keeps nothing and knows all again.
    assert (await sink.stop()).code == 0
    again = fog.start("run", "metrics-sink", METRICS__PORT=str(port), **often)
    await again.line("metrics-sink is up")
    await shows(port, {("fogactors_tasks_ended_total", "high", "tier-executor", "succeeded", "heavy"): 1})
    for each in (heavy, reaper, again):
        assert (await each.stop()).code == 0


async def _gone(port, key):
    return key not in await Scraped.of(port)


@pytest.mark.versions
async def test_reports_that_nobody_takes_run_out_at_the_broker(fog):
    async with connected(fog.services) as bus:
        await bus.purge("metrics.node")
        executor = await fog.executor("light", METRICS__INTERVAL_S="0.2")

        async def waiting():
            return (await bus.inspect("metrics.node")).ready > 0

        async def none():
            return (await bus.inspect("metrics.node")).ready == 0

        await until(waiting, "a report waits")
        assert (await executor.stop()).code == 0
        await until(none, "none is left")


async def test_a_sink_without_a_port_says_so(fog):
    done = await fog.start("run", "metrics-sink").wait()
    assert (done.code, done.said) == (
        2,
        ["fogactors: [metrics] port is 0: name the port for Prometheus, e.g. FOGACTORS_METRICS__PORT=9464"],
    )
