"""Errors that llm2bids raises on purpose.

Every message names the file or argument, what was found, what was expected and what to do. The
command line prints the message alone and exits with :attr:`Llm2bidsError.exit_code`.
"""


def first_line(error: BaseException) -> str:
    """Say what an error says, in one line."""
    return str(error).strip().split("\n")[0] or "no message"


class Llm2bidsError(Exception):
    """Base class of all errors that llm2bids raises on purpose."""

    exit_code = 1


class UsageError(Llm2bidsError):
    """An argument or option is wrong or does not fit another one."""

    exit_code = 2


class ParadigmError(Llm2bidsError):
    """A paradigm file, a prompt bank or a draw of prompts is not usable."""


class ModelError(Llm2bidsError):
    """A model cannot be found, loaded or hooked."""


class RecordingError(Llm2bidsError):
    """A run could not be recorded."""


class SpaceError(Llm2bidsError):
    """An image, a unit or an arrangement does not fit the space."""


class DatasetError(Llm2bidsError):
    """A dataset folder or one of its files is not what it should be."""


class InferenceError(Llm2bidsError):
    """A statistical model cannot be fitted to the data as asked."""


class NetworkError(Llm2bidsError):
    """A network cannot be made, read, compared or evaluated."""


class InterventionError(Llm2bidsError):
    """A model cannot be edited as asked."""
