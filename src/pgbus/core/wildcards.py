"""What a subscription's patterns deliver, against what its handler takes and what is known."""

from collections.abc import Collection, Sequence

from pgbus.core.patterns import matches


def wildcard_faults(
    patterns: Sequence[str], topics: Collection[str], known: Collection[str], *, any_type: bool
) -> list[str]:
    """Return what does not go together, each as a sentence's end.

    That a type of the handler can be delivered by none of its patterns is an error whenever the
    handler is declared; see :func:`pgbus.core.handler.inspect_handler`.

    Parameters:
        patterns: the subscription's.
        topics: of the event types in the handler's annotation.
        known: the topics of all types that are known, from whichever service.
        any_type: the handler takes everything else, too, as a dict or the like.
    """
    if not topics:
        return []  # it takes what it gets, and what has no Event type is known to nobody
    everything = {*topics, *known}
    faults = [
        f"its pattern {pattern!r} matches no known topic"
        for pattern in patterns
        if not any(matches(pattern, topic) for topic in everything)
    ]
    if any_type:
        return faults
    for topic in sorted(set(known) - set(topics)):
        by = next((pattern for pattern in patterns if matches(pattern, topic)), None)
        if by is not None:
            faults.append(f"its pattern {by!r} delivers {topic!r}, for which it has no type")
    return faults
