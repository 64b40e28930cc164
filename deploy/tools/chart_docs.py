#!/usr/bin/env python3
"""Makes the table in helm/postern/README.md and helm/postern/values.schema.json from the comments in values.yaml and
from the tables of docs/configuration.md.

usage: chart_docs.py            writes both
       chart_docs.py --check    exit 1 where they are not what would be written
"""

import difflib
import json
import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm/postern"
BEGIN, END = "<!-- values -->", "<!-- end of values -->"

STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
NAMED = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name"],
    "properties": {"name": {"type": "string", "minLength": 1}},
}
REMOTE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["key"],
    "properties": {
        **{name: {"type": "string"} for name in ("key", "property", "version")},
        "conversionStrategy": {"type": "string"},
        "decodingStrategy": {"type": "string"},
    },
}
QUANTITIES = {"type": "object", "additionalProperties": {"type": ["string", "number"]}}
RESOURCES = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"requests": QUANTITIES, "limits": QUANTITIES},
}
PORT = {"type": "integer", "minimum": 0, "maximum": 65535}
NUMBER_OR_SHARE = {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^[0-9]+%$"}]}

# What Kubernetes' own schemas look at, or what has one shape wherever it stands.
BY_NAME = {
    "resources": RESOURCES,
    "labels": STRINGS,
    "annotations": STRINGS,
    "podLabels": STRINGS,
    "podAnnotations": STRINGS,
    "nodeSelector": STRINGS,
    "podSecurityContext": {"type": "object"},
    "securityContext": {"type": "object"},
    "behavior": {"type": "object"},
    "affinity": {"type": "object"},
    "rollingUpdate": {
        "type": "object",
        "additionalProperties": False,
        "properties": {"maxSurge": NUMBER_OR_SHARE, "maxUnavailable": NUMBER_OR_SHARE},
    },
    "maxUnavailable": NUMBER_OR_SHARE,
    "whenUnsatisfiable": {"type": "string", "enum": ["ScheduleAnyway", "DoNotSchedule"]},
    "topologyKeys": {"type": "array", "items": {"type": "string"}, "minItems": 1},
    "type": {"type": "string", "enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    "externalTrafficPolicy": {"type": "string", "enum": ["", "Cluster", "Local"]},
    "ipFamilyPolicy": {"type": "string", "enum": ["", "SingleStack", "PreferDualStack", "RequireDualStack"]},
    "loadBalancerSourceRanges": {"type": "array", "items": {"type": "string"}},
    "tolerations": {"type": "array", "items": {"type": "object"}},
    "extraEnv": {"type": "array", "items": {"type": "object", "required": ["name"]}},
    "extraEnvFrom": {"type": "array", "items": {"type": "object"}},
    "extraVolumes": {"type": "array", "items": {"type": "object", "required": ["name"]}},
    "extraVolumeMounts": {"type": "array", "items": {"type": "object", "required": ["name", "mountPath"]}},
    "extraContainers": {"type": "array", "items": {"type": "object", "required": ["name", "image"]}},
    "initContainers": {"type": "array", "items": {"type": "object", "required": ["name", "image"]}},
    "config": {"$ref": "#/definitions/config"},
    "replicas": {"type": "integer", "minimum": 0},
    "minReplicas": {"type": "integer", "minimum": 1},
    "maxReplicas": {"type": "integer", "minimum": 1},
    "cpu": {"type": "integer", "minimum": 0, "maximum": 1000},
    "sessions": {"type": "integer", "minimum": 0},
    "ports": {
        "type": "object",
        "additionalProperties": False,
        "properties": {name: PORT for name in ("pop3", "pop3s", "lmtp", "http")},
    },
    "interval": {"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"},
    "scrapeTimeout": {"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"},
    "duration": {"type": "string", "pattern": "^([0-9]+(s|m|h))+$"},
    "renewBefore": {"type": "string", "pattern": "^([0-9]+(s|m|h))+$"},
    "refreshInterval": {"type": "string", "pattern": "^([0-9]+(s|m|h))+$"},
    "spoolSize": {"type": "string", "pattern": "^[0-9]+(Mi|Gi|Ti)$"},
    "dashboards.labels": STRINGS,
}


def comments(text):
    """What stands above each key of block mappings: {path: (description, extra schema)}."""
    found, stack, pending = {}, [], []
    for line in text.splitlines():
        bare = line.strip()
        if not bare:
            pending = []
        elif bare.startswith("#"):
            pending.append(bare.lstrip("#").strip())
        elif match := re.match(r"^( *)([A-Za-z0-9_]+):(?:\s|$)", line):
            depth = len(match[1])
            while stack and stack[-1][0] >= depth:
                stack.pop()
            stack.append((depth, match[2]))
            path = tuple(name for _, name in stack)
            described, extra = [], {}
            for comment in pending:
                if comment.startswith("@schema "):
                    extra = json.loads(comment[8:])
                elif comment.startswith("-- "):
                    described = [comment[3:]]
                elif described:
                    described.append(comment)
            found[path] = (" ".join(described), extra)
            pending = []
        else:
            pending = []
    return found


def schema_of(path, value, said):
    description, extra = said.get(path, ("", {}))
    name = path[-1] if path else ""
    if "$ref" in extra and path not in DEFINED:
        made = dict(extra)
    elif name in BY_NAME:
        made = json.loads(json.dumps(BY_NAME[name]))
    elif isinstance(value, dict):
        made = {"type": "object"}
        if value:
            made["additionalProperties"] = False
            made["properties"] = {k: schema_of((*path, k), v, said) for k, v in value.items()}
    elif isinstance(value, list):
        made = {"type": "array"}
    elif isinstance(value, bool):
        made = {"type": "boolean"}
    elif isinstance(value, int):
        made = {"type": "integer"}
    elif isinstance(value, str):
        made = {"type": "string"}
    else:
        made = {}
    if path not in DEFINED:
        made.update(extra)
    if description and "$ref" not in made:
        made["description"] = description
    return made


# Where what is referred to elsewhere is made from.
DEFINED = {("defaults",): "node", ("services", "pop3"): "service"}


def config_schema():
    """What docs/configuration.md says of sections and keys. What is secret does not belong into a ConfigMap."""
    text = (ROOT / "docs/configuration.md").read_text()
    sections = {}
    for title, body in re.findall(r"^## `\[(\w+)\]`$(.*?)(?=^## |\Z)", text, re.M | re.S):
        keys = {}
        table = body.partition("| key | type |")[2].partition("\n\n")[0]
        for row in table.splitlines()[2:]:
            cells = [cell.strip() for cell in row.strip("|").split("|")]
            for key in re.findall(r"`(\w+)`", cells[0]):
                # A secret stands in a file, if anywhere.
                if cells[1].startswith("secret") and not key.endswith("_file"):
                    continue
                keys[key] = config_type(cells[1])
        sections[title] = {"type": "object", "additionalProperties": False, "properties": keys}
    if len(sections) < 20:
        sys.exit(f"docs/configuration.md: only {len(sections)} sections were understood")
    return {"type": "object", "additionalProperties": False, "properties": sections}


def config_type(told):
    words = re.findall(r"`([^`]+)`", told)
    if told.startswith(("list", "addresses")):
        return {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "string"}]}
    if told.startswith("boolean") or words == ["true", "false"]:
        return {"type": "boolean"}
    if told.startswith(("number", "integer")):
        return {"type": "number"}
    if told.startswith("duration"):
        return {"type": "string", "pattern": "^[0-9]"}
    if words and all(re.fullmatch(r"`[^`]+`", part.strip()) for part in told.split(",")):
        return {"type": "string", "enum": words}
    return {"type": "string"}


