"""Mutation testing with mutmut: changes the code in small ways and reports which changes the tests do not notice.

Run by ``make mutate``. ``[tool.mutmut]`` in pyproject.toml says what is mutated: plan, claim, deliver, settle, limiter.
All mutants would take hours, so a random sample is run, within a bound on time. A mutant is *killed* if a test fails or
runs out of time, and *survives* if all tests that reach it pass. ``mutmut show NAME`` prints the change of a mutant.

Two limits, both named in the report:

* A mutant that changes only the wording of a sentence (a string with a space in it) is not drawn. Another mutant
  replaces the sentence by ``None``, so whether it is used is tested; so are codes, names and reasons.
* A mutant is tested by the quickest tests that reach it, up to ``TEST_SECONDS`` of them together. More tests could only
  kill more.
"""

from __future__ import annotations

import argparse
import ast
import collections
import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
MUTANTS = ROOT / "mutants"
MUTMUT = (sys.executable, "-m", "mutmut")
FIRST = "scheduler_core.plan.misses.x_last_outside__mutmut_1"
"""A mutant that few tests reach. Running it makes mutmut write all mutants and find which tests reach which code."""
KILLED = ("killed", "timeout", "suspicious", "segfault", "caught by type check")
LEAST_KILLED = 0.9
TEST_SECONDS = 10.0


def all_mutants() -> list[str]:
    """Return the names of all mutants that mutmut has written, but for those that only word a sentence differently."""
    found: list[str] = []
    for meta in sorted(MUTANTS.rglob("*.meta")):
        names = json.loads(meta.read_text(encoding="utf-8"))["exit_code_by_key"]
        functions = functions_in(meta.with_suffix("")) if names else {}
        found += [name for name in names if not is_wording(name.rpartition(".")[2], functions)]
    return found


def functions_in(path: Path) -> dict[str, ast.AST]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def is_wording(mutant: str, functions: dict[str, ast.AST]) -> bool:
    """Return whether this mutant only words a sentence differently. ``functions``: those of its module, mutants too."""
    original = functions[f"{mutant.rpartition('__mutmut_')[0]}__mutmut_orig"]
    pairs = list(zip(parts_of(original), parts_of(functions[mutant]), strict=False))
    changed = [pair for pair in pairs[1:] if pair[0] != pair[1]]  # the first are the functions' names
    return len(changed) == 1 and all(isinstance(text, str) and " " in text for text in changed[0])


def parts_of(function: ast.AST) -> list[object]:
    """List all nodes of a function in order: the value of a constant, the names and operators of others."""
    return [
        node.value if isinstance(node, ast.Constant) else (type(node), getattr(node, "id", getattr(node, "attr", None)))
        for node in ast.walk(function)
    ]


def results() -> dict[str, str]:
    """What mutmut says of each mutant, by name."""
    command = [*MUTMUT, "results", "--all", "true"]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    pairs = (line.strip().rpartition(": ") for line in printed.splitlines() if ": " in line)
    return {name: status for name, _, status in pairs}


def keep_quick_tests(seconds: float) -> None:
    """Leave of the tests that reach a function the quickest, up to ``seconds`` together, in what mutmut has noted."""
    path = MUTANTS / "mutmut-stats.json"
    noted = json.loads(path.read_text(encoding="utf-8"))
    durations = noted["duration_by_test"]
    for function, tests in noted["tests_by_mangled_function_name"].items():
        left, kept = seconds, []
        for test in sorted(tests, key=durations.__getitem__):
            left -= durations[test]
            if left < 0:
                break
            kept.append(test)
        noted["tests_by_mangled_function_name"][function] = kept
    path.write_text(json.dumps(noted), encoding="utf-8")


def run(names: list[str], seconds: float, processes: int) -> bool:
    """Test these mutants for at most ``seconds``; whether all were tested."""
    command = [*MUTMUT, "run", "--max-children", str(processes), *names]
    running = subprocess.Popen(command, cwd=ROOT)
    try:
        status = running.wait(timeout=max(1.0, seconds))
    except subprocess.TimeoutExpired:
        running.terminate()
        running.wait()
        return False
    if status != 0:
        raise SystemExit(f"mutmut ended with status {status}: the tests have to pass without a mutant first")
    return True


def main() -> None:
    """Draw a sample, run it, report; status 1 if fewer than ``LEAST_KILLED`` of the sample were killed."""
    parser = argparse.ArgumentParser(prog="make mutate MUTATE_ARGS=...", description=__doc__)
    parser.add_argument("--mutants", type=int, default=300, help="size of the sample")
    parser.add_argument("--seed", type=int, default=1, help="of the sample")
    parser.add_argument("--minutes", type=float, default=20.0, help="bound on the whole run")
    parser.add_argument("--processes", type=int, default=2, help="mutants tested at the same time")
    parser.add_argument("--only", default="", help="draw only from mutants whose names contain this")
    arguments = parser.parse_args()
    until = time.monotonic() + 60 * arguments.minutes
    shutil.rmtree(MUTANTS, ignore_errors=True)  # mutmut gives up if a test that it knows has another name by now
    if not run([FIRST], 60 * arguments.minutes, arguments.processes):
        raise SystemExit(f"The time of {arguments.minutes:g} minutes was over before the first mutant was tested.")
    keep_quick_tests(TEST_SECONDS)
    candidates = [name for name in all_mutants() if arguments.only in name]
    sample = random.Random(arguments.seed).sample(candidates, min(arguments.mutants, len(candidates)))
    print(f"\n{len(sample)} of {len(candidates)} mutants, seed {arguments.seed}\n", flush=True)
    in_time = run(sample, until - time.monotonic(), arguments.processes)
    results_by_name = results()
    counts = collections.Counter(results_by_name.get(name, "not checked") for name in sample)
    tested = sum(count for status, count in counts.items() if status != "not checked")
    killed = sum(counts[status] for status in KILLED)
    print("\n\nNot noticed by any test:")
    for name in sorted(name for name in sample if results_by_name.get(name) in ("survived", "no tests")):
        print(f"  {name}  ({results_by_name[name]})")
    print("\n" + ", ".join(f"{status}: {count}" for status, count in counts.most_common()))
    if not in_time:
        print(f"The time of {arguments.minutes:g} minutes was over before all of the sample was tested.")
    print(f"{killed} of {tested} killed: {killed / max(1, tested):.1%} (wanted: {LEAST_KILLED:.0%})")
    raise SystemExit(0 if tested and killed >= LEAST_KILLED * tested else 1)


if __name__ == "__main__":
    main()
