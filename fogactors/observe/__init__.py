"""What can be seen of a running system: log lines, counts, the terminal display. All of it derived from events.

Nothing is re-exported here: whoever writes log lines must not pay for the import of the display. Neighbours import from
the files.
"""
