"""The one exception that means "the user can mend this"."""


class InputError(ValueError):
    """A user's mistake: its message is one line that says what is wrong, where, and what to do.

    The command line prints the message alone and exits with status 2.
    """


def first_line(error: BaseException) -> str:
    """The first line of an error's message that says something, else the error's name."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
