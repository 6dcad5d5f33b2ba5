"""Task queues without asyncio: on the embedded broker and on RabbitMQ alike."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from fogactors.errors import (
    BusUnavailable,
    ConfigError,
    MessageTooLarge,
    QueueFull,
    ResultTimeout,
    SubmitterClosed,
    TaskFailed,
    TopologyMismatch,
    WireError,
)
from fogactors.messaging import TaskQueue as AsyncTaskQueue
from fogactors.messaging.blocking import (
    EventBus,
    PermanentError,
    QueueTask,
    RetryableError,
    TaskHandle,
    TaskQueue,
    correlated,
    correlation_id,
)
from fogactors.wire import Policy, Queue

from .conftest import Place
from .support import Heard, Worker, eventually, word

TIMEOUT_S = 30.0


@contextmanager
def working(place: Place, prefetch_count: int = 2, **handlers: Callable[[QueueTask[Any]], Any]) -> Iterator[TaskQueue]:
    """One queue that is submitted to, and worked on by another of the same name."""
    name = f"{word()}.tasks"
    with (
        TaskQueue(place.url, name, store=place.store) as queue,
        TaskQueue(place.url, name, store=place.store) as worker,
    ):
        for task_type, handler in handlers.items():
            worker.register_handler(task_type, handler)
        thread = Worker(worker.start_worker, prefetch_count)
        yield queue
        worker.stop()
        thread.end()


def test_a_task_its_result_and_what_its_handler_sees(place: Place):
    heard = Heard()

    def process_research(task: QueueTask[Any]) -> dict[str, Any]:
        heard.add(task)
        return {"results": [task.data["query"]]}

    with working(place, research_paper=process_research) as queue:
        task_id = queue.submit(
            task_type="research_paper",
            data={"query": "3D printing failure detection"},
            priority=7,
            max_retries=3,
        )
        assert isinstance(task_id, str)
        assert task_id.result(TIMEOUT_S) == {"results": ["3D printing failure detection"]}
        (task,) = heard.all
        assert (task.task_id, task.data, task.retry_count, task.max_retries, task.priority) == (
            task_id,
            {"query": "3D printing failure detection"},
            0,
            3,
            7,
        )
        assert f"{task_id}" == task_id.task_id == task.task_id
        assert queue.handle(task.task_id).outcome(TIMEOUT_S).state == "succeeded"
        assert task_id.status().state == "succeeded"
        assert task_id.progress() == 1.0
        assert {task_id: 1}[task.task_id] == 1
        assert repr(task_id) == f"<TaskHandle {task_id}>"


def test_so_many_at_once_and_no_more(place: Place):
    running, most, lock, heard = 0, 0, threading.Lock(), Heard()

    def count(task: QueueTask[Any]) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.05)
        with lock:
            running -= 1
        heard.add(task.data)

    with working(place, prefetch_count=3, count=count) as queue:
        for number in range(12):
            queue.submit("count", number)
        heard.wait(12)
    assert sorted(heard.all) == list(range(12))
    assert most == 3


def test_the_guides_own_retry_logic(place: Place):
    heard = Heard()

    def process_with_retry(task: QueueTask[str]) -> str:
        heard.add((task.data, task.retry_count, task.max_retries))
        try:
            if task.data == "twice" and task.retry_count < 1:
                raise RetryableError("not yet")
            if task.data == "never":
                raise RetryableError("not now", delay=1)
            if task.data == "hopeless":
                raise PermanentError("it will never work")
        except RetryableError:
            if task.retry_count < task.max_retries:
                raise
            raise PermanentError("Max retries exceeded") from None
        return "done"

    with working(place, work=process_with_retry) as queue:
        twice, never, hopeless = (queue.submit("work", data, max_retries=1) for data in ("twice", "never", "hopeless"))
        assert twice.result(TIMEOUT_S) == "done"
        for handle, says in ((never, "Max retries exceeded"), (hopeless, "it will never work")):
            with pytest.raises(TaskFailed, match=says) as raised:
                handle.result(TIMEOUT_S)
            assert raised.value.type == "PermanentError"
    assert sorted(heard.all) == [("hopeless", 0, 1), ("never", 0, 1), ("never", 1, 1), ("twice", 0, 1), ("twice", 1, 1)]


@dataclass
class Paper:
    query: str
    pages: int = 10


def test_types_progress_and_the_conversation(place: Place):
    said, go = threading.Event(), threading.Event()

    def read(task: QueueTask[Paper]) -> Paper:
        task.progress(0.5, "half of it")
        said.set()
        assert go.wait(20)
        assert correlation_id() == "request-7"
        return Paper(task.data.query, task.data.pages + 1)

    with working(place, read=read) as queue:
        with correlated("request-7"):
            handle = queue.submit("read", Paper("print failures"))
        assert said.wait(20)
        with pytest.raises(ResultTimeout):
            handle.result(0.1)
        status = handle.status()
        assert (status.state, status.progress, status.note) == ("running", 0.5, "half of it")
        go.set()
        assert handle.result(TIMEOUT_S, returns=Paper) == Paper("print failures", 11)
        with pytest.raises(WireError, match="not what was asked for"):
            handle.result(TIMEOUT_S, returns=int)


def test_what_waits_can_be_cancelled_and_a_key_is_one_task(place: Place):
    name = f"{word()}.tasks"
    with TaskQueue(place.url, name, store=place.store) as queue:
        one = queue.submit("work", 1, idempotency_key="order-7")
        two = queue.submit("work", 2, idempotency_key="order-7", priority=10)
        assert one == two
        assert queue.size() == 1
        assert one.cancel().state == "cancelled"
        later = queue.submit("work", 3, delay=60)
        assert queue.size() == 1
        assert later.status().state == "queued or unknown"


@pytest.mark.services
def test_without_a_store_work_is_done_and_nobody_learns_what_it_returned(rabbit: Place):
    heard, name = Heard(), f"{word()}.tasks"
    with TaskQueue(rabbit.url, name) as queue:
        queue.register_handler("work", lambda task: heard.add(task.data))  # after connect(), as in the guide
        thread = Worker(queue.start_worker)
        handle = queue.submit("work", 1)
        assert heard.wait(1) == [1]
        with pytest.raises(ConfigError, match="store"):
            handle.result(1)
        queue.stop()
        thread.end()


def is_stopping(queue: TaskQueue) -> bool:
    async def states(inner: AsyncTaskQueue) -> list[str]:
        nodes, found = list(inner.session.actors.tree()), list[str]()
        for node in nodes:
            nodes.extend(node.children)
            found += [node.state] if node.id == "worker" else []
        return found

    return "stopping" in queue._call(states)


def test_a_stop_lets_what_runs_finish_and_gives_back_the_rest(place: Place):
    entered, gates = Heard(), [threading.Event() for _ in range(3)]

    def slow(task: QueueTask[int]) -> int:
        entered.add(task.data)
        assert gates[task.data].wait(20)
        return task.data

    with TaskQueue(place.url, f"{word()}.tasks", store=place.store) as queue:
        queue.handler("slow")(slow)
        handles = [queue.submit("slow", number) for number in range(3)]
        for begun in (1, 2):  # it can start again
            thread = Worker(queue.start_worker, 1)
            running = entered.wait(begun)[-1]
            queue.stop()
            eventually(lambda: is_stopping(queue), "it takes no more")
            gates[running].set()
            thread.end()
            assert len(entered.all) == begun  # no other
            assert handles[running].result(TIMEOUT_S) == running
        for gate in gates:
            gate.set()
        thread = Worker(queue.start_worker)
        assert [each.result(TIMEOUT_S) for each in handles] == [0, 1, 2]
        queue.stop()
        thread.end()
    assert sorted(entered.all) == [0, 1, 2]


def test_a_worker_that_is_stopped_while_the_connection_breaks_has_stopped(place: Place):
    entered, go = Heard(), threading.Event()

    def blocks(task: QueueTask[int]) -> None:
        entered.add(task.data)
        go.wait(30)

    with TaskQueue(place.url, f"{word()}.tasks", store=place.store) as queue:
        queue.register_handler("t", blocks)
        queue.submit("t", 1)
        thread = Worker(partial(queue.start_worker, 1))
        entered.wait(1)
        try:
            queue.stop()
            eventually(lambda: is_stopping(queue), "it takes no more")
            place.cut()
            thread.end()
            handle = queue.submit("t", 2)
            eventually(lambda: queue.size() == 2, "both wait")
            assert entered.all == [1]
        finally:
            go.set()
        thread = Worker(queue.start_worker)
        handle.outcome(TIMEOUT_S)
        queue.stop()
        thread.end()


def test_disconnect_ends_the_wait_for_a_result_at_once(place: Place):
    queue = TaskQueue(place.url, f"{word()}.tasks", store=place.store)
    with queue:
        handle = queue.submit("nobody.does.it")
        waits = [Worker(handle.result, 60), Worker(handle.outcome, 60)]
        eventually(lambda: _waiting(queue) == 2, "both wait")
        began = time.monotonic()
    for each in waits:
        with pytest.raises(SubmitterClosed, match="was closed"):
            each.end()
    assert time.monotonic() - began < 5


def _waiting(queue: TaskQueue) -> int:
    held = queue._held
    assert held is not None
    return sum(len(each) for each in held.inner.submitter._waiting.values())


def test_a_handler_may_submit_and_publish(place: Place):
    heard, name = Heard(), f"{word()}.tasks"
    with TaskQueue(place.url, name, store=place.store) as queue, EventBus(place.url, "shop") as bus:

        def first(task: QueueTask[str]) -> None:
            queue.submit("second", task.data)
            bus.publish(f"{name.partition('.')[0]}.first.done", task.data)

        def second(task: QueueTask[str]) -> None:
            heard.add((task.data, task.correlation_id))
            for call in (queue.disconnect, queue.start_worker):
                with pytest.raises(ConfigError, match="in a handler"):
                    call()

        bus.subscribe(f"{name.partition('.')[0]}.#", lambda event: heard.add((event.data, event.correlation_id)))
        queue.register_handler("first", first)
        queue.register_handler("second", second)
        thread = Worker(queue.start_worker)
        queue.submit("first", "x", correlation_id="request-7")
        assert heard.wait(2) == [("x", "request-7")] * 2
        queue.stop()
        thread.end()


def test_what_cannot_be_is_said_at_once():
    async def work(task: QueueTask[Any]) -> None: ...

    with pytest.raises(ConfigError, match="cannot be a task queue"):
        TaskQueue("memory://")
    with pytest.raises(TopologyMismatch, match="topology apply"):
        TaskQueue(f"memory://{word()}", "research.tasks", exchange="kitty.tasks").connect()
    queue = TaskQueue(f"memory://{word()}", "research.tasks")
    with pytest.raises(ConfigError, match="has no handler"):
        queue.start_worker()
    for handler, says in ((work, "plain functions"), (lambda: None, "cannot handle tasks")):
        with pytest.raises(ConfigError, match=says):
            queue.register_handler("work", handler)  # pyright: ignore
    queue.register_handler("work", print)
    with pytest.raises(ConfigError, match="a type has one"):
        queue.register_handler("work", print)
    for call in (lambda: queue.submit("work"), queue.start_worker, queue.size, queue.handle("an-id").status):
        with pytest.raises(ConfigError, match="not connected"):
            call()
    with queue:
        with pytest.raises(ConfigError, match="from 0 to 10"):
            queue.submit("work", priority=11)
        with pytest.raises(WireError, match="no JSON form"):
            queue.submit("work", object())
        with pytest.raises(MessageTooLarge):
            queue.submit("work", "x" * 2_000_000)
        with pytest.raises(ConfigError, match="durable=True"):
            queue.declare_queue("other.tasks", durable=False)
        with pytest.raises(ConfigError, match="cannot be a task queue"):
            queue.declare_queue("not a name")
        queue.declare_queue("other.tasks", durable=True)
        assert isinstance(queue.submit("work"), TaskHandle)


# -- a broker that has bad days


def test_a_queue_that_is_full_refuses(place: Place):
    name = f"{word()}.tasks"
    place.limit(Queue(f"work.{name}", policy=Policy(max_length=2, overflow="reject-publish")))
    with TaskQueue(place.url, name, store=place.store) as queue:

        def submit() -> bool:
            try:
                queue.submit("work", 1)
            except QueueFull:
                return True
            return False

        eventually(submit, "it refuses")
        assert queue.size() >= 2


def test_after_a_cut_submits_and_handlers_go_on(place: Place):
    heard = Heard()
    with working(place, work=lambda task: heard.add(task.data)) as queue:

        def submit(number: int) -> bool:
            try:
                queue.submit("work", number, idempotency_key=str(number))
            except BusUnavailable:  # it was on its way when the connection went
                return False
            return True

        for number in range(4):
            eventually(partial(submit, number), "it is submitted")
            heard.wait(number + 1)
            place.cut()
    assert set(heard.all) == {0, 1, 2, 3}


def test_while_the_broker_is_down_a_submit_fails_in_its_time_and_a_stop_takes_none(place: Place):
    heard, name = Heard(), f"{word()}.tasks"
    with TaskQueue(place.url, name, store=place.store, publish_timeout_s=0.3) as queue:
        queue.register_handler("work", lambda task: heard.add(task.data))
        thread = Worker(queue.start_worker)
        queue.submit("work", "early").outcome(TIMEOUT_S)
        place.down()

        def is_down() -> bool:
            try:
                queue.submit("work", "probe")
            except BusUnavailable:
                return True
            return False

        eventually(is_down, "a submit fails")
        queue.stop()
        thread.end()
        place.up()
        thread = Worker(queue.start_worker)

        def is_up() -> bool:
            try:
                queue.submit("work", "late")
            except BusUnavailable:
                return False
            return True

        eventually(is_up, "it works again")
        eventually(lambda: "late" in heard.all, "what was submitted is done")
        queue.stop()
        thread.end()
