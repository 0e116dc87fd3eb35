"""Reads what the tests of the documentation look at in a Markdown file: code blocks, inline code, headings and links."""

import re
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^( *)(```+)\s*(\S*)")
HEADING = re.compile(r"^#{1,6} +(.*?) *#*$")
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")
INLINE_CODE = re.compile(r"`([^`]+)`")


@dataclass
class Block:
    """A fenced block of a page, with the text line that stands before it."""

    page: str
    line: int
    language: str
    text: str
    before: str

    def __str__(self):
        return f"{self.page}:{self.line}"


class Page:
    """A Markdown file below `root`."""

    def __init__(self, root: Path, name: str):
        self.name = name
        self.folder = (root / name).parent
        self.blocks = []
        self.prose = []  # (number of the line, its text), without blocks
        self._read((root / name).read_text().split("\n"))

    def _read(self, lines):
        number = 0
        before = ""
        while number < len(lines):
            fence = FENCE.match(lines[number])
            number += 1
            if not fence:
                self.prose.append((number, lines[number - 1]))
                before = lines[number - 1].strip() or before
                continue
            indent, mark, language = fence.groups()
            start = number
            while number < len(lines) and not lines[number].strip().startswith(mark):
                number += 1
            text = "\n".join(line.removeprefix(indent) for line in lines[start:number]) + "\n"
            self.blocks.append(Block(self.name, start, language, text, before))
            number += 1

    def headings(self):
        """The anchors that GitHub gives to the headings."""
        counts, anchors = {}, set()
        for _, line in self.prose:
            heading = HEADING.match(line)
            if heading:
                slug = slug_of(heading[1])
                count = counts.get(slug, 0)
                counts[slug] = count + 1
                anchors.add(f"{slug}-{count}" if count else slug)
        return anchors

    def links(self):
        """(number of the line, target) of each link; what is code is no link."""
        text = "\n".join(INLINE_CODE.sub("", line) for _, line in self.prose)
        for link in LINK.finditer(text):
            yield self.prose[text.count("\n", 0, link.end())][0], link[1]

    def inline_code(self):
        for number, line in self.prose:
            for code in INLINE_CODE.findall(line):
                yield number, code


def slug_of(heading):
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
