#!/usr/bin/env python3
"""Prints how many lines of each file the tests run, from a file of counts in lcov's format.

Code of tests does not count: files of tests and modules that only test builds have.

usage: coverage_table.py COUNTS UNCOVERED    UNCOVERED: file to write, with the lines that no test runs
"""

import re
import sys
from collections import defaultdict
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("src", "client/src", "crates")
TEST_FILE = re.compile(r"(^|/)(tests|examples)/|(^|[/_])(tests|properties)\.rs$")
TEST_ATTRIBUTE = re.compile(r'( *)#\[cfg\((any\()?test\b')


def counts_of(path):
    """Number of runs of each line, by file."""
    counts = defaultdict(dict)
    file = None
    for entry in path.read_text().splitlines():
        if entry.startswith("SF:"):
            file = Path(entry[3:])
        elif entry.startswith("DA:"):
            line, runs = map(int, entry[3:].split(",")[:2])
            counts[file][line] = max(runs, counts[file].get(line, 0))
    return counts


def lines_of_tests(text):
    """Numbers of lines of items that only test builds have. rustfmt indents the end of an item as its start."""
    found = set()
    end = None
    for number, line in enumerate(text, 1):
        attribute = TEST_ATTRIBUTE.match(line)
        if end is None and attribute:
            end = attribute[1]
        if end is not None:
            found.add(number)
            declaration = line.rstrip().endswith(";") and line.startswith(end) and line[len(end)] not in " #"
            if line.rstrip() == end + "}" or declaration:
                end = None
    return found


def ranges(numbers):
    """Consecutive numbers as pairs of the first and the last."""
    for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in run]
        yield run[0], run[-1]


def main():
    counts = counts_of(Path(sys.argv[1]))
    files = {}
    with Path(sys.argv[2]).open("w") as report:
        for file in sorted(counts):
            if not file.is_relative_to(ROOT):
                continue
            name = str(file.relative_to(ROOT))
            if not name.startswith(PARTS) or TEST_FILE.search(name):
                continue
            text = file.read_text().splitlines()
            tests = lines_of_tests(text)
            lines = {line: runs for line, runs in counts[file].items() if line not in tests}
            missed = sorted(line for line, runs in lines.items() if runs == 0)
            files[name] = (len(lines), len(missed))
            for first, last in ranges(missed):
                print(f"{name}:{first}", file=report)
                for line in range(first, last + 1):
                    print(f"  {line:4} {text[line - 1]}", file=report)
    width = max(map(len, files), default=0)

    def row(name, lines, missed):
        share = 100 * (lines - missed) / lines if lines else 100
        print(f"{name:{width}} {lines:6} lines {missed:5} not run {share:6.1f} %")

    for name, (lines, missed) in files.items():
        if lines:
            row(name, lines, missed)
    print()
    for part in (*PARTS, ""):
        of_part = [numbers for name, numbers in files.items() if name.startswith(part)]
        row(part or "all", sum(lines for lines, _ in of_part), sum(missed for _, missed in of_part))


main()
