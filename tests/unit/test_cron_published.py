"""Fire times that other crons publish in their documentation and tests, and where this dialect differs.

The rows are facts in our own words: an expression, an instant, and what fires after it. Instants are those of the row's
zone, which is the prefix of the expression, or UTC. Sources:

* Quartz: the CronTrigger tutorial of Quartz 2.5.
* Spring: the tests of CronExpression, spring-framework 6.
* robfig: the tests of robfig/cron v3.
* croniter: the tests of croniter 6.
* cronsim: the tests of cronsim 2.7.
* Rust cron: the README and the tests of zslayton/cron.
* AWS: EventBridge user guide, "Cron expressions reference".
* Jenkins: the help text of its timer trigger ("Build periodically").

The pages of Quartz, AWS and Jenkins have examples in words, without fire times: those here follow from the words.

Quartz, AWS and Rust cron number the days from 1, Sunday, to 7. Their numbers are written here as this dialect has them,
and the row says so.
"""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from scheduler_core.base.errors import InvalidInput
from scheduler_core.triggers.cron import parse_cron
from scheduler_core.triggers.cron_fields import read_fields, split_zone

# source, expression, asked after, fire times (local dates and times)
FIRES: list[tuple[str, str, str, str]] = [
    # Quartz, in the order of the tutorial.
    ("Quartz: noon every day", "0 0 12 * * ?", "2026-11-21T12:00", "2026-11-22T12:00 2026-11-23T12:00"),
    ("Quartz: 10:15 every day", "0 15 10 ? * *", "2026-11-22T00:00", "2026-11-22T10:15 2026-11-23T10:15"),
    ("Quartz: 10:15 every day", "0 15 10 * * ?", "2026-11-22T00:00", "2026-11-22T10:15 2026-11-23T10:15"),
    ("Quartz: 10:15 every day", "0 15 10 * * ? *", "2026-11-22T00:00", "2026-11-22T10:15 2026-11-23T10:15"),
    ("Quartz: 10:15 in one year", "0 15 10 * * ? 2005", "2004-06-01T00:00", "2005-01-01T10:15 2005-01-02T10:15"),
    ("Quartz: 14:00 to 14:59", "0 * 14 * * ?", "2026-11-22T14:58", "2026-11-22T14:59 2026-11-23T14:00"),
    ("Quartz: every 5 minutes", "0 0/5 14 * * ?", "2026-11-22T14:50", "2026-11-22T14:55 2026-11-23T14:00"),
    ("Quartz: two hours", "0 0/5 14,18 * * ?", "2026-11-22T14:50", "2026-11-22T14:55 2026-11-22T18:00"),
    ("Quartz: 14:00 to 14:05", "0 0-5 14 * * ?", "2026-11-22T14:04", "2026-11-22T14:05 2026-11-23T14:00"),
    ("Quartz: March", "0 10,44 14 ? 3 WED", "2026-03-20T00:00", "2026-03-25T14:10 2026-03-25T14:44 2027-03-03T14:10"),
    ("Quartz: Monday to Friday", "0 15 10 ? * MON-FRI", "2026-11-20T12:00", "2026-11-23T10:15 2026-11-24T10:15"),
    ("Quartz: day 15", "0 15 10 15 * ?", "2026-11-22T00:00", "2026-12-15T10:15 2027-01-15T10:15"),
    ("Quartz: last day", "0 15 10 L * ?", "2026-11-22T00:00", "2026-11-30T10:15 2026-12-31T10:15"),
    ("Quartz: 2 days before it", "0 15 10 L-2 * ?", "2026-11-22T00:00", "2026-11-28T10:15 2026-12-29T10:15"),
    ("Quartz: last Friday; 6L there", "0 15 10 ? * 5L", "2026-11-22T00:00", "2026-11-27T10:15 2026-12-25T10:15"),
    (
        "Quartz: last Friday in some years; 6L there",
        "0 15 10 ? * 5L 2002-2005",
        "2005-10-29T00:00",
        "2005-11-25T10:15 2005-12-30T10:15",
    ),
    ("Quartz: third Friday; 6#3 there", "0 15 10 ? * 5#3", "2026-11-22T00:00", "2026-12-18T10:15 2027-01-15T10:15"),
    ("Quartz: every 5 days", "0 0 12 1/5 * ?", "2026-11-22T00:00", "2026-11-26T12:00 2026-12-01T12:00"),
    ("Quartz: 11/11 at 11:11", "0 11 11 11 11 ?", "2026-11-22T00:00", "2027-11-11T11:11"),
    (
        "Quartz: the complex example",
        "0/5 14,18,3-39,52 * ? JAN,MAR,SEP MON-FRI 2002-2010",
        "2002-01-01T00:39:50",
        "2002-01-01T00:39:55 2002-01-01T00:52 2002-01-01T00:52:05",
    ),
    # The tutorial: 15W is Friday 14th if the 15th is a Saturday, Monday 16th if it is a Sunday, else the 15th.
    ("Quartz: 15W on a Saturday", "0 0 0 15W 8 ? 2026", "2026-01-01T00:00", "2026-08-14T00:00"),
    ("Quartz: 15W on a Sunday", "0 0 0 15W 11 ? 2026", "2026-01-01T00:00", "2026-11-16T00:00"),
    ("Quartz: 15W on a Tuesday", "0 0 0 15W 12 ? 2026", "2026-01-01T00:00", "2026-12-15T00:00"),
    ("Quartz: 1W on a Saturday", "0 0 0 1W 8 ? 2026", "2026-01-01T00:00", "2026-08-03T00:00"),
    ("Quartz: overflowing hours", "0 0 22-2 * * ?", "2026-11-22T01:00", "2026-11-22T02:00 2026-11-22T22:00"),
    ("Quartz: overflowing months", "0 0 0 1 NOV-FEB ?", "2026-11-22T00:00", "2026-12-01T00:00 2027-01-01T00:00"),
    # Spring.
    (
        "Spring",
        "0 0 0 L * *",
        "2008-01-04T00:00",
        "2008-01-31T00:00 2008-02-29T00:00 2008-03-31T00:00 2008-04-30T00:00",
    ),
    (
        "Spring",
        "0 0 0 L-3 * *",
        "2008-01-04T00:00",
        "2008-01-28T00:00 2008-02-26T00:00 2008-03-28T00:00 2008-04-27T00:00",
    ),
    (
        "Spring",
        "0 0 0 LW * *",
        "2008-01-04T00:00",
        (
            "2008-01-31T00:00 2008-02-29T00:00 2008-03-31T00:00 2008-04-30T00:00 2008-05-30T00:00 2008-06-30T00:00 "
            "2008-07-31T00:00 2008-08-29T00:00 2008-09-30T00:00 2008-10-31T00:00 2008-11-28T00:00 2008-12-31T00:00"
        ),
    ),
    (
        "Spring",
        "0 0 0 * * 5L",
        "2008-01-04T00:00",
        (
            "2008-01-25T00:00 2008-02-29T00:00 2008-03-28T00:00 2008-04-25T00:00 2008-05-30T00:00 2008-06-27T00:00 "
            "2008-07-25T00:00 2008-08-29T00:00 2008-09-26T00:00 2008-10-31T00:00 2008-11-28T00:00 2008-12-26T00:00"
        ),
    ),
    (
        "Spring",
        "0 0 0 15W * ?",
        "2020-01-01T00:00",
        "2020-01-15T00:00 2020-02-14T00:00 2020-03-16T00:00 2020-04-15T00:00",
    ),
    (
        "Spring",
        "0 0 0 1W * ?",
        "2019-12-31T00:00",
        "2020-01-01T00:00 2020-02-03T00:00 2020-03-02T00:00 2020-04-01T00:00",
    ),
    ("Spring: the 1st is a Saturday", "0 0 0 1W * ?", "2022-01-01T00:00", "2022-01-03T00:00"),
    ("Spring: the 1st is a Sunday", "0 0 0 1W * ?", "2021-08-01T00:00", "2021-08-02T00:00"),
    (
        "Spring",
        "0 0 0 ? * 5#2",
        "2020-01-01T00:00",
        "2020-01-10T00:00 2020-02-14T00:00 2020-03-13T00:00 2020-04-10T00:00",
    ),
    (
        "Spring",
        "0 0 0 ? * FRI#2",
        "2020-01-01T00:00",
        "2020-01-10T00:00 2020-02-14T00:00 2020-03-13T00:00 2020-04-10T00:00",
    ),
    (
        "Spring",
        "0 0 0 ? * 3#5",
        "2020-01-01T00:00",
        "2020-01-29T00:00 2020-04-29T00:00 2020-07-29T00:00 2020-09-30T00:00 2020-12-30T00:00",
    ),
    (
        "Spring",
        "0 0 0 1W,15,LW * ?",
        "2019-12-30T00:00",
        "2019-12-31T00:00 2020-01-01T00:00 2020-01-15T00:00 2020-01-31T00:00",
    ),
    (
        "Spring",
        "0 0 0 ? * THU#1,THU#3,THU#5",
        "2019-12-31T00:00",
        "2020-01-02T00:00 2020-01-16T00:00 2020-01-30T00:00",
    ),
    ("Spring", "0 0 * L * *", "2021-01-30T00:01", "2021-01-31T00:00 2021-01-31T01:00 2021-01-31T02:00"),
    ("Spring", "0 0 * L-1 * *", "2021-01-29T00:01", "2021-01-30T00:00 2021-01-30T01:00 2021-01-30T02:00"),
    ("Spring", "0 0 * 1W * *", "2021-01-31T00:01", "2021-02-01T00:00 2021-02-01T01:00 2021-02-01T02:00"),
    ("Spring", "0 0 * LW * *", "2021-01-28T00:01", "2021-01-29T00:00 2021-01-29T01:00 2021-01-29T02:00"),
    ("Spring", "0 0 * ? * FRI#5", "2021-01-28T00:01", "2021-01-29T00:00 2021-01-29T01:00 2021-01-29T02:00"),
    ("Spring", "0 0 * ? * FRIL", "2021-01-28T00:01", "2021-01-29T00:00 2021-01-29T01:00 2021-01-29T02:00"),
    ("Spring", "0 0 0 ? * SUN-FRI", "2021-02-25T15:00", "2021-02-26T00:00 2021-02-28T00:00"),
    ("Spring", "0 0 7 ? * MON-FRI", "2009-09-26T10:00", "2009-09-28T07:00 2009-09-29T07:00 2009-09-30T07:00"),
    ("Spring", "0 30 23 30 1/3 ?", "2010-12-30T10:00", "2011-01-30T23:30 2011-04-30T23:30 2011-07-30T23:30"),
    ("Spring", "0 15 12 */10 1-8 5", "2021-04-30T12:14:59", "2021-05-21T12:15 2021-06-11T12:15 2022-01-21T12:15"),
    ("Spring", "TZ=Europe/Amsterdam 0 0 9 * * *", "2021-03-27T09:00", "2021-03-28T09:00 2021-03-29T09:00"),
    # robfig.
    ("robfig", "0/15 * * * *", "2012-07-09T14:59", "2012-07-09T15:00 2012-07-09T15:15"),
    (
        "robfig",
        "5/15 * * * *",
        "2012-07-09T15:04",
        "2012-07-09T15:05 2012-07-09T15:20 2012-07-09T15:35",
    ),
    ("robfig", "30 08 ? Jul Sun", "2012-07-14T00:00", "2012-07-15T08:30 2012-07-22T08:30"),
    ("robfig", "30 08 15 Jul ?", "2012-07-14T00:00", "2012-07-15T08:30 2013-07-15T08:30"),
    ("robfig: either day", "0 0 1,15 * Sun", "2012-06-14T00:00", "2012-06-15T00:00 2012-06-17T00:00"),
    ("robfig: both days", "0 0 */10 * Sun", "2012-07-01T00:00", "2012-10-21T00:00"),
    ("robfig", "15/35 20-35/15 * * * *", "2012-07-09T23:35:51", "2012-07-10T00:20:15 2012-07-10T00:20:50"),
    ("robfig", "15/35 20-35/15 1/2 * * *", "2012-07-09T23:35:51", "2012-07-10T01:20:15"),
    ("robfig", "15/35 20-35/15 1/2 */2 * *", "2012-07-09T23:35:51", "2012-07-11T01:20:15"),
    ("robfig", "0 0 0 * Feb Mon/2", "2012-07-09T23:35", "2013-02-01T00:00 2013-02-04T00:00 2013-02-06T00:00"),
    ("robfig", "0 0 0 29 Feb ?", "2012-07-09T23:35", "2016-02-29T00:00"),
    (
        "robfig: hourly over a gap",
        "CRON_TZ=America/New_York 0 0 * * * ?",
        "2012-03-11T00:00",
        "2012-03-11T01:00 2012-03-11T03:00 2012-03-11T04:00 2012-03-11T05:00",
    ),
    ("robfig: 1:00 daily", "TZ=America/New_York 0 0 1 * * ?", "2012-03-11T00:00", "2012-03-11T01:00 2012-03-12T01:00"),
    ("robfig: after a fold", "TZ=America/New_York 0 30 2 04 Nov ?", "2012-11-04T00:00", "2012-11-04T02:30"),
    (
        "robfig: after a fold",
        "TZ=America/New_York 0 0 3 * * ?",
        "2012-11-04T00:00",
        "2012-11-04T03:00 2012-11-05T03:00",
    ),
    ("robfig: no midnight", "TZ=America/Sao_Paulo 0 0 9 10 * ?", "2018-10-17T06:00", "2018-11-10T09:00"),
    # croniter.
    ("croniter", "0 0 * * sat#1", "2010-02-25T00:00", "2010-03-06T00:00 2010-04-03T00:00"),
    ("croniter", "0 0 * * wed#5", "2010-01-25T00:00", "2010-03-31T00:00 2010-06-30T00:00 2010-09-29T00:00"),
    ("croniter, backwards there", "0 0 * * sat#1,sun#2", "2010-08-01T00:00", "2010-08-07T00:00 2010-08-08T00:00"),
    (
        "croniter: L5 there",
        "0 0 * * 5L",
        "1987-01-15T00:00",
        (
            "1987-01-30T00:00 1987-02-27T00:00 1987-03-27T00:00 1987-04-24T00:00 1987-05-29T00:00 1987-06-26T00:00 "
            "1987-07-31T00:00 1987-08-28T00:00 1987-09-25T00:00 1987-10-30T00:00 1987-11-27T00:00 1987-12-25T00:00"
        ),
    ),
    (
        "croniter: L6 there, backwards",
        "0 0 * * satL",
        "2017-01-01T00:00",
        (
            "2017-01-28T00:00 2017-02-25T00:00 2017-03-25T00:00 2017-04-29T00:00 2017-05-27T00:00 2017-06-24T00:00 "
            "2017-07-29T00:00 2017-08-26T00:00 2017-09-30T00:00 2017-10-28T00:00 2017-11-25T00:00 2017-12-30T00:00"
        ),
    ),
    (
        "croniter: L2,L4 there",
        "0 0 * * 2L,4L",
        "2016-06-01T00:00",
        (
            "2016-06-28T00:00 2016-06-30T00:00 2016-07-26T00:00 2016-07-28T00:00 2016-08-25T00:00 2016-08-30T00:00 "
            "2016-09-27T00:00 2016-09-29T00:00 2016-10-25T00:00 2016-10-27T00:00"
        ),
    ),
    (
        "croniter",
        "1 1 7,14,21,L * *",
        "2018-10-01T00:00",
        "2018-10-07T01:01 2018-10-14T01:01 2018-10-21T01:01 2018-10-31T01:01 2018-11-07T01:01",
    ),
    # cronsim.
    ("cronsim", "1 1 L * *", "2020-01-01T00:00", "2020-01-31T01:01"),
    ("cronsim", "1 1 LW 5 *", "2020-01-01T00:00", "2020-05-29T01:01"),
    (
        "cronsim",
        "1 1 * * 5L",
        "2020-01-01T00:00",
        (
            "2020-01-31T01:01 2020-02-28T01:01 2020-03-27T01:01 2020-04-24T01:01 2020-05-29T01:01 2020-06-26T01:01 "
            "2020-07-31T01:01 2020-08-28T01:01 2020-09-25T01:01 2020-10-30T01:01 2020-11-27T01:01 2020-12-25T01:01"
        ),
    ),
    ("cronsim", "1 1 * * 0L", "2020-01-01T00:00", "2020-01-26T01:01"),
    ("cronsim", "1 1 * * 7L", "2020-01-01T00:00", "2020-01-26T01:01"),
    ("cronsim", "1 1 * * 1#2", "2020-01-01T00:00", "2020-01-13T01:01"),
    ("cronsim", "1 1 1-7 * */7", "2020-01-01T00:00", "2020-01-05T01:01 2020-02-02T01:01 2020-03-01T01:01"),
    ("cronsim", "1 1 */100,1-7 * MON", "2020-01-01T00:00", "2020-01-06T01:01 2020-02-03T01:01 2020-03-02T01:01"),
    ("cronsim", "1 1 * * */3", "2020-01-01T00:00", "2020-01-01T01:01 2020-01-04T01:01 2020-01-05T01:01"),
    ("cronsim", "TZ=Europe/Riga 0 * * * *", "2021-03-28T01:30", "2021-03-28T02:00 2021-03-28T04:00"),
    (
        "cronsim",
        "TZ=Europe/Riga */30 * * * *",
        "2021-03-28T02:10",
        "2021-03-28T02:30 2021-03-28T04:00 2021-03-28T04:30",
    ),
    ("cronsim", "TZ=Europe/Riga 0 1,2,3,4,5 * * *", "2021-03-28T01:30", "2021-03-28T02:00 2021-03-28T04:00"),
    # Rust cron.
    ("Rust cron", "0 5 17 1 6 ? 2022", "2021-01-01T00:00", "2022-06-01T17:05"),
    # AWS, with second 0 in front.
    ("AWS", "0 0 10 * * ? *", "2026-11-22T12:00", "2026-11-23T10:00"),
    ("AWS", "0 15 12 * * ? *", "2026-11-22T12:00", "2026-11-22T12:15"),
    ("AWS", "0 0 18 ? * MON-FRI *", "2026-11-20T18:00", "2026-11-23T18:00"),
    ("AWS", "0 0 8 1 * ? *", "2026-11-22T00:00", "2026-12-01T08:00"),
    ("AWS", "0 0/15 * * * ? *", "2026-11-22T00:00", "2026-11-22T00:15 2026-11-22T00:30"),
    ("AWS: every tenth minute from the first one", "0 1/10 * * * ? *", "2026-11-22T00:05", "2026-11-22T00:11"),
    (
        "AWS: nearest to day 3",
        "0 0 0 3W * ? *",
        "2026-09-30T00:00",
        "2026-10-02T00:00 2026-11-03T00:00",
    ),
    ("AWS: second Tuesday; 3#2 there", "0 0 0 ? * 2#2 *", "2026-11-22T00:00", "2026-12-08T00:00"),
    ("AWS: 0/5 8-17", "0 0/5 8-17 ? * MON-FRI *", "2026-11-20T17:50", "2026-11-20T17:55 2026-11-23T08:00"),
]

