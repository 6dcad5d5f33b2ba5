from tests.tasks.conftest import forget, in_a_hurry

__all__ = ["forget", "in_a_hurry"]
