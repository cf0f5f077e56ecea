"""The one exception for a user's mistake or unusable data."""


class InputError(ValueError):
    """Input that cannot be used; the message is one line that names it and the remedy.

    The command line prints the message without a traceback; in a run over many frames it becomes
    the failed frame's reason.
    """
