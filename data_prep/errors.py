"""The error whose message is meant for the user."""


class MaptileError(Exception):
    """An error with a message of one line: what is wrong, in which file, and what to do about it.

    The command line prints the message and exits with status 2; a traceback follows only with
    ``--debug``. Errors of any other class are bugs.
    """
