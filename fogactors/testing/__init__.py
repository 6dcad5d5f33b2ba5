"""What one tests with: children that fail on command, a recorder of events, time that the test moves, and an embedded
broker's bad days."""

from fogactors.testing.clock import FakeClock, run_virtual, virtual_time
from fogactors.testing.faults import Faults
from fogactors.testing.kit import Fog, eventually, fog
from fogactors.testing.recorder import EventRecorder
from fogactors.testing.scripted import (
    Crash,
    Hang,
    IgnoreStop,
    Life,
    Part,
    Return,
    Script,
    ScriptedChild,
    ScriptedError,
    Shield,
)

__all__ = [
    # a whole system
    "Fog",
    "eventually",
    "fog",
    # children that fail on command
    "Crash",
    "Hang",
    "IgnoreStop",
    "Life",
    "Part",
    "Return",
    "Script",
    "ScriptedChild",
    "ScriptedError",
    "Shield",
    # events
    "EventRecorder",
    # the embedded broker
    "Faults",
    # time
    "FakeClock",
    "run_virtual",
    "virtual_time",
]
