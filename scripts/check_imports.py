#!/usr/bin/env python3
"""Checks the direction of imports between the folders of a crate and between the files of a folder.

The head of each folder's mod.rs lists the folders that it imports:

    //! Imports: `manifest`, `runtime`.

The folder's files import nothing else of the crate. No chain of lists leads back to the folder. The
files of a crate import each other without cycles. A file `name.rs` and the folder `name/` of its parts
count as one, because a part may use declarations of its parent.

usage: check_imports.py CRATE_SOURCE...
"""

import re
import sys
from pathlib import Path

HEAD = re.compile(r"^//! Imports: (.*?)\.$", re.MULTILINE | re.DOTALL)
PATH = re.compile(r"\b(crate|super)((?:::super)*)((?:::\w+)*)(::\{[^;]*\})?")


def modules_of(source):
    """Modules of a crate by path, each with its text without tests and comments."""
    modules = {}
    for file in sorted(source.rglob("*.rs")):
        parts = file.relative_to(source).with_suffix("").parts
        if parts[-1] in ("mod", "main", "lib"):
            parts = parts[:-1]
        text = re.sub(r"(?m)^#\[cfg\((?:any\()?test.*?^}", "", file.read_text(), flags=re.DOTALL)
        modules[parts] = re.sub(r"(?m)^\s*//(?!!).*$", "", text)
    return modules


def imports_of(parts, text, modules):
    """Modules that a module names with `crate::` and `super::` paths."""
    code = re.sub(r"(?m)^\s*//.*$", "", text)
    for root, ups, path, group in PATH.findall(code):
        base = () if root == "crate" else parts[: -1 - ups.count("super")]
        names = [tuple(path.split("::")[1:])]
        if group:
            names = [names[0] + tuple(n.split("::")) for n in re.findall(r"[\w:]+", group[3:-1])]
        for name in names:
            target = base + name
            while target and target not in modules:
                target = target[:-1]
            yield target


def circle_in(graph):
    """A cycle of a graph as a list of its nodes, or None."""
    done, path = set(), []

    def visit(node):
        if node in path:
            return path[path.index(node) :] + [node]
        if node in done:
            return None
        path.append(node)
        for target in sorted(graph.get(node, ())):
            if found := visit(target):
                return found
        path.pop()
        done.add(node)
        return None

    for start in sorted(graph):
        if found := visit(start):
            return found
    return None


def check(source):
    modules = modules_of(source)
    findings = []
    allowed = {}
    for parts, text in modules.items():
        if len(parts) == 1 and (source / parts[0]).is_dir():
            head = HEAD.search(text)
            if not head:
                findings.append(f"{source / parts[0]}/mod.rs does not say what it imports")
                continue
            allowed[parts[0]] = set(re.findall(r"`(\w+)`", head[1]))
    if found := circle_in(allowed):
        findings.append("the heads of the folders go in a circle: " + " → ".join(found))
    files = {}
    for parts, text in modules.items():
        for target in imports_of(parts, text, modules):
            if not parts or not target or target == parts:
                continue
            here, there = parts[0], target[0]
            if here != there and here in allowed and there not in allowed[here]:
                findings.append(f"{'::'.join(parts)} imports {'::'.join(target)}: {here} does not import {there}")
            # A folder's mod.rs and the folder's parts may use each other's declarations.
            if parts[: len(target)] != target and target[: len(parts)] != parts:
                files.setdefault("::".join(parts), set()).add("::".join(target))
    if found := circle_in(files):
        findings.append("files go in a circle: " + " → ".join(found))
    return [f"{source}: {finding}" for finding in sorted(set(findings))]


def main():
    findings = [finding for source in sys.argv[1:] for finding in check(Path(source))]
    for finding in findings:
        print(finding)
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
