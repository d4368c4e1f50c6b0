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
    """The first line of an error's message that says something, else the error's name.

    With the next one where it ends in a colon.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])