# source and reason, expression, asked after, fire times there, fire times here
DIFFERENT: list[tuple[str, str, str, str, str]] = [
    (
        "robfig skips a fixed time in a gap; here it fires right after the gap, as in Debian's cron",
        "TZ=America/New_York 0 0 2 * * ?",
        "2012-03-11T00:00",
        "2012-03-12T02:00",
        "2012-03-11T03:00",
    ),
    (
        "robfig looks for a date on which the clocks show the time",
        "TZ=America/New_York 0 30 2 11 Mar ?",
        "2012-03-11T00:00",
        "2013-03-11T02:30",
        "2012-03-11T03:00",
    ),
    (
        "Spring skips a fixed time in a gap",
        "TZ=Europe/Amsterdam 0 10 2 * * *",
        "2013-03-31T01:09",
        "2013-04-01T02:10",
        "2013-03-31T03:00",
    ),
    (
        "Spring requires both days; here either is enough without a star",
        "0 0 0 13 * FRI",
        "2018-07-31T11:47",
        "2019-09-13T00:00",
        "2018-08-03T00:00",
    ),
    (
        "Rust cron requires both days",
        "0 30 9,12,15 1,15 May-Aug Mon,Wed,Fri 2018/2",
        "2017-01-01T00:00",
        "2018-06-01T09:30",
        "2018-05-01T09:30",
    ),
    (
        "croniter fires on sat#3 only, though the list has a star",
        "0 0 * * *,sat#3",
        "2019-01-14T11:00",
        "2019-01-19T00:00",
        "2019-01-15T00:00",
    ),
    (
        "Spring passes over a 31st of May that is a Sunday; here, as in Quartz, the Friday before it is nearest",
        "0 0 0 31W * ?",
        "2020-03-31T00:00",
        "2020-07-31T00:00",
        "2020-05-29T00:00",
    ),
    (
        "Quartz, AWS and Rust cron number the days from 1, Sunday: 6L is the last Friday there",
        "0 15 10 ? * 6L",
        "2026-11-22T00:00",
        "2026-11-27T10:15",
        "2026-11-28T10:15",
    ),
    (
        "AWS: 1-7 there; 3#2 is the second Tuesday",
        "0 0 0 ? * 3#2 *",
        "2026-11-22T00:00",
        "2026-12-08T00:00",
        "2026-12-09T00:00",
    ),
]

