"""The border to the tokenizer libraries: whatever they raise leaves as one line of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mlx_mistral.errors import MlxMistralError, TokenizerError

_LONGEST_REASON = 240


@contextmanager
def as_tokenizer_error(what: str, advice: str) -> Iterator[None]:
    """Turns every exception raised inside into `TokenizerError("what (reason); advice")`.

    Rust libraries panic with an exception outside `Exception`; it is caught by its name, so that
    an interrupt still passes.
    Raises: TokenizerError.
    """
    try:
        yield
    except MlxMistralError:
        raise
    except Exception as error:
        raise TokenizerError(f"{what} ({reason(error)}); {advice}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(f"{what} ({reason(error)}); {advice}") from error


def reason(error: BaseException) -> str:
    """What an exception says, on one line of bounded length."""
    text = " ".join(_first_complaint(error).split())
    if len(text) > _LONGEST_REASON:
        text = text[: _LONGEST_REASON - 1] + "…"
    return text or type(error).__name__


def _first_complaint(error: BaseException) -> str:
    """pydantic reports every field over several lines; the first one is enough."""
    complaints = getattr(error, "errors", None)
    if not callable(complaints):
        return str(error)
    try:
        first = complaints()[0]
        place = ".".join(str(part) for part in first["loc"])
        return f"{place}: {first['msg']}" if place else str(first["msg"])
    except (LookupError, TypeError):
        return str(error)
