"""OpenTelemetry traces of runs, if the setting ``traces`` asks for them. Needs the extra ``cronpost[otel]``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scheduler_core.base.errors import ConfigError

if TYPE_CHECKING:
    from scheduler_core.traces.otel import OtelTraces


def open_traces() -> OtelTraces | None:
    """Start to export traces as the ``OTEL_*`` variables say; None: they switch traces off.

    Raises ConfigError without the packages of the extra, and for a variable whose value is not supported.
    """
    try:
        from scheduler_core.traces.otel import open_exporter
    except ImportError as error:
        raise ConfigError(
            "CRONPOST_TRACES=yes needs the OpenTelemetry packages: pip install 'cronpost[otel]', for the API and for "
            f"every node ({error})"
        ) from error
    return open_exporter()
