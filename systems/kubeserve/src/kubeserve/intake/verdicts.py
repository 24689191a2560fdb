"""The two ways in which the proof of an upload ends early."""


class RejectedError(Exception):
    """Our judgement about what was uploaded, in one line for its owner. It is final: the same files end so again."""


class FailedError(Exception):
    """Something that the proof needs was away or full, in one line. The same files may pass later."""
