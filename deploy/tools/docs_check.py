#!/usr/bin/env python3
"""Checks the documents: every link between files, and to a heading in one, leads somewhere; the book names every page once,
and only pages that are there; mdBook makes it without a warning, and its links lead somewhere, too.

usage: docs_check.py --lychee FILE --mdbook FILE
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
# The book's own table of contents.
SUMMARY = DOCS / "SUMMARY.md"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lychee", required=True)
    parser.add_argument("--mdbook", required=True)
    args = parser.parse_args()
    findings = []
    pages = re.findall(r"^ *(?:- )?\[[^\]]+\]\(([^)]+)\)$", SUMMARY.read_text(), re.M)
    there = {str(file.relative_to(DOCS)) for file in DOCS.rglob("*.md")} - {SUMMARY.name}
    findings += [f"docs/SUMMARY.md names {page} twice" for page in {p for p in pages if pages.count(p) > 1}]
    findings += [f"docs/SUMMARY.md names {page}, which is not there" for page in sorted(set(pages) - there)]
    findings += [f"docs/SUMMARY.md does not name {page}" for page in sorted(there - set(pages))]
    for line in SUMMARY.read_text().splitlines():
        # mdBook takes headings, entries, and nothing else.
        if line and not re.match(r"^(#|(  )*- \[|\[)", line):
            findings.append(f"docs/SUMMARY.md: mdBook does not read {line!r}")
    texts = [*ROOT.glob("*.md"), DOCS, ROOT / "helm/postern/README.md"]
    links = follow(args.lychee, texts, findings)
    with tempfile.TemporaryDirectory() as book:
        made = subprocess.run([args.mdbook, "build", "-d", book], capture_output=True, text=True, check=False, cwd=ROOT)
        if made.returncode or re.search(r"WARN|ERROR", made.stdout + made.stderr):
            findings.append(made.stdout + made.stderr)
        # All pages on one, and the page for what is not there, repeat others' links from another place.
        html = [file for file in Path(book).rglob("*.html") if file.name not in ("print.html", "404.html", "toc.html")]
        if len(html) < len(pages):
            findings.append(f"mdBook made {len(html)} pages of {len(pages)}")
        in_book = follow(args.lychee, html, findings)
    print(*findings, sep="\n")
    print(f"documents: {len(pages)} pages in the book, {links} links, {in_book} in the book, {len(findings)} findings")
    sys.exit(1 if findings else 0)


def follow(lychee, texts, findings):
    """Follows the links between these files, and says how many there are."""
    run = subprocess.run([lychee, "--offline", "--include-fragments", "--no-progress", *texts],
                         capture_output=True, text=True, check=False, cwd=ROOT)
    if run.returncode:
        findings.append(run.stdout + run.stderr)
    links = re.search(r"(\d+) Total", run.stdout)
    if not links or int(links[1]) < 200:
        findings.append(f"hardly any link was looked at: {run.stdout}")
    return int(links[1]) if links else 0


if __name__ == "__main__":
    main()
