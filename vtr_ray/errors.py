"""The one exception that means "the user can mend this"."""


class InputError(ValueError):
    """A user's mistake: its message is one line that says what is wrong, where, and what to do.

    The command line prints the message alone and exits with status 2.
    """
