"""Numbers of things in messages: 1 query, 2 queries."""

from __future__ import annotations


def counted(number: int, one: str) -> str:
    """Return a number and its noun.

    Args:
        number: How many.
        one: The noun for one; for others, an s is added, and a y or ch at its end is heeded.
    """
    if number == 1:
        return f"1 {one}"
    if one.endswith("y") and one[-2:-1] not in "aeiou":
        return f"{number} {one[:-1]}ies"
    return f"{number} {one}{'es' if one.endswith(('ch', 'sh', 's', 'x')) else 's'}"
