"""A broker that refuses the login of a program that runs: it says so, does not knock like at a failover, and comes back
when the login is right again."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from fogactors.core import ActorStarted, Events, RestartFailed, SupervisorPaused
from fogactors.errors import AccessRefused
from fogactors.messaging import Session
from fogactors.testing import EventRecorder
from tests.integration.fog import DEADLINE_S, until

pytestmark = [pytest.mark.services, pytest.mark.asyncio]

USER = "turned-away"


async def test_a_password_that_became_wrong_is_not_tried_four_times_a_second_for_ever(services):
    def password(value: str) -> None:
        services.api("PUT", f"/users/{USER}", {"password": value, "tags": ""})

    password("right")
    try:
        all_of_it = {"configure": ".*", "write": ".*", "read": ".*"}
        services.api("PUT", f"/permissions/{quote(services.vhost, safe='')}/{USER}", all_of_it)
        events = Events()
        recorder = EventRecorder(events)
        async with Session.open(services.as_user(USER, "right").amqp_url, "program", events=events) as session:
            password("another")

            def closed() -> bool:  # again and again: the broker's list of connections lags behind
                services.api("DELETE", f"/connections/username/{USER}")
                return not session.bus.is_open

            await until(closed, "the broker closes the connections")
            await recorder.wait_for(SupervisorPaused, where=lambda event: event.delay_s > 1.5, timeout=DEADLINE_S)
            refused = recorder.of(RestartFailed)[-1].error
            assert isinstance(refused, AccessRefused)
            assert "refuses user 'turned-away': wrong name or password" in str(refused)
            assert "\n" not in str(refused)
            password("right")
            await recorder.wait_for(
                ActorStarted, path="program/link", where=lambda event: event.incarnation > 1, timeout=DEADLINE_S
            )
            assert session.bus.is_open
    finally:
        services.api("DELETE", f"/users/{USER}")
