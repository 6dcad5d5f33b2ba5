"""A sink's `/metrics`, read as Prometheus reads it."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request

import anyio.to_thread
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.fog import until


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Scraped(dict[tuple[str, ...], float]):
    """What a sink says: `page[name, tier, ...]`, the labels' values in the order of their names, is the sum over all
    processes."""

    @classmethod
    async def of(cls, port: int) -> Scraped:
        try:
            text = await anyio.to_thread.run_sync(cls._get, port)
        except urllib.error.URLError:
            return cls()
        page = cls()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = [value for key, value in sorted(sample.labels.items()) if key not in ("node", "process")]
                key = (sample.name, *labels)
                page[key] = page.get(key, 0) + sample.value
        return page

    @staticmethod
    def _get(port: int) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return answer.read().decode()


async def shows(port: int, wanted: dict[tuple[str, ...], float]) -> Scraped:
    """Wait until it says so; the page that does."""
    page = Scraped()

    async def look() -> bool:
        nonlocal page
        page = await Scraped.of(port)
        return wanted.items() <= page.items()

    try:
        await until(look, "the figures")
    except AssertionError:
        found = {key: page.get(key) for key in wanted}
        raise AssertionError(f"wanted {wanted}, found {found} and {sorted({name for name, *_ in page})}") from None
    return page
