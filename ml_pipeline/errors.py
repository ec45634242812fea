"""What an error has to be so that a command shows its sentence and no traceback."""


class UserError(Exception):
    """Something that the person at the keyboard can put right; the message says what is wrong, where, and how."""
