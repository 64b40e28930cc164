#!/usr/bin/env python3
"""Checks the chart, fully offline: Helm's own lint and templates over every values file and a matrix of switches, the
schemas of Kubernetes, checkov's policies, and what we promise of the result.

usage: chart_check.py all --checkov FILE      everything but `configs`
       chart_check.py configs --postern FILE  every rendered configuration is one that `postern check-config` accepts
       chart_check.py render [-f FILE]… [--set a.b=c]…   prints the manifests

Needs helm-python-sdk (Helm itself as a library), kubernetes-validate and PyYAML.
"""

import argparse
import base64
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import helm_python as helm
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm/postern"
VERSIONS = ["1.28", "1.29", "1.30", "1.31", "1.32", "1.33"]
NAMESPACE = "mail"

# What is not in the schemas of Kubernetes, but of operators.
OPERATORS = {"PodMonitor", "ServiceMonitor", "PrometheusRule", "Certificate", "ExternalSecret"}

# Policies that are not ours, and why.
NOT_OURS = {
    "CKV_K8S_11": "no limit on CPU: throttling delays every session of the pod; requests and the HPA do what a limit would",
    "CKV_K8S_15": "the image is named by digest or version: it need not be pulled anew",
    "CKV_K8S_35": "the AWS chain reads credentials from the environment; all other secrets are files",
    "CKV_K8S_43": "the digest is the operator's to give (image.digest), and is checked where it is given",
}

SMALL = ["masterKey.existingSecret=s", "index.existingSecret=s", "blob.bucket=b"]
INLINE = [
    "masterKey.value=MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
    "index.url=postgres://u:p@db/postern",
    "blob.bucket=b",
    "blob.credentials.accessKeyId=AKID",
    "blob.credentials.secretAccessKey=verysecret",
    "adminToken.value=0123456789abcdef",
]

