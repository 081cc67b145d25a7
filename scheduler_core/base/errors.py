"""Declares every error that Cronpost raises on purpose.

    CronpostError
    ├── InvalidInput            the caller's input is invalid; names the field
    │   └── SecretsNeeded       a kept secret would go to another origin
    ├── ConfigError             a setting is unknown or has a bad value
    ├── JobNotFound
    ├── VersionMismatch         the job has another version than the caller requires
    ├── RunConflict             the job has a run that is not settled
    │   └── TooManyReplays      too many replays of the job are not settled
    ├── KeyReused               the Idempotency-Key was used with another request before
    ├── OperationNotFound
    ├── OperationEnded          the operation has ended, so it cannot be cancelled
    ├── TooManyOperations       too many operations are open
    ├── TaskNotFound
    ├── TaskNotStale            only a stale one-off task can be revived
    ├── RunNotFound
    ├── AttentionNotFound       the list of what needs a person has no such entry
    ├── RunCancelled            the run was cancelled before its runner completed it
    ├── AlreadySettled          the run has ended, so it cannot be cancelled
    ├── AlreadyReplayed         the run was replayed before
    ├── AlreadySucceeded        the run succeeded, so it is not replayed unless forced
    ├── DefinitionChanged       the job's definition is not the one that the run had
    ├── RunLost                 the run ended as lost before its runner completed it
    ├── TokenRefused            the token does not belong to the run
    ├── TargetNotFound
    ├── NoNode                  no node is alive to send the request
    ├── TargetInUse             jobs use the target, so it cannot be deleted
    ├── ScheduleNotFound
    ├── DuplicateName           a target or a schedule has this name already
    ├── WrongStatus             the schedule's status does not allow this operation
    ├── AlertRuleNotFound
    ├── AlertChannelNotFound
    ├── AlertChannelInUse       rules name the channel, so it cannot be deleted
    ├── TooManyAlertEntries     the maximum number of alert rules or channels exists
    ├── TooManyListeners        this process serves no further listener to events
    ├── StoreError
    │   ├── StoreUnavailable    temporary: down, loading, failing over, out of memory; try again
    │   │   └── OutcomeUnknown  a change was sent and not answered: it may have been stored
    │   └── StoreRefused        permanent: wrong password, no permission, wrong type, wrong settings
    ├── EmbeddedRedisError      the embedded redis-server cannot be started
    │   └── DataDirectoryInUse  another server holds the data directory
    └── CorruptDocument         a stored document cannot be read

Each class has a stable ``code``. The API maps codes to HTTP statuses, in one place. A target's answer is never an error
but a value: see ``Outcome``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class CronpostError(Exception):
    """The root of all errors raised on purpose."""

    code: ClassVar[str] = "error"


class InvalidInput(CronpostError):
    """The caller's input is invalid.

    ``field``: the name of the wrong field as clients write it; None: the whole body.
    """

    code = "invalid_input"

    def __init__(self, detail: str, *, field: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field


class SecretsNeeded(InvalidInput):
    """A stored secret was to be kept, and would go to another scheme, host or port."""

    code = "secrets_needed"

    def __init__(self, field: str) -> None:
        super().__init__(
            f"{field} names another scheme, host or port than before, and stored secrets were to be kept: send the "
            "secrets again",
            field=field,
        )


class ConfigError(CronpostError):
    """A setting is unknown or has an invalid value. The message has its name and the expected form."""

    code = "bad_setting"


class JobNotFound(CronpostError):
    """No job is stored under this id."""

    code = "job_not_found"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"no job with id {job_id!r}")
        self.job_id = job_id


class VersionMismatch(CronpostError):
    """The job has another version than the caller requires; nothing was changed.

    ``etag``: that of the stored job; None: no job that can be read is stored under the id.
    """

    code = "version_mismatch"

    def __init__(self, etag: str | None) -> None:
        stored = "no job that can be read is stored under this id" if etag is None else f'its ETag is "{etag}"'
        super().__init__(f"the job is not the one that If-Match names: {stored}. Read it again before you change it")
        self.etag = etag


class JobExists(VersionMismatch):
    """A job is stored under the id, and the caller requires that none is; nothing was changed."""

    code = "job_exists"

    def __init__(self, etag: str | None) -> None:
        super().__init__(etag)
        self.args = ("a job is stored under this id, and If-None-Match requires that none is: choose another id",)


class RunConflict(CronpostError):
    """The job has a run that is not settled, so that another cannot be started now."""

    code = "run_not_settled"


class TooManyReplays(RunConflict):
    """Too many replays of the job are not settled."""

    code = "too_many_replays"


class KeyReused(CronpostError):
    """The Idempotency-Key of this request was used with another body before."""

    code = "idempotency_key_reused"

    def __init__(self) -> None:
        super().__init__("this Idempotency-Key was used with another body before; use a new key for another request")


class RunNotFound(CronpostError):
    """No run has this id, or none for which this operation is possible."""

    code = "run_not_found"


class AttentionNotFound(CronpostError):
    """What needs a person has no entry with this id."""

    code = "entry_not_found"

    def __init__(self, entry_id: str) -> None:
        super().__init__(
            f"no entry with id {entry_id[:300]!r}; GET /attention lists the entries with their ids, such as job:nightly"
        )


class RunLost(CronpostError):
    """The run ended as lost before its runner completed it."""

    code = "run_lost"


class RunCancelled(CronpostError):
    """The run was cancelled before its runner completed it."""

    code = "run_cancelled"


class AlreadySettled(CronpostError):
    """The run has ended in another state, so it cannot be cancelled."""

    code = "already_settled"

    def __init__(self, run_id: str, state: str) -> None:
        super().__init__(f"the run {run_id} has ended: {state}")


class AlreadyReplayed(CronpostError):
    """The run was replayed before."""

    code = "already_replayed"

    def __init__(self, run_id: str, replayed_by: str) -> None:
        super().__init__(f"the run {run_id} was replayed already, by {replayed_by}; to replay it again, use force")
        self.replayed_by = replayed_by


class AlreadySucceeded(CronpostError):
    """The run succeeded, so it is not replayed unless forced."""

    code = "already_succeeded"

    def __init__(self, run_id: str) -> None:
        super().__init__(f"the run {run_id} succeeded; to replay it nevertheless, use force")


class DefinitionChanged(CronpostError):
    """The job's definition is not the one that the run had."""

    code = "definition_changed"

    def __init__(self, run_id: str) -> None:
        super().__init__(
            f"the job was changed, or created again, since the run {run_id}; to replay the run with the definition "
            'that the job has now, send "definition": "current"'
        )


