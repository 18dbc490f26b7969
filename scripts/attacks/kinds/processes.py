"""Commands that are ended from outside while they work, and workers that die under them."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from attacks import fixtures
from attacks.client import Process
from attacks.judge import judge_process
from attacks.recipes import RECIPES
from attacks.runner import Stage
from attacks.sandbox import Sandbox
from attacks.table import ACCEPTED, INTERRUPTED, REFUSED, Expect, SetUp, Try, kind

#: Longest that a command may take to end after a signal, on a busy machine.
PATIENCE = 40.0
_CASES = ("a", "b", "c", "d")
#: Remapping such a scan takes a fraction of a second.
_CASES_TO_REMAP = tuple("abcdefghijklmnop")


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.link(source, target)


def _long(name: str, workers: int) -> SetUp:
    """Enough work of a command to be met at it: a few scans of three million voxels."""

    def set_up(box: Sandbox) -> Sequence[str]:
        image, label_map = box.library / "big_image.nii.gz", box.library / "big_map.nii.gz"
        argv = RECIPES[name](box)
        for case in _CASES_TO_REMAP if name == "remap" else _CASES:
            if name == "convert":
                _link(image, box.inputs / f"data/images/{case}.nii.gz")
                _link(label_map, box.inputs / f"data/labels/{case}.nii.gz")
            elif name == "merge":
                _link(image, box.raw / f"Dataset001_Tiny/imagesTr/{case}_0000.nii.gz")
                _link(label_map, box.raw / f"Dataset001_Tiny/labelsTr/{case}.nii.gz")
                cases = len(_CASES) + 3
                fixtures.write_json(
                    box.raw / "Dataset001_Tiny/dataset.json", fixtures.dataset_json(fixtures.LABELS, cases)
                )
            elif name == "remap":
                _link(label_map, box.inputs / f"maps/{case}.nii.gz")
            elif name == "evaluate":
                _link(label_map, box.inputs / f"gt/{case}.nii.gz")
                _link(label_map, box.inputs / f"pred/{case}.nii.gz")
            elif name == "predict":
                _link(box.library / "seen_through_windows.nii.gz", box.inputs / f"images/{case}_0000.nii.gz")
            elif name in ("train", "finetune"):
                argv = [
                    word if word != "1" or argv[place - 1] != "--num_epochs" else "1000"
                    for place, word in enumerate(argv)
                ]
                break
        return [
            str(workers) if argv[place - 1] == "-np" and name != "finetune" else word for place, word in enumerate(argv)
        ]

    return set_up


def _demo(box: Sandbox) -> Sequence[str]:
    return ["--output", str(box.out)]


def _at_work(name: str, workers: int) -> Callable[[Process, Sandbox], bool]:
    """Whether the command has begun what it was started for."""

    def begun(process: Process, box: Sandbox) -> bool:
        if name in ("train", "finetune"):
            return "Epoch 2" in process.output()
        if workers > 1:
            at_work = _workers(process)
            return len(at_work) >= workers and all(time.monotonic() - _born(pid) > 0.5 for pid in at_work)
        if name == "demo":
            return len(process.family()) >= 2 and (box.out / "nnUNet_raw").is_dir()
        # The first file that is written, or a second of work.
        return time.monotonic() - _born(process.pid) > 1.0

    return begun


def _born(pid: int) -> float:
    # Time of the start, in seconds since the machine's.
    ticks = int(Path("/proc", str(pid), "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    return ticks / os.sysconf("SC_CLK_TCK")


def _meet(process: Process, box: Sandbox, begun: Callable[[Process, Sandbox], bool]) -> bool:
    """Waits until a command is at work; false if it has ended before."""
    deadline = time.monotonic() + 120
    while process.code is None and time.monotonic() < deadline:
        try:
            if begun(process, box):
                return True
        except (FileNotFoundError, ProcessLookupError):
            pass
        time.sleep(0.05)
    return False


def _ends(name: str, number: int, workers: int, group: bool) -> Callable[[Stage, Sandbox], Iterator[str]]:
    """Sends a signal to a command at work; then runs it again, where that takes no more than seconds."""

    def drive(stage: Stage, box: Sandbox) -> Iterator[str]:
        process = stage.start(log="first")
        if not _meet(process, box, _at_work(name, workers)):
            yield f"ended with {process.code} before it could be met at work: {process.output()[-200:]}"
            return
        process.send(number, group=group)
        if process.wait(PATIENCE) is None:
            yield f"did not end within {PATIENCE:.0f} s"
            process.send(signal.SIGKILL, group=True)
            process.wait(10)
        if number == signal.SIGKILL:
            # It had no chance to tidy up; only its workers have to notice.
            if leftovers := process.leftovers(20):
                yield f"left {len(leftovers)} processes"
        else:
            yield from judge_process(process, Expect(INTERRUPTED | ACCEPTED))
        if name not in ("train", "finetune", "demo"):
            yield from _again(stage, box)

    return drive


def _again(stage: Stage, box: Sandbox) -> Iterator[str]:
    """The same command does its work as if nothing had been, and clears away what the first has left."""
    argv = list(stage.argv)
    if "-np" in argv:
        argv[argv.index("-np") + 1] = "1"
    overwrite = stage.attempt.command in ("predict", "remap_labels", "evaluate")
    process = stage.start([*argv, "--overwrite"] if overwrite else argv, log="again")
    process.wait_or_end(90)
    for problem in judge_process(process, Expect(ACCEPTED)):
        yield f"run again, it {problem}: {process.output()[-200:]}"


def _interrupted(name: str, number: int, workers: int = 1, group: bool = False) -> Try:
    recipe = RECIPES.get(name)
    title = f"{name}, {workers} workers{', whole group' if group else ''}"
    targets = recipe.targets if recipe else ("out",)
    return Try(
        recipe.command if recipe else name,
        title,
        (_long(name, workers) if recipe else _demo,),
        Expect(targets=targets),
        driver=_ends(name, number, workers, group),
        seconds=120,
    )


@kind("signal_sigterm", slow=True)
def terminated() -> Iterator[Try]:
    """The orderly end of batch systems."""
    for name in ("convert", "merge", "remap", "evaluate"):
        yield _interrupted(name, signal.SIGTERM, workers=2)
    for name in ("predict", "train", "finetune", "demo"):
        yield _interrupted(name, signal.SIGTERM)


@kind("signal_sigint", slow=True)
def interrupted() -> Iterator[Try]:
    """Ctrl-C, which reaches the whole group."""
    for name in ("convert", "merge", "remap", "evaluate", "predict", "train", "finetune", "demo"):
        yield _interrupted(name, signal.SIGINT, group=True)


@kind("signal_sigkill", slow=True)
def killed() -> Iterator[Try]:
    """The end that leaves no time."""
    for name in ("convert", "merge", "remap", "evaluate"):
        yield _interrupted(name, signal.SIGKILL, workers=2)
    for name in ("predict", "train", "finetune", "demo"):
        yield _interrupted(name, signal.SIGKILL)


def _kills_a_worker(stage: Stage, box: Sandbox) -> Iterator[str]:
    process = stage.start(log="first")
    if not _meet(process, box, _at_work("remap", 2)):
        yield f"ended with {process.code} before it could be met at work"
        return
    for pid in _workers(process)[:1]:
        os.kill(pid, signal.SIGKILL)
    process.wait_or_end(90)
    yield from judge_process(process, Expect(REFUSED))


def _workers(process: Process) -> list[int]:
    """Processes of a command that work for it."""
    found = []
    for pid in process.family():
        try:
            words = Path("/proc", str(pid), "cmdline").read_bytes()
        except OSError:
            continue
        if pid != process.pid and re.search(rb"spawn_main|forkserver", words):
            found.append(pid)
    return found


@kind("worker_killed", slow=True)
def worker_killed() -> Iterator[Try]:
    """As the kernel does when memory runs out."""
    for name in ("convert", "merge", "remap", "evaluate"):
        recipe = RECIPES[name]
        yield Try(
            recipe.command, name, (_long(name, 2),), Expect(targets=recipe.targets), driver=_kills_a_worker, seconds=120
        )  # fmt: skip


# Two runs at once ----------------------------------------------------------------------------------------------------


def _two(
    second: Callable[[Stage, Sandbox], Sequence[str]] | None,
    check: Callable[[Sandbox, list[int | None]], Iterator[str]],
) -> Callable[[Stage, Sandbox], Iterator[str]]:
    def drive(stage: Stage, box: Sandbox) -> Iterator[str]:
        argvs = [stage.argv, second(stage, box) if second else stage.argv]
        processes = [stage.start(argv, log=f"run{number}") for number, argv in enumerate(argvs)]
        for process in processes:
            process.wait_or_end(120)
        for number, process in enumerate(processes):
            for problem in judge_process(process, Expect(ACCEPTED | REFUSED)):
                yield f"run {number + 1} {problem}"
        codes = [process.code for process in processes]
        if 0 not in codes:
            yield f"neither run succeeded: {processes[0].output()[-150:]!r} {processes[1].output()[-150:]!r}"
        yield from check(box, codes)

    return drive


def _nothing(box: Sandbox, codes: list[int | None]) -> Iterator[str]:
    yield from ()


def _one_refused(box: Sandbox, codes: list[int | None]) -> Iterator[str]:
    if codes.count(0) == 2:
        yield "both runs wrote into one place"


def _complete(folder: str, number: int) -> Callable[[Sandbox, list[int | None]], Iterator[str]]:
    def check(box: Sandbox, codes: list[int | None]) -> Iterator[str]:
        found = sorted((box.root / folder).glob("*.nii.gz"))
        if len(found) != number:
            yield f"{len(found)} of {number} files are in {folder}"

    return check


def _other_model(stage: Stage, box: Sandbox) -> Sequence[str]:
    other = box.bring("model", box.inputs / "other_model")
    path = other / "dataset.json"
    path.write_text(path.read_text().replace("liver", "kidney"))
    return [str(other) if word == str(box.inputs / "model") else word for word in stage.argv]


def _other_order(stage: Stage, box: Sandbox) -> Sequence[str]:
    fixtures.write_json(box.inputs / "third.json", {"labels": {"spleen": 5, "liver": 6}})
    return [str(box.inputs / "third.json") if word == str(box.inputs / "to.json") else word for word in stage.argv]


def _part(stage: Stage, box: Sandbox) -> Sequence[str]:
    return [*list(stage.argv)[:-1], "1"]


def _of_two_parts(box: Sandbox) -> Sequence[str]:
    return [*_long("predict", 1)(box), "-num_parts", "2", "-part_id", "0"]


def _both_accepted(box: Sandbox, codes: list[int | None]) -> Iterator[str]:
    if codes != [0, 0]:
        yield f"parts of one prediction ended with {codes}"
    yield from _complete("out", 6)(box, codes)


def _race(name: str, title: str, driver: Callable[[Stage, Sandbox], Iterator[str]], set_up: SetUp | None = None) -> Try:
    recipe = RECIPES[name]
    # Inputs of the second run come when the first one has been set up.
    expect = Expect(targets=(*recipe.targets, "in/other_model", "in/third.json"))
    return Try(recipe.command, title, (set_up or _long(name, 1),), expect, driver=driver, seconds=120)


@kind("two_runs_at_once", slow=True)
def two_runs() -> Iterator[Try]:
    """Into one place: one of them is told so, or what comes of both is right."""
    yield _race("merge", "one ID", _two(None, _complete("nnUNet_raw/Dataset100_Both/labelsTr", 10)))
    yield _race("convert", "one dataset", _two(None, _complete("nnUNet_raw/Dataset101_New/labelsTr", 7)))
    yield _race("predict", "two models", _two(_other_model, _one_refused))
    yield _race("predict", "two parts", _two(_part, _both_accepted), _of_two_parts)
    yield _race("remap", "two orders", _two(_other_order, _one_refused))
    yield _race("evaluate", "one folder", _two(None, _nothing))
    yield _race("import", "one model", _two(None, _one_refused), RECIPES["import"])
    yield _race("export", "one file", _two(None, _one_refused), RECIPES["export"])
    yield _race("export_bundle", "one bundle", _two(None, _one_refused), RECIPES["export_bundle"])
    yield _race("plan", "one name", _two(None, _one_refused), RECIPES["plan"])
    for name in ("train", "finetune"):
        yield _race(name, "one fold", _train_twice)


def _train_twice(stage: Stage, box: Sandbox) -> Iterator[str]:
    """A training of the same fold while one is under way is refused, and the first goes on."""
    first = stage.start(log="first")
    if not _meet(first, box, _at_work("train", 1)):
        yield f"ended with {first.code} before it could be met at work: {first.output()[-200:]}"
        return
    second = stage.start(log="second")
    if not _meet(second, box, lambda process, _: "Epoch 0" in process.output()):
        yield from (f"the second run {problem}" for problem in judge_process(second, Expect(REFUSED)))
    else:
        yield "the second run trains into the folder of the first"
        second.send(signal.SIGKILL, group=True)
        second.wait(10)
    if first.code is not None:
        yield f"the first run ended with {first.code}"
    first.send(signal.SIGKILL, group=True)
    first.wait(10)
    first.leftovers(10)
    second.leftovers(1)
