"""Finds a tag in text that arrives in pieces."""


def split_at_tag(text: str, tag: str) -> tuple[str, str | None]:
    """What stands before the tag and what behind it; None while the tag has not come.

    Without the tag, the end of `text` that may be the tag's beginning is in neither: it is
    `text[len(before):]`.
    """
    at = text.find(tag)
    if at >= 0:
        return text[:at], text[at + len(tag) :]
    for length in range(min(len(tag) - 1, len(text)), 0, -1):
        if tag.startswith(text[-length:]):
            return text[:-length], None
    return text, None
