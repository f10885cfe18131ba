"""Where to fetch from: all endpoints are asked at once, the quickest to answer properly is taken first."""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass

import httpx2

from ostro.core.errors import HubError
from ostro.weights.hub.endpoint import Endpoint, RefusedError, UnavailableError, new_client
from ostro.weights.hub.listing import Listing

# Once one endpoint has answered, the others get this long (or twice that answer's time) to be compared with it.
GRACE_S = 0.5
PROBE_TIMEOUT_S = 20.0
# The configured hub gets longer: its word on commit and digests is better than a mirror's.
HUB_WAIT_S = 5.0


@dataclass(frozen=True)
class Sources:
    """The listing to trust and the endpoints to fetch it from, best first. `notes` says how they were chosen."""

    listing: Listing
    endpoints: tuple[Endpoint, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Answer:
    endpoint: Endpoint
    seconds: float
    listing: Listing | None
    error: HubError | None = None


def find_sources(
    endpoints: tuple[Endpoint, ...], repo: str, revision: str, attempts: int = 3, backoff_s: float = 0.5
) -> Sources:
    """Probe every endpoint for `repo` and order those that have it.

    The first endpoint is the configured hub: where it answers, its commit and digests are the ones that count;
    otherwise those of the quickest mirror. An endpoint that shows another commit, or other digests for the same
    commit, is left out. One that has not answered yet stays as the last resort: digests are checked anyway.
    Where none can answer now, all are asked again, `attempts` times in all, after backoff_s and twice that and so on.
    Raises the hub's own error when no endpoint has the repository.
    """
    for attempt in range(attempts):
        answers, waiting = _ask_all(endpoints, repo, revision)
        good = [answer for answer in answers if answer.listing is not None]
        if good or not any(isinstance(answer.error, UnavailableError) for answer in answers):
            break
        if attempt + 1 < attempts:
            time.sleep(backoff_s * 2**attempt)
    if not good:
        raise _nobody_has_it(answers, endpoints, repo)
    trusted = next((answer for answer in good if answer.endpoint == endpoints[0]), good[0])
    listing = trusted.listing
    assert listing is not None
    agreeing = [answer for answer in good if answer.listing == listing]
    notes = [_left_out(answer, listing) for answer in answers if answer not in agreeing]
    if len(endpoints) > 1:
        best = agreeing[0]
        notes.append(f"Fetching from {best.endpoint.url}, the quickest to answer ({best.seconds * 1000:.0f} ms).")
    ordered = (*(answer.endpoint for answer in agreeing), *waiting)
    return Sources(listing, ordered, tuple(notes))


def _ask_all(endpoints: tuple[Endpoint, ...], repo: str, revision: str) -> tuple[list[_Answer], list[Endpoint]]:
    answered: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
    # Made before the clock starts: loading certificates takes longer than many a mirror.
    clients = [new_client() for _ in endpoints]
    start = time.monotonic()
    for endpoint, client in zip(endpoints, clients, strict=True):
        # Daemon threads: a mirror that hangs must not hold the program when the pull is done or stopped.
        threading.Thread(target=_ask, args=(client, endpoint, repo, revision, answered), daemon=True).start()
    answers: list[_Answer] = []
    deadline = start + PROBE_TIMEOUT_S
    while len(answers) < len(endpoints):
        try:
            answers.append(answered.get(timeout=max(0.0, deadline - time.monotonic())))
        except queue.Empty:
            break
        if any(answer.listing is not None for answer in answers):
            hub_answered = any(answer.endpoint == endpoints[0] for answer in answers)
            wait = max(GRACE_S, 2 * answers[0].seconds) if hub_answered else HUB_WAIT_S
            deadline = min(start + PROBE_TIMEOUT_S, start + answers[0].seconds + wait)
    waiting = [endpoint for endpoint in endpoints if endpoint not in [answer.endpoint for answer in answers]]
    return answers, waiting


def _ask(
    client: httpx2.Client, endpoint: Endpoint, repo: str, revision: str, answered: queue.SimpleQueue[_Answer]
) -> None:
    start = time.monotonic()
    try:
        with client:
            listing = endpoint.listing(client, repo, revision)
    except HubError as error:
        answered.put(_Answer(endpoint, time.monotonic() - start, None, error))
    else:
        answered.put(_Answer(endpoint, time.monotonic() - start, listing))


def _left_out(answer: _Answer, listing: Listing) -> str:
    url = answer.endpoint.url
    if answer.listing is None:
        return f"Left out {url}: {answer.error}"
    if answer.listing.commit != listing.commit:
        return f"Left out {url}: it is at commit {answer.listing.commit[:12]}, not {listing.commit[:12]}."
    return f"Left out {url}: its files or digests of commit {listing.commit[:12]} differ from the hub's."


def _nobody_has_it(answers: list[_Answer], endpoints: tuple[Endpoint, ...], repo: str) -> HubError:
    errors = {answer.endpoint: answer.error for answer in answers if answer.error is not None}
    main = errors.get(endpoints[0])
    if main is not None and (len(endpoints) == 1 or isinstance(main, RefusedError)):
        return main
    told = " ".join(str(errors.get(endpoint, f"{endpoint.url} did not answer.")) for endpoint in endpoints)
    return HubError(f"No hub or mirror has {repo} to give. {told}")
