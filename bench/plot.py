"""Plot of whole backups as an SVG: for each case a bar of wall time and a thin bar of CPU time."""

from html import escape

from report import ALL_CASES, HEADINGS

WIDTH, LEFT, RIGHT = 960, 300, 130
ROW, HEAD, GAP, TOP = 30, 30, 18, 70
OURS, OTHERS, CPU, INK, FAINT = "#2f6f9f", "#b8bec6", "#d98c3f", "#22272e", "#8b949e"


def plot(result):
    """Each part has its own scale: only cases of the same part are compared."""
    parts = {name: result["parts"][name] for name in ALL_CASES if result["parts"].get(name)}
    pieces = []
    y = TOP
    for name, cases in parts.items():
        pieces.append(text(20, y + 18, HEADINGS[name], size=15, weight="bold"))
        y += HEAD
        longest = max(max(case["wall"]["maximum"], case["cpu"]["median"]) for case in cases)
        for case in cases:
            pieces += bars(case, y, (WIDTH - LEFT - RIGHT) / longest if longest else 0)
            y += ROW
        y += GAP
    about = result["about"]
    subtitle = (
        f"{about['bytes'] / 1e9:.1f} GB, {about['processor']}, {about['cores']} cores,"
        f" {about['server']}, {about['date']}"
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}"'
            f' viewBox="0 0 {WIDTH} {y}" font-family="sans-serif">',
            f'<rect width="{WIDTH}" height="{y}" fill="white"/>',
            text(20, 28, "Base backups: seconds, shorter is better", size=18, weight="bold"),
            text(20, 50, subtitle, fill=FAINT),
            *legend(),
            *pieces,
            "</svg>\n",
        ]
    )


def bars(case, y, scale):
    """Label, bars, range of the runs, and number."""
    wall, cpu = case["wall"], case["cpu"]
    ours = "worker" in case["name"] or case["name"].startswith(("base_backup", "restore", "verify"))
    low, high, end = (LEFT + wall[key] * scale for key in ("minimum", "maximum", "median"))
    middle = y + 9
    title = f"{case['name']}: {wall['median']:.2f} s, CPU {cpu['median']:.2f} s"
    return [
        f"<g><title>{escape(title)}</title>",
        text(LEFT - 10, y + 15, case["name"], anchor="end"),
        rectangle(LEFT, y + 1, end - LEFT, 16, OURS if ours else OTHERS),
        rectangle(LEFT, y + 18, cpu["median"] * scale, 5, CPU),
        f'<path d="M{low:.1f} {middle} H{high:.1f} M{low:.1f} {middle - 4} v8'
        f' M{high:.1f} {middle - 4} v8" stroke="{INK}" fill="none"/>',
        text(max(high, end) + 8, y + 14, f"{wall['median']:.2f} s"),
        "</g>",
    ]


def legend():
    """Legend, at the top right."""
    pieces, x = [], WIDTH - 400
    for color, words, width in (
        (OURS, "this extension", 120),
        (OTHERS, "others", 75),
        (CPU, "CPU, all processes", 150),
    ):
        pieces += [rectangle(x, 17, 12, 12, color), text(x + 18, 28, words)]
        x += width
    return pieces


def rectangle(x, y, width, height, fill):
    """A bar."""
    size = f'width="{max(width, 0.5):.1f}" height="{height}"'
    return f'<rect x="{x:.1f}" y="{y}" {size} fill="{fill}"/>'


def text(x, y, words, size=12, weight="normal", anchor="start", fill=INK):
    """A line of text."""
    return (
        f'<text x="{x:.1f}" y="{y}" font-size="{size}" font-weight="{weight}"'
        f' text-anchor="{anchor}" fill="{fill}">{escape(words)}</text>'
    )
