#!/usr/bin/env python3
"""Prints the file "copyright" of a package: the licences of the project and of all crates that are
linked into its library or program, each text once.

usage: scripts/package_licences.py CRATE [FEATURE]    the crate, and the feature of the extension that
                                                      it was built with, such as pg15
"""

import json
import pathlib
import subprocess
import sys

NAMES = ("LICENSE*", "LICENCE*", "license-*", "COPYRIGHT*", "NOTICE*")


def host():
    """Target platform of the build."""
    lines = subprocess.check_output(["rustc", "-vV"], text=True).splitlines()
    return next(line.removeprefix("host: ") for line in lines if line.startswith("host: "))


def linked_crates(crate, features):
    """Packages of cargo's metadata that are linked into one of our crates, by name."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", host()]
    command += ["--no-default-features", "--features", ",".join(features)]
    metadata = json.loads(subprocess.check_output(command))
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    waiting = [id for id, package in packages.items() if package["name"] == crate]
    seen = set(waiting)
    while waiting:
        for dependency in nodes[waiting.pop()]["deps"]:
            id = dependency["pkg"]
            normal = any(kind["kind"] is None for kind in dependency["dep_kinds"])
            macro = any("proc-macro" in target["kind"] for target in packages[id]["targets"])
            if normal and not macro and id not in seen:
                seen.add(id)
                waiting.append(id)
    # Packages without a source are our own.
    crates = [packages[id] for id in seen if packages[id]["source"]]
    return sorted(crates, key=lambda crate: (crate["name"], crate["version"]))


def licence_files(crate):
    """Licence texts of a crate and of a C library in it; MIT if there is a choice."""
    folder = pathlib.Path(crate["manifest_path"]).parent
    files = sorted({file for name in NAMES for file in folder.rglob(name) if file.is_file()})
    mit = [file for file in files if "MIT" in file.name]
    return mit if mit and " AND " not in crate["license"] else files


def main():
    texts = {}
    without_text = []
    for crate in linked_crates(sys.argv[1], sys.argv[2:]):
        title = f"{crate['name']} {crate['version']} ({crate['license']})"
        files = licence_files(crate)
        for file in files:
            text = file.read_text(encoding="utf-8", errors="replace").strip()
            titles = texts.setdefault(text, [])
            if title not in titles:
                titles.append(title)
        if not files:
            authors = ", ".join(crate["authors"]) or "its authors"
            without_text.append(f"{title}, copyright {authors}")

    print(pathlib.Path("LICENSE").read_text(encoding="utf-8").strip())
    print("\nThis package holds code of the crates below, and of the standard library of Rust")
    print("(MIT OR Apache-2.0, copyright The Rust Project Contributors).")
    for text, titles in texts.items():
        print("\n" + "-" * 80)
        print("\n".join(titles))
        print("\n" + text)
    if without_text:
        print("\n" + "-" * 80)
        print("Crates that come without a text of their licence (that of MIT is above):\n")
        print("\n".join(without_text))


main()
