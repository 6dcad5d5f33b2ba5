"""Tasks: how they are defined, submitted, chosen, run and ended.

Nothing is re-exported here: a worker process imports a module of tasks, which imports `task` from this folder, and
must not pay for the event loop and the broker's client that it never uses. Neighbours import from the files.
"""
