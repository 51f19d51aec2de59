"""Checks the names that Weights & Biases accepts."""

from collections.abc import Sequence

from experiments.recording.tracking import TrackingError

TAG, NAME = 64, 128  # characters at most: of a tag; of a project's, a group's or a run's name
NOT_IN_PROJECTS = "/\\#?%:"


def check(project: str, group: str | None, tags: Sequence[str]) -> None:
    """Refuse names that W&B would refuse, or change silently.

    Raises:
        TrackingError: with what it accepts.
    """
    if isinstance(tags, str):
        raise TrackingError(f"tracking.tags is {tags!r}: give a list, as tracking.tags=[{tags}]")
    if refused := [tag for tag in tags if not isinstance(tag, str) or not 1 <= len(tag.strip()) <= TAG]:
        raise TrackingError(f"tracking.tags: W&B takes texts of 1 to {TAG} characters, not {refused[0]!r}")
    if len(set(tags)) < len(tags):
        raise TrackingError(f"tracking.tags: W&B takes each tag once, not {', '.join(tags)}")
    if not 1 <= len(project.strip()) <= NAME or set(project) & set(NOT_IN_PROJECTS):
        raise TrackingError(
            f"tracking.project: W&B takes a name of 1 to {NAME} characters without {NOT_IN_PROJECTS}, "
            f"not {project!r}"
        )
    if group is not None and len(group) > NAME:
        raise TrackingError(f"tracking.group: W&B takes at most {NAME} characters, not {len(group)}")
