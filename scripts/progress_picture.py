#!/usr/bin/env python3
"""Runs a command on a pseudo-terminal and draws the terminal's content as an SVG.

The picture is animated. Without animation it shows the middle of the command.

usage: progress_picture.py PICTURE COMMAND [ARGUMENT...]
"""

import fcntl
import os
import pty
import re
import shlex
import struct
import sys
import termios
import time
from html import escape

COLUMNS, ROWS = 84, 12
# Output within this many seconds is one frame.
TOGETHER = 0.05
# Duration of the last frame.
LAST = 5.0

FONT_SIZE = 14
CELL = (8.4, 20)
MARGIN = 18
TITLE_BAR = 34
FONTS = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace"
# Colours that contrast with dark and light pages.
BACKGROUND, BAR, BORDER, TEXT, PROMPT = "#1c2430", "#2a3444", "#6b7686", "#dfe6ee", "#7fd08a"


class Screen:
    """A terminal that supports only the sequences that the program uses; others raise an error."""

    SEQUENCES = re.compile(r"\x1b\[(\d*)([AKJ])|\r|\n|[^\x00-\x1f\x7f]+")

    def __init__(self):
        self.rows = [""] * ROWS
        self.row = self.column = 0

    def write(self, text):
        at = 0
        while at < len(text):
            found = self.SEQUENCES.match(text, at)
            if not found:
                raise ValueError(f"unknown control sequence: {text[at:at + 8]!r}")
            self.apply(found)
            at = found.end()

    def apply(self, found):
        count, name = found.group(1), found.group(2)
        if name == "A":
            self.row = max(0, self.row - int(count or 1))
        elif name == "K":
            self.rows[self.row] = self.rows[self.row][: self.column]
        elif name == "J":
            self.rows[self.row] = self.rows[self.row][: self.column]
            self.rows[self.row + 1 :] = [""] * (ROWS - self.row - 1)
        elif found.group() == "\r":
            self.column = 0
        elif found.group() == "\n":
            self.row += 1
            if self.row == ROWS:
                raise ValueError(f"the picture has no more than {ROWS} rows")
        else:
            self.put(found.group())

    def put(self, text):
        end = self.column + len(text)
        if end > COLUMNS:
            raise ValueError(f"the picture has no more than {COLUMNS} columns: {text}")
        row = self.rows[self.row].ljust(self.column)
        self.rows[self.row] = row[: self.column] + text + row[end:]
        self.column = end


def record(command):
    """Runs the command and returns the frames, each with its start time and its rows."""
    child, terminal = pty.fork()
    if child == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        os.environ["TERM"] = "xterm"
        os.execvp(command[0], command)
    screen = Screen()
    screen.write("$ " + shlex.join(command) + "\r\n")
    began = time.monotonic()
    frames = [(0.0, list(screen.rows))]
    rest = b""
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # the other side is closed
            break
        if not data:
            break
        # The last sequence may be incomplete.
        text, mark, part = (rest + data).rpartition(b"\x1b")
        if mark and not re.match(rb"\[\d*[A-Z]", part):
            data, rest = text, mark + part
        else:
            data, rest = rest + data, b""
        screen.write(data.decode())
        at = time.monotonic() - began
        if at - frames[-1][0] < TOGETHER:
            frames[-1] = (frames[-1][0], list(screen.rows))
        else:
            frames.append((at, list(screen.rows)))
    _, status = os.waitpid(child, 0)
    if status != 0:
        sys.exit("the command failed:\n" + "\n".join(screen.rows))
    return frames


def draw_row(number, text):
    x, y = MARGIN, TITLE_BAR + MARGIN + number * CELL[1] + FONT_SIZE
    # Keep columns aligned in any font.
    width = round(len(text) * CELL[0], 1)
    attributes = f'x="{x}" y="{y}" textLength="{width}"'
    body = escape(text)
    if text.startswith("$ "):
        body = f'<tspan fill="{PROMPT}">$</tspan>{escape(text[1:])}'
    return f"<text {attributes}>{body}</text>"


def draw(frames):
    used = max(number for _, rows in frames for number, text in enumerate(rows) if text) + 1
    width = round(2 * MARGIN + COLUMNS * CELL[0])
    height = TITLE_BAR + 2 * MARGIN + used * CELL[1] - 2
    end = frames[-1][0] + LAST
    still = min(range(len(frames)), key=lambda number: abs(frames[number][0] - frames[-1][0] * 0.56))
    styles, groups = [], []
    ends = [at for at, _ in frames[1:]] + [end]
    for number, ((begin, rows), until) in enumerate(zip(frames, ends)):
        name = f"f{number}"
        before = "0%{visibility:hidden}" if number > 0 else ""
        shown = f"{begin / end:.2%}{{visibility:visible}}{until / end:.2%}{{visibility:hidden}}"
        styles.append(f"@keyframes {name}{{{before}{shown}}}.{name}{{animation-name:{name}}}")
        lines = "".join(draw_row(row, text) for row, text in enumerate(rows) if text)
        visibility = "visible" if number == still else "hidden"
        groups.append(f'<g class="f {name}" visibility="{visibility}">{lines}</g>')
    animated = f".f{{animation:{end:.1f}s steps(1,end) infinite}}" + "".join(styles)
    dots = "".join(
        f'<circle cx="{MARGIN + 4 + 20 * number}" cy="{TITLE_BAR / 2}" r="6" fill="{colour}"/>'
        for number, colour in enumerate(("#e0675c", "#dfb24d", "#6dbb63"))
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
            f' viewBox="0 0 {width} {height}" role="img">',
            "<title>A backup with four connections, as a terminal shows it</title>",
            f"<style>text{{white-space:pre}}@media (prefers-reduced-motion:no-preference){{{animated}}}</style>",
            f'<rect x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="8" fill="{BACKGROUND}"/>',
            f'<path d="M.5 {TITLE_BAR}v-{TITLE_BAR - 8.5}a8 8 0 0 1 8-8h{width - 17}a8 8 0 0 1 8 8v{TITLE_BAR - 8.5}z" fill="{BAR}"/>',
            dots,
            f'<g font-family="{FONTS}" font-size="{FONT_SIZE}" fill="{TEXT}" xml:space="preserve">',
            *groups,
            "</g>",
            f'<rect x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="8" fill="none" stroke="{BORDER}"/>',
            "</svg>",
            "",
        ]
    )


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    frames = record(sys.argv[2:])
    with open(sys.argv[1], "w", encoding="utf-8") as picture:
        picture.write(draw(frames))


if __name__ == "__main__":
    main()
