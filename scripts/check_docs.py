#!/usr/bin/env python3
"""Checks the documentation against the source tree.

- Every relative link in Markdown leads to a file, and every anchor to a heading.
- The options in docs/program-reference.md are those of each command's --help.
- The functions in docs/sql-reference.md, with their arguments, are those of sql/functions.sql.
- The tests named in docs/tested-properties.md exist.

usage: check_docs.py PROGRAM    the built pg_parallel_backup
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
# Sections of the program reference with the options of a command.
COMMANDS = {"A backup": [], "check": ["check"], "verify": ["verify"], "restore": ["restore"],
            "combine": ["combine"], "join": ["join"], "list": ["list"], "expire": ["expire"]}

findings = []


def main():
    documents = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    for document in documents:
        check_links(ROOT / document)
    check_options(sys.argv[1])
    check_functions()
    check_tests()
    for finding in findings:
        print(finding)
    sys.exit(1 if findings else 0)


def say(path, text):
    findings.append(f"{path.relative_to(ROOT)}: {text}")


# ---- links -------------------------------------------------------------------------------------


def check_links(document):
    for target in LINK.findall(FENCE.sub("", document.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        if not path.exists():
            say(document, f"{target} leads nowhere")
        elif anchor and anchor not in anchors(path):
            say(document, f"{target}: there is no such heading")


def anchors(document):
    """Anchors that GitHub generates for headings."""
    text = FENCE.sub("", document.read_text())
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    made = [re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles]
    return {name if made[:n].count(name) == 0 else f"{name}-{made[:n].count(name)}" for n, name in enumerate(made)}


# ---- options -----------------------------------------------------------------------------------


def check_options(program):
    reference = ROOT / "docs/program-reference.md"
    sections = sections_of(reference)
    for title, command in COMMANDS.items():
        shown = subprocess.run(
            [program, *command, "--help"], check=True, capture_output=True, text=True
        ).stdout
        known = set(re.findall(r"(?:^ {2,6}|, )(--?[\w?-]+)", shown, re.MULTILINE))
        rows = re.findall(r"^\| `(-[^`]*)` \|", sections.get(title, ""), re.MULTILINE)
        told = set(re.findall(r"(?:^|, )(--?[\w?-]+)", "\n".join(rows), re.MULTILINE))
        for option in sorted(known - told):
            say(reference, f"{title}: {option} is missing")
        for option in sorted(told - known):
            say(reference, f"{title}: there is no {option}")


def sections_of(document):
    parts = re.split(r"^## (.*)$", document.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2]))


# ---- functions ---------------------------------------------------------------------------------


def check_functions():
    reference = ROOT / "docs/sql-reference.md"
    sections = sections_of(reference)
    sql = (ROOT / "sql/functions.sql").read_text()
    functions = dict(re.findall(r"CREATE FUNCTION (\w+)\((.*?)\)\s+RETURNS", sql, re.DOTALL))
    for name in sorted(sections.keys() - functions.keys() - {"Settings"}):
        say(reference, f"there is no function {name}")
    for name, arguments in functions.items():
        if name not in sections:
            say(reference, f"{name} is missing")
            continue
        told = re.search(rf"\b{name}\((.*?)\)\s*(?:--[^\n]*)?\s*RETURNS", sections[name], re.DOTALL)
        if not told:
            say(reference, f"{name} has no arguments")
        # "…" stands for the arguments of other functions.
        elif told[1].strip() != "…" and words(told[1]) != words(arguments):
            say(reference, f"{name} has other arguments")


# ---- tests -------------------------------------------------------------------------------------


def check_tests():
    properties = ROOT / "docs/tested-properties.md"
    named = r"`((?:[\w.-]+/)+[\w-]+\.(?:rs|sh)): (\w+)`((?:, `\w+`)*)"
    for file, first, more in re.findall(named, properties.read_text()):
        path = ROOT / file
        if not path.exists():
            say(properties, f"there is no {file}")
            continue
        text = path.read_text()
        for test in [first, *re.findall(r"`(\w+)`", more)]:
            if not re.search(rf"\b{test}\b", text):
                say(properties, f"{file} has no {test}")


def words(text):
    return " ".join(text.split())


if __name__ == "__main__":
    main()
