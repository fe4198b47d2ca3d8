"""Write the table of a scan's options into docs/reference/command-line.md, or check it.

Usage: python scripts/options_table.py [--check]
"""

import sys
from pathlib import Path

from llm2bids.scan.options import arguments

PAGE = Path(__file__).parents[1] / "docs/reference/command-line.md"
BEGIN, END = "<!-- scan options: scripts/options_table.py -->\n", "<!-- end of scan options -->\n"


def table() -> str:
    """Make the table, the groups in their order."""
    lines = ["| option | value | default |", "|---|---|---|"]
    group = ""
    for argument in sorted(arguments().values(), key=lambda a: ORDER.index(a.group)):
        if argument.group != group:
            group = argument.group
            lines.append(f"| **{group}** | | |")
        choices = argument.settings.get("choices")
        value = argument.settings.get("metavar") or ("|".join(choices) if choices else "")
        if argument.settings.get("nargs") == "?":
            value = f"[{value}]"
        takes = not str(argument.settings.get("action")).startswith("store_")
        flag = f"{argument.flag} {value or argument.flag[2:].upper()}" if takes else argument.flag
        lines.append(
            f"| `{flag.replace('|', chr(92) + '|')}` | {argument.text} | {argument.shown_default} |"
        )
    return "\n".join(lines) + "\n"


ORDER = ("scan", "model", "volumes")

if __name__ == "__main__":
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    old, after = rest.split(END)
    if "--check" in sys.argv[1:]:
        sys.exit(0 if old == table() else f"{PAGE.name}: call python scripts/options_table.py")
    PAGE.write_text(before + BEGIN + table() + END + after, encoding="utf-8")
