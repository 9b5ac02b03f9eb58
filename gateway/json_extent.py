"""How far a JSON object or array reaches in text that arrives in pieces."""


class JsonExtent:
    """Counts brackets outside of strings; it does not judge what stands between them.

    NEW -> push, whose text begins with the opening bracket -> OPEN -> ... -> complete
    """

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._is_escaped = False
        self.is_complete = False

    def push(self, text: str) -> int:
        """How many characters of `text` belong to the value."""
        if self.is_complete:
            return 0
        for at, character in enumerate(text):
            if self._in_string:
                self._inside_string(character)
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    self.is_complete = True
                    return at + 1
        return len(text)

    def _inside_string(self, character: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif character == "\\":
            self._is_escaped = True
        elif character == '"':
            self._in_string = False
