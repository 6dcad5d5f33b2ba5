"""Programs of a user, as processes: signals, ends, forks. On the embedded broker, which is in the process itself; those
with a real one are in `test_trouble.py`."""

from __future__ import annotations

import signal

import pytest

from .programs import Programs

CONSUMER = """
    import time
    from fogactors.messaging.blocking import EventBus

    def handle(event):
        print("begun", flush=True)
        time.sleep(event.data)
        print("done", flush=True)

    bus = EventBus("memory://", source="audit-service")
    bus.connect()
    bus.subscribe("#", handle, group="audit")
    bus.publish("a.b", {seconds})
    bus.start_consuming()
    print("over", flush=True)
"""

SERVER = """
    import threading, time
    from fogactors.errors import NoSuchService
    from fogactors.messaging.blocking import RPCClient, RPCServer

    def handle(request):
        print("begun", flush=True)
        time.sleep(request)
        print("done", flush=True)
        return "an answer"

    server = RPCServer("memory://", "math.rpc")
    server.connect()
    server.register_handler(handle)

    def call():
        with RPCClient("memory://") as client:
            while True:
                try:
                    print(client.call("math.rpc", {seconds}), flush=True)
                    return
                except NoSuchService:
                    time.sleep(0.01)

    caller = threading.Thread(target=call)
    caller.start()
    server.start()
    caller.join()  # a line is two writes: those of two threads could get into one another
    print("over", flush=True)
"""


def text(program: str, seconds: float) -> str:
    return program.replace("{seconds}", str(seconds))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("program", [CONSUMER, SERVER])
def test_a_signal_in_mid_handler_lets_it_finish_and_ends_the_program_with_0(
    programs: Programs, program: str, number: signal.Signals
):
    """Without disconnect(), as in the guide."""
    started = programs.start(text(program, 0.5))
    started.until("begun")
    started.signal(number)
    assert started.end() == 0, started.said
    expected = ["begun", "done", "an answer", "over"] if program is SERVER else ["begun", "done", "over"]
    assert sorted(started.lines) == sorted(expected)
    assert started.lines.index("over") > started.lines.index("done")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_it_at_once(programs: Programs, number: signal.Signals, code: int):
    started = programs.start("import logging; logging.basicConfig(level='INFO')\n" + DEDENTED_LONG)
    started.until("begun")
    started.signal(number)
    started.until("stops: SIG")
    # The same signal within 0.2 s is the first once more.
    while started.process.poll() is None:
        started.signal(number)
        try:
            started.end(timeout=0.3)
        except AssertionError:
            continue
    assert started.end() == code
    assert "stopped at once by a second signal" in started.said
    assert "done" not in started.lines


DEDENTED_LONG = """
import time
from fogactors.messaging.blocking import EventBus

def handle(event):
    print("begun", flush=True)
    time.sleep(60)
    print("done", flush=True)

with EventBus("memory://", source="audit-service") as bus:
    bus.subscribe("#", handle, group="audit")
    bus.publish("a.b")
    bus.start_consuming()
"""


def test_a_handler_that_does_not_end_holds_up_the_end_for_ten_seconds_and_no_more(programs: Programs):
    started = programs.start(DEDENTED_LONG)
    started.until("begun")
    started.signal(signal.SIGTERM)
    assert started.end(timeout=25) == 0
    assert "done" not in started.lines


def test_a_program_that_forgets_to_disconnect_ends_all_the_same_and_its_handlers_first(programs: Programs):
    started = programs.start(
        """
        import threading, time
        from fogactors.messaging.blocking import EventBus, RPCClient

        entered = threading.Event()

        def handle(event):
            entered.set()
            time.sleep(0.5)
            print("done", flush=True)

        client = RPCClient("memory://")
        client.connect()
        bus = EventBus("memory://", source="audit-service")
        bus.connect()
        bus.subscribe("#", handle, group="audit")
        bus.publish("a.b")
        assert entered.wait(10)
        """
    )
    assert started.end() == 0, started.said
    assert started.lines == ["done"]


def test_a_wait_in_another_thread_ends_with_the_main_one(programs: Programs):
    started = programs.start(
        """
        import threading
        from fogactors.messaging.blocking import EventBus

        bus = EventBus("memory://", source="audit-service")
        bus.connect()
        bus.subscribe("#", print)
        threading.Thread(target=bus.start_consuming).start()
        print("begun", flush=True)
        """
    )
    assert started.end() == 0, started.said


