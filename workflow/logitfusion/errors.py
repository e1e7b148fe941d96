"""The one exception that is meant for a user's eyes."""


class UserError(Exception):
    """Bad input. The message is one sentence: which file, key or model, and what to do about it."""
