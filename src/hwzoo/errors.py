"""The one-line errors of the zoo."""


class HwzooError(Exception):
    """
    Something went wrong that the user can understand from one line: it names the flag or file, the value and what is
    allowed. `status` is the exit status of a recipe that ends with it.
    """

    status = 1


class UsageError(HwzooError):
    """The command line, a preset or an argument asks for something that cannot be."""

    status = 2


def first_line(error: BaseException) -> str:
    """The first line of what an error of another library says, or its name where it says nothing."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
