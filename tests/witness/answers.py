"""Refusals: every check that fails raises one."""


class Refused(Exception):
    """`answer` is the word by which the vectors call the refusal, for example `NotSatisfied`."""

    def __init__(self, answer: str, why: str = ""):
        super().__init__(f"{answer}: {why}" if why else answer)
        self.answer = answer


def demand(condition: bool, answer: str, why: str = "") -> None:
    """Refuses with `answer` unless the condition holds."""
    if not condition:
        raise Refused(answer, why)