def test_a_fork_after_connect_is_told_to_connect_itself_and_harms_nothing(programs: Programs):
    started = programs.start(
        """
        import gc, os, sys, threading
        from fogactors.errors import ConfigError
        from fogactors.messaging.blocking import EventBus

        heard = threading.Event()
        bus = EventBus("memory://", source="shop")
        bus.connect()
        bus.subscribe("#", lambda event: heard.set(), group="audit")
        child = os.fork()
        if child == 0:
            try:
                bus.publish("a.b")
            except ConfigError as error:
                print(error, flush=True)
            assert not bus.is_connected
            bus.disconnect()  # not its own
            bus.connect()
            got = threading.Event()
            bus.subscribe("#", lambda event: got.set())
            bus.publish("a.b")
            assert got.wait(10)
            gc.collect()
            print("child", flush=True)
            sys.exit(7)  # with all that is done at the end of a program
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 7
        assert not heard.is_set()
        bus.publish("a.b")
        assert heard.wait(10)
        bus.disconnect()
        print("parent", flush=True)
        """
    )
    code = started.end()
    assert code == 0, started.said
    assert "before the fork; connect() in this one" in started.lines[0]
    assert started.lines[1:] == ["child", "parent"]


def test_a_child_that_a_handler_forks_is_ended_by_its_signals_as_any_other(programs: Programs):
    started = programs.start(
        """
        import os, signal, time
        from fogactors.messaging.blocking import EventBus

        def handle(event):
            reads, writes = os.pipe()
            child = os.fork()
            if child == 0:
                os.write(writes, b"x")  # before that Python forgets what it is sent
                time.sleep(60)
                os._exit(9)
            os.read(reads, 1)
            os.kill(child, signal.SIGTERM)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
            bus.stop()

        with EventBus("memory://", source="shop") as bus:
            bus.subscribe("#", handle, group="audit", timeout=20)
            bus.publish("a.b")
            bus.start_consuming()
        """
    )
    assert started.end() == 0, started.said
    assert started.lines == ["-15"]


def test_when_the_loops_thread_dies_nobody_waits_for_ever_and_connect_begins_anew(programs: Programs):
    started = programs.start(
        """
        import asyncio, threading, time
        import anyio
        from fogactors.errors import BusUnavailable
        from fogactors.messaging.blocking import EventBus, RPCServer
        from fogactors.messaging.blocking.loop import current

        def die():
            raise SystemExit("as a test asked")

        async def kill():
            asyncio.get_running_loop().call_soon(die)
            await anyio.sleep_forever()

        def says(call):
            try:
                call()
            except BusUnavailable as error:
                print(error, flush=True)

        bus = EventBus("memory://", source="shop")
        server = RPCServer("memory://", "math.rpc")
        server.register_handler(repr)
        bus.connect()
        server.connect()
        bus.subscribe("#", print, group="audit")
        waiting = [threading.Thread(target=says, args=[each]) for each in (bus.start_consuming, server.start)]
        for each in waiting:
            each.start()
        while not (bus._waits and server._waits):
            time.sleep(0.01)
        loop = current()
        says(lambda: loop.call(kill))
        for each in waiting:
            each.join()
        assert not loop.is_alive and not bus.is_connected and not server.is_connected
        says(lambda: bus.publish("a.b"))
        says(lambda: loop.call(anyio.sleep, 1))
        server.disconnect()
        heard = threading.Event()
        bus.connect()  # without a disconnect() before
        bus.subscribe("#", lambda event: heard.set())
        bus.publish("a.b")
        assert heard.wait(10)
        bus.disconnect()
        print("over", flush=True)
        """
    )
    assert started.end(timeout=10) == 0, started.said
    said = started.said  # as a whole: several threads write, and a line may end behind the next
    assert said.count("the event loop is ending, and with it all that is connected; nobody had asked for it") == 1
    ended = said.count("thread of the event loop has ended") - said.count("has ended: SystemExit: as a test asked")
    assert ended == 5, said
    assert "EventBus of shop has lost its connection for good" in said
    assert "over" in said


RUN = """
    import sys
    from fogactors.errors import *
    from fogactors.messaging.blocking import EventBus, run

    def main():
        {body}

    run(main)
"""


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        ("print('done')", 0, "done"),
        (
            "EventBus('amqp://127.0.0.1:1', connect_timeout_s=0.3).connect()",
            3,
            "program0: 127.0.0.1:1: Connection refused (waited 0.3 s)",
        ),
        ("EventBus('http://localhost').connect()", 2, "program0: a broker's URL begins with"),
        ("EventBus('memory://').publish('a.b')", 2, "program0: EventBus of program0 is not connected"),
        ("raise RemoteError('KeyError', 'tin')", 1, "program0: KeyError: tin"),
        ("raise KeyboardInterrupt", 130, ""),
    ],
)
def test_run_ends_a_program_with_one_line_and_an_exit_code(programs: Programs, body: str, code: int, says: str):
    started = programs.start(RUN.replace("{body}", body))
    assert started.end() == code, started.said
    assert len(started.lines) == (1 if says else 0), started.said
    assert started.said.startswith(says)


def test_run_leaves_a_bug_its_traceback(programs: Programs):
    started = programs.start(RUN.replace("{body}", "raise ValueError('a bug')"))
    assert started.end() == 1
    assert "Traceback" in started.said
