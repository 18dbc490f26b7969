"""Tries to make the commands run foreign code, write elsewhere, lose or invent data, hang, crash or leave litter.

    python scripts/attack.py                   # all tries, in less than 15 minutes on two cores
    python scripts/attack.py --quick           # a part of them, in less than a minute
    python scripts/attack.py --only scan_nan   # the kinds whose names hold this
    python scripts/attack.py --package DIR     # the commands of another checkout

Every try runs a command in a folder of its own. The judge (`attacks/judge.py`) imports nothing of the package: it
compares hashes of all files outside the command's target, looks for a file that any executed payload creates, for
tracebacks, exit codes, processes and temporary files that are left, and reads what was written with another library.
Prints how many tries of every kind held; the exit code is 0 if and only if all did. Linux only.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent))

import attacks.kinds
import attacks.recipes
from attacks.client import Server
from attacks.fixtures import write_library
from attacks.runner import Result, Runner
from attacks.table import KINDS, Try

MINUTES = 14.0
#: The quick part is one try of every so many kinds.
QUICK_SHARE = 6


def main() -> int:
    """Runs the tries and reports."""
    arguments = _parse()
    fill_table()
    attacks.recipes.EVERY_PLACE = arguments.every_place
    tries, skipped = _choose(arguments.only, arguments.quick, arguments.every_place)
    began = time.monotonic()
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="attack.", ignore_cleanup_errors=True) as name:
        if arguments.keep:
            Path(arguments.keep).mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix="attack.", dir=arguments.keep) if arguments.keep else name).resolve()
        scratch.chmod(0o755)
        os.umask(0o022)
        server = Server(arguments.package.resolve(), scratch)
        try:
            library = scratch / "library"
            write_library(library)
            server.ready.wait()
            runner = Runner(server, scratch, library, bool(arguments.keep), began + 60 * arguments.minutes)
            for result in tqdm(runner.run_all(tries), total=len(tries), unit="try", disable=arguments.no_progress_bar):
                results.append(result)
        except KeyboardInterrupt:
            print("Interrupted: only what was tried until now is counted.")
        finally:
            server.close()
    missing = _commands_left_out(server, results) if not (arguments.only or arguments.quick) else []
    failed = _report(results, skipped, missing, time.monotonic() - began)
    if arguments.json:
        _write(arguments.json, results, skipped, runner.work)
    return 1 if failed or missing else 0


def fill_table() -> None:
    """Imports all modules of kinds."""
    for module in sorted(module.name for module in pkgutil.iter_modules(attacks.kinds.__path__)):
        importlib.import_module(f"attacks.kinds.{module}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--package", type=Path, default=Path(__file__).resolve().parents[1], metavar="DIR", help="checkout to attack"
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="KIND", help="kinds whose names hold one of these")
    parser.add_argument("--quick", action="store_true", help="one try of some kinds, in less than a minute")
    parser.add_argument(
        "--every_place", action="store_true", help="every example of a fault, in every place of a command"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to this file, too")
    parser.add_argument("--keep", metavar="DIR", help="keep the sandboxes of failed tries in a folder below this")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="begin no try later than this")
    parser.add_argument("--no_progress_bar", action="store_true", help="no progress bar")
    return parser.parse_args()


def _choose(only: Sequence[str], quick: bool, every_place: bool) -> tuple[list[Try], dict[str, str]]:
    """The tries, slow ones first, so that two run to the end side by side; and kinds that cannot be tried, with why."""
    tries: list[Try] = []
    skipped: dict[str, str] = {}
    kinds = [kind for kind in KINDS.values() if not only or any(part in kind.name for part in only)]
    for turn, kind in enumerate(sorted(kinds, key=lambda kind: not kind.slow)):
        if reason := kind.needs():
            skipped[kind.name] = reason
            continue
        if every_place:
            tries += kind.tries()
        elif not quick:
            tries += (_one_example(each, turn + i) for i, each in enumerate(kind.tries()))
        elif turn % QUICK_SHARE == 0 and not kind.slow:
            of_kind = list(kind.tries())
            # Another command at every turn, and one example of it.
            chosen = of_kind[turn // QUICK_SHARE % len(of_kind)]
            tries.append(replace(chosen, examples=chosen.examples[:1]))
    return tries if every_place or only else _one_of_each_strategy(tries), skipped


def _one_of_each_strategy(tries: Sequence[Try]) -> list[Try]:
    """Of the kinds that are examples of one strategy one for every command, another one for each."""
    of_strategy: dict[tuple[str, str], list[Try]] = defaultdict(list)
    for each in tries:
        if strategy := KINDS[each.kind].strategy:
            of_strategy[strategy, each.command].append(each)
    chosen = {id(of_command[turn % len(of_command)]) for turn, of_command in enumerate(of_strategy.values())}
    return [each for each in tries if not KINDS[each.kind].strategy or id(each) in chosen]


def _one_example(attempt: Try, turn: int) -> Try:
    """One of a try's examples, another one for every command and at every turn."""
    return replace(attempt, examples=(attempt.examples[turn % len(attempt.examples)],))


def _commands_left_out(server: Server, results: Sequence[Result]) -> list[str]:
    """Console scripts of the package that no try has run."""
    tried = {f"nnUNetv2_ext_{result.attempt.command}" for result in results}
    return sorted(set(server.scripts) - tried)


def _report(results: Sequence[Result], skipped: dict[str, str], missing: Sequence[str], seconds: float) -> int:
    by_kind: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        by_kind[result.attempt.kind].append(result)
    failed = [result for result in results if not result.held]
    for result in sorted(failed, key=lambda result: result.attempt.title):
        print(f"FAILED {result.attempt.title}: {'; '.join(result.problems)}\n       {result.words}")
    width = max((len(kind) for kind in by_kind), default=4)
    print(f"\n{'kind':<{width}}  tried  held  failed")
    for kind, of_kind in sorted(by_kind.items()):
        held = sum(result.held for result in of_kind)
        print(f"{kind:<{width}}  {len(of_kind):>5}  {held:>4}  {len(of_kind) - held:>6}")
    for kind, reason in skipped.items():
        print(f"{kind:<{width}}  skipped: {reason}")
    for command in missing:
        print(f"No try runs {command}; add one.")
    held = len(results) - len(failed)
    print(f"\ntried {len(results)}, held {held}, failed {len(failed)}, of {len(by_kind)} kinds, in {seconds:.0f} s")
    return len(failed)


def _write(file: Path, results: Sequence[Result], skipped: dict[str, str], work: dict[str, float]) -> None:
    content = {
        "tried": len(results),
        "failed": sum(not result.held for result in results),
        "skipped": skipped,
        "tries": [
            {
                "kind": result.attempt.kind,
                "command": result.attempt.command,
                "name": result.attempt.name,
                "held": result.held,
                "seconds": round(result.seconds, 2),
                "cpu_seconds": round(work.get(result.attempt.title, 0.0), 2),
                "problems": result.problems,
                "words": result.words,
                "output": result.output,
            }
            for result in sorted(results, key=lambda result: result.attempt.title)
        ],
    }
    file.write_text(json.dumps(content, indent=1), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
