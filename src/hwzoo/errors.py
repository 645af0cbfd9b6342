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
