"""Exceptions whose message is all that a user needs."""


class InputError(ValueError):
    """A user's mistake: its message is one line that says what is wrong, where, and what to do.

    The command line prints the message alone and exits with status 2.
    """


class Stopped(RuntimeError):
    """The work cannot go on for a reason outside it; one line that says why. What was finished is kept.

    The command line prints the message alone and exits with status 1.
    """


def first_line(error: BaseException) -> str:
    """The first line of an error's message that says something, else the error's name."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
