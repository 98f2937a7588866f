"""Mutation testing: which changes of the code does no test notice?

`cargo mutants` lists the changes ("mutants"); `switches.py` compiles all of them into one binary. A trace
says which test reaches which mutant. Each mutant is then run against the tests that reach it: first those
that found a mutant nearby, then unit tests, then those with similar names, then the fast ones.

A mutant is *killed* by a test that fails with it twice in a row, passes right after without it, and, unless
it hangs, fails with it once more. So a test that fails because the machine is busy kills nothing. Each run
of a test is a process in a group of its own; it may take four times as long as without a mutant, but at
least `SHORTEST` seconds. Whatever it leaves behind is killed, and its temporary files are removed.

Results are in `target/mutants/`: `mutants.json` (what was listed and compiles), `tests.json` (times and
traces), `results.json`. A run goes on where the last one ended: killed mutants stay killed as long as their
file is the same but for its unit tests, and others meet only the tests that they have not met. Those for
which there is no test are in `survivors.md`, each with the reason, and are not run.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import threading
import time

import switches

FILES = ["src/delivery/**", "src/outbox/transition.rs", "src/service/**", "src/health.rs", "src/api/server.rs"]
FILES += ["src/select.rs", "src/intake.rs", "src/egress.rs", "src/config/**"]
SHORTEST = 30
# It looks at the source, which the switches change.
NOT_RUN = "it architecture::"

SOURCE = pathlib.Path(__file__).resolve().parents[2]
FOLDER = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", SOURCE / "target")).resolve() / "mutants"
TREE = FOLDER / "tree"
os.environ["CARGO_TARGET_DIR"] = str(FOLDER / "build")
# A command that runs another one, to take turns with other users of the machine.
TURN = os.environ.get("MUTANTS_TURN", "").split()
LOCK = threading.Lock()


def load(name):
    path = FOLDER / name
    return json.loads(path.read_text()) if path.exists() else {}


def save(name, value):
    with LOCK:
        (FOLDER / "new").write_text(json.dumps(value))
        (FOLDER / "new").replace(FOLDER / name)


def each(items, do, workers):
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        list(pool.map(do, items))


def output(*command, cwd=TREE):
    return subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, check=True).stdout


def words(text):
    """The words of a name, without their ends."""
    return {word[:5] for word in re.findall("[a-z]{4,}", text.lower())}


def code(path):
    """What is not a unit test."""
    return path.read_bytes().split(b"\n#[cfg(test)]\nmod tests")[0]


def copy_source(switched):
    """Brings the copy up to date, except for the files with switches."""
    names = output("git", "ls-files", "-coz", "--exclude-standard", cwd=SOURCE).decode().split("\0")
    for name in set(names[:-1]) - switched:
        if (SOURCE / name).is_file():
            switches.update(TREE / name, (SOURCE / name).read_bytes())


def build():
    """How many mutants there are, those that compile, by number, and the executables of the tests."""
    cargo = [*TURN, "cargo"]
    files = (path for path in sorted((SOURCE / "src").rglob("*.rs")) if path.name != "tests.rs")
    codes = {str(path.relative_to(SOURCE)): hashlib.sha256(code(path)).hexdigest() for path in files}
    known = load("mutants.json")
    if known.get("source") != codes:
        copy_source(set())
        globs = [it for name in FILES for it in ("-f", name)]
        listed = json.loads(output(*cargo, "mutants", "--list", "--json", *globs, cwd=SOURCE))
        mutants = switches.compilable(TREE, SOURCE, dict(enumerate(listed, 1)), cargo)
        known = {"source": codes, "listed": len(listed), "compile": mutants}
        save("mutants.json", known)
        save("tests.json", {})
    mutants = {int(number): mutant for number, mutant in known["compile"].items()}
    for mutant in mutants.values():
        mutant["code"] = codes[mutant["file"]]
    copy_source(switches.write(TREE, SOURCE, mutants).keys())
    test = ["test", "--locked", "--no-run", "--lib", "--test", "it", "--message-format=json"]
    built = map(json.loads, output(*cargo, *test).splitlines())
    built = [it for it in built if it.get("executable") and it["profile"]["test"]]
    names = {"it" if it["target"]["name"] == "it" else "unit": it["executable"] for it in built}
    return known["listed"], mutants, names


@contextlib.contextmanager
def turn():
    """Waits until the machine may be used, and says so to others meanwhile."""
    if not TURN:
        yield
        return
    with subprocess.Popen([*TURN, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdin.write(b"\n")
        holder.stdin.flush()
        holder.stdout.read(1)
        yield
        holder.stdin.close()


def kill(run):
    """Kills all processes of a run, or of all runs of this process."""
    mark = f"MUTANTS_RUN={run}-".encode()
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (process / "environ").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)


class Tests:
    """The tests, with the number that run at a time."""

    def __init__(self, executables, jobs):
        self.executables, self.jobs = executables, jobs
        self.slots = threading.Semaphore(jobs)
        self.runs = itertools.count()
        self.known = load("tests.json")

    def run(self, test, mutant=None, trace=None):
        """Whether the test passes, and how many seconds it took."""
        binary, name = test.split(" ")
        usual = self.known.get(test, {}).get("seconds", 60)
        run = f"{os.getpid()}-{next(self.runs)}"
        env = {**os.environ, "MUTANTS_RUN": f"{run}-"}
        env |= {"MUTANT": str(mutant)} if mutant else {}
        env |= {"MUTANT_TRACE": str(trace)} if trace else {}
        command = [self.executables[binary], "--exact", name, "--test-threads", "1"]
        with tempfile.TemporaryDirectory(prefix="mutant", ignore_cleanup_errors=True) as folder, turn():
            env["TMPDIR"] = folder
            self.slots.acquire()
            begin, held = time.monotonic(), True
            quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
            process = subprocess.Popen(command, cwd=TREE, env=env, process_group=0, **quiet)
            # One that takes longer than usual waits for something; another one may run meanwhile.
            for limit in (1.5 * usual + 1, max(SHORTEST, 4 * usual)):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0, begin + limit - time.monotonic()))
                if held:
                    self.slots.release()
                    held = False
            seconds, passes = time.monotonic() - begin, process.poll() == 0
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kill(run)
        return passes, seconds

    def trace(self):
        """Runs each test that is new, and notes which mutants it reaches."""
        tests = set()
        for binary, path in self.executables.items():
            for sign, more in (("+", []), ("-", ["--ignored"])):
                lines = output(path, "--list", "--format", "terse", *more).decode().splitlines()
                names = {f"{binary} {line.removesuffix(': test')}" for line in lines if line.endswith(": test")}
                tests = tests | names if sign == "+" else tests - names
        tests = {it for it in tests if not it.startswith(NOT_RUN)}
        self.known = {name: it for name, it in self.known.items() if name in tests and it["passes"]}
        each(sorted(tests - self.known.keys()), self.trace_one, self.jobs)

    def trace_one(self, test):
        with tempfile.TemporaryDirectory() as folder:
            trace = pathlib.Path(folder) / "trace"
            passes, seconds = self.run(test, trace=trace)
            reached = sorted({int(line) for line in trace.read_text().split()}) if trace.exists() else []
        self.known[test] = {"passes": passes, "seconds": seconds, "reached": reached}
        save("tests.json", dict(self.known))
        if not passes:
            print(f"fails without a mutant: {test}", flush=True)


class Hunt:
    """The mutants and their results."""

    def __init__(self, tests, mutants, arguments):
        self.tests, self.mutants, self.arguments = tests, mutants, arguments
        self.results = load("results.json")

    def result(self, mutant):
        found = self.results.get(mutant["name"])
        if not found or found["code"] != mutant["code"]:
            return {"code": mutant["code"], "killed_by": None, "met": [], "unclear": []}
        # A test that is gone kills nothing.
        return found | {"killed_by": found["killed_by"] if found["killed_by"] in self.tests.known else None}

    def order(self, number):
        """The tests that reach the mutant and have not met it, the most promising ones first."""
        mutant, result = self.mutants[number], self.result(self.mutants[number])
        kills = collections.Counter()
        for other in self.mutants.values():
            if other["file"] == mutant["file"] and (killer := self.result(other)["killed_by"]):
                kills[killer] += 10 if other["function"] == mutant["function"] else 1
        known = self.tests.known
        met = result["met"] + result["unclear"]
        tests = [it for it in known if number in known[it]["reached"] and known[it]["passes"] and it not in met]
        about = words(mutant["file"] + " " + (mutant["function"] or {}).get("function_name", ""))

        def rank(test):
            seconds = known[test]["seconds"]
            return -kills[test] / (0.5 + seconds), test[:2] == "it", -len(about & words(test)), seconds

        return sorted(tests, key=rank)

    def hunt(self, number):
        mutant, spent = self.mutants[number], 0
        result = self.result(mutant)
        if self.arguments.again:
            result |= {"met": [], "unclear": []}
            self.results[mutant["name"]] = result
        fails = lambda test: not self.tests.run(test, number)[0]
        for test in self.order(number):
            if result["killed_by"] or spent > self.arguments.budget:
                break
            if not re.search(self.arguments.tests, test):
                continue
            passes, seconds = self.tests.run(test, number)
            spent += seconds
            if passes:
                result["met"].append(test)
            elif fails(test) and self.tests.run(test)[0] and (seconds >= SHORTEST or fails(test)):
                result["killed_by"] = test
            else:
                result["unclear"].append(test)
        self.results[mutant["name"]] = result
        save("results.json", dict(self.results))
        print(f"{mutant['name']}: {result['killed_by'] or 'survives'} ({spent:.0f} s)", flush=True)

    def open(self):
        """The mutants that are neither killed nor explained."""
        explained = (pathlib.Path(__file__).parent / "survivors.md").read_text()
        survivors = {it: mutant for it, mutant in self.mutants.items() if not self.result(mutant)["killed_by"]}
        return {it: mutant for it, mutant in survivors.items() if f"`{general(mutant)}`" not in explained}

    def run(self):
        todo = [it for it, mutant in self.open().items() if re.search(self.arguments.only, mutant["name"])]
        # More than run at a time, because some wait for a test that hangs.
        each(sorted(todo, key=lambda it: place(self.mutants[it]["file"])), self.hunt, 5 * self.arguments.jobs)

    def report(self, listed):
        """Prints the mutants that are neither killed nor explained, and counts."""
        unexplained, killers = self.open(), [self.result(it)["killed_by"] for it in self.mutants.values()]
        for number, mutant in unexplained.items():
            met = len(self.result(mutant)["met"])
            print(f"{mutant['name']}: {met} tests met, {len(self.order(number))} left")
        by = collections.Counter(killer and killer.split(" ")[0] for killer in killers)
        print(f"{listed} listed, {len(self.mutants)} compile; killed: {by['unit']} by unit tests, {by['it']} by others;")
        print(f"explained: {by[None] - len(unexplained)}, neither: {len(unexplained)}")


def general(mutant):
    """Its name without line and column."""
    return re.sub(r":\d+:\d+", "", mutant["name"])


def place(file):
    """Where a file comes in the order of `FILES`."""
    return next(at for at, glob in enumerate(FILES) if file.startswith(glob.removesuffix("**"))), file


def stop(*_):
    kill(os.getpid())
    os._exit(1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="mutants whose name matches this expression")
    parser.add_argument("--tests", default="", help="tests whose name matches this expression")
    parser.add_argument("--budget", type=float, default=60, help="seconds for the tests of one mutant")
    parser.add_argument("--jobs", type=int, default=2, help="tests that run at a time")
    parser.add_argument("--again", action="store_true", help="with tests that have met it, as they were changed")
    parser.add_argument("--report", action="store_true", help="only print what is known")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    listed, mutants, executables = build()
    tests = Tests(executables, arguments.jobs)
    tests.trace()
    hunt = Hunt(tests, mutants, arguments)
    if not arguments.report:
        hunt.run()
    hunt.report(listed)


if __name__ == "__main__":
    main()
