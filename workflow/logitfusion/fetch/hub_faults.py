"""What the hub's client raises, as one sentence each: what is wrong and what to do about it."""

from __future__ import annotations

import httpx2
from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    BadRequestError,
    DisabledRepoError,
    EntryNotFoundError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from logitfusion.errors import UserError, first_line
from logitfusion.files import find_disk_error

BUSY = frozenset({408, 429, 500, 502, 503, 504})  # worth another try


def status(error: BaseException | None) -> int | None:
    """The HTTP status in a chain of exceptions."""
    while error is not None:
        if isinstance(error, HfHubHTTPError) and error.response is not None:
            return error.response.status_code
        error = error.__cause__ or error.__context__
    return None


def passes(error: BaseException) -> bool:
    """Whether the same call may succeed a little later: a busy hub, a broken or silent connection, a cut file."""
    if isinstance(error, UserError) or find_disk_error(error) is not None:
        return False
    if (code := status(error)) is not None:
        return code in BUSY
    cut = isinstance(error, OSError) and "Consistency check failed" in str(error)
    return cut or isinstance(error, httpx2.TransportError) or isinstance(error.__cause__, httpx2.TransportError)


def explain(error: BaseException, title: str, page: str) -> UserError:
    """The sentence for a fault.

    Args:
        title: what was asked for: ``The model 'owner/name' (revision main)``.
        page: its address on the hub.
    """
    if isinstance(error, UserError):
        return UserError(f"{title} {error}.")
    return UserError(f"{title} {_words(error, page)}.")


def _words(error: BaseException, page: str) -> str:
    match error:
        case GatedRepoError():
            terms = f"accept the terms on its page, {page},"
            if get_token():
                return f"is gated, and the account of HF_TOKEN has no access yet: {terms} with that account"
            return f"is gated: {terms} and set HF_TOKEN to a token of that account"
        case DisabledRepoError():
            return "was disabled by the hub, so nothing of it can be downloaded; use another"
        case RepositoryNotFoundError():
            token = "ask for access for the account of HF_TOKEN" if get_token() else "set HF_TOKEN if you have access"
            return f"is not on the hub {constants.ENDPOINT}, or it is private: correct the id, or {token}"
        case RevisionNotFoundError():
            return f"has no such revision; its page, {page}, lists branches, tags and commits"
        case RemoteEntryNotFoundError():
            return f"lacks a file that it lists ({first_line(error)}); choose another revision"
        case HFValidationError():
            return f"has a name that the hub does not allow ({first_line(error)}); correct the id"
        case BadRequestError():
            return f"was refused by the hub {constants.ENDPOINT} ({first_line(error)}); correct the id or the revision"
    return _transport_words(error, page)


def _transport_words(error: BaseException, page: str) -> str:
    """The same for what may be nobody's mistake."""
    again = "what is whole is kept, so run the same again later"
    if (words := find_disk_error(error)) is not None:
        return f"could not be stored in {constants.HF_HUB_CACHE}: {words}; HF_HOME names another place"
    match status(error):
        case 401:
            return "could not be asked for: the hub refuses the token; set HF_TOKEN to a valid one, or to none"
        case 403:
            return f"may not be read with this token; give it the right to read {page}"
        case 429:
            return f"could not be downloaded: the hub has had too many requests from here; {again}, or set HF_TOKEN"
        case 404:
            return f"could not be read: {constants.ENDPOINT} answers 404, as no model hub does; correct HF_ENDPOINT"
        case int(code):
            return f"could not be downloaded: the hub {constants.ENDPOINT} answers {code}; {again}"
    match error:
        case FileMetadataError():
            return f"could not be read: {constants.ENDPOINT} is no model hub; correct HF_ENDPOINT, or unset it"
        case httpx2.TimeoutException():
            seconds = constants.HF_HUB_DOWNLOAD_TIMEOUT
            return f"could not be downloaded: nothing came for {seconds} s, several times; {again}"
        case httpx2.HTTPError():
            return f"could not be downloaded: the connection broke ({first_line(error)}), several times; {again}"
        case LocalEntryNotFoundError() | EntryNotFoundError() if error.__cause__ is not None:
            return _transport_words(error.__cause__, page)
        case OSError() if "Consistency check failed" in str(error):
            return f"could not be downloaded: a file came cut short, several times; {again}"
        case OSError(strerror=str(words)):
            return f"could not be stored in {constants.HF_HUB_CACHE}: {words.lower()}; HF_HOME names another place"
    return f"could not be downloaded ({type(error).__name__}: {first_line(error)}); {again}"
