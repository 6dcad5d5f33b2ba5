"""The programs of the messaging guide, as somebody who comes from its library would write them: with another import,
and the URL of the broker in the environment or in the program. Each of them works the first time."""

from __future__ import annotations

import signal

import pytest
from pika import BasicProperties

from fogactors.messaging.blocking import EventBus, TaskQueue
from tests.integration.fog import Services
from tests.messaging.blocking.programs import Program, Programs

pytestmark = pytest.mark.services

AUDIT = """
    from fogactors.messaging.blocking import EventBus

    def log_fabrication_event(event):
        print(f"Audit: {event.event_type} at {event.timestamp}", flush=True)

    bus = EventBus({url!r}, source="audit-service")
    bus.connect()
    bus.subscribe("fabrication.#", log_fabrication_event)
    print("ready", flush=True)
    bus.start_consuming()
"""

NOTIFY = """
    from fogactors.messaging.blocking import EventBus

    def notify_user(event):
        if event.event_type == "fabrication.print.completed":
            print(f"Print {event.data['job_id']} completed!", flush=True)

    bus = EventBus({url!r}, source="notification-service")
    bus.connect()
    bus.subscribe("fabrication.print.completed", notify_user)
    print("ready", flush=True)
    bus.start_consuming()
"""

PUBLISH = """
    from datetime import datetime
    from fogactors.messaging.blocking import EventBus

    bus = EventBus({url!r}, source="fabrication-service")
    bus.connect()
    bus.publish("fabrication.print.started", {
        "job_id": "print_123",
        "printer_id": "bamboo_h2d",
        "started_at": datetime.now().isoformat(),
    })
    bus.publish("fabrication.print.completed", {"job_id": "print_123", "success": True, "duration_hours": 3.5})
    bus.disconnect()
"""

SUBMIT = """
    from fogactors.messaging.blocking import TaskQueue

    queue = TaskQueue({url!r}, "research.tasks")
    queue.connect()
    task_id = queue.submit(
        task_type="research_paper",
        data={"query": "autonomous 3D printing failure detection", "max_results": 10},
        priority=8,  # High priority
    )
    print(f"Task submitted: {task_id}")
"""

WORK = """
    import time
    from fogactors.messaging.blocking import TaskQueue

    def process_research(task):
        print(f"Processing research task: {task.task_id}", flush=True)
        time.sleep(0.2)
        return {"papers": [task.data["query"]], "summary": "..."}

    queue = TaskQueue({url!r}, "research.tasks")
    queue.connect()
    queue.register_handler("research_paper", process_research)
    queue.start_worker(prefetch_count=3)
"""

SERVE = """
    from fogactors.messaging.blocking import RPCServer

    def estimate_print_cost(request):
        grams = request["volume_cm3"] * {"pla_black_esun": 1.24}[request["material_id"]]
        return {"cost_usd": round(grams * 0.02, 2), "material_grams": grams}

    server = RPCServer({url!r}, "fabrication.estimate.rpc")
    server.connect()
    server.register_handler(estimate_print_cost)
    print("ready", flush=True)
    server.start()
"""

CALL = """
    from fogactors.messaging.blocking import RPCClient

    client = RPCClient({url!r})
    client.connect()
    result = client.call(
        "fabrication.estimate.rpc",
        {"volume_cm3": 125.5, "material_id": "pla_black_esun"},
        timeout=10,
    )
    print(f"Estimated cost: ${result['cost_usd']}")
    client.disconnect()
"""


class Guide:
    def __init__(self, programs: Programs, services: Services) -> None:
        self._programs = programs
        self._url = services.amqp_url

    def start(self, text: str) -> Program:
        return self._programs.start(text.replace("{url!r}", repr(self._url)))

    def run(self, text: str) -> list[str]:
        program = self.start(text)
        assert program.end() == 0, program.said
        return program.lines


@pytest.fixture
def guide(programs: Programs, services: Services) -> Guide:
    return Guide(programs, services)


def stop(*programs: Program) -> None:
    for program in programs:
        program.signal(signal.SIGINT)
    for program in programs:
        assert program.end() == 0, program.said


def test_pattern_1_events(guide: Guide):
    audit, notify = guide.start(AUDIT), guide.start(NOTIFY)
    audit.until("ready")
    notify.until("ready")
    assert guide.run(PUBLISH) == []
    audit.until("Audit: fabrication.print.completed at ")
    notify.until("Print print_123 completed!")
    stop(audit, notify)
    assert [line.partition(" at ")[0] for line in audit.lines] == [
        "ready",
        "Audit: fabrication.print.started",
        "Audit: fabrication.print.completed",
    ]
    assert notify.lines == ["ready", "Print print_123 completed!"]


def test_pattern_2_tasks(guide: Guide):
    (said,) = guide.run(SUBMIT)  # nobody works yet: it waits
    assert said.startswith("Task submitted: ")
    worker = guide.start(WORK)
    worker.until(f"Processing research task: {said.removeprefix('Task submitted: ')}")
    stop(worker)


def test_pattern_3_calls(guide: Guide):
    server = guide.start(SERVE)
    server.until("ready")
    while True:  # it has printed that, and begins to serve a moment later
        client = guide.start(CALL)
        if client.end() == 0:
            break
        assert "NoSuchService" in client.said
    assert client.lines == ["Estimated cost: $3.11"]
    stop(server)


def test_persistence_reuse_and_queues_of_ones_own(services: Services):
    bus = EventBus(services.amqp_url, source="my-service")
    bus.connect()
    for index in range(100):
        bus.publish("event.type", {"index": index}, properties=BasicProperties(delivery_mode=2))
    bus.disconnect()
    with TaskQueue(services.amqp_url, "cad.tasks") as queue:
        queue.declare_queue("my.queue", durable=True)
    with TaskQueue(services.amqp_url, "my.queue") as queue:
        assert queue.size() == 0
