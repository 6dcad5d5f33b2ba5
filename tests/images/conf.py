"""What the images' configuration files say."""

from __future__ import annotations

from pathlib import Path

IMAGES = Path(__file__).parents[2] / "images"
PLACE = {"prometheus.tcp.port", "log.console", "log.file"}
"""Keys of rabbitmq.conf that say where, not how: the tests' servers have places of their own."""
REDIS_PLACE = {"bind", "port", "dir"}
"""The same of redis.conf."""


def rabbitmq_conf() -> dict[str, str]:
    lines = (IMAGES / "rabbitmq/rabbitmq.conf").read_text().splitlines()
    return dict(line.split(" = ") for line in lines if line and not line.startswith("#"))


def redis_conf() -> dict[str, str]:
    lines = (IMAGES / "redis/redis.conf").read_text().splitlines()
    return dict(line.split(" ", 1) for line in lines if line and not line.startswith("#"))


def redis_manner() -> dict[str, str]:
    """How the image's Redis works, for one in another place."""
    return {key: value for key, value in redis_conf().items() if key not in REDIS_PLACE}