# source and reason, expression
REFUSED: list[tuple[str, str]] = [
    ("robfig", "xyz"),
    ("robfig", "60 0 * * *"),
    ("robfig", "0 60 * * *"),
    ("robfig", "0 0 * * XYZ"),
    ("robfig: step 0", "TZ=America/New_York 15/0 * * * *"),
    ("robfig: never fires", "0 0 0 30 Feb ?"),
    ("robfig: never fires", "0 0 0 31 Apr ?"),
    ("robfig", "@every Xm"),
    ("robfig", "@unrecognized"),
    ("robfig", "*//2 * * * *"),
    ("robfig", "5--5 * * * *"),
    ("croniter", "0 0 * * 1#7"),
    ("croniter", "0 0 * * 1#0"),
    ("croniter", "0 0 * * L-1"),
    ("croniter", "0 0 * * L8"),
    ("croniter", "? * * * *"),
    ("croniter", "* ? * * *"),
    ("croniter: H/0", "* * H/0 * *"),
    ("croniter reads L5; here it is 5L", "0 0 * * L5"),
    ("croniter reads 29-L", "0 0 29-L * *"),
    ("croniter reads R", "R R * * *"),
    ("cronsim", "* * * * 1#6"),
    ("cronsim", "* * * * 5L-6"),
    ("cronsim", "* * * * 5L#1"),
    ("cronsim", "* * * * 5L/3"),
    ("cronsim", "* * 30 2 *"),
    ("cronsim reads L/2 as L", "* * L/2 * *"),
    ("cronsim reads LW/2 as LW", "* * LW/2 * *"),
    ("cronsim finds no match", "1 1 */100 * MON#4"),
    ("Quartz reads L as Saturday", "0 0 0 ? * L"),
    ("Quartz reads L-3W", "0 0 0 L-3W * ?"),
    ("Rust cron", "? * * * * *"),
    ("Rust cron", "* * * * ? *"),
    ("Rust cron reads ?/2", "0 0 0 ?/2 * *"),
    ("Rust cron reads long names", "0 0 0 * * Thurs"),
    ("AWS, minute first and year last: ? in the month", "15 10 * * ? 2026"),
    ("Jenkins: a step beyond the range", "H/61 * * * *"),
]

