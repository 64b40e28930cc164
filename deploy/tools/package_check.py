#!/usr/bin/env python3
"""Checks the Debian package: cargo-deb makes it, lintian finds nothing, and what it is to hold is in it and runs.

The program in it is the debug build that the tests use, stripped: nothing else of the package depends on the profile.

usage: package_check.py --cargo-deb FILE --postern FILE
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Where Cargo.toml takes manual pages and completions from.
PAGES = ROOT / "target/pages"
# Of what has to be there, one of each kind.
HELD = [
    "usr/bin/postern", "usr/lib/systemd/system/postern.service", "usr/lib/systemd/system/postern.socket",
    "etc/postern/postern.toml", "usr/share/man/man1/postern.1.gz", "usr/share/bash-completion/completions/postern",
    "usr/share/zsh/vendor-completions/_postern", "usr/share/fish/vendor_completions.d/postern.fish",
    "usr/share/doc/postern/copyright", "usr/share/doc/postern/changelog.gz", "usr/share/doc/postern/prometheus/storage.yml",
    "usr/share/doc/postern/grafana/fleet.json", "usr/share/doc/postern/examples/cluster.toml",
]
findings = []


def run(*command, **options):
    """What a program prints; that it fails is a finding."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, cwd=ROOT, **options)
    if done.returncode:
        findings.append(f"{command[0]}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cargo-deb", required=True)
    parser.add_argument("--postern", required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        run(args.postern, "pages", "--out", PAGES)
        deb = Path(tmp, "postern.deb")
        run(args.cargo_deb, "deb", "--package", "postern", "--no-build", "--profile", "dev", "--fast", "--output", deb)
        if not deb.exists():
            return finish("no package")
        # That a first upload closes a bug of Debian's is asked of Debian's own packages.
        said = run("lintian", "--allow-root", "--fail-on", "error,warning", "--suppress-tags", "initial-upload-closes-no-bugs", deb)
        if re.search(r"^[EW]:", said, re.M) and not findings:
            findings.append(said)
        files = Path(tmp, "files")
        run("dpkg-deb", "-x", deb, files)
        findings.extend(f"the package does not hold {name}" for name in HELD if not Path(files, name).is_file())
        # Two places that are one where /lib is a link: dpkg refuses to unpack that, and lintian of another release may not tell.
        if Path(files, "lib").exists():
            findings.append("the package has files under /lib")
        pages = list(Path(files, "usr/share/man/man1").glob("*.gz"))
        if len(pages) != len(list((PAGES / "man").glob("*.1"))):
            findings.append(f"{len(pages)} manual pages")
        if "postern" not in run(Path(files, "usr/bin/postern"), "--version"):
            findings.append("the packaged program does not say its version")
        held = run("dpkg-deb", "-f", deb, "Version", "Depends").split("\n")
        return finish(f"{held[0]}, {held[1]}, {len(pages)} manual pages, {deb.stat().st_size >> 20} MiB")


def finish(what):
    print(*findings, f"package: {what}: {len(findings)} findings", sep="\n")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
