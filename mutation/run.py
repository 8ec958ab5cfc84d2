"""Run the tests of the core against mutants of a module: ``python -m mutation.run _body _state``.

What lives here: the choice of mutants and tests, and the count of those that no test notices. What does not: the
changes (``mutants.py``), and the reasons why some of them change nothing (``explained.toml``).

The tests are collected once. Each mutant then is a child of that process in which functions have the code of the
mutant; it runs the tests that enter the changed function, the quick ones first, until one fails. A change outside of
functions, in a table or a default, is in effect before anything is imported, so there all is collected anew.
"""

from __future__ import annotations

import argparse
import enum
import json
import os
import random
import resource
import signal
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any, Final, cast

import pytest
from mutation.mutants import Mutant, enumerations, mutants_of

ROOT: Final = Path(__file__).parents[1]
SOURCES: Final = ROOT / "src" / "smtpcore"
TESTS: Final = ROOT / "tests" / "core"
RESULTS: Final = ROOT / "build" / "mutation"
#: No mutant may take all memory, nor a test much longer than it does.
MEMORY: Final = 3 << 30
PATIENCE: Final = 5.0


class Fate(enum.Enum):
    """What became of a mutant."""

    KILLED = "killed"
    EXPLAINED = "explained"
    SURVIVED = "survived"


def main() -> None:
    parser = argparse.ArgumentParser(description="mutation tests")
    parser.add_argument("modules", nargs="+", metavar="MODULE", help="such as _body, of src/smtpcore")
    parser.add_argument("--sample", type=int, metavar="N", help="only so many mutants of each module, drawn by chance")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the chance (default 1)")
    parser.add_argument("--only", type=int, action="append", metavar="NUMBER", help="only this one, its tests shown")
    parser.add_argument("--again", action="store_true", help="only those that survived the last time")
    parser.add_argument("--untried", action="store_true", help="only those without a result; adds to the results")
    parser.add_argument("--tests", nargs="+", type=Path, default=[TESTS], metavar="PATH", help="only these")
    parser.add_argument("--quick", action="store_true", help="without the tests of more than half a second")
    options = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    reasons, enumerated = explained(), enumerations(SOURCES)
    mutants = {module: mutants_of(path_of(module).read_text(), enumerated) for module in options.modules}
    chosen = {module: choice(mutants[module], module, options) for module in options.modules}
    if not (options.only or options.untried):
        for module in options.modules:
            results_of(module).unlink(missing_ok=True)
    counts = {module: dict.fromkeys(Fate, 0) for module in options.modules}
    for module, mutant, killer in judged(
        chosen, options.tests, longest=0.5 if options.quick else PATIENCE * 60, shown=bool(options.only)
    ):
        fate = Fate.KILLED if killer else Fate.EXPLAINED if mutant.change in reasons else Fate.SURVIVED
        counts[module][fate] += 1
        note(module, mutant, fate, killer)
    print("\n" + row("module", ["mutants", "tried", *(fate.value for fate in Fate)]))
    for module, count in counts.items():
        print(row(module, [len(mutants[module]), sum(count.values()), *count.values()]))


def path_of(module: str) -> Path:
    return SOURCES / f"{module}.py"


def results_of(module: str) -> Path:
    return RESULTS / f"{module}.jsonl"


def row(first: str, others: Sequence[object]) -> str:
    return f"{first:16} " + " ".join(f"{other!s:>9}" for other in others)


def explained() -> dict[tuple[str, str, str], str]:
    """Why a change that no test notices changes nothing, by what it is."""
    with (Path(__file__).parent / "explained.toml").open("rb") as file:
        entries = tomllib.load(file)["mutant"]
    return {(entry["line"], entry["before"], entry["after"]): entry["reason"] for entry in entries}


def choice(mutants: Sequence[Mutant], module: str, options: argparse.Namespace) -> list[Mutant]:
    numbers = list(range(len(mutants)))
    if options.only:
        return [mutants[number] for number in options.only]
    if options.again:
        survivors = {change for change, fate in results(module) if fate is not Fate.KILLED}
        numbers = [mutant.number for mutant in mutants if mutant.change in survivors]
    elif options.untried:
        tried = {change for change, _ in results(module)}
        numbers = [mutant.number for mutant in mutants if mutant.change not in tried]
    if options.sample is not None and options.sample < len(numbers):
        numbers = sorted(random.Random(options.seed).sample(numbers, options.sample))
    return [mutants[number] for number in numbers]


def results(module: str) -> Iterator[tuple[tuple[str, str, str], Fate]]:
    """What became of the mutants that were tried, by what was changed."""
    if results_of(module).exists():
        for line in map(json.loads, results_of(module).read_text().splitlines()):
            yield (line["line"], line["before"], line["after"]), Fate(line["fate"])


