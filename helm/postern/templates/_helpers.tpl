{{- define "postern.name" -}}
{{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "postern.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else -}}
{{- $name := include "postern.name" . -}}
{{- if contains $name .Release.Name -}}
{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "postern.selector" -}}
app.kubernetes.io/name: {{ include "postern.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "postern.labels" -}}
{{ include "postern.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: postern
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Annotations of an object: those of all, and its own. */ -}}
{{- define "postern.annotations" -}}
{{- $all := merge (dict) (.own | default dict) .root.Values.commonAnnotations -}}
{{- with $all }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "postern.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end }}
{{- end }}
{{- end }}

{{- define "postern.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "postern.fullname" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{- /* The Deployments, as YAML: name and roles. */ -}}
{{- define "postern.components" -}}
{{- if eq .Values.mode "split" -}}
pop3: [pop3]
lmtp: [lmtp]
admin: [admin]
worker: [worker]
{{- else -}}
all: [pop3, lmtp, admin, worker]
{{- end }}
{{- end }}

{{- /* The component that has a role. */ -}}
{{- define "postern.componentFor" -}}
{{- if eq .root.Values.mode "split" }}{{ .role }}{{ else }}all{{ end }}
{{- end }}

{{- /* The values of a component, as YAML: `defaults` with its own over them. */ -}}
{{- define "postern.componentValues" -}}
{{- $own := index .root.Values .component | default dict -}}
{{- mustMergeOverwrite (deepCopy .root.Values.defaults) (deepCopy $own) | toYaml }}
{{- end }}

{{- define "postern.gracePeriod" -}}
{{- /* Delay, drain, then: closing 10 s, admin API 5 s, heartbeat 5 s, retirement 5 s, cache 5 s, traces 5 s, and some. */ -}}
{{ add (int .Values.drain.delaySeconds) (int .Values.drain.timeoutSeconds) 45 }}
{{- end }}

{{- define "postern.tlsSecret" -}}
{{- if .Values.tls.existingSecret -}}
{{ .Values.tls.existingSecret }}
{{- else if .Values.tls.certManager.enabled -}}
{{ include "postern.fullname" . }}-tls
{{- end }}
{{- end }}

{{- /* Where a secret comes from, as YAML: name and key, or nothing. */ -}}
{{- define "postern.secretRef" -}}
{{- $full := include "postern.fullname" .root -}}
{{- if .existing -}}
name: {{ .existing }}
key: {{ .existingKey }}
{{- else if .value -}}
name: {{ $full }}-secrets
key: {{ .key }}
{{- else if and .root.Values.externalSecrets.enabled (hasKey .root.Values.externalSecrets.data .remote) -}}
name: {{ $full }}-external
key: {{ .key }}
{{- else if .generated -}}
name: {{ $full }}-secrets
key: {{ .key }}
{{- end }}
{{- end }}

{{- define "postern.indexUrlRef" -}}
{{- $v := .Values.index -}}
{{- if eq $v.kind "postgres" -}}
{{ include "postern.secretRef" (dict "root" . "existing" $v.existingSecret "existingKey" $v.existingSecretKey "value" $v.url "key" "index-url" "remote" "indexUrl") }}
{{- end }}
{{- end }}

{{- define "postern.masterKeyRef" -}}
{{- $v := .Values.masterKey -}}
{{ include "postern.secretRef" (dict "root" . "existing" $v.existingSecret "existingKey" $v.existingSecretKey "value" $v.value "key" "master-key" "remote" "masterKey") }}
{{- end }}

{{- define "postern.adminTokenRef" -}}
{{- $v := .Values.adminToken -}}
{{ include "postern.secretRef" (dict "root" . "existing" $v.existingSecret "existingKey" $v.existingSecretKey "value" $v.value "key" "admin-token" "remote" "adminToken" "generated" true) }}
{{- end }}

{{- define "postern.s3Ref" -}}
{{- $v := .root.Values.blob.credentials -}}
{{- if eq .root.Values.blob.kind "s3" -}}
{{- if eq .which "id" -}}
{{ include "postern.secretRef" (dict "root" .root "existing" $v.existingSecret "existingKey" $v.accessKeyIdKey "value" $v.accessKeyId "key" "s3-access-key-id" "remote" "s3AccessKeyId") }}
{{- else -}}
{{ include "postern.secretRef" (dict "root" .root "existing" $v.existingSecret "existingKey" $v.secretAccessKeyKey "value" $v.secretAccessKey "key" "s3-secret-access-key" "remote" "s3SecretAccessKey") }}
{{- end }}
{{- end }}
{{- end }}

{{- define "postern.isEmbedded" -}}
{{- if or (eq .Values.index.kind "embedded") (eq .Values.blob.kind "disk") }}yes{{ end }}
{{- end }}

{{- /* What no schema can tell. */ -}}
{{- define "postern.check" -}}
{{- $v := .Values -}}
{{- if and (eq $v.index.kind "postgres") (not (include "postern.indexUrlRef" .)) }}
{{- fail "index.existingSecret (or index.url, or externalSecrets.data.indexUrl) is missing: where is PostgreSQL?" }}
{{- end }}
{{- if and (eq $v.blob.kind "s3") (not $v.blob.bucket) }}
{{- fail "blob.bucket is missing" }}
{{- end }}
{{- if and (not (and (eq $v.index.kind "embedded") (eq $v.blob.kind "disk"))) (not (include "postern.masterKeyRef" .)) (not (dig "keys" "kms_key" "" $v.config)) }}
{{- fail "masterKey.existingSecret (or masterKey.value, or externalSecrets.data.masterKey) is missing: make one with `openssl rand -base64 32` and keep a copy elsewhere" }}
{{- end }}
{{- if include "postern.isEmbedded" . }}
{{- $all := include "postern.componentValues" (dict "root" . "component" "all") | fromYaml }}
{{- if ne $v.mode "combined" }}{{ fail "index.kind=embedded and blob.kind=disk need mode=combined: their data are in one pod" }}{{ end }}
{{- if or (ne (int $all.replicas) 1) $all.autoscaling.enabled }}{{ fail "index.kind=embedded and blob.kind=disk need all.replicas=1 and no autoscaling: their data are in one pod" }}{{ end }}
{{- end }}
{{- if and (or $v.proxyProtocol.enabled $v.proxyProtocol.lmtp) (not $v.proxyProtocol.trustedNetworks) }}
{{- fail "proxyProtocol.trustedNetworks is missing: who may say for whom he connects?" }}
{{- end }}
{{- if and $v.tls.certManager.enabled (not $v.tls.existingSecret) (or (not $v.tls.certManager.issuerRef.name) (not $v.tls.certManager.dnsNames)) }}
{{- fail "tls.certManager needs issuerRef.name and dnsNames" }}
{{- end }}
{{- if and $v.externalSecrets.enabled (not $v.externalSecrets.secretStoreRef.name) }}
{{- fail "externalSecrets.secretStoreRef.name is missing" }}
{{- end }}
{{- if and $v.ingress.enabled (not $v.ingress.host) }}{{ fail "ingress.host is missing" }}{{ end }}
{{- if and (not $v.metrics.public) (not $v.metrics.bearerTokenSecret) (or $v.metrics.podMonitor.enabled $v.metrics.serviceMonitor.enabled) }}
{{- fail "metrics.public=false: metrics.bearerTokenSecret is missing" }}
{{- end }}
{{- range $component := list "all" "pop3" "lmtp" "admin" "worker" }}
{{- $c := include "postern.componentValues" (dict "root" $ "component" $component) | fromYaml }}
{{- if and $c.autoscaling.enabled (not $c.autoscaling.cpu) (not $c.autoscaling.sessions) }}
{{- fail (printf "%s.autoscaling needs cpu, sessions or both" $component) }}
{{- end }}
{{- if gt (int $c.autoscaling.minReplicas) (int $c.autoscaling.maxReplicas) }}
{{- fail (printf "%s.autoscaling.minReplicas is more than maxReplicas" $component) }}
{{- end }}
{{- end }}
{{- end }}
