#!/usr/bin/env python3
"""Checks alerting rules, dashboards and runbooks against each other, Prometheus and what a node exports.

- promtool takes the rules and passes their unit tests; each alert has one in which it fires and one in which it does not;
- each alert names a runbook that is there, and each runbook of an alert has what it must;
- each metric that a rule, a dashboard or a runbook names stands in docs/metrics.md (which a test compares with what a
  node exports) with these labels and values, or is recorded by a rule;
- a real Prometheus understands each expression of a dashboard.

usage: rules_check.py [--no-prometheus]
"""

import json
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
RULES = sorted((ROOT / "deploy/prometheus/rules").glob("*.yml"))
TESTS = sorted((ROOT / "deploy/prometheus/tests").glob("*.yml"))
DASHBOARDS = sorted((ROOT / "deploy/grafana/dashboards").glob("*.json"))
RUNBOOKS = ROOT / "docs/runbooks"
# What a runbook of an alert must have.
CHAPTERS = ["## What users see", "## Look here", "## Do this"]
OURS = re.compile(r"(?<![.:\w])(?:pop3|lmtp|postern|login|process)_[a-z0-9_]+\b(?![.:])")
# What grafana puts in before it asks.
VARIABLES = {"$__rate_interval": "5m", "$__interval": "1m", "$__range": "6h", "$tenant": ".*", "$instance": ".*", "$job": ".*"}
# Series of other programs and of Prometheus itself.
FOREIGN = {"up", "ALERTS"}

findings = 0


def expect(good, what):
    global findings
    if not good:
        findings += 1
        print(f"rules: {what}")


def documented():
    """docs/metrics.md: {name: {label: values, or nothing where the set is open}}."""
    metrics = {}
    for line in (ROOT / "docs/metrics.md").read_text().splitlines():
        if not line.startswith("| `"):
            continue
        name, kind, labels = (cell.strip() for cell in line.split("|")[1:4])
        known = {"instance": None, "job": None}
        for label, values in re.findall(r"`(\w+)`(?:\s*\(([^)]*)\))?", labels):
            known.setdefault(label, set(re.findall(r"`([^`]+)`", values)) or None)
        name = name.strip("`")
        metrics[name] = known
        if kind == "histogram":
            metrics |= {name + end: {**known, **({"le": None} if end == "_bucket" else {})} for end in ("_bucket", "_sum", "_count")}
    return metrics


def rules():
    for file in RULES:
        for group in yaml.safe_load(file.read_text())["groups"]:
            for rule in group["rules"]:
                yield file.name, rule


def panels(board):
    for panel in board["panels"]:
        yield panel
        yield from panel.get("panels", [])


def expressions():
    for file, rule in rules():
        yield f"{file}: {rule.get('alert') or rule['record']}", rule["expr"]
    for file in DASHBOARDS:
        board = json.loads(file.read_text())
        for panel in panels(board):
            for target in panel.get("targets", []):
                yield f"{file.name}: {panel['title']}", target["expr"]
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                yield f"{file.name}: ${variable['name']}", re.sub(r"label_values\((.*), *\w+\)$", r"\1", variable["query"]["query"])


def check_names(metrics):
    recorded = {rule["record"] for _, rule in rules() if "record" in rule}
    for where, expr in expressions():
        bare = re.sub(r'"[^"]*"', '""', expr)
        for name in OURS.findall(re.sub(r"\{[^}]*\}", "", bare)):
            if name not in metrics:
                expect(False, f"{where}: no node exports {name}")
        for name in re.findall(r"\b\w+:\w+:\w+\b", bare):
            expect(name in recorded, f"{where}: nothing records {name}")
        for name, matchers in re.findall(r"\b([a-z][a-z0-9_]*)\{([^}]*)\}", expr):
            if name in FOREIGN:
                continue
            if name not in metrics:
                expect(False, f"{where}: no node exports {name}")
                continue
            for label, operator, value in re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', matchers):
                if label not in metrics[name]:
                    expect(False, f"{where}: {name} has no label {label}")
                elif metrics[name][label] and "$" not in value and "." not in value:
                    for one in value.split("|") if "~" in operator else [value]:
                        expect(one in metrics[name][label], f"{where}: {label} of {name} is never {one}")
    for file in sorted(RUNBOOKS.glob("*.md")):
        spans = " ".join(re.findall(r"`[^`\n]+`", file.read_text()))
        for name in sorted(set(OURS.findall(spans))):
            known = name in metrics or re.sub(r"_(bucket|sum|count)$", "", name) in metrics
            expect(known, f"{file.name}: no node exports {name}")