def schema(values, said):
    definitions = {"strings": STRINGS, "named": NAMED, "remote": REMOTE, "config": config_schema()}
    for path, name in DEFINED.items():
        value = values
        for key in path:
            value = value[key]
        definitions[name] = schema_of(path, value, said)
    top = schema_of((), values, said)
    for path, name in DEFINED.items():
        place = top["properties"]
        for key in path[:-1]:
            place = place[key]["properties"]
        place[path[-1]] = {"$ref": f"#/definitions/{name}"}
    # Helm hands these to every chart.
    top["properties"]["global"] = {"type": "object"}
    return {"$schema": "http://json-schema.org/draft-07/schema#", **top, "definitions": definitions}


def rows(path, value, said):
    description = said.get(path, ("", {}))[0]
    is_block = isinstance(value, dict) and value and any(p[: len(path)] == path and len(p) > len(path) for p in said)
    if is_block:
        if description:
            yield f"| **`{'.'.join(path)}`** | | {description} |"
        for key, child in value.items():
            yield from rows((*path, key), child, said)
        return
    default = json.dumps(value, ensure_ascii=False).replace("|", "\\|")
    default = "" if value in ("", None) else f"`{default}`"
    yield f"| `{'.'.join(path)}` | {default} | {description} |"


def main():
    text = (CHART / "values.yaml").read_text()
    values, said = yaml.safe_load(text), comments(text)
    table = ["| value | default | |", "|---|---|---|"]
    for key, value in values.items():
        table.extend(rows((key,), value, said))
    readme = (CHART / "README.md").read_text()
    head, _, rest = readme.partition(BEGIN)
    _, _, tail = rest.partition(END)
    wanted = {
        CHART / "README.md": f"{head}{BEGIN}\n" + "\n".join(table) + f"\n{END}{tail}",
        CHART / "values.schema.json": json.dumps(schema(values, said), indent=1, ensure_ascii=False) + "\n",
    }
    stale = 0
    for file, content in wanted.items():
        before = file.read_text() if file.exists() else ""
        if before == content:
            continue
        if "--check" in sys.argv:
            stale += 1
            diff = difflib.unified_diff(before.splitlines(), content.splitlines(), "is", "should be", lineterm="", n=0)
            print(f"{file.relative_to(ROOT)}: not as deploy/tools/chart_docs.py makes it", *list(diff)[:20], sep="\n  ")
        else:
            file.write_text(content)
    sys.exit(1 if stale else 0)


if __name__ == "__main__":
    main()
