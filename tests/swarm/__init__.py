"""A real five-host Swarm on one Linux machine, and what breaks it.

`hosts.py` makes the hosts, `bases.py` and `images.py` what runs on them, `faults.py` the bad days, `ledger.py` and
`load.py` the account of what was confirmed and what became of it. Needs root on Linux; everything lives in namespaces
of its own, which end with the program that made them, however it ends.
"""
