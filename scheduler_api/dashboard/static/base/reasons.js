// Reasons in words: why a run exists, why a fire time has none, why a run waits.

const RUN = {
  scheduled: "Scheduled",
  manual: "Requested by hand",
  continuation: "Continuation",
  recovery: "Recovery after downtime",
  backfill: "Backfill",
  replay: "Replay",
};
const MISSED = {
  overlap: "the previous run had not ended",
  coalesced: "all nodes were busy, or the target was at its limit",
  downtime: "no node was running",
  paused: "paused",
  held: "continuations went first",
  replaced: "the trigger was changed or the job deleted",
  quarantined: "in quarantine",
  breaker: "the target did not answer, and calls were held back",
  expired: "beyond the limits of the recovery",
  due: "due, not decided yet",
  recovery: "still to be caught up",
  backfill: "to be run by a backfill",
  replay: "to be run again",
};
const HELD_BACK = {
  limit: "its target has reached its limit of open requests",
  rate: "its target has reached its rate limit",
  breaker: "its target does not answer, so only probes are sent",
  slots: "all slots of the nodes are in use",
  suspect: "several nodes died while they executed it; it waits for its next trial",
};

/** Every reason of a run: [[reason, words], ...]. */
export const RUN_REASONS = Object.entries(RUN);

/** Say why a run exists. */
export function runReason(reason) {
  return RUN[reason] ?? reason;
}

/** Say why a fire time has no run, or not yet. */
export function missReason(reason) {
  return MISSED[reason] ?? reason;
}

/** Say why a run is held back. */
export function holdReason(reason) {
  return HELD_BACK[reason] ?? reason;
}