def note(module: str, mutant: Mutant, fate: Fate, killer: str | None) -> None:
    line, before, after = mutant.change
    words = {"line": line, "before": before, "after": after, "fate": fate.value, "by": killer}
    with results_of(module).open("a") as results:
        results.write(json.dumps(words) + "\n")
    if fate is Fate.SURVIVED:
        print(f"{fate.value}: {module} {mutant}", flush=True)


def judged(
    chosen: dict[str, list[Mutant]], all_tests: Sequence[Path], *, longest: float, shown: bool
) -> Iterator[tuple[str, Mutant, str | None]]:
    """Each mutant with the test that killed it, or what else did; without the tests that take longer than so long."""
    seconds: dict[str, float] = {}
    within = {module: [mutant for mutant in mutants if mutant.function] for module, mutants in chosen.items()}
    collected = Collected(within, all_tests, longest, shown)
    for words in in_child(collected.run, shown=True):
        if words["what"] == "seconds":
            seconds = words["seconds"]
            print(f"{len(seconds)} tests, {sum(seconds.values()):.0f} s", flush=True)
        elif words["what"] == "ended":
            raise SystemExit(f"the tests cannot be run: {words['killer']}")
        else:
            module = words["module"]
            mutant = next(mutant for mutant in chosen[module] if mutant.number == words["number"])
            if words["concern"]:
                within[module].remove(mutant)
                yield module, mutant, words["killer"]
    for module, mutants in chosen.items():
        own = sorted(TESTS.glob(f"test{module}*.py")) if all_tests == [TESTS] else []
        for mutant in mutants:
            # What no test enters is run when the module is imported.
            if mutant.function is None or mutant in within[module]:
                # Most are noticed by the module's own tests.
                runs = [Anew(module, mutant, tests, seconds).run for tests in (own, all_tests) if tests]
                killers = (killer_told(in_child(run, shown=shown)) for run in runs)
                yield module, mutant, next((killer for killer in killers if killer), None)


# --- children -------------------------------------------------------------------------------------------------------

Tell = Callable[[dict[str, Any]], None]


def in_child(work: Callable[[Tell], None], *, shown: bool) -> Iterator[dict[str, Any]]:
    """Do the work in a child of this process; what it tells, and at last how it ended."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        if not shown:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
        status = 1
        try:
            with os.fdopen(writer, "w") as pipe:
                work(lambda words: print(json.dumps(words), file=pipe, flush=True))
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        yield from map(json.loads, pipe)
    _, ended = os.waitpid(child, 0)
    if (status := os.waitstatus_to_exitcode(ended)) != 0:
        yield {"what": "ended", "killer": f"the end of the process: {status}"}


def killer_told(told: Iterator[dict[str, Any]]) -> str | None:
    """The first test that failed, or else the end of the process."""
    killers = [words["killer"] for words in told if words["killer"]]
    return killers[0] if killers else None


def run_tests(session: pytest.Session, items: Sequence[pytest.Item], seconds: dict[str, float], tell: Tell) -> None:
    """Run tests until one fails; one that hangs ends the process."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for item, following in zip(items, [*items[1:], None], strict=False):
        signal.alarm(int(PATIENCE + 10 * seconds.get(item.nodeid, 1.0)))
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            tell({"what": "failed", "killer": item.nodeid})
            return


def pytest_main(plugin: object, tests: Sequence[Path]) -> int:
    # The plugins of coverage and of the cache have nothing to do here.
    switched_off = ["-p", "no:cacheprovider", "-p", "no:cov"]
    return pytest.main(["-q", "-s", *switched_off, "--hypothesis-profile=mutation", *map(str, tests)], [plugin])


# --- changes within functions ---------------------------------------------------------------------------------------


