"""Write an error down, whatever it is: bounded, and as text that every store can hold.

A text of megabytes fills the broker and each list that shows it; half a surrogate pair cannot be encoded, and an error
whose `str()` fails has no text at all. A job that ends with one of them would have no recorded end.
"""

import traceback

TEXT_BYTES = 4096
TRACEBACK_BYTES = 32_768


def describe(error: BaseException) -> str:
    """`Class: text`, at most TEXT_BYTES of it, its beginning kept. Raises nothing."""
    try:
        text = str(error)
    except BaseException as unreadable:  # an error's own code runs here
        text = f"(its text cannot be read: str() raised {type(unreadable).__name__})"
    return shorten(f"{type(error).__name__}: {text}")


def describe_traceback(error: BaseException) -> str:
    """Its traceback with those of its causes, at most TRACEBACK_BYTES: the beginning and the end. Raises nothing."""
    try:
        text = "".join(shorten(entry) for entry in traceback.format_exception(error))
    except BaseException:  # an error's own code runs here, too
        text = "".join(traceback.format_tb(error.__traceback__)) + describe(error)
    return shorten_traceback(text)


def shorten(text: str, limit: int = TEXT_BYTES) -> str:
    """The beginning of a text, at most `limit` bytes of UTF-8; what cannot be encoded is shown as `\\ud800`."""
    encoded = text.encode("utf-8", "backslashreplace")
    if len(encoded) <= limit:
        return encoded.decode()
    note = f" … ({len(encoded)} bytes)"
    return encoded[: limit - len(note.encode())].decode("utf-8", "ignore") + note


def shorten_traceback(text: str, limit: int = TRACEBACK_BYTES) -> str:
    """The beginning and the end of a traceback: where it was raised, and what."""
    encoded, half = text.encode("utf-8", "backslashreplace"), limit // 2
    if len(encoded) <= limit:
        return encoded.decode()
    return f"{encoded[:half].decode('utf-8', 'ignore')}\n…\n{encoded[-half:].decode('utf-8', 'ignore')}"