# source, expression, field, the values that ids may select
HASHED: list[tuple[str, str, str, set[tuple[int, ...]]]] = [
    ("Jenkins: H(0-29)/10", "H(0-29)/10 * * * *", "minute", {(n, n + 10, n + 20) for n in range(10)}),
    ("Jenkins: every fifteen minutes", "H/15 * * * *", "minute", {tuple(range(n, 60, 15)) for n in range(15)}),
    ("Jenkins: H(0-7) hours", "H H(0-7) * * *", "hour", {(n,) for n in range(8)}),
    ("Jenkins: H/2 from 9 to 16", "45 H(9-16)/2 * * 1-5", "hour", {(9, 11, 13, 15), (10, 12, 14, 16)}),
    ("Jenkins: days 1 to 28", "H H H * *", "day_of_month", {(n,) for n in range(1, 29)}),
    ("Jenkins: H/3 in 1 to 28", "H H H/3 * *", "day_of_month", {tuple(range(n, 29, 3)) for n in (1, 2, 3)}),
]


def local_times(expression: str, after: str, count: int) -> list[str]:
    """Return fire times as the clocks of the expression's zone show them."""
    zone = ZoneInfo(split_zone(expression)[0] or "UTC")
    trigger = parse_cron(expression)
    at: int | None = int(datetime.fromisoformat(after).replace(tzinfo=zone).timestamp()) * 1000
    found: list[str] = []
    for _ in range(count):
        assert at is not None
        at = trigger.next_after(at)
        assert at is not None
        local = datetime.fromtimestamp(at // 1000, UTC).astimezone(zone)
        found.append(local.strftime("%Y-%m-%dT%H:%M:%S").removesuffix(":00"))
    return found


@pytest.mark.parametrize(("source", "expression", "after", "expected"), FIRES)
def test_a_published_example_fires_as_published(source: str, expression: str, after: str, expected: str) -> None:
    times = expected.split()
    assert local_times(expression, after, len(times)) == times, source


@pytest.mark.parametrize(("reason", "expression", "after", "there", "here"), DIFFERENT)
def test_where_another_cron_differs_the_rules_of_this_one_hold(
    reason: str, expression: str, after: str, there: str, here: str
) -> None:
    assert there != here
    assert local_times(expression, after, 1) == [here], reason


@pytest.mark.parametrize(("source", "expression"), REFUSED)
def test_a_published_bad_example_or_a_foreign_form_is_refused(source: str, expression: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_cron(expression, job_id="a")
    assert caught.value.field == "cron", source


@pytest.mark.parametrize(("source", "expression", "field", "allowed"), HASHED)
def test_a_hashed_example_has_one_of_the_published_sets_of_values(
    source: str, expression: str, field: str, allowed: set[tuple[int, ...]]
) -> None:
    found = {getattr(read_fields(expression, f"job-{number}"), field).values for number in range(400)}
    assert found == allowed, source
