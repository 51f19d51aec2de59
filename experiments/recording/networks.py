"""The names of a search's networks, in the table that it ends with and in its record."""

DENSE, UNIFORM, FOUND = "dense", "uniform", "AMC"


def after_tuning(name: str) -> str:
    """The name of a network after fine-tuning: "AMC, tuned"."""
    return f"{name}, tuned"
