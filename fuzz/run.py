"""Run one target for a time: ``python -m fuzz.run client --seconds 60``.

What lives here: the choice of the octets, by Atheris (https://github.com/google/atheris), which is guided by coverage,
or where that is not installed or not wanted (``--plain``) by chance over the seeds. What does not: what is fuzzed
(``targets.py``). Octets that a target fails with are kept in ``build/fuzz/TARGET``, and such a file can be given for
``--again``.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

HERE = Path(__file__).parent
NAMES = ("client", "replies", "bodies", "messages", "tls")
LONGEST = 400


def main() -> None:
    parser = argparse.ArgumentParser(description="fuzz one target")
    parser.add_argument("target", choices=NAMES)
    parser.add_argument("--seconds", type=int, default=30, metavar="S", help="how long (default 30)")
    parser.add_argument("--executions", type=int, metavar="N", help="with --plain: stop after so many")
    parser.add_argument("--plain", action="store_true", help="by chance alone, without Atheris")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32, metavar="N", help="of the chance")
    parser.add_argument("--again", type=Path, metavar="FILE", help="run these octets once")
    options = parser.parse_args()
    found = HERE.parent / "build" / "fuzz" / options.target
    found.mkdir(parents=True, exist_ok=True)
    if options.again is not None:
        target(options.target)(options.again.read_bytes())
    elif options.plain or importlib.util.find_spec("atheris") is None:
        by_chance(options.target, found, options.seconds, options.executions, options.seed)
    else:
        guided(options.target, found, options.seconds, options.seed)


def target(name: str) -> Callable[[bytes], None]:
    from fuzz.targets import TARGETS

    return TARGETS[name]


def guided(name: str, found: Path, seconds: int, seed: int) -> NoReturn:
    import atheris

    with atheris.instrument_imports(include=["smtpcore"]):
        function = target(name)
    corpus = found / "corpus"
    corpus.mkdir(exist_ok=True)
    limits = [f"-max_total_time={seconds}", f"-max_len={LONGEST}", f"-seed={seed}", "-timeout=20"]
    atheris.Setup(
        [sys.argv[0], *limits, f"-artifact_prefix={found}/", "-print_final_stats=1", str(corpus), str(seeds_of(name))],
        function,
    )
    atheris.Fuzz()
    raise AssertionError("Atheris ends the process itself")


def seeds_of(name: str) -> Path:
    return HERE / "corpus" / name


def by_chance(name: str, found: Path, seconds: int, executions: int | None, seed: int) -> None:
    """The seeds, then what chance makes of them."""
    function = target(name)
    chance = random.Random(seed)
    seeds = [path.read_bytes() for path in sorted(seeds_of(name).iterdir())]
    end = time.monotonic() + seconds
    done = 0
    while done < len(seeds) or (time.monotonic() < end if executions is None else done < executions):
        octets = seeds[done] if done < len(seeds) else mutated(seeds, chance)
        try:
            function(octets)
        except Exception:
            path = found / f"crash-{seed}-{done}"
            path.write_bytes(octets)
            traceback.print_exc()
            sys.exit(f"{name} fails with {octets!r}, kept in {path}")
        done += 1
    print(f"{name}: {done} executions, by chance from seed {seed}")


def mutated(seeds: list[bytes], chance: random.Random) -> bytes:
    """A seed with a few changes, or nothing but chance."""
    if chance.random() < 0.2:
        return chance.randbytes(chance.randrange(LONGEST))
    octets = bytearray(chance.choice(seeds))
    for _ in range(1 + chance.randrange(8)):
        place = chance.randrange(len(octets) + 1)
        match chance.randrange(5):
            case 0:
                octets[place : place + 1] = chance.randbytes(1)
            case 1:
                octets[place:place] = chance.randbytes(1 + chance.randrange(8))
            case 2:
                del octets[place : place + 1 + chance.randrange(8)]
            case 3:
                octets[place:place] = octets[chance.randrange(len(octets) + 1) :][: chance.randrange(30)]
            case _:
                octets[place:] = chance.choice(seeds)[chance.randrange(len(octets) + 1) :]
    return bytes(octets[:LONGEST])


if __name__ == "__main__":
    main()
