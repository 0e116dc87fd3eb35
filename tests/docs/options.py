"""The table of all options in docs/options.md, from the help of `fanfare serve`."""

import re
import subprocess
from pathlib import Path

PAGE = "docs/options.md"
BEGIN, END = "<!-- options: written by tests/docs/check --write-options -->\n", "<!-- end of options -->\n"


def _help(binary):
    output = subprocess.run([binary, "serve", "--help"], capture_output=True, text=True, check=True,
                            env={"COLUMNS": "100", "PATH": "/usr/bin:/bin"})
    return output.stdout


def tables(binary):
    """Markdown: a heading and a table for each group of the help, with an option, its default and its first sentence."""
    groups = re.split(r"^(\S[^\n]*):\n", _help(binary), flags=re.MULTILINE)
    text = ""
    for heading, body in zip(groups[1::2], groups[2::2]):
        rows = [_row(option) for option in re.split(r"^ {6}--", body, flags=re.MULTILINE)[1:]]
        if rows:
            text += f"\n## {heading}\n\n| option | default | what |\n| --- | --- | --- |\n" + "".join(rows)
    return text + "\n"


def _row(option):
    usage, _, rest = option.partition("\n")
    first = " ".join(re.split(r"\n\s*\n", rest.strip("\n"))[0].split())
    default = re.search(r"\[default: (.*?)\]", rest, re.DOTALL)
    cells = [f"`--{usage.strip()}`", f"`{default[1]}`" if default else "", first]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def fault(root: Path, binary):
    """What is wrong with the page, or None."""
    if tables(binary) != _between((root / PAGE).read_text()):
        return f"{PAGE}: the tables are not those of fanfare serve --help: run tests/docs/check --write-options"
    return None


def write(root: Path, binary):
    page = root / PAGE
    text = page.read_text()
    page.write_text(text.replace(_between(text), tables(binary)))


def _between(text):
    return text.partition(BEGIN)[2].partition(END)[0]