def check_alerts():
    tested = {}
    for file in TESTS:
        for test in yaml.safe_load(file.read_text())["tests"]:
            for check in test["promql_expr_test"]:
                alert = re.search(r'alertname="(\w+)"', check["expr"])[1]
                tested.setdefault(alert, set()).add(bool(check["exp_samples"]))
    names = {rule["alert"] for _, rule in rules() if "alert" in rule}
    for file, rule in rules():
        if "alert" not in rule:
            continue
        where = f"{file}: {rule['alert']}"
        expect(tested.get(rule["alert"]) == {True, False}, f"{where}: has no test in which it fires, or none in which it is quiet")
        expect(rule["labels"]["severity"] in ("page", "ticket"), f"{where}: what severity?")
        expect({"summary", "description", "runbook"} <= set(rule["annotations"]), f"{where}: says too little")
        runbook = ROOT / rule["annotations"]["runbook"]
        if not runbook.is_file():
            expect(False, f"{where}: {rule['annotations']['runbook']} is missing")
            continue
        text = runbook.read_text()
        expect(rule["alert"] in text.splitlines()[0] or f"`{rule['alert']}`" in text, f"{where}: {runbook.name} does not name it")
        for chapter in CHAPTERS:
            expect(chapter in text, f"{runbook.name} has no {chapter!r}")
    expect(set(tested) <= names, f"tests of alerts that are gone: {set(tested) - names}")
    # Nobody finds what the list does not name.
    index = (RUNBOOKS / "README.md").read_text()
    for file in RUNBOOKS.glob("*.md"):
        expect(file.name == "README.md" or f"({file.name})" in index, f"docs/runbooks/README.md does not name {file.name}")
    return len(names)


def check_dashboards():
    uids = []
    for file in DASHBOARDS:
        board = json.loads(file.read_text())
        uids.append(board["uid"])
        expect(board["id"] is None and board["title"].startswith("Postern"), f"{file.name}: is no export")
        ids = [panel["id"] for panel in panels(board)]
        expect(len(ids) == len(set(ids)), f"{file.name}: two panels of one number")
        for panel in panels(board):
            if panel["type"] == "row":
                continue
            expect(panel.get("targets"), f"{file.name}: {panel['title']} shows nothing")
            expect(panel["datasource"]["uid"] == "${datasource}", f"{file.name}: {panel['title']} has a data source of its own")
            expect(panel.get("description"), f"{file.name}: {panel['title']} does not say what it shows")
    expect(len(uids) == len(set(uids)), "two dashboards of one name")


def promtool(*arguments):
    run = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)
    expect(run.returncode == 0, f"promtool {' '.join(map(str, arguments[:2]))}:\n{run.stdout}{run.stderr}")


def ask_prometheus():
    """Has a real server parse and evaluate every expression."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    asked = 0
    with tempfile.TemporaryDirectory() as tmp:
        config = Path(tmp, "prometheus.yml")
        config.write_text(yaml.safe_dump({"rule_files": [str(f) for f in RULES]}))
        log = Path(tmp, "log").open("w")
        server = subprocess.Popen(
            ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp}/tsdb", f"--web.listen-address=127.0.0.1:{port}"],
            stdout=log, stderr=log)
        try:
            base = f"http://127.0.0.1:{port}"
            for _ in range(300):
                try:
                    urllib.request.urlopen(f"{base}/-/ready", timeout=2)
                    break
                except OSError:
                    time.sleep(0.1)
            for where, expr in expressions():
                for variable, value in VARIABLES.items():
                    expr = expr.replace(variable, value)
                expect("$" not in re.sub(r'"[^"]*"', "", expr), f"{where}: an unknown variable: {expr}")
                asked += 1
                try:
                    urllib.request.urlopen(f"{base}/api/v1/query?" + urllib.parse.urlencode({"query": expr}), timeout=10)
                except urllib.error.HTTPError as error:
                    expect(False, f"{where}: {json.load(error)['error']}")
            loaded = json.load(urllib.request.urlopen(f"{base}/api/v1/rules", timeout=10))["data"]["groups"]
            expect(sum(len(g["rules"]) for g in loaded) == sum(1 for _ in rules()), "Prometheus did not load every rule")
        finally:
            server.terminate()
            server.wait()
    return asked


def main():
    promtool("check", "rules", *RULES)
    promtool("test", "rules", *TESTS)
    check_names(documented())
    alerts = check_alerts()
    check_dashboards()
    asked = 0 if "--no-prometheus" in sys.argv else ask_prometheus()
    tests = sum(len(yaml.safe_load(file.read_text())["tests"]) for file in TESTS)
    print(f"rules: {alerts} alerts, {tests} unit tests, {len(DASHBOARDS)} dashboards, {asked} expressions asked of Prometheus, {findings} findings")
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