# name: (values files, --set). Every file under helm/postern is in it, which `files_are_all_here` sees to.
CASES = {
    "try-it": (["values-try-it.yaml"], []),
    "small": (["values-small.yaml"], []),
    "large": (["values-large.yaml"], []),
    "external": (["examples/values-external-postgres.yaml"], []),
    "least": ([], SMALL),
    "inline": ([], INLINE),
    "split": ([], [*SMALL, "mode=split"]),
    "split-inline": ([], [*INLINE, "mode=split", "tls.existingSecret=t"]),
    "digest": ([], [*SMALL, "image.digest=sha256:" + "0" * 64]),
    "hpa": ([], [*SMALL, "all.autoscaling.enabled=true", "all.autoscaling.sessions=5000"]),
    "hpa-sessions-only": ([], [*SMALL, "all.autoscaling.enabled=true", "all.autoscaling.sessions=5000", "all.autoscaling.cpu=0"]),
    "one-pod": ([], [*SMALL, "all.replicas=1"]),
    "no-network-policy": ([], [*SMALL, "networkPolicy.enabled=false"]),
    "egress": ([], [*SMALL, "networkPolicy.egress.enabled=true", "networkPolicy.egress.rules[0].ports[0].port=5432"]),
    "proxy": ([], [*SMALL, "proxyProtocol.enabled=true", "proxyProtocol.lmtp=true", "proxyProtocol.trustedNetworks={10.0.0.0/8,fd00::/8}", "tls.existingSecret=t"]),
    "cert-manager": ([], [*SMALL, "tls.certManager.enabled=true", "tls.certManager.issuerRef.name=le", "tls.certManager.dnsNames={pop.example.net}"]),
    "tls-extra": ([], [*SMALL, "tls.existingSecret=a", "tls.extraSecrets={b,c}"]),
    "external-secrets": ([], ["externalSecrets.enabled=true", "externalSecrets.secretStoreRef.name=v", "blob.bucket=b",
                              *(f"externalSecrets.data.{k}.key=x" for k in ("indexUrl", "masterKey", "adminToken", "s3AccessKeyId", "s3SecretAccessKey"))]),
    "pod-monitor": ([], [*SMALL, "metrics.podMonitor.enabled=true", "metrics.podMonitor.labels.release=prom"]),
    "service-monitor": ([], [*SMALL, "metrics.serviceMonitor.enabled=true", "metrics.public=false", "metrics.bearerTokenSecret=m"]),
    "rules": ([], [*SMALL, "metrics.prometheusRule.enabled=true", "metrics.prometheusRule.alertLabels.team=mail", "metrics.prometheusRule.runbookBase=https://docs.example.net/runbooks/", "metrics.dashboards.enabled=true"]),
    "ingress": ([], [*SMALL, "ingress.enabled=true", "ingress.host=admin.example.net", "ingress.tlsSecret=t", "ingress.className=nginx"]),
    "no-migration": ([], [*SMALL, "migration.enabled=false"]),
    "migration-direct": ([], [*SMALL, "migration.existingSecret=direct", "migration.existingSecretKey=uri"]),
    "no-service-account": ([], [*SMALL, "serviceAccount.create=false", "serviceAccount.name=mine"]),
    "scratch": ([], [*SMALL, "scratch.cacheSize=512Mi", "scratch.spoolSize=1Gi"]),
    "no-lmtp-service": ([], [*SMALL, "services.lmtp.enabled=false", "helmTest.enabled=false"]),
    "ipv4": ([], [*SMALL, "listenAddress=0.0.0.0"]),
    "named": ([], [*SMALL, "fullnameOverride=pop", "commonLabels.team=mail", "commonAnnotations.note=x", "imagePullSecrets[0].name=pull"]),
    "config": ([], [*SMALL, "config.pop3.connections_max=30000", "config.gc.live_ratio=0.4", "config.log.filter=info\\,index=debug", "config.pop3.mechanisms={PLAIN,SCRAM-SHA-256}", "all.config.node.work_max=64"]),
    "extras": ([], [*SMALL, "all.extraEnv[0].name=A", "all.extraEnv[0].value=b", "all.extraEnvFrom[0].configMapRef.name=e", "all.extraVolumes[0].name=v",
                    "all.extraVolumes[0].configMap.name=v", "all.extraVolumeMounts[0].name=v", "all.extraVolumeMounts[0].mountPath=/v",
                    "all.nodeSelector.disk=ssd", "all.tolerations[0].key=k", "all.priorityClassName=high", "all.podLabels.a=b"]),
}

# What must be refused, and a part of what is said about it.
REFUSED = [
    (["replicas=3"], "replicas"),
    (["mode=both"], "mode"),
    (["all.replicas=two"], "replicas"),
    (["all.replicaCount=2"], "replicaCount"),
    (["image.digest=latest"], "digest"),
    (["index.url=mysql://x"], "url"),
    (["masterKey.value=short"], "value"),
    (["adminToken.value=short"], "value"),
    (["config.pop3.listen_twice=1"], "listen_twice"),
    (["config.pop4.listen=x"], "pop4"),
    (["config.index.url=postgres://secret"], "url"),
    (["config.keys.master_key=x"], "master_key"),
    (["config.pop3.plaintext_auth=sometimes"], "plaintext_auth"),
    (["config.pop3.connections_max=many"], "connections_max"),
    (["services.pop3.type=Headless"], "type"),
    (["services.pop3.ports.imap=143"], "imap"),
    (["drain.timeoutSeconds=-1"], "timeoutSeconds"),
    (["all.resources.requests.cpu.x=1"], "cpu"),
    (["proxyProtocol.enabled=true", "proxyProtocol.trustedNetworks={0.0.0.0/0}"], "trustedNetworks"),
    (["proxyProtocol.enabled=true"], "trustedNetworks is missing"),
    (["masterKey.existingSecret="], "masterKey.existingSecret"),
    (["index.existingSecret="], "index.existingSecret"),
    (["blob.bucket="], "blob.bucket"),
    (["index.kind=embedded", "mode=split"], "mode=combined"),
    (["blob.kind=disk"], "all.replicas=1"),
    (["ingress.enabled=true"], "ingress.host"),
    (["metrics.public=false", "metrics.podMonitor.enabled=true"], "bearerTokenSecret"),
    (["all.autoscaling.enabled=true", "all.autoscaling.cpu=0"], "autoscaling"),
    (["all.autoscaling.enabled=true", "all.autoscaling.minReplicas=20"], "minReplicas"),
    (["externalSecrets.enabled=true"], "secretStoreRef"),
    (["tls.certManager.enabled=true"], "issuerRef"),
]


