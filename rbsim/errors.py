"""The one exception for a user's mistake or unusable data."""


class InputError(ValueError):
    """Input that cannot be used; the message is one line that names it and the remedy.

    The command line prints the message without a traceback; in a run over many frames it becomes
    the failed frame's reason.
    """


class OutputError(InputError):
    """What cannot be written, or worked on for want of memory: it ends a run, for no frame is at fault."""


def out_of_memory(what: object) -> OutputError:
    """Of a frame that more memory would have saved: as a failed one it would stay so."""
    return OutputError(f"{what}: not enough memory; give fewer --workers or more memory and run again")
