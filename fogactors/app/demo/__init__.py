"""The main job: every file below a folder, through three resource tiers.

Nothing is re-exported here: worker processes import `work` from this folder, and only that.
"""