class TokenRefused(CronpostError):
    """The token of a callback does not belong to its run."""

    code = "token_refused"


class TargetNotFound(CronpostError):
    """No target has this id."""

    code = "target_not_found"

    def __init__(self, target_id: int) -> None:
        super().__init__(f"no target with id {target_id}")


class NoNode(CronpostError):
    """No node is alive, so the request would not be sent."""

    code = "no_node"

    def __init__(self) -> None:
        super().__init__(
            "no node is running, so nothing would send the request: start one (cronpost serve), then try again"
        )


class TargetInUse(CronpostError):
    """Jobs use the target, so it cannot be deleted."""

    code = "target_in_use"

    def __init__(self, target_id: int, jobs: int) -> None:
        super().__init__(
            f"{jobs} job{'' if jobs == 1 else 's'} use{'s' if jobs == 1 else ''} the target {target_id}: change or "
            "delete them first"
        )
        self.jobs = jobs


class ScheduleNotFound(CronpostError):
    """No schedule has this id."""

    code = "schedule_not_found"

    def __init__(self, schedule_id: int) -> None:
        super().__init__(f"no schedule with id {schedule_id}")


class DuplicateName(CronpostError):
    """A target or a schedule has this name already."""

    code = "duplicate_name"
    field = "name"

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"there is a {kind} with the name {name!r} already")


class WrongStatus(CronpostError):
    """The schedule's status does not allow this operation."""

    code = "wrong_status"


