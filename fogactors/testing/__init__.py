"""What one tests with: children that fail on command, a recorder of events, time that the test moves, and an embedded
broker's bad days."""

from fogactors.testing.clock import FakeClock, run_virtual, virtual_time
from fogactors.testing.crash import Call, Mortal, Plan, When, crash_at
from fogactors.testing.faults import Faults
from fogactors.testing.kit import Fog, eventually, fog
from fogactors.testing.letters import DeadLetters
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
from fogactors.testing.skew import SkewedClock

__all__ = [
    # a whole system
    "DeadLetters",
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
    # processes that die at a chosen call
    "Call",
    "Mortal",
    "Plan",
    "When",
    "crash_at",
    # time
    "FakeClock",
    "SkewedClock",
    "run_virtual",
    "virtual_time",
]
