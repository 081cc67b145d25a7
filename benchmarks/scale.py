"""Calculates what a number of jobs and of fires per second needs: ``python -m benchmarks.scale``.

Everything is linear in what was measured on one core, except the inputs that are marked as a choice or a rule of thumb.
``--results FILE`` takes the costs of a fire and the bytes of a job from a run of ``python -m benchmarks``.
``--measure`` measures in five minutes, on loopback, the bytes on the wire, the size of a record, and the claims of
several nodes. ``--update docs/scale.md`` writes the tables there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from benchmarks.contention import FIRES, NODES, Claims, contention_table, measure, simulate, simulation_table
from benchmarks.report import Report, as_markdown, as_text, load_report, update
from benchmarks.scale_model import Measured, Wanted, calculate
from benchmarks.wire import measure_wire


def plan_table(m: Measured, w: Wanted) -> list[list[str]]:
    """Return a row for each thing that is needed, with its derivation."""
    n = calculate(m, w)
    return [
        ["", "number", "from"],
        ["node processes, a core each", f"{n['nodes']:,.0f}", f"{m.own_us:.0f} µs a fire, {w.node_use:.0%} of a core"],
        ["masters, a core each", f"{n['masters']:,.0f}", f"{m.redis_us:.0f} µs a fire, {w.redis_use:.0%} of a core"],
        ["Redis servers with replicas", f"{n['servers']:,.0f}", f"{w.replicas} replica of each"],
        ["shards", f"{n['shards']:,.0f}", f"a power of two, at least {w.shards_a_master} a master"],
        ["machines", f"{n['machines']:,.0f}", f"{w.cores_a_machine} cores each, nothing spare"],
        ["fires/s of a node, of a master", f"{n['fires_a_node']:,.0f}, {n['fires_a_master']:,.0f}", "average"],
        ["jobs, GB", f"{n['jobs_gb']:,.0f}", f"{m.job_bytes + m.fired_bytes:,.0f} bytes each, indexes included"],
        [
            "their histories, GB",
            f"{n['histories_gb']:,.0f}",
            f"{w.history:.0f} entries each; {n['default_histories_gb']:,.0f} with the default of 100",
        ],
        [
            "records, GB",
            f"{n['records_gb']:,.0f}",
            f"{w.records:,.0f} at {m.record_bytes:,.0f} bytes: the last {n['records_s']:,.0f} s",
        ],
        ["a master, GB", f"{n['master_gb']:,.1f}", f"x {w.fragmentation} fragmentation, x {w.rewrite} while rewriting"],
        ["all of Redis, GB", f"{n['all_gb']:,.0f}", "with replicas"],
        ["all nodes, GB", f"{n['nodes_gb']:,.1f}", f"{m.node_mb:.0f} MB each, whatever is stored"],
        ["a master starts in, s", f"{n['load_s']:,.0f}", f"{m.load_mb_per_second:.0f} MB/s from its snapshot"],
        [
            "nodes and Redis, Gbit/s",
            f"{n['redis_gbit']:,.1f}",
            f"{m.to_redis_bytes + m.from_redis_bytes:,.0f} bytes a fire",
        ],
        ["replication, Gbit/s", f"{n['replication_gbit']:,.1f}", f"{m.aof_bytes:,.0f} bytes a fire and replica"],
        [
            "nodes and targets, Gbit/s",
            f"{n['target_gbit']:,.1f}",
            f"{m.to_target_bytes + m.from_target_bytes:,.0f} bytes a fire, no TLS",
        ],
        ["a master, Mbit/s", f"{n['master_mbit']:,.0f}", "clients and its replica"],
        ["append-only file of a master, MB/s", f"{n['aof_mb_s']:,.0f}", f"{n['aof_day_gb']:,.0f} GB a day"],
        [
            "connections, of a master",
            f"{n['connections']:,.0f}, {n['connections_a_master']:,.0f}",
            f"at most: nodes x shards x {w.connections}",
        ],
        [
            "beats and claims of an idle store, a master and second",
            f"{n['beats_a_master'] + n['idle_claims_a_master']:,.0f}",
            "nodes x shards, once a second each",
        ],
        ["the hottest second", f"{n['burst']:,.0f} fires", f"{w.peak:g} x the average"],
        ["which is through in, s", f"{n['burst_s']:,.1f}", "every core at 100 %"],
        [
            "jobs of a shard",
            f"{n['shard_jobs']:,.0f} ± {n['shard_spread']:.2f} %",
            "four standard deviations of a random hash",
        ],
        ["storing all jobs, core-minutes", f"{n['import_core_s'] / 60:,.0f}", f"{m.upsert_us:.0f} µs each, in batches"],
    ]


def sizes_table(m: Measured, w: Wanted) -> list[list[str]]:
    """Return the same rows for smaller stores, one column each."""
    sizes = ((1e6, 1e4), (10e6, 1e5), (w.jobs, w.fires))
    columns = []
    for jobs, fires in sizes:
        chosen = msgspec.structs.replace(w, jobs=jobs, fires=fires, records=w.records * fires / w.fires)
        columns.append((chosen, calculate(m, chosen)))
    names = (
        ("node processes", "nodes", 0),
        ("masters", "masters", 0),
        ("all of Redis, GB", "all_gb", 1),
        ("nodes and Redis, Gbit/s", "redis_gbit", 2),
        ("connections of a master", "connections_a_master", 0),
        ("beats and claims, idle, a master and second", "idle_claims_a_master", 0),
    )
    return [
        ["", *(f"{w.jobs / 1e6:g} million jobs, {w.fires:,.0f}/s" for w, _ in columns)],
        *([title, *(f"{n[name]:,.{digits}f}" for _, n in columns)] for title, name, digits in names),
    ]


def inputs_table(m: Measured, w: Wanted) -> list[list[str]]:
    """Return a table of all inputs."""
    rows = [["input", "value", "kind"]]
    for struct, kind in ((m, "measured"), (w, "chosen")):
        rows += [[name.replace("_", " "), f"{getattr(struct, name):,g}", kind] for name in struct.__struct_fields__]
    return rows


def from_results(measured: Measured, report: Report) -> Measured:
    """``measured`` with the values that ``report`` contains."""
    own = [one for one in report.results if one.system == "Cronpost" and one.fault is None]
    for one in own:
        busy = one.scenario == "highest rate held" or (one.scenario == "every second" and one.size == "5000 jobs")
        if busy and one.own_us_per_fire and one.redis_us_per_fire:
            measured = msgspec.structs.replace(
                measured, own_us=round(one.own_us_per_fire), redis_us=round(one.redis_us_per_fire)
            )
        if "bytes a job" in one.values:
            measured = msgspec.structs.replace(
                measured, job_bytes=round(one.values["bytes a job"]), node_mb=round(one.own_mb or measured.node_mb)
            )
        if one.scenario == "upserts over HTTP" and one.size.startswith("1000 in"):
            measured = msgspec.structs.replace(measured, upsert_us=round(one.values["CPU us an upsert"], 1))
    return measured


def main() -> None:
    """Print the tables, or write them into a document."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--results", type=Path, metavar="FILE", help="a JSON file of python -m benchmarks")
    parser.add_argument(
        "--measure",
        action="store_true",
        help="measure bytes on the wire, sizes of records, and the claims of 1 to 32 nodes",
    )
    parser.add_argument("--jobs", type=float, default=Wanted().jobs)
    parser.add_argument("--fires", type=float, default=Wanted().fires, help="fires per second, on average")
    parser.add_argument("--update", type=Path, metavar="FILE", help="a document with marked blocks")
    arguments = parser.parse_args()
    measured = Measured()
    if arguments.results is not None:
        measured = from_results(measured, load_report(arguments.results.read_bytes()))
    wanted = Wanted(jobs=arguments.jobs, fires=arguments.fires)
    found: list[Claims] = []
    if arguments.measure:
        measured = msgspec.structs.replace(measured, **measure_wire())
        found = measure(NODES, (1,), FIRES)
    n = calculate(measured, wanted)
    there = {
        "inputs": inputs_table(measured, wanted),
        "plan": plan_table(measured, wanted),
        "sizes": sizes_table(measured, wanted),
        "simulation": simulation_table(
            [
                simulate(nodes=nodes, fires_a_shard=fires, redis_us=measured.redis_us)
                for nodes in (1, 4, 16, int(n["nodes"]))
                for fires in (100, 10_000)
            ]
        ),
    }
    if found:
        there["contention"] = contention_table(found)
    if arguments.update is not None:
        blocks = {name: as_markdown(rows) for name, rows in there.items()}
        arguments.update.write_text(update(arguments.update.read_text(), blocks))
    else:
        print("\n\n".join(as_text(rows) for rows in there.values()))


if __name__ == "__main__":
    main()
