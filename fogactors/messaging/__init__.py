"""What application code calls: events, and what is to come. Everything stands on a `Session`."""

from fogactors.messaging.embedded import embedded_broker
from fogactors.messaging.session import Session

__all__ = ["Session", "embedded_broker"]
