"""The one exception that a user is meant to read.

Everything that a person can mend (a file, a key, a folder, a size) is raised as
`UserError`; `madad_jax.main` prints it as one line and exits with status 2.
Anything else is a bug and keeps its traceback.
"""


class UserError(Exception):
    """Bad input: the message names the file or key, what was found, what is accepted."""
