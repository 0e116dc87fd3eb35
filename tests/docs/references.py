"""What pages refer to: files, headings and options that must exist."""

import re
import subprocess
from pathlib import Path

from markdown import Page

# A path of this repository in inline code, without wildcards; NAME stands for any name.
FILE = re.compile(r"^(?:src|tests|docs|examples|benches|systemd|packaging|web|fuzz|sysctl)/(?!.*\b[A-Z]+$)[\w./-]+$")
TITLE = re.compile(r'problem\([^,"]+,\s*"([^"]+)"|=> (?:\(40\d, )?"([A-Z][a-z][^"]+)"')
OPTION = re.compile(r"(?<![\w-])--([a-z][a-z0-9-]+)")


def broken_links(root: Path, pages):
    """Relative links to files or headings that do not exist."""
    by_path = {}
    for page in pages:
        for number, target in page.links():
            path, _, anchor = target.partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            file = (page.folder / path).resolve() if path else (root / page.name).resolve()
            if not file.exists():
                yield f"{page.name}:{number}: no such file: {target}"
            elif anchor and file.suffix == ".md":
                if file not in by_path:
                    by_path[file] = Page(root, str(file.relative_to(root.resolve()))).headings()
                if anchor not in by_path[file]:
                    yield f"{page.name}:{number}: no such heading: {target}"


def missing_files(root: Path, pages):
    """Paths in inline code that are not in the repository."""
    for page in pages:
        for number, code in page.inline_code():
            if FILE.match(code) and not (root / code).exists():
                yield f"{page.name}:{number}: no such file: {code}"


def missing_titles(root: Path):
    """Titles of errors in the source of the server that docs/errors.md leaves out."""
    page = (root / "docs/errors.md").read_text()
    sources = [(root / "src/protocol/error.rs").read_text().partition("fn title")[2].partition("fn detail")[0]]
    sources += [path.read_text().partition("#[cfg(test)]")[0] for path in sorted((root / "src/server").rglob("*.rs"))]
    for title in re.findall(TITLE, "\n".join(sources)):
        if title[0] and title[0] not in page or title[1] and title[1] not in page:
            yield f"docs/errors.md: no such title: {title[0] or title[1]}"


def unknown_options(binary: str, pages, others):
    """Options in inline code that no command of Fanfare has, and that are not among the options of `others`."""
    known = options_of(binary, []) | set(others)
    for page in pages:
        for number, code in page.inline_code():
            if code.startswith(("--", "fanfare ")):
                for option in OPTION.findall(code):
                    if option not in known:
                        yield f"{page.name}:{number}: no command has this option: --{option}"


def options_of(binary, command):
    """The options of a command and of all commands below it, by their help."""
    text = subprocess.run([binary, *command, "--help"], capture_output=True, text=True, check=True).stdout
    found = set(OPTION.findall(text))
    below = text.partition("\nCommands:\n")[2].partition("\n\n")[0]
    for name in re.findall(r"^  ([a-z]+) ", below, re.MULTILINE):
        if name != "help":
            found |= options_of(binary, [*command, name])
    return found