def merge(into, other):
    """Helm's own rule: maps merge, everything else is replaced."""
    for key, value in other.items():
        into[key] = merge(into[key], value) if isinstance(value, dict) and isinstance(into.get(key), dict) else value
    return into


def values_of(files, sets):
    values = {}
    for file in files:
        merge(values, helm.values_from_yaml((CHART / file).read_text()))
    for text in sets:
        # Merging replaces lists, and Helm takes a fraction for a text: these are put in place here.
        if "[" in text or re.search(r"=\d+\.\d+$", text):
            graft(values, text)
        else:
            merge(values, helm.parse_set_string(text))
    return values


def graft(values, text):
    """`a[0].b=c`, in place."""
    path, _, value = text.partition("=")
    place, steps = values, [int(s[1:-1]) if s[0] == "[" else s for s in re.findall(r"\[\d+\]|[^.\[\]]+", path)]
    for step, following in zip(steps, steps[1:], strict=False):
        empty = [] if isinstance(following, int) else {}
        if isinstance(step, int):
            while len(place) <= step:
                place.append({})
            place = place[step]
        else:
            place = place.setdefault(step, empty)
    last = steps[-1]
    place[last] = int(value) if value.isdigit() else float(value) if re.fullmatch(r"\d+\.\d+", value) else value


def render(values, **how):
    with helm.Chart.load(str(CHART)) as chart:
        chart.validate_schema(chart.merge_values(values))
        files = chart.render(values, name="rel", namespace=NAMESPACE, **how)
    notes = next((text for path, text in files.items() if path.endswith("NOTES.txt")), "")
    docs = []
    for path in sorted(files):
        if not path.endswith("NOTES.txt"):
            docs += [doc for doc in yaml.safe_load_all(files[path]) if doc]
    return docs, notes


class Findings:
    def __init__(self):
        self.count, self.case = 0, ""

    def expect(self, good, what):
        if not good:
            self.count += 1
            print(f"chart: {self.case}: {what}")


def pods(docs):
    for doc in docs:
        if doc["kind"] in ("Deployment", "Job"):
            yield doc, doc["spec"]["template"]["spec"], doc["spec"]["template"]["metadata"]
        elif doc["kind"] == "Pod":
            yield doc, doc["spec"], doc["metadata"]


def of_kind(docs, kind):
    return [doc for doc in docs if doc["kind"] == kind]


def is_within(labels, selector):
    return all(labels.get(k) == v for k, v in selector.items())


def check_promises(found, values, docs, notes):
    """What the chart promises of whatever it renders."""
    expect = found.expect
    names = [(d["kind"], d["metadata"]["name"]) for d in docs]
    expect(len(names) == len(set(names)), f"two objects of one name: {sorted(n for n in names if names.count(n) > 1)}")
    expect(not of_kind(docs, "PersistentVolumeClaim"), "a PersistentVolumeClaim")
    for doc in docs:
        expect(doc["metadata"].get("namespace") == NAMESPACE, f"{doc['kind']} {doc['metadata']['name']} is in no namespace")
        expect("app.kubernetes.io/name" in doc["metadata"]["labels"], f"{doc['kind']} has no labels")
    check_pods(found, docs)
    check_references(found, values, docs)
    check_selectors(found, docs)
    check_migration(found, docs)
    expect("admin tenant create" in notes and "<no value>" not in notes, f"NOTES: {notes}")
    text = yaml.safe_dump_all(docs)
    expect("<no value>" not in text and "%!" not in text, "a template went wrong")
    configs = yaml.safe_dump_all(of_kind(docs, "ConfigMap"))
    for secret in ("postgres://", "verysecret", "0123456789abcdef", "MDEyMzQ1"):
        expect(secret not in configs, f"a ConfigMap has the secret {secret}")


