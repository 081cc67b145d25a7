"""Request bodies that act on many jobs or runs: their fields, and how they are read."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta
from msgspec.structs import replace

from scheduler_api.wire.bodies import MAX_NOTE_CHARACTERS, names_of
from scheduler_api.wire.fields import Described, Instant, Maybe
from scheduler_api.wire.json_body import (
    INSTANT_FORMAT,
    WHITESPACE,
    Fields,
    instant_of,
    nested,
    read_object,
    refuse_repeated,
    required,
)
from scheduler_api.wire.labels import check_labels
from scheduler_api.wire.pauses import pause_fields_of
from scheduler_api.wire.selection import JobSelection, ids_of_body, selection_of_body
from scheduler_core.base.errors import InvalidInput
from scheduler_core.model.run import RunState
from scheduler_core.usecases.operation_spec import (
    MAX_PER_SECOND,
    NOTHING,
    PER_SECOND,
    OperationSpec,
    OperationVerb,
    RunFilter,
)
from scheduler_core.usecases.selection import Selection

Note = Annotated[str, Meta(max_length=MAX_NOTE_CHARACTERS, description="Why; for people.")]
SETTLED = tuple(state for state in RunState if state not in (RunState.OPEN, RunState.RETRYING, RunState.TAKEN))

All = Annotated[bool, Meta(description='Without `select`: every job, as with `"select": {"all": true}`.')]
DryRun = Annotated[bool, Meta(description="Only count; change nothing.")]
PerSecond = Annotated[
    Annotated[int, Meta(ge=1, le=MAX_PER_SECOND)], Meta(description="The most runs to start per second.")
]


class ManyJobs(Described, forbid_unknown_fields=True):
    """The jobs to act on."""

    select: Maybe[JobSelection] = UNSET
    all: All = False
    dry_run: DryRun = False

    EXAMPLES = ({"select": {"label": ["team:billing"], "status": "active"}, "dry_run": True},)


class PauseMany(Described, forbid_unknown_fields=True):
    """The jobs to pause."""

    select: Maybe[JobSelection] = UNSET
    all: All = False
    dry_run: DryRun = False
    note: Maybe[Note | None] = UNSET
    until: Annotated[Maybe[Instant | None], Meta(description="Each job resumes by itself then.")] = UNSET

    EXAMPLES = ({"select": {"label": ["team:billing"]}, "until": "2098-01-31T12:00:00Z", "note": "migration"},)


class RunMany(Described, forbid_unknown_fields=True):
    """The jobs to run now."""

    select: Maybe[JobSelection] = UNSET
    all: All = False
    dry_run: DryRun = False
    force: Annotated[bool, Meta(description="As in `POST /jobs/{id}/run`.")] = False
    per_second: PerSecond = PER_SECOND


class LabelMany(Described, forbid_unknown_fields=True):
    """The jobs whose labels to change."""

    labels: Annotated[dict[str, str | None], Meta(description="Labels to set; null removes one.", min_length=1)]
    select: Maybe[JobSelection] = UNSET
    all: All = False
    dry_run: DryRun = False

    EXAMPLES = ({"select": {"prefix": "billing-"}, "labels": {"team": "billing", "owner": None}},)


RunStates = Literal["succeeded", "failed", "conflict", "superseded", "cancelled", "lost"]


class RunSelection(Described, forbid_unknown_fields=True):
    """Conditions on settled runs; a run must match all of them."""

    job: Annotated[Maybe[str], Meta(description="The id of a job.")] = UNSET
    label: Annotated[
        Maybe[str | list[str]], Meta(description="`key:value` or `key`, of the job; all of a list must match.")
    ] = UNSET
    state: Annotated[
        Maybe[RunStates | list[RunStates]], Meta(description="One of these. Default: failed, lost and conflict.")
    ] = UNSET
    start: Annotated[Maybe[Instant], Meta(description="Started at or after.")] = msgspec.field(
        default=UNSET, name="from"
    )
    end: Annotated[Maybe[Instant], Meta(description="Started at or before.")] = msgspec.field(default=UNSET, name="to")
    all: Annotated[bool, Meta(description="`true`: of all jobs. Required without another condition.")] = False


class ReplayMany(Described, forbid_unknown_fields=True):
    """The runs to run again."""

    select: Maybe[RunSelection] = UNSET
    all: All = False
    dry_run: DryRun = False
    definition: Annotated[
        Maybe[Literal["current"]],
        Meta(description="Also runs whose job was changed since; they run with its current definition."),
    ] = UNSET
    per_second: PerSecond = PER_SECOND

    EXAMPLES = ({"select": {"label": ["team:billing"], "from": "2030-01-31T00:00:00Z", "to": "2030-01-31T06:00:00Z"}},)


BODIES: dict[OperationVerb, Any] = {
    OperationVerb.PAUSE: PauseMany,
    OperationVerb.RESUME: ManyJobs,
    OperationVerb.RUN: RunMany,
    OperationVerb.DELETE: ManyJobs,
    OperationVerb.LABEL: LabelMany,
    OperationVerb.REPLAY: ReplayMany,
}


def operation_of(verb: OperationVerb, body: bytes, *, now_ms: int) -> OperationSpec:
    """Read the body of a request that acts on many jobs or runs. Raises InvalidInput."""
    fields = read_object(body if body.strip(WHITESPACE) else b"{}", names_of(BODIES[verb]))
    shown = _select_of(fields)
    spec = OperationSpec(verb, Selection(everything=True), now_ms, dry_run=_flag(fields, "dry_run"), shown=shown)
    if verb is OperationVerb.REPLAY:
        spec = _with_runs(spec, shown)
    elif ids := ids_of_body(msgspec.Raw(shown)):
        spec = replace(spec, selection=NOTHING, job_ids=tuple(sorted(set(ids), key=str.encode)))
    else:
        spec = replace(spec, selection=selection_of_body(msgspec.Raw(shown)))
    if verb is OperationVerb.PAUSE:
        terms = pause_fields_of(fields)
        if terms.until_ms is not None and terms.until_ms <= now_ms:
            raise InvalidInput("until must lie in the future", field="until")
        spec = replace(spec, note=terms.note, until_ms=terms.until_ms)
    if verb is OperationVerb.LABEL:
        spec = replace(spec, labels=_labels(fields))
    if "per_second" in fields:
        spec = replace(spec, per_second=_per_second(fields))
    if "definition" in fields:
        if required(fields, "definition", str, '"current"') != "current":
            raise InvalidInput('definition must be "current"', field="definition")
        spec = replace(spec, current=True)
    return replace(spec, force=_flag(fields, "force"))


def _select_of(fields: Fields) -> bytes:
    """Return the conditions as JSON. Raises InvalidInput if the body has none and does not ask for all."""
    everything = _flag(fields, "all")
    if "select" not in fields:
        if everything:
            return b'{"all":true}'
        raise InvalidInput("the field 'select' is missing: send conditions, or {\"all\": true} for all", field="select")
    if everything:
        raise InvalidInput("give either select or all", field="all")
    return bytes(fields["select"])


def _with_runs(spec: OperationSpec, select: bytes) -> OperationSpec:
    fields = nested(msgspec.Raw(select), names_of(RunSelection), path="select")
    everything = "all" in fields and bool(required(fields, "all", bool, "true or false", path="select."))
    if everything != (fields.keys() <= {"all"}):
        what = "has conditions beside all" if everything else "has no condition"
        raise InvalidInput(f'select {what}: send conditions, or only "all": true for all runs', field="select")
    states = tuple(RunState(one) for one in _state_names(fields)) if "state" in fields else RunFilter().states
    from_ms, to_ms = (_instant(fields, name) if name in fields else None for name in ("from", "to"))
    if from_ms is not None and to_ms is not None and to_ms < from_ms:
        raise InvalidInput("select.to must not be earlier than select.from", field="select.to")
    job_id = required(fields, "job", str, "the id of a job", path="select.") if "job" in fields else None
    selection = spec.selection
    if "label" in fields:
        if job_id is not None:
            raise InvalidInput("give either select.job or select.label", field="select.label")
        selection = selection_of_body(msgspec.Raw(b'{"label":' + bytes(fields["label"]) + b"}"))
    return replace(spec, job_id=job_id, selection=selection, runs=RunFilter(states, from_ms, to_ms))


def _state_names(fields: Fields) -> list[str]:
    expected = f"one of {', '.join(SETTLED)}, or a list of these"
    found = required(fields, "state", str | list[str], expected, path="select.")
    names = [found] if isinstance(found, str) else found
    if not names or any(name not in SETTLED for name in names):
        raise InvalidInput(f"select.state must be {expected}", field="select.state")
    return list(dict.fromkeys(names))


def _instant(fields: Fields, name: str) -> int:
    return instant_of(required(fields, name, str, INSTANT_FORMAT, path="select."), field=f"select.{name}")


def _flag(fields: Fields, name: str) -> bool:
    return name in fields and bool(required(fields, name, bool, "true or false"))


def _per_second(fields: Fields) -> int:
    expected = f"a whole number from 1 to {MAX_PER_SECOND}"
    found: int = required(fields, "per_second", int, expected)
    if not 1 <= found <= MAX_PER_SECOND:
        raise InvalidInput(f"per_second must be {expected}", field="per_second")
    return found


def _labels(fields: Fields) -> dict[str, str | None]:
    expected = "an object with at least one label to set; null removes a label"
    found: dict[str, str | None] = required(fields, "labels", dict[str, str | None], expected)
    if not found:
        raise InvalidInput(f"labels must be {expected}", field="labels")
    refuse_repeated(bytes(fields["labels"]), path="labels.")
    check_labels({key: value or "" for key, value in found.items()})
    return found