class OperationNotFound(CronpostError):
    """No operation has this id, or it ended more than a day ago."""

    code = "operation_not_found"

    def __init__(self, operation_id: str) -> None:
        super().__init__(f"no operation with id {operation_id[:100]!r}; an operation is kept for a day after its end")


class OperationEnded(CronpostError):
    """The operation has ended, so it cannot be cancelled."""

    code = "operation_ended"

    def __init__(self, operation_id: str, state: str) -> None:
        super().__init__(f"the operation {operation_id} has ended: {state}")


class AlertRuleNotFound(CronpostError):
    """No alert rule has this id."""

    code = "alert_rule_not_found"

    def __init__(self, rule_id: int) -> None:
        super().__init__(f"no alert rule has the id {rule_id}; GET /alerts/rules lists them")


class AlertChannelNotFound(CronpostError):
    """No channel of alerts has this id."""

    code = "alert_channel_not_found"

    def __init__(self, channel_id: int) -> None:
        super().__init__(f"no alert channel has the id {channel_id}; GET /alerts/channels lists them")


class AlertChannelInUse(CronpostError):
    """Alert rules name the channel."""

    code = "alert_channel_in_use"

    def __init__(self, channel_id: int, rules: Sequence[int]) -> None:
        shown = ", ".join(map(str, rules[:10]))
        use, them = (f"the rules {shown} use", "them") if len(rules) > 1 else (f"the rule {shown} uses", "it")
        super().__init__(f"{use} the alert channel {channel_id}; give {them} another channel, or delete {them} first")


class TooManyAlertEntries(CronpostError):
    """The maximum number of alert rules or channels exists."""

    code = "too_many_alert_entries"

    def __init__(self, what: str, most: int) -> None:
        super().__init__(f"at most {most} {what} are allowed, and {most} exist; delete one first")


class TooManyOperations(CronpostError):
    """Too many operations are open."""

    code = "too_many_operations"

    def __init__(self) -> None:
        super().__init__("too many operations are open; wait for their end, or cancel some: GET /operations lists them")


class TaskNotFound(CronpostError):
    """No one-off task has this id (any more)."""

    code = "task_not_found"

    def __init__(self, task_id: str) -> None:
        super().__init__(f"no one-off task with id {task_id!r}")


class TaskNotStale(CronpostError):
    """The one-off task is not stale, so it cannot be revived."""

    code = "task_not_stale"

    def __init__(self, task_id: str, status: str) -> None:
        super().__init__(f"{task_id} is {status}; only a stale task can be called again")


class TooManyListeners(CronpostError):
    """This process serves as many listeners to events as it may, or it stops."""

    code = "too_many_listeners"


class StoreError(CronpostError):
    """Redis did not execute a command."""

    code = "store_error"


class StoreUnavailable(StoreError):
    """A temporary fault: a later retry can succeed.

    ``effect_unknown``: the command was sent without an answer, so it may have been executed; otherwise it was not.
    ``unreachable``: no connection to Redis, so nothing was sent.
    """

    code = "store_unavailable"

    def __init__(self, detail: str, *, effect_unknown: bool = False, unreachable: bool = False) -> None:
        super().__init__(detail)
        self.effect_unknown = effect_unknown
        self.unreachable = unreachable


class OutcomeUnknown(StoreUnavailable):
    """A change was sent to Redis without an answer: it may be stored.

    ``retry_after_ms`` from now it is either stored or never will be.
    """

    code = "outcome_unknown"

    def __init__(self, detail: str, *, retry_after_ms: int = 0) -> None:
        super().__init__(detail, effect_unknown=True)
        self.retry_after_ms = retry_after_ms


class StoreRefused(StoreError):
    """A permanent fault: an operator has to change something."""

    code = "store_refused"


class EmbeddedRedisError(CronpostError):
    """The embedded redis-server cannot start. The message says what to do."""

    code = "embedded_redis"


class DataDirectoryInUse(EmbeddedRedisError):
    """Another Cronpost server holds the data directory."""

    code = "data_directory_in_use"


class CorruptDocument(CronpostError):
    """A stored document cannot be read. Its job is quarantined; other jobs are not affected."""

    code = "corrupt_document"