class Collected:
    """A run of pytest that does not run the tests once, but for each mutant those that concern it."""

    def __init__(self, mutants: dict[str, list[Mutant]], tests: Sequence[Path], longest: float, shown: bool) -> None:
        self._mutants = mutants
        self._tests = tests
        self._longest = longest
        self._shown = shown
        self._tell: Tell = lambda _: None

    def run(self, tell: Tell) -> None:
        self._tell = tell
        if pytest_main(self, self._tests) not in {0, 5}:
            raise SystemExit("the tests cannot be run")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        modules = {module: sys.modules[f"smtpcore.{module}"] for module in self._mutants}
        seconds, entered = self._observed(session, {found.__file__: name for name, found in modules.items()})
        self._tell({"what": "seconds", "seconds": seconds})
        items = [item for item in session.items if seconds[item.nodeid] <= self._longest]
        for module, mutants in self._mutants.items():
            killers: dict[str, int] = {}
            for mutant in mutants:
                tests = [item for item in items if f"{module}:{mutant.function}" in entered[item.nodeid]]
                # A quick test that has killed others first.
                tests.sort(key=lambda item: (-killers.get(item.nodeid, 0), seconds[item.nodeid]))
                changed = functions_of(executed(mutant.compiled(path_of(module)), modules[module]))
                work = self._work(
                    session, functions_of(modules[module]), changed, tests, seconds, mutant.function or ""
                )
                killer = killer_told(in_child(work, shown=self._shown)) if tests else None
                if killer is not None and seconds.get(killer, 1) < 0.2:
                    killers[killer] = killers.get(killer, 0) + 1
                words = {"module": module, "number": mutant.number, "killer": killer, "concern": len(tests)}
                self._tell({"what": "judged", **words})
        return True

    def _observed(
        self, session: pytest.Session, names: dict[str | None, str]
    ) -> tuple[dict[str, float], dict[str, set[str]]]:
        """How long each test takes, and which functions of the modules, given by their files, it enters."""
        seconds: dict[str, float] = {}
        entered: dict[str, set[str]] = {}

        def observe(tell: Tell) -> None:
            for item, following in zip(session.items, [*session.items[1:], None], strict=True):
                found: set[CodeType] = set()

                def profile(frame: FrameType, event: str, _: object, found: set[CodeType] = found) -> None:
                    if event == "call":
                        found.add(frame.f_code)

                start = time.perf_counter()
                sys.setprofile(profile)
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                sys.setprofile(None)
                ours = [(names[c.co_filename], c.co_qualname) for c in found if c.co_filename in names]
                # A function made within one that ran at the import stays as it is, whatever becomes of the outer one.
                functions = sorted({f"{module}:{name}" for module, name in ours if ".<locals>" not in name})
                words = {"seconds": time.perf_counter() - start, "entered": functions, "failed": session.testsfailed}
                tell({"item": item.nodeid, "killer": None, **words})

        for words in in_child(observe, shown=self._shown):
            if words.get("failed", 1):
                raise SystemExit(f"the tests fail without any mutant: {words}")
            seconds[words["item"]] = words["seconds"]
            entered[words["item"]] = set(words["entered"])
        return seconds, entered

    @staticmethod
    def _work(
        session: pytest.Session,
        live: dict[str, FunctionType],
        changed: dict[str, FunctionType],
        tests: Sequence[pytest.Item],
        seconds: dict[str, float],
        name: str,
    ) -> Callable[[Tell], None]:
        code = changed[name].__code__
        assert code.co_freevars == live[name].__code__.co_freevars

        def work(tell: Tell) -> None:
            live[name].__code__ = code
            run_tests(session, tests, seconds, tell)

        return work


def executed(code: CodeType, like: ModuleType) -> ModuleType:
    """The module of this code, which nobody else gets to see."""
    module = ModuleType(like.__name__)
    module.__file__ = like.__file__
    before = sys.modules[like.__name__]
    # Dataclasses look themselves up.
    sys.modules[like.__name__] = module
    try:
        exec(code, module.__dict__)
    finally:
        sys.modules[like.__name__] = before
    return module


def functions_of(module: ModuleType) -> dict[str, FunctionType]:
    """The functions that were written in a module, by their qualified names."""
    found: dict[str, FunctionType] = {}
    members = list(vars(module).values())
    for member in members:
        if isinstance(member, type) and member.__module__ == module.__name__:
            members.extend(vars(member).values())
        function = getattr(member, "fget", None) or getattr(member, "__func__", None)
        function = getattr(function or member, "__wrapped__", function or member)
        if isinstance(function, FunctionType) and function.__module__ == module.__name__:
            found[function.__qualname__] = function
    return found


# --- changes outside of functions -----------------------------------------------------------------------------------


class Anew:
    """A run of pytest with a mutant in place of the module from the first import on."""

    def __init__(self, module: str, mutant: Mutant, tests: Sequence[Path], seconds: dict[str, float]) -> None:
        self._name = f"smtpcore.{module}"
        self._path = path_of(module)
        self._code = mutant.compiled(self._path)
        self._tests = tests
        self._seconds = seconds
        self._tell: Tell = lambda _: None

    def run(self, tell: Tell) -> None:
        self._tell = tell
        sys.meta_path.insert(0, cast(Any, self))
        if status := pytest_main(self, self._tests):
            tell({"what": "failed", "killer": f"pytest ends with {status}"})

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return spec_from_loader(name, cast(Any, self), origin=str(self._path)) if name == self._name else None

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        module.__file__ = str(self._path)
        exec(self._code, module.__dict__)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        tests = sorted(session.items, key=lambda item: self._seconds.get(item.nodeid, 1.0))
        run_tests(session, tests, self._seconds, self._tell)
        return True


if __name__ == "__main__":
    main()
