"""Ray Tune around any ask/tell search: trials, run directories, resume, progress.

Import from the submodules: `directory` alone costs nothing, `run` imports Ray.
"""
