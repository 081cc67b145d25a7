"""A Celery worker whose task is run by Cronpost, without Celery beat.

    celery -A celery_worker worker -Q reports
    curl -s http://localhost:8000/ -d '{"id": "monthly", "cron": "0 6 1 * *", "payload": {"month": "May"},
      "endpoint": "celery+redis://localhost/1?task=app.report&queue=reports"}'

The payload is the keyword arguments. The id of the task is that of the run; the facts of the run are attributes of the
request.
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

app = Celery("celery_worker", broker=os.environ.get("BROKER", "redis://localhost/1"))


@app.task(name="app.report", bind=True)  # type: ignore[untyped-decorator]
def report(self: Any, month: str, lines: int = 10) -> None:
    request = self.request
    print(f"{month}, {lines} lines; run {request.id}, attempt {request.attempt}, fire time {request.fire_time}")