def check_pods(found, docs):
    expect = found.expect
    for doc, pod, _ in pods(docs):
        name = f"{doc['kind']} {doc['metadata']['name']}"
        secure = pod["securityContext"]
        expect(secure["runAsNonRoot"] is True and secure["runAsUser"] > 0, f"{name} may be root")
        expect(secure["seccompProfile"]["type"] == "RuntimeDefault", f"{name} has no seccomp profile")
        expect(pod["automountServiceAccountToken"] is False, f"{name} gets a token")
        expect(not any("persistentVolumeClaim" in v or "hostPath" in v for v in pod.get("volumes", [])), f"{name} has a volume to keep")
        for container in pod["containers"]:
            secure = container["securityContext"]
            expect(secure["readOnlyRootFilesystem"] is True, f"{name} may write to its root")
            expect(secure["allowPrivilegeEscalation"] is False and secure["capabilities"]["drop"] == ["ALL"], f"{name} has privileges")
            asked = container["resources"]
            expect({"cpu", "memory"} <= set(asked["requests"]) and "memory" in asked["limits"], f"{name} has no resources")
            mounted = {m["name"] for m in container.get("volumeMounts", [])}
            there = {v["name"] for v in pod.get("volumes", [])}
            expect(mounted <= there and (there <= mounted or len(pod["containers"]) > 1), f"{name}: volumes {there ^ mounted}")
    for doc in of_kind(docs, "Deployment"):
        name, pod = doc["metadata"]["name"], doc["spec"]["template"]["spec"]
        node = pod["containers"][0]
        config = configuration(docs, doc)
        expect(node["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "admin"}, f"{name}: readiness is not /readyz")
        expect(node["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "admin"}, f"{name}: liveness is not /livez")
        expect(node["readinessProbe"]["timeoutSeconds"] > 5, f"{name}: /readyz may take 5 s")
        delay, drain = (int(re.search(rf'{k} = "(\d+)s"', config)[1]) for k in ("drain_delay", "drain_timeout"))
        needed = delay + drain + 40
        expect(pod["terminationGracePeriodSeconds"] > needed, f"{name}: is killed before its drain ends ({needed} s)")
        if delay:
            seen = node["readinessProbe"]["periodSeconds"] * node["readinessProbe"]["failureThreshold"]
            expect(delay >= seen or delay < 5, f"{name}: listeners close before readiness is known to fall")
        hpa = any(h["spec"]["scaleTargetRef"]["name"] == name for h in of_kind(docs, "HorizontalPodAutoscaler"))
        expect(hpa != ("replicas" in doc["spec"]), f"{name}: replicas and an autoscaler, or neither")
        ports = {p["containerPort"] for p in node["ports"]}
        listening = {int(p) for p in re.findall(r'listen = \["[^"]*:(\d+)"\]', config)}
        expect(ports == listening, f"{name}: ports {ports}, listens on {listening}")


def configuration(docs, deployment):
    volumes = deployment["spec"]["template"]["spec"]["volumes"]
    name = next(v["configMap"]["name"] for v in volumes if v["name"] == "config")
    return next(d for d in of_kind(docs, "ConfigMap") if d["metadata"]["name"] == name)["data"]["postern.toml"]


def named_in(values):
    """Secrets and ConfigMaps that the operator says he makes."""
    if isinstance(values, dict):
        for key, value in values.items():
            if key in ("existingSecret", "bearerTokenSecret", "tlsSecret") and value:
                yield value
            elif key == "extraSecrets":
                yield from value
            elif key in ("configMap", "secret", "configMapRef", "secretRef") and isinstance(value, dict):
                yield value.get("name") or value.get("secretName")
            elif key == "imagePullSecrets":
                yield from (item["name"] for item in value)
            else:
                yield from named_in(value)
    elif isinstance(values, list):
        for value in values:
            yield from named_in(value)


def references(tree):
    """Secrets and ConfigMaps that a pod refers to: kind, name, keys."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key == "secret" and "secretName" in value:
                yield "Secret", value["secretName"], [i["key"] for i in value.get("items", [])]
            elif key == "configMap" and "name" in value:
                yield "ConfigMap", value["name"], []
            elif key == "secretKeyRef":
                yield "Secret", value["name"], [value["key"]]
            else:
                yield from references(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from references(value)


def check_references(found, values, docs):
    theirs = set(named_in(values))
    made = {("ConfigMap", d["metadata"]["name"]): set(d["data"]) for d in of_kind(docs, "ConfigMap")}
    made |= {("Secret", d["metadata"]["name"]): set(d["stringData"]) for d in of_kind(docs, "Secret")}
    for doc in of_kind(docs, "ExternalSecret"):
        made["Secret", doc["spec"]["target"]["name"]] = {item["secretKey"] for item in doc["spec"]["data"]}
    for doc in of_kind(docs, "Certificate"):
        made["Secret", doc["spec"]["secretName"]] = {"tls.crt", "tls.key"}
    accounts = {d["metadata"]["name"]: d for d in of_kind(docs, "ServiceAccount")}
    hooks = {(d["kind"], d["metadata"]["name"]) for d in docs if "helm.sh/hook" in d["metadata"].get("annotations", {})}
    for doc, pod, _ in pods(docs):
        name = f"{doc['kind']} {doc['metadata']['name']}"
        early = "pre-install" in doc["metadata"].get("annotations", {}).get("helm.sh/hook", "")
        account = pod["serviceAccountName"]
        found.expect(account in accounts or account in ("default", values.get("serviceAccount", {}).get("name")), f"{name}: no account {account}")
        if early:
            found.expect(("ServiceAccount", account) in hooks, f"{name}: its account is not there yet")
        for kind, ref, keys in references(pod):
            if (kind, ref) in made:
                found.expect(set(keys) <= made[kind, ref], f"{name}: {kind} {ref} has no {set(keys) - made[kind, ref]}")
                by_hook = (kind, ref) in hooks or ("ExternalSecret", ref) in hooks
                found.expect(not early or by_hook, f"{name}: {kind} {ref} is not there yet before an installation")
            else:
                found.expect(ref in theirs, f"{name}: nobody makes {kind} {ref}")


def check_selectors(found, docs):
    labels = [d["spec"]["template"]["metadata"]["labels"] for d in of_kind(docs, "Deployment")]
    for doc in of_kind(docs, "Service"):
        name, matched = doc["metadata"]["name"], [ls for ls in labels if is_within(ls, doc["spec"]["selector"])]
        found.expect(matched, f"Service {name} selects nothing")
        if not name.endswith("-metrics"):
            found.expect(len(matched) == 1, f"Service {name} selects several Deployments")
        for deployment in of_kind(docs, "Deployment"):
            if is_within(deployment["spec"]["template"]["metadata"]["labels"], doc["spec"]["selector"]):
                there = {p["name"] for p in deployment["spec"]["template"]["spec"]["containers"][0]["ports"]}
                for port in doc["spec"]["ports"]:
                    found.expect(port["targetPort"] in there, f"Service {name}: port {port['targetPort']} leads nowhere")
    hooks = [d["spec"]["template"]["metadata"]["labels"] for d in of_kind(docs, "Job")]
    hooks += [d["metadata"]["labels"] for d in of_kind(docs, "Pod")]
    for kind in ("PodDisruptionBudget", "Deployment", "PodMonitor", "NetworkPolicy"):
        for doc in of_kind(docs, kind):
            selector = (doc["spec"].get("selector") or doc["spec"].get("podSelector"))["matchLabels"]
            if selector.get("app.kubernetes.io/component") in ("migrate", "test"):
                continue
            found.expect(any(is_within(ls, selector) for ls in labels), f"{kind} {doc['metadata']['name']} selects nothing")
            found.expect(not any(is_within(ls, selector) for ls in hooks), f"{kind} {doc['metadata']['name']} selects a job")
    budgets = {d["metadata"]["name"] for d in of_kind(docs, "PodDisruptionBudget")}
    for doc in of_kind(docs, "Deployment"):
        if doc["spec"].get("replicas", 2) > 1:
            found.expect(doc["metadata"]["name"] in budgets, f"{doc['metadata']['name']} has no disruption budget")


def check_migration(found, docs):
    for job in of_kind(docs, "Job"):
        notes = job["metadata"]["annotations"]
        found.expect(notes["helm.sh/hook"] == "pre-install,pre-upgrade", "the migration is no hook")
        for doc in docs:
            own = doc["metadata"].get("annotations", {})
            if doc["kind"] != "Job" and "pre-install" in own.get("helm.sh/hook", ""):
                found.expect(int(own["helm.sh/hook-weight"]) < int(notes["helm.sh/hook-weight"]), f"{doc['kind']} comes after the job that needs it")


def check_expectations(found, rendered):
    """What single switches are for."""
    def docs(case, kind):
        return of_kind(rendered[case][0], kind)

    def expect(case, good, what):
        found.case = case
        found.expect(good, what)

    def config(case, component="all"):
        return next(d["data"]["postern.toml"] for d in docs(case, "ConfigMap") if d["metadata"]["name"].endswith(f"-{component}"))

    expect("split", {d["metadata"]["name"] for d in docs("split", "Deployment")} == {f"rel-postern-{r}" for r in ("pop3", "lmtp", "admin", "worker")}, "not one Deployment each")
    expect("split", 'roles = ["lmtp"]' in config("split", "lmtp") and "[pop3]" not in config("split", "lmtp"), "lmtp does more")
    expect("large", len(docs("large", "HorizontalPodAutoscaler")) == 2, "no autoscalers")
    metrics = docs("hpa", "HorizontalPodAutoscaler")[0]["spec"]["metrics"]
    expect("hpa", [m["type"] for m in metrics] == ["Resource", "Pods"], f"scales by {metrics}")
    metrics = docs("hpa-sessions-only", "HorizontalPodAutoscaler")[0]["spec"]["metrics"]
    expect("hpa-sessions-only", [m["type"] for m in metrics] == ["Pods"], f"scales by {metrics}")
    expect("one-pod", not docs("one-pod", "PodDisruptionBudget"), "a budget that lets nobody drain")
    expect("no-network-policy", not docs("no-network-policy", "NetworkPolicy"), "a NetworkPolicy")
    policy = docs("least", "NetworkPolicy")[0]["spec"]
    lmtp = [r for r in policy["ingress"] if r["ports"][0]["port"] == "lmtp"]
    expect("least", lmtp and all(r.get("from") for r in lmtp), "LMTP is open to everybody")
    admin = [r for r in policy["ingress"] if any(p["port"] == "admin" for p in r["ports"])]
    expect("least", admin and all(r.get("from") for r in admin), "the admin API is open to everybody")
    expect("egress", docs("egress", "NetworkPolicy")[0]["spec"]["policyTypes"] == ["Ingress", "Egress"], "egress is open")
    proxy = config("proxy")
    expect("proxy", proxy.count('proxy_protocol = "require"') == 3 and 'trusted_networks = ["10.0.0.0/8", "fd00::/8"]' in proxy, proxy)
    expect("tls-extra", 'directories = ["/etc/postern/tls-extra/0", "/etc/postern/tls-extra/1"]' in config("tls-extra"), "no further certificates")
    expect("least", "1995" not in config("least"), "POP3S without a certificate")
    expect("least", docs("least", "Secret")[0]["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep", "the token goes with the release")
    expect("config", "connections_max = 30000\n" in config("config") and "live_ratio = 0.4" in config("config") and "work_max = 64" in config("config"), config("config"))
    expect("config", 'filter = "info,index=debug"' in config("config"), config("config"))
    expect("scratch", "disk_octets = 483183820" in config("scratch"), config("scratch"))
    monitor = docs("service-monitor", "ServiceMonitor")[0]["spec"]["endpoints"][0]
    expect("service-monitor", monitor["authorization"]["credentials"] == {"name": "m", "key": "token"}, "scrapes without a key")
    expect("no-migration", not docs("no-migration", "Job"), "a Job")
    expect("try-it", not docs("try-it", "Job"), "a migration of SQLite")
    job = docs("migration-direct", "Job")[0]["spec"]["template"]["spec"]["volumes"][1]["secret"]
    expect("migration-direct", (job["secretName"], job["items"][0]["key"]) == ("direct", "uri"), "migrates by the pooler")
    rules = docs("rules", "PrometheusRule")[0]["spec"]["groups"] or []
    alerts = [r for g in rules for r in g["rules"] if "alert" in r]
    source = [r for f in sorted((ROOT / "deploy/prometheus/rules").glob("*.yml")) for g in yaml.safe_load(f.read_text())["groups"] for r in g["rules"] if "alert" in r]
    expect("rules", [a["alert"] for a in alerts] == [a["alert"] for a in source], "not the alerts of deploy/prometheus/rules")
    expect("rules", all(a["annotations"]["runbook_url"].startswith("https://docs.example.net/runbooks/") and a["labels"]["team"] == "mail" for a in alerts), "no links")
    expect("rules", [a["expr"] for a in alerts] == [a["expr"] for a in source], "expressions were changed")
    boards = {k: v for d in docs("rules", "ConfigMap") for k, v in d["data"].items() if k.endswith(".json")}
    there = {f.name: f.read_text() for f in (ROOT / "deploy/grafana/dashboards").glob("*.json")}
    expect("rules", {k: v.strip() for k, v in boards.items()} == {k: v.strip() for k, v in there.items()}, "not the dashboards of deploy/grafana")


def files_are_all_here(found):
    found.case = "files"
    there = {str(f.relative_to(CHART)) for f in [*CHART.glob("values-*.yaml"), *CHART.glob("examples/values-*.yaml")]}
    used = {file for files, _ in CASES.values() for file in files}
    found.expect(there == used, f"not tried: {there - used}; gone: {used - there}")
    for file in CHART.glob("examples/*.yaml"):
        found.expect(list(yaml.safe_load_all(file.read_text())), f"{file.name} is empty")
    documented = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
    cargo = re.search(r'^version = "(.+)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]
    found.expect(documented == cargo, f"the chart is of {documented}, the workspace of {cargo}")


def check_helm(found):
    rendered = {}
    for case, (files, sets) in CASES.items():
        found.case, values = case, values_of(files, sets)
        report = helm.lint(str(CHART), values, strict=True, namespace=NAMESPACE, kube_version="v1.32.0")
        for message in report["messages"]:
            if message["severity"] >= 2:
                found.expect(False, f"lint: {message['path']}: {message['error']}")
        try:
            docs, notes = render(values)
            render(values, is_upgrade=True)
        except helm.HelmError as error:
            found.expect(False, error)
            continue
        rendered[case] = docs, notes
        check_promises(found, values, docs, notes)
    for sets, said in REFUSED:
        found.case = " ".join(sets)
        try:
            render(values_of([], [*SMALL, *sets]))
            found.expect(False, "is accepted")
        except helm.HelmError as error:
            found.expect(said in str(error), f"is refused, but not for that: {error}")
    if not found.count:
        check_expectations(found, rendered)
    return rendered


def check_kubernetes(found, rendered):
    import kubernetes_validate

    for case, (docs, _) in rendered.items():
        found.case = case
        for doc in docs:
            if doc["kind"] in OPERATORS:
                continue
            for version in VERSIONS:
                try:
                    kubernetes_validate.validate(doc, version, strict=True)
                except kubernetes_validate.ValidationError as error:
                    place = ".".join(str(part) for part in error.path)
                    found.expect(False, f"Kubernetes {version}: {doc['kind']} {doc['metadata']['name']}: {place}: {error.message}")
                except kubernetes_validate.SchemaNotFoundError:
                    found.expect(False, f"Kubernetes {version} knows no {doc['kind']} of {doc['apiVersion']}")


def check_policies(found, rendered, checkov):
    found.case = "checkov"
    with tempfile.TemporaryDirectory() as tmp:
        for case, (docs, _) in rendered.items():
            if case in ("try-it", "small", "large", "external", "split-inline", "digest"):
                # The pod of `helm test` asks once and ends: it needs no probes.
                lasting = [doc for doc in docs if doc["kind"] != "Pod"]
                Path(tmp, f"{case}.yaml").write_text(yaml.safe_dump_all(lasting, sort_keys=False))
        skipped = ",".join(NOT_OURS)
        run = subprocess.run(
            [checkov, "-d", tmp, "--framework", "kubernetes", "--quiet", "--compact", "--skip-download", "--skip-check", skipped],
            capture_output=True, text=True, check=False, env={**os.environ, "LOG_LEVEL": "ERROR"},
        )
        passed = re.search(r"Passed checks: (\d+), Failed checks: (\d+)", run.stdout)
        found.expect(run.returncode == 0, f"\n{run.stdout[-4000:]}{run.stderr[-2000:]}")
        found.expect(passed is None or int(passed[1]) > 500, "looked at next to nothing")


def check_configs(postern):
    """Every configuration that is rendered, with files where its secrets would be mounted."""
    found = Findings()
    with tempfile.TemporaryDirectory() as tmp:
        root = Path(tmp)
        for name, text in {
            "admin-token": "0123456789abcdef",
            "index-url": "postgres://u:p@db/postern",
            "master-key": base64.b64encode(b"0123456789abcdef0123456789abcdef").decode(),
        }.items():
            file = root / "etc/postern/secrets" / name / "value"
            file.parent.mkdir(parents=True)
            file.write_text(text)
        for name in ("tls", "tls-extra/0", "tls-extra/1"):
            directory = root / "etc/postern" / name
            directory.mkdir(parents=True)
            subprocess.run(
                ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30",
                 "-subj", f"/CN={name.replace('/', '-')}.test", "-addext", f"subjectAltName=DNS:{name.replace('/', '-')}.test",
                 "-keyout", directory / "tls.key", "-out", directory / "tls.crt"],
                check=True, capture_output=True)
        for name in ("spool", "cache", "data"):
            (root / "var/lib/postern" / name).mkdir(parents=True)
        count = 0
        for case, (files, sets) in CASES.items():
            docs, _ = render(values_of(files, sets))
            for doc in of_kind(docs, "ConfigMap"):
                text = doc["data"].get("postern.toml")
                if text is None:
                    continue
                found.case = f"{case}: {doc['metadata']['name']}"
                file = root / "postern.toml"
                file.write_text(re.sub(r'"(/(?:etc|var/lib)/postern)', rf'"{tmp}\1', text))
                run = subprocess.run([postern, "check-config", "--config", file], capture_output=True, text=True, check=False)
                # The migration's names a key that it does not read.
                if doc["metadata"]["name"].endswith("-migrate"):
                    found.expect("/nonexistent" in run.stderr, run.stderr)
                else:
                    found.expect(run.returncode == 0, f"check-config: {run.stderr}\n{text}")
                count += 1
    print(f"chart: {count} configurations of {len(CASES)} cases tried, {found.count} refused")
    return found.count


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["all", "configs", "render"])
    parser.add_argument("--checkov")
    parser.add_argument("--postern")
    parser.add_argument("-f", "--values", action="append", default=[])
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    if options.what == "render":
        docs, _ = render(values_of([str(Path(f).resolve()) for f in options.values], options.set))
        print(yaml.safe_dump_all(docs, sort_keys=False))
        return
    if options.what == "configs":
        sys.exit(1 if check_configs(options.postern) else 0)
    found = Findings()
    files_are_all_here(found)
    rendered = check_helm(found)
    check_kubernetes(found, rendered)
    if options.checkov:
        check_policies(found, rendered, options.checkov)
    objects = sum(len(docs) for docs, _ in rendered.values())
    print(f"chart: {len(rendered)} of {len(CASES)} cases rendered, {objects} objects, Kubernetes {VERSIONS[0]} to {VERSIONS[-1]}, "
          f"{len(REFUSED)} wrong values refused, {found.count} findings")
    sys.exit(1 if found.count else 0)


if __name__ == "__main__":
    # Helm says on standard error, each time it reads the chart, that the rules and dashboards are symbolic links.
    sys.stderr = os.fdopen(os.dup(2), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    main()
