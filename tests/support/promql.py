"""Reads which metrics, labels and label values a PromQL expression uses.

A tokenizer, not a parser: `make test-rules` has promtool parse the same expressions. It never skips what it does not
know: an unknown function, a selector without a name or a stray character is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from scheduler_core.base.health_metrics import JobSample
from scheduler_core.base.metrics import Metrics

TOKEN = re.compile(
    r"""\s*(?:
        (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<variable>\$\{?\w+\}?)
      | (?P<number>\d[\w.]*)
      | (?P<name>[a-zA-Z_:][\w:]*)
      | (?P<sign>=~|!~|!=|==|>=|<=|[-+*/%^(){}\[\],:=<>])
    )\s*""",
    re.VERBOSE,
)
GROUPING = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})
OPERATORS = frozenset({"and", "or", "unless", "offset", "bool"})
FUNCTIONS = frozenset({"abs", "absent", "avg_over_time", "histogram_quantile", "increase", "max_over_time"})
FUNCTIONS |= {"avg", "count", "max", "min", "min_over_time", "rate", "sum", "time", "topk"}
SCRAPED = frozenset({"job", "instance", "exported_job"})
"""Labels that Prometheus adds. ``exported_job``: the label ``job`` of a metric, which Prometheus renames."""


@dataclass(frozen=True)
class Selector:
    """One ``metric{label="value"}`` of an expression."""

    metric: str
    matchers: dict[str, tuple[str, str]]
    """By label: operator and value."""


@dataclass
class Uses:
    """What an expression uses."""

    selectors: list[Selector] = field(default_factory=list)
    grouped: set[str] = field(default_factory=set)
    """Labels of ``by``, ``on`` and others."""


def tokens_of(expression: str) -> list[tuple[str, str]]:
    """Split an expression. Raises ValueError for a character that PromQL does not have."""
    found: list[tuple[str, str]] = []
    at = 0
    text = expression.strip()
    while at < len(text):
        match = TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            raise ValueError(f"no PromQL from here on: {text[at:][:40]!r}")
        found.append((match.lastgroup, match[match.lastgroup]))
        at = match.end()
    return found


def uses_of(expression: str) -> Uses:
    """Read an expression. Raises ValueError for what it does not know, and for an expression without a metric."""
    tokens = [*tokens_of(expression), ("end", "")]
    uses = Uses()
    at = 0
    while at < len(tokens):
        kind, text = tokens[at]
        following = tokens[at + 1] if at + 1 < len(tokens) else ("end", "")
        at += 1
        if kind == "sign" and text == "{":
            raise ValueError(f"a selector without a metric: {expression}")
        if kind != "name" or text in OPERATORS:
            continue
        if text in GROUPING:
            end = tokens.index(("sign", ")"), at)
            uses.grouped |= {name for kind_, name in tokens[at:end] if kind_ == "name"}
            at = end + 1
        elif following == ("sign", "(") or following[1] in GROUPING:
            if text not in FUNCTIONS:
                raise ValueError(f"an unknown function: {text}")
        elif following == ("sign", "{"):
            end = tokens.index(("sign", "}"), at)
            uses.selectors.append(Selector(text, dict(_matchers(tokens[at + 1 : end]))))
            at = end + 1
        else:
            uses.selectors.append(Selector(text, {}))
    if not uses.selectors:
        raise ValueError(f"no metric: {expression}")
    return uses


def _matchers(tokens: list[tuple[str, str]]) -> Iterator[tuple[str, tuple[str, str]]]:
    parts = [token for token in tokens if token != ("sign", ",")]
    if len(parts) % 3:
        raise ValueError(f"no matchers: {tokens}")
    for (kind, label), (_, operator), (value_kind, value) in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        if kind != "name" or operator not in {"=", "!=", "=~", "!~"} or value_kind != "string":
            raise ValueError(f"no matcher: {label}{operator}{value}")
        yield label, (operator, value[1:-1])


def series_of_code() -> dict[str, set[str]]:
    """Return every series that ``/metrics`` can have, with its labels, also those that appear with an event."""
    metrics = Metrics()
    for one in vars(metrics).values():
        labels = getattr(one, "_labelnames", None) or getattr(one, "_labels", None)
        if labels and hasattr(one, "start"):
            one.start(*labels)
        elif labels:
            one.labels(*labels)
    metrics.health.set_counts({"failing": {"a": 1}}, labelled=True)
    metrics.health.set_jobs([JobSample("a", "ok", 0, 1)], left_out=0)
    series: dict[str, set[str]] = {}
    for family in metrics.registry.collect():
        assert family.samples, f"{family.name} shows no series, so its labels are unknown: add it here"
        for sample in family.samples:
            series.setdefault(sample.name, set()).update(sample.labels)
    return series
