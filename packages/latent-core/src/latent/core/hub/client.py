"""The Hub's client and what its errors mean."""

import contextlib
import re
from collections.abc import Iterator

from latent.core.errors import HubError, shown

__all__ = ["check_name", "explained", "is_offline", "missing_offline", "transport_error"]

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def check_name(repo: str) -> str:
    """Return the name of a repository.

    Raises:
        HubError: It is not `owner/name`.
    """
    if not _NAME.fullmatch(repo) or ".." in repo or "--" in repo:
        raise HubError(
            f"{shown(repo)} is not the name of a repository.", hint="Write OWNER/NAME, such as me/point-mass."
        )
    return repo


def is_offline() -> bool:
    """Whether the client was told never to use the network (`HF_HUB_OFFLINE=1`)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


@contextlib.contextmanager
def explained(repo: str, *, revision: str | None, token: str | None, file: str = "config.json") -> Iterator[None]:
    """Turn the client's errors into errors of two lines; `file` is what is asked for.

    Raises:
        HubError: Whatever the client raises.
    """
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise HubError(
            f"{repo} is open only to those whom its owner admits.", hint=f"Ask for access at {_address(repo)}."
        ) from error
    except errors.RepositoryNotFoundError as error:
        known = "this token may not see it" if token else "it is private and no token of its owner is known"
        raise HubError(
            f"There is no repository {repo}, or {known}.", hint="Check the name; set HF_TOKEN or give --token."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HubError(
            f"{repo} has no revision {shown(revision)}.",
            hint="Give a branch, a tag, a commit or refs/pr/N that it has; without one it is main.",
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise missing_offline(repo, revision, file) from error
    except errors.EntryNotFoundError as error:
        raise HubError(
            f"{repo} holds no whole saved model: {file} is missing.", hint="Publish one with: latent push RUN REPO"
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise HubError("The client is offline (HF_HUB_OFFLINE=1).", hint="Unset HF_HUB_OFFLINE.") from error
    except errors.HfHubHTTPError as error:
        raise _refused(repo, error.response.status_code, error) from error
    except transport_error() as error:
        raise _unreachable(error) from error
    except errors.FileMetadataError as error:
        raise HubError(f"{_address(repo)} does not answer as a Hub does: {error}", hint="Check HF_ENDPOINT.") from error
    except RuntimeError as error:  # the client's word for an upload of a large file that failed
        if not isinstance(error.__cause__, transport_error()):
            raise
        raise HubError(f"The upload to {repo} failed: {error.__cause__}", hint="Push again.") from error


def transport_error() -> type[Exception]:
    """Return what every error of the client's HTTP library is: which library that is depends on the client."""
    from huggingface_hub.errors import HfHubHTTPError

    base: type[Exception] = HfHubHTTPError.__mro__[1]
    return base


def missing_offline(repo: str, revision: str | None, name: str) -> HubError:
    """Return the error for a file that is not in the cache of a client that may not ask for it."""
    flag = f" --revision {revision}" if revision else ""
    return HubError(
        f"{name} of {repo} is not in the cache, and the Hub is not asked or cannot be reached.",
        hint=f"If a folder is meant, look at its name. Where there is a network, run: latent pull {repo}{flag}",
    )


def _refused(repo: str, status: int, error: Exception) -> HubError:
    match status:
        case 401:
            return HubError(
                "The Hub does not know this token.", hint="Set HF_TOKEN, give --token, or run: hf auth login"
            )
        case 403:
            return HubError(
                f"This token has no right to do that to {repo}.", hint="Use a token that may write, or --pr."
            )
        case 409 | 412:
            return HubError(f"Somebody changed {repo} at the same time.", hint="Push again.")
    return HubError(f"{_address(repo)}: the Hub answered {status}: {_line(error)}", hint="Try again later.")


def _unreachable(error: Exception) -> HubError:
    from huggingface_hub import constants

    return HubError(
        f"The Hub at {constants.ENDPOINT} cannot be reached: {_line(error)}",
        hint="Check the network and HF_ENDPOINT, or set HF_HUB_OFFLINE=1 to use what is in the cache.",
    )


def _address(repo: str) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repo}"


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
