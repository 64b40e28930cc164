#!/usr/bin/env python3
"""Checks the container and compose files: docker-compose reads the composition, hadolint the Dockerfiles, HAProxy,
promtool and shellcheck what they are given; what is mounted is there, and what one file says fits the others.

usage: compose_check.py --hadolint FILE
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "deploy/compose"
findings = 0


def expect(good, what):
    global findings
    if not good:
        findings += 1
        print(f"compose: {what}")


def run(*command, **how):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **how)
    expect(done.returncode == 0, f"{' '.join(map(str, command[:4]))}:\n{done.stdout}{done.stderr}")
    return done.stdout


def seconds(text):
    return int(re.fullmatch(r"(\d+)s", text)[1])


def composition(copy):
    """The composition as docker-compose resolves it, in a copy that has secrets."""
    return yaml.safe_load(run("docker-compose", "-f", copy / "docker-compose.yml", "config", cwd=copy))


def check_composition(copy):
    resolved = composition(copy)
    services = resolved["services"]
    for name, service in services.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0] if isinstance(volume, str) else volume["source"]
            if source.startswith("/"):
                expect(Path(source).exists(), f"{name}: nothing is at {source}")
            else:
                expect(source in resolved["volumes"], f"{name}: no volume {source}")
        for port in service.get("ports", []):
            text = str(port["published"] if isinstance(port, dict) else port)
            internal = name in ("prometheus", "grafana")
            expect(not internal or "127.0.0.1" in str(port), f"{name}: {text} is open to everybody")
    nodes = [service for name, service in services.items() if re.fullmatch(r"node\d", name)]
    expect(len(nodes) == 2, "not two nodes")
    config = tomllib.loads((COMPOSE / "postern.toml").read_text())
    drain = seconds(config["node"]["drain_delay"]) + seconds(config["node"]["drain_timeout"])
    for node in nodes:
        grace = node["stop_grace_period"]
        grace = sum(int(n) * {"m": 60, "s": 1}[u] for n, u in re.findall(r"(\d+)([ms])", grace))
        expect(grace > drain + 45, f"nodes are killed after {grace} s, and may drain for {drain}")
        expect(node["read_only"] and node["cap_drop"] == ["ALL"], "a node may do too much")
    subnet = resolved["networks"]["postern"]["ipam"]["config"][0]["subnet"]
    expect(config["proxy"]["trusted_networks"] == [subnet], "nodes believe another network than the composition's")
    expect(subnet in (COMPOSE / "postfix/main.cf").read_text(), "Postfix relays for another network")
    size = re.search(r"message_size_limit = (\d+)", (COMPOSE / "postfix/main.cf").read_text())[1]
    expect(int(size) <= config["lmtp"].get("max_message_octets", 268435456), "Postfix takes what nodes refuse")
    # A node leaves when HAProxy has seen that it is not ready.
    proxy = (COMPOSE / "haproxy.cfg").read_text()
    interval, fall = re.search(r"inter (\d+)s fall (\d+)", proxy).groups()
    expect(seconds(config["node"]["drain_delay"]) > int(interval) * int(fall), "HAProxy sees too late that a node leaves")
    for host, port in re.findall(r"server \w+ (\w+):(\d+)", proxy):
        expect(host in services, f"HAProxy knows no {host}")
        listening = {a.rsplit(":", 1)[1] for s in ("pop3", "lmtp", "admin") for a in config[s]["listen"]}
        expect(port in listening, f"{host} does not listen on {port}")


def check_dockerfile():
    text = (ROOT / "deploy/Dockerfile").read_text()
    last = text[text.rindex("\nFROM ") :]
    expect(re.search(r"^USER 65532", last, re.M), "the image runs as root")
    toolchain = tomllib.loads((ROOT / "rust-toolchain.toml").read_text())["toolchain"]["channel"]
    expect(f"FROM rust:{toolchain}-" in text, f"the image is built by another Rust than {toolchain}")
    ignore = (ROOT / ".dockerignore").read_text()
    for needed in ("Cargo.toml", "Cargo.lock", "crates", "migrations", "rust-toolchain.toml", "tests"):
        expect(f"!{needed}\n" in ignore, f"the build lacks {needed}")
    # What the crates' code takes in from elsewhere in the repository.
    for file in (ROOT / "crates").rglob("*.rs"):
        for included in re.findall(r'include_(?:str|bytes|dir)!\(\s*(?:concat!\(env!\("CARGO_MANIFEST_DIR"\), )?"([^"]+)"', file.read_text()):
            place = (file.parent / included).resolve()
            if place.exists() and place.is_relative_to(ROOT):
                top = place.relative_to(ROOT).parts
                allowed = f"!{top[0]}\n" in ignore or f"!{'/'.join(top[:2])}" in ignore or (top[0] == "docs" and "!docs/*.md" in ignore and len(top) == 2)
                expect(allowed, f"{file.relative_to(ROOT)} includes {included}, which .dockerignore leaves out")


def check_units():
    """systemd reads the units; what it finds fault with besides programs that are not installed here."""
    units = [ROOT / "deploy/systemd/postern.service", ROOT / "deploy/systemd/postern.socket"]
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    faults = [line for line in done.stderr.splitlines() if "postern" in line and "not executable" not in line and "man postern" not in line]
    expect(not faults, "\n".join(faults))
    exposure = run("systemd-analyze", "security", "--offline=true", units[0])
    level = re.search(r"exposure level for postern.service: ([0-9.]+)", exposure)
    expect(level and float(level[1]) < 2.0, f"the unit is exposed: {level and level[1]}")
    stop = re.search(r"TimeoutStopSec=(\d+)min", units[0].read_text())
    drain = tomllib.loads((ROOT / "deploy/config/cluster.toml").read_text())["node"]["drain_timeout"]
    expect(int(stop[1]) * 60 > seconds(drain) + 45, "systemd kills nodes before their drain ends")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--hadolint", required=True)
    hadolint = parser.parse_args().hadolint
    with tempfile.TemporaryDirectory() as tmp:
        copy = Path(tmp, "postern")
        shutil.copytree(COMPOSE, copy / "deploy/compose", ignore=shutil.ignore_patterns("secrets"))
        for part in ("deploy/prometheus", "deploy/grafana/dashboards", "deploy/Dockerfile", "docker-compose.yml"):
            place = copy / part
            place.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if (ROOT / part).is_dir() else shutil.copy)(ROOT / part, place)
        run(copy / "deploy/compose/setup.sh")
        secrets = copy / "deploy/compose/secrets/files"
        before = (secrets / "master-key").read_text()
        run(copy / "deploy/compose/setup.sh")
        expect((secrets / "master-key").read_text() == before, "setup.sh makes a second master key")
        expect(secrets.parent.stat().st_mode & 0o077 == 0, "others get at the secrets")
        check_composition(copy)
        proxy = (COMPOSE / "haproxy.cfg").read_text().replace("/etc/postern/secrets", str(secrets))
        Path(tmp, "haproxy.cfg").write_text(proxy)
        run("haproxy", "-c", "-f", Path(tmp, "haproxy.cfg"))
        rules = (COMPOSE / "prometheus.yml").read_text().replace("/etc/prometheus/rules", str(ROOT / "deploy/prometheus/rules"))
        Path(tmp, "prometheus.yml").write_text(rules)
        run("promtool", "check", "config", Path(tmp, "prometheus.yml"))
    check_dockerfile()
    run(hadolint, ROOT / "deploy/Dockerfile", COMPOSE / "postfix/Dockerfile")
    run("shellcheck", ROOT / "deploy/smoke.sh", COMPOSE / "setup.sh", ROOT / "deploy/deb/postinst", ROOT / "deploy/deb/postrm")
    check_units()
    print(f"compose: composition, Dockerfiles, HAProxy, Prometheus, scripts: {findings} findings")
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
