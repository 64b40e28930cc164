#!/usr/bin/env python3
"""Checks the documents: every link between files, and to a heading in one, leads somewhere; the book names every page once,
and only pages that are there.

usage: docs_check.py --lychee FILE
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
# The book's own table of contents.
SUMMARY = DOCS / "SUMMARY.md"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lychee", required=True)
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
    run = subprocess.run(
        [parser.parse_args().lychee, "--offline", "--include-fragments", "--no-progress", *texts],
        capture_output=True, text=True, check=False, cwd=ROOT)
    if run.returncode:
        findings.append(run.stdout + run.stderr)
    links = re.search(r"(\d+) Total", run.stdout)
    if not links or int(links[1]) < 200:
        findings.append(f"hardly any link was looked at: {run.stdout}")
    print(*findings, f"documents: {len(pages)} pages in the book, {links[1] if links else 0} links, {len(findings)} findings", sep="\n")
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
